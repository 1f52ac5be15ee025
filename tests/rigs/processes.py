"""What the kernel tells of a process: whether it is there, and what it holds."""

import contextlib
from pathlib import Path


def is_there(pid: int) -> bool:
    """Whether a process still runs; one that has ended and whose parent has not asked yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children(pid: int) -> list[int]:
    """The processes that a process, one of its threads, has started or adopted."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """All processes below a process."""
    below = children(pid)
    return below + [each for child in below for each in descendants(child)]


def is_keeper(pid: int) -> bool:
    """Whether a process keeps a guest, and is not one itself."""
    return b"/keeper.py\0" in Path(f"/proc/{pid}/cmdline").read_bytes()


def memory_files(pid: int, name: str = "") -> dict[int, int]:
    """The memory files that a process holds, those whose name has `name` in it: inode, bytes they occupy."""
    files = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            link = str(entry.readlink())
            if link.startswith("/memfd:") and name in link:
                files[entry.stat().st_ino] = entry.stat().st_blocks * 512
    return files


def descriptors(pid: int) -> list[str]:
    """What a process holds open."""
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(str(entry.readlink()))
    return links


def environment(pid: int) -> list[str]:
    """A process's environment, one NAME=value each."""
    return Path(f"/proc/{pid}/environ").read_text().rstrip("\0").split("\0")
