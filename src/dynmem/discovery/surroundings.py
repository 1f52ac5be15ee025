"""What of a VM's process the kernel shows to others: its open files, its cgroups, what it has locked."""

import os
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.cgroups import Limit, memory_groups, tightest_limit
from dynmem.limits import PROC_DESCRIPTORS_MAX
from dynmem.procfs import PROC
from dynmem.units import KIB

_FILE_BYTES_MAX: Final = 1 << 20


class Surroundings(NamedTuple):
    """What is around a process.

    Attributes:
        links: The files that it has open, by name; None: they cannot be seen.
        limit: The tightest memory limit above it; None: there is none that can be seen.
        can_be_reclaimed: Whether its cgroup has memory.reclaim.
        is_known: Whether its cgroups could be read.
        unseen: What could not be read: a sentence, or "".
        locked_bytes: What it has locked or pinned.
    """

    links: tuple[str, ...] | None
    limit: Limit | None
    can_be_reclaimed: bool
    is_known: bool
    unseen: str = ""
    locked_bytes: int = 0


NOTHING_SEEN: Final = Surroundings(None, None, can_be_reclaimed=False, is_known=False)


def look_around(pid: int, proc: Path = PROC) -> Surroundings:
    """Return what is around a process; it raises nothing."""
    links, locked = _links(pid, proc), _locked_bytes(proc / str(pid) / "status")
    try:
        text = _text(proc / str(pid) / "cgroup")
        groups = list(memory_groups(text, _text(proc / "self" / "mountinfo")))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "they are not in the kernel's form"
        unseen = f"its cgroups cannot be read ({reason})"
        return NOTHING_SEEN._replace(links=links, unseen=unseen, locked_bytes=locked)
    if not groups and any(_is_below_the_root(line) for line in text.splitlines()):
        unseen = "its cgroups lie outside of what is mounted here"
        return NOTHING_SEEN._replace(links=links, unseen=unseen, locked_bytes=locked)
    limits = [limit for group in groups if (limit := tightest_limit(group)) is not None]
    can_be_reclaimed = any((group.folder / "memory.reclaim").exists() for group in groups)
    limit = min(limits, default=None)
    return Surroundings(links, limit, can_be_reclaimed, is_known=True, locked_bytes=locked)


def _is_below_the_root(line: str) -> bool:
    """Return whether a line of /proc/PID/cgroup names a group that can have a memory controller."""
    _, controllers, path = line.split(":", 2)
    return path != "/" and (not controllers or "memory" in controllers.split(","))


def _links(pid: int, proc: Path) -> tuple[str, ...] | None:
    folder = proc / str(pid) / "fd"
    found: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, PROC_DESCRIPTORS_MAX):
                with suppress(FileNotFoundError):  # closed since
                    found.append(os.readlink(entry.path))  # noqa: PTH115 - its name is wanted, not a file
    except OSError:
        return None
    return tuple(found)


def _locked_bytes(path: Path) -> int:
    """Return what a process has locked or pinned; 0 if that cannot be read."""
    found = 0
    with suppress(OSError):
        for line in _text(path).splitlines():
            name, _, rest = line.partition(":")
            words = rest.split()
            if name in ("VmLck", "VmPin") and words and words[0].isdecimal() and len(words[0]) < 16:
                found = max(found, int(words[0]) * KIB)
    return found


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_FILE_BYTES_MAX).decode(errors="surrogateescape")
