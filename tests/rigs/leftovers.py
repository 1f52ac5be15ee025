"""What a run of the tests may not leave: processes, memory files, sockets, cgroups, mounts, huge pages.

The process that started the run adopts every descendant whose parent has ended (PR_SET_CHILD_SUBREAPER), so
whatever a test leaves running is its child at the end, and other runs on the machine are not looked at. Each
process of the tests looks at its own descriptors; what other programs had open is gone with them.

A socket's file stays where a program was killed that listened on it. In the folder of a test it goes with the
folder; in the checkout it is left behind.
"""

import contextlib
import ctypes
import gc
import os
import signal
import stat
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PR_SET_CHILD_SUBREAPER: Final = 36
_KINDS: Final = ("/memfd:", "socket:")
_ENDING_S: Final = 10.0  # a program that was killed with its starter needs a moment


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children(pid: int | None = None) -> set[int]:
    """The processes that a process, this one if none is named, started or adopted."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
        with contextlib.suppress(OSError):  # the thread ended meanwhile
            found.update(map(int, (task / "children").read_text().split()))
    return found


def left_processes(before: set[int], *, within_s: float = _ENDING_S) -> list[str]:
    """End what still runs and was not there before; a line on each, with the test that started it."""
    deadline = time.monotonic() + within_s
    while running := {pid for pid in children() - before if not _has_ended(pid)}:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    left = list(_with_descendants(running))  # before any of them is killed, and others with it
    lines = [_described(pid) for pid in left]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return lines


def _has_ended(pid: int) -> bool:
    """Whether it has ended; if so it is reaped."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return True


def _with_descendants(pids: set[int]) -> Iterator[int]:
    for pid in sorted(pids):
        yield pid
        with contextlib.suppress(OSError):  # it ended meanwhile
            yield from _with_descendants(children(pid))


def _described(pid: int) -> str:
    where = Path(f"/proc/{pid}")
    try:
        command = (where / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        environment = (where / "environ").read_bytes().split(b"\0")
    except OSError:
        return f"process {pid}, which ended just now"
    mark = b"PYTEST_CURRENT_TEST="
    tests = [entry.removeprefix(mark).decode() for entry in environment if entry.startswith(mark)]
    return f"process {pid}, started by {tests[0] if tests else 'nobody known'}: {command[:200]}"


Opened = dict[tuple[str, int], int]  # what the kernel calls it, its inode: how often it is open or mapped


def open_here() -> Opened:
    """Return the memory files and sockets that this process has open or mapped."""
    found: Counter[tuple[str, int]] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists the folder
            if (name := str(entry.readlink())).startswith(_KINDS):
                found[name, entry.stat().st_ino] += 1
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/memfd:" in line:
            found[f"{line[line.index('/memfd:') :]}, mapped", int(line.split()[4])] += 1
    return found


def left_open(before: Opened) -> Opened:
    """Return what is open now and was not before."""
    if open_here().keys() <= before.keys():
        return {}
    gc.collect()
    return {key: count for key, count in open_here().items() if key not in before}


def mounts() -> set[str]:
    """Every place in a test's folder where something is mounted: others have the machine, too."""
    places = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    return {place for place in places if "/pytest-of-" in place}


def cgroups() -> set[str]:
    """The cgroups of guests below this process's own whose keeper has ended."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split()[4] for line in mounts if " - cgroup2 " in line]
        groups = Path("/proc/self/cgroup").read_text().splitlines()
        (own,) = [line.removeprefix("0::") for line in groups if line.startswith("0::")]
    except ValueError:
        return set()
    found = (each for point in points for each in Path(point + own).glob("dynmem-guest-*"))
    return {str(each) for each in found if not Path("/proc", each.name.rpartition("-")[2]).exists()}


def socket_files(folder: Path) -> set[str]:
    """The files of sockets in a folder, those of hidden folders aside."""
    found: set[str] = set()
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found.update(path for name in files if stat.S_ISSOCK(os.lstat(path := f"{where}/{name}").st_mode))
    return found
