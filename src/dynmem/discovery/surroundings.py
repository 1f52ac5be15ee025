"""What of a VM's process the kernel shows to others: its open files, its cgroups, what it has locked."""

import os
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.cgroups import Limit, limits_above, memory_groups
from dynmem.discovery.qemu_options import StartedAs
from dynmem.limits import PROC_DESCRIPTORS_MAX
from dynmem.procfs import PROC, text_of
from dynmem.units import KIB


class Surroundings(NamedTuple):
    """What is around a process.

    Attributes:
        links: The files that it has open, by name; None: they cannot be seen.
        limits: The memory limits above it that can be seen, the tightest first.
        can_be_reclaimed: Whether its cgroup has memory.reclaim.
        is_known: Whether its cgroups could be read.
        unseen: What could not be read: a sentence, or "".
        locked_bytes: What it has locked or pinned.
        nodes: The NUMA nodes that its memory may come from; empty: not known.
    """

    links: tuple[str, ...] | None
    limits: tuple[Limit, ...]
    can_be_reclaimed: bool
    is_known: bool
    unseen: str = ""
    locked_bytes: int = 0
    nodes: tuple[int, ...] = ()

    @property
    def limit(self) -> Limit | None:
        """The tightest memory limit above it; None: there is none that can be seen."""
        return next(iter(self.limits), None)


NOTHING_SEEN: Final = Surroundings(None, (), can_be_reclaimed=False, is_known=False)


def look_around(pid: int, proc: Path = PROC) -> Surroundings:
    """Return what is around a process; it raises nothing."""
    links, (locked, nodes) = _links(pid, proc), _status(proc / str(pid) / "status")
    seen = NOTHING_SEEN._replace(links=links, locked_bytes=locked, nodes=nodes)
    try:
        text = text_of(proc / str(pid) / "cgroup")
        groups = list(memory_groups(text, text_of(proc / "self" / "mountinfo")))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "they are not in the kernel's form"
        return seen._replace(unseen=f"its cgroups cannot be read ({reason})")
    if not groups and any(_is_below_the_root(line) for line in text.splitlines()):
        return seen._replace(unseen="its cgroups lie outside of what is mounted here")
    limits = tuple(sorted(limit for group in groups for limit in limits_above(group)))
    can_be_reclaimed = any((group.folder / "memory.reclaim").exists() for group in groups)
    return seen._replace(limits=limits, can_be_reclaimed=can_be_reclaimed, is_known=True)


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


def _status(path: Path) -> tuple[int, tuple[int, ...]]:
    """Return what a process has locked or pinned, and its nodes; what cannot be read is nothing."""
    locked, nodes = 0, tuple[int, ...]()
    with suppress(OSError):
        for line in text_of(path).splitlines():
            name, _, rest = line.partition(":")
            words = rest.split()
            if name in ("VmLck", "VmPin") and words and words[0].isdecimal() and len(words[0]) < 16:
                locked = max(locked, int(words[0]) * KIB)
            elif name == "Mems_allowed_list":
                nodes = numbers_of(rest.strip())
    return locked, nodes


def bound_to(started: StartedAs) -> tuple[int, ...]:
    """Return the NUMA nodes that a VM's memory was bound to when it was started; none if it was not."""
    backends = [each for each in started.objects if each.get("policy") == "bind"]
    return tuple(sorted({node for each in backends for node in numbers_of(each.get("host-nodes", ""))}))


def numbers_of(text: str) -> tuple[int, ...]:
    """Return the numbers of a list like ``0-2,5`` (cpuset(7)); none if it is not one."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = (first, last if dash else first)
        if not all(each.isascii() and each.isdecimal() and len(each) < 5 for each in ends):
            return ()
        found.update(range(int(ends[0]), int(ends[1]) + 1))
    return tuple(sorted(found))
