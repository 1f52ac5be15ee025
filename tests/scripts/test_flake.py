"""The script that runs the suite again and again, on suites of one test."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.rigs.scenes import wait_until

FLAKE = Path(__file__).resolve().parents[2] / "scripts" / "flake.py"


def suite(folder: Path, body: str) -> str:
    path = folder / "test_only.py"
    path.write_text(f"import os, pathlib, time\n\ndef test_only():\n    {body}\n")
    return str(path)


def flake(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, FLAKE, "-n0", *arguments], capture_output=True, text=True, check=False
    )


def test_every_second_run_is_on_a_busy_machine_and_each_has_a_seed_of_its_own(tmp_path: Path) -> None:
    done = flake("--runs", "2", suite(tmp_path, "pass"))
    assert done.returncode == 0, done.stdout
    rows = re.findall(r"^ +(\d)  +(\d+)  (busy|-) +\d+  1 passed$", done.stdout, re.MULTILINE)
    assert [(number, load) for number, _, load in rows] == [("1", "-"), ("2", "busy")]
    assert rows[0][1] != rows[1][1]


def test_the_first_failure_ends_it_and_is_shown_with_how_to_repeat_it(tmp_path: Path) -> None:
    path = suite(tmp_path, "assert 'reason' == 'other'")
    done = flake("--runs", "3", "--seed", "7", path)
    assert done.returncode == 1
    assert "assert 'reason' == 'other'" in done.stdout
    assert f'make flake N=1 ARGS="--seed 7 --load none -n0 {path}"' in done.stdout
    assert done.stdout.splitlines()[-1].split()[:2] == ["1", "7"]
    assert "1 failed" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_busy_loops_and_the_suite(tmp_path: Path, number: signal.Signals) -> None:
    begun = tmp_path / "begun"
    path = suite(tmp_path, f"pathlib.Path({str(begun)!r}).write_text(f'{{os.getpid()}}.'); time.sleep(600)")
    command: list[str | Path] = [sys.executable, FLAKE, "-n0", "--runs", "1", "--load", "all", path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            wait_until(lambda: begun.exists() and begun.read_text().endswith("."), otherwise=process.poll)
            worker = int(begun.read_text().removesuffix("."))
            expected = 2 * len(os.sched_getaffinity(0))
            wait_until(
                lambda: len(busy_loops(process.pid)) == expected,
                otherwise=lambda: f"{len(busy_loops(process.pid))} busy loops, not {expected}",
            )
        finally:
            process.send_signal(number)
        out, _ = process.communicate()
    assert process.returncode == 1
    assert "interrupted" in out
    assert not busy_loops(process.pid)
    assert not Path(f"/proc/{worker}").exists()


def busy_loops(starter: int) -> list[int]:
    """The busy loops of a script that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
        is_one = len(words) > 3 and b"os.getppid() == int(sys.argv[1])" in words[2]
        if is_one and int(words[3]) == starter:
            found.append(int(path.parent.name))
    return found
