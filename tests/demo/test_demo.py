"""The demonstration as its user runs it: real processes, real memory."""

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.rigs.machine_wide import crowd

from dynmem.errors import ExitCode

PAGE = 4096
DEMO = [sys.executable, "-m", "dynmem", "demo"]


@pytest.fixture
def home() -> Iterator[Path]:
    """A private folder with a short name: sockets are made in it, and their paths have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        yield Path(folder)


def start(*arguments: str, home: Path) -> "subprocess.Popen[str]":
    """Start a demonstration whose temporary files go under `home`."""
    environment = {**os.environ, "TMPDIR": str(home)}
    return subprocess.Popen(
        [*DEMO, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, dict[str, Any], str]:
    """Wait for its end: exit status, summary, what it complained of."""
    out, complaints = process.communicate(timeout=400)
    return process.returncode, json.loads(out or "{}"), complaints


def programs_in(folder: Path) -> list[str]:
    """Command lines of the processes that mention `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def guest_ram(folder: Path) -> Path | None:
    """The RAM file of some VM that runs out of `folder`."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes()
            if str(folder).encode() in line and b"\0vm\0" in line:
                for link in (path / "fd").iterdir():
                    if str(link.readlink()).startswith("/memfd:"):
                        return link
        except OSError:
            continue
    return None


def written_pages(descriptor: int) -> Iterator[int]:
    """Offsets of the pages that a file has, without a look at the others: a look would make them."""
    end = 0
    with contextlib.suppress(OSError):  # no data behind
        while True:
            begin = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, begin, os.SEEK_HOLE)
            yield from range(begin, end, PAGE)


def corrupt_one_byte(ram: Path) -> bool:
    """Flip a bit in the middle of a page that a load has written; False if there is none yet."""
    with ram.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        for start in written_pages(file.fileno()):
            words = memoryview(memory)[start : start + PAGE].cast("Q")
            ours = all(words[i + 1] - words[i] == words[1] - words[0] != 0 for i in range(0, 511, 64))
            words.release()
            if ours:
                memory[start + PAGE // 2] ^= 0x10
                return True
    return False


@pytest.mark.usefixtures("processors")
@pytest.mark.timeout(900)
def test_by_demand_a_third_of_the_unmet_demand_of_fixed_shares_is_left_and_no_byte_is_wrong(
    home: Path,
) -> None:
    duration = str(30 * crowd())  # loads grow as slowly as a busy machine serves them
    managed = start("--json", "--duration", duration, home=home)
    static = start("--json", "--static", "--duration", duration, home=home)
    code, ours, complaints = finish(managed)
    assert (code, complaints) == (ExitCode.OK, "")
    code, fixed, complaints = finish(static)
    assert (code, complaints) == (ExitCode.OK, "")
    assert ours["wrong_bytes"] == fixed["wrong_bytes"] == 0
    assert ours["peak_resident_bytes"] <= ours["budget_bytes"]
    assert sum(vm["maximum_bytes"] for vm in ours["vms"]) == 2 * ours["budget_bytes"]
    assert ours["pages_moved"] > 50_000
    assert fixed["unmet_demand_seconds"] >= 3 * ours["unmet_demand_seconds"] > 0  # somebody was squeezed
    assert {"duration_seconds", "vms", "mode", "schema_version"} <= set(ours)
    assert programs_in(home) == []
    assert list(home.iterdir()) == []


def test_one_corrupted_byte_in_guest_memory_is_seen_and_ends_with_its_exit_code(home: Path) -> None:
    # early: after a peak there are pages with the pattern that the load has freed and does not check any more
    demo = start("--json", "--duration", str(15 * crowd()), home=home)
    while (ram := guest_ram(home)) is None or not corrupt_one_byte(ram):
        assert demo.poll() is None
        time.sleep(0.1)
    code, summary, complaints = finish(demo)
    assert code == ExitCode.WRONG_BYTES
    assert summary["wrong_bytes"] == 1
    assert "1 wrong bytes in guest memory" in complaints


@pytest.mark.parametrize("moment", [0.25, 0.8, 1.6, 3.0, 6.0])
def test_ctrl_c_at_any_moment_leaves_no_process_and_no_file(home: Path, moment: float) -> None:
    demo = start("--duration", "30", home=home)
    time.sleep(moment)
    os.killpg(demo.pid, signal.SIGINT)
    shown, _ = demo.communicate(timeout=100)
    # A busy machine can have not even Python started by then.
    assert demo.returncode == ExitCode.INTERRUPTED or (demo.returncode, shown) == (-signal.SIGINT, "")
    assert programs_in(home) == []
    assert list(home.iterdir()) == []


@pytest.mark.usefixtures("processors")
@pytest.mark.timeout(900)
@pytest.mark.qemu
def test_two_real_linux_guests_and_an_embedded_one_share_a_budget_and_nobody_is_killed(
    home: Path,
) -> None:
    duration = str(40 * crowd())
    code, summary, complaints = finish(start("--qemu", "--json", "--duration", duration, home=home))
    assert (code, complaints) == (ExitCode.OK, "")
    assert summary["wrong_bytes"] == 0
    assert summary["peak_resident_bytes"] <= summary["budget_bytes"]
    linux = [vm for vm in summary["vms"] if vm["backend"].startswith("Linux")]
    assert len(linux) == 2
    for vm in linux:
        assert vm["oom_kills"] == 0
        assert vm["pages_moved"] > 50_000
    assert programs_in(home) == []
    assert list(home.iterdir()) == []
