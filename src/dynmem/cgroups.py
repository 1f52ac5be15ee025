"""The memory cgroups of a process: where their files are, and the limits on the way up to the root.

Where a hierarchy is mounted, and what part of it, differs from host to host (cgroups(7)).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.limits import CGROUPS_FILE_BYTES_MAX

# What version 1 has for "no limit": the largest number of whole pages. Nothing has as much memory.
_UNLIMITED: Final = 1 << 60


class MemoryGroup(NamedTuple):
    """The group of a process in one hierarchy that can have a memory controller.

    Attributes:
        folder: Its folder.
        point: Where the hierarchy is mounted: no folder above it can be seen.
        usage: The file that says what it uses.
        huge_usage: The pattern of the files that say what it uses of huge pages; "" if there are none.
        limits: The files that limit it.
    """

    folder: Path
    point: Path
    usage: str
    huge_usage: str
    limits: tuple[str, ...]


class Limit(NamedTuple):
    """A limit of memory.

    Attributes:
        size: Bytes.
        file: The file that sets it.
    """

    size: int
    file: Path


def memory_groups(groups: str, mounts: str) -> Iterator[MemoryGroup]:
    """Yield the memory cgroups of a process.

    *groups* is its /proc/PID/cgroup, *mounts* is our /proc/self/mountinfo. Raises ValueError for what the
    kernel does not write.
    """
    points: dict[str, tuple[str, str]] = {}
    for line in mounts.splitlines():
        own, _, rest = line.partition(" - ")
        kind, _, options = rest.split(maxsplit=2)
        root, point = own.split()[3:5]
        if kind == "cgroup2":
            points[""] = (root, point)
        elif kind == "cgroup" and "memory" in options.split(","):
            points["memory"] = (root, point)
    for line in sorted(groups.splitlines()):
        _, controllers, path = line.split(":", 2)
        controller = "memory" if "memory" in controllers.split(",") else controllers
        if path == "/" or controller not in points:
            continue  # the root group is the whole host
        root, point = points[controller]
        if Path(path).is_relative_to(root) and ".." not in Path(path).parts:
            folder = Path(point, Path(path).relative_to(root))
            if controller:
                yield MemoryGroup(
                    folder, Path(point), "memory.usage_in_bytes", "", ("memory.limit_in_bytes",)
                )
            else:
                limits = ("memory.max", "memory.high")
                yield MemoryGroup(folder, Path(point), "memory.current", "hugetlb.*B.current", limits)


def limits_above(group: MemoryGroup) -> list[Limit]:
    """Return every limit of a group and of those above it that can be read."""
    found: list[Limit] = []
    for folder in (group.folder, *group.folder.parents):
        if not folder.is_relative_to(group.point):
            break
        for name in group.limits:
            size = _limit(folder / name)
            if size is not None:
                found.append(Limit(size, folder / name))
    return found


def _limit(file: Path) -> int | None:
    """Return the number of bytes in a file; None if it has none, or cannot be read."""
    try:
        with file.open("rb") as opened:
            size = int(opened.read(CGROUPS_FILE_BYTES_MAX))
    except (OSError, ValueError):
        return None
    return size if 0 <= size < _UNLIMITED else None
