"""``python -m dynmem.lab setup`` as a person, and as a machine without a person, meets it."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "dynmem.lab", "setup"]


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with an empty cache, where apt only notes that it was called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("apt-get", "apt-cache", "sudo"):
        (programs / name).write_text(f"#!/bin/sh\n: > {tmp_path}/called\nexit 100\n")
        (programs / name).chmod(0o755)
    return os.environ | {"PATH": str(programs), "XDG_CACHE_HOME": str(tmp_path / "cache")}


def at_a_terminal(environment: dict[str, str], answer: bytes) -> tuple[str, int]:
    """What the command wrote at a terminal where `answer` was typed, and its exit code."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(COMMAND, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, answer)
        written = b""
        try:
            while data := os.read(ours, 4096):
                written += data
        except OSError:  # the other end is closed
            pass
        os.close(ours)
    return written.decode(), process.returncode


def test_at_a_terminal_one_question_is_asked_and_no_means_no(bare: dict[str, str], tmp_path: Path) -> None:
    written, code = at_a_terminal(bare, b"n\n")
    assert code == 2
    assert written.count("[Y/n]") == 1
    assert "apt-get install" in written
    assert "a Debian cloud kernel" in written
    assert not (tmp_path / "called").exists()


def test_at_a_terminal_return_means_yes(bare: dict[str, str], tmp_path: Path) -> None:
    written, _ = at_a_terminal(bare, b"\n")
    assert written.count("[Y/n]") == 1
    assert (tmp_path / "called").exists()


def test_without_a_terminal_nobody_is_asked(bare: dict[str, str], tmp_path: Path) -> None:
    result = subprocess.run(
        COMMAND, env=bare, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert "[Y/n]" not in result.stdout + result.stderr
    assert (tmp_path / "called").exists()
    assert result.returncode == 1
    assert "failed with exit code 100" in result.stderr


def test_check_fetches_nothing_and_says_what_is_missing(bare: dict[str, str], tmp_path: Path) -> None:
    result = subprocess.run([*COMMAND, "--check"], env=bare, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "their kernel and qemu-system-x86 missing" in result.stderr
    assert not (tmp_path / "called").exists()
