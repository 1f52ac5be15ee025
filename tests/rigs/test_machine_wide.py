"""Taking turns at what the machine has one of, between processes."""

import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rigs import machine_wide

ROOT = Path(__file__).resolve().parents[2]
HOLDS = """
import sys
from tests.rigs import machine_wide
with machine_wide.held(sys.argv[1]):
    machine_wide.write_note(sys.argv[1], "what it found")
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def name() -> Iterator[str]:
    """Something that the machine has one of, and no other test uses."""
    name = uuid.uuid4().hex
    yield name
    for path in Path(tempfile.gettempdir()).glob(f"*{name}.lock"):
        path.unlink()


@pytest.fixture
def holder(name: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has it until its standard input ends."""
    command = [sys.executable, "-c", HOLDS, name]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_who_waits_in_vain_says_who_has_it(
    name: str, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_wide, "_TURN_S", 0.1)
    with (
        pytest.raises(AssertionError, match=rf"held for 0\.1 s by process {holder.pid}, .*who_waits_in_vain"),
        machine_wide.held(name),
    ):
        pass


def test_it_is_had_when_the_other_is_done_and_again_by_who_has_it(
    name: str, holder: subprocess.Popen[str]
) -> None:
    holder.communicate("")
    with machine_wide.held(name) as note, machine_wide.held(name) as inner:
        assert (note, inner) == ("", "")


def test_what_a_killed_holder_noted_is_there_for_the_next(name: str, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with machine_wide.held(name) as note:
        assert note.startswith(f"process {holder.pid}, ")
        assert note.endswith("\nwhat it found")
    with machine_wide.held(name) as note:
        assert note == ""


def test_huge_pages_that_a_killed_test_reserved_are_given_back_by_the_next() -> None:
    with machine_wide.reserved(1):
        pass  # skipped where there are none
    before = machine_wide.huge_pages_of_the_machine()
    script = """
import os
from tests.rigs import machine_wide
with machine_wide.reserved(2):
    os._exit(1)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert machine_wide.huge_pages_of_the_machine() == before
