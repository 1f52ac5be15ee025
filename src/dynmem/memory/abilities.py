"""What this kernel can do about discards: tried on memory of our own, not derived from a version number.

Each path that an ability opens has an alternative that needs none, and a test can force either.
"""

import contextlib
import functools
import mmap
import os
from typing import Final, NamedTuple

import numpy as np

from dynmem.memory import system_calls
from dynmem.units import PAGE_SIZE

PIDFD_SELF: Final = -10000  # of Linux 6.14 and later; a number of our own, where it is refused


class Abilities(NamedTuple):
    """What works.

    Attributes:
        pidfd: Stands for this process in the batched calls; -1 if none works.
        batched_dontneed: process_madvise(MADV_DONTNEED) on oneself: Linux 6.13 and later.
        batched_remove: The same for MADV_REMOVE, which is a punch.
        splits: MADV_COLD on a part of a transparent huge page splits it: Linux 5.4 and later.
    """

    pidfd: int = -1
    batched_dontneed: bool = False
    batched_remove: bool = False
    splits: bool = False


NONE: Final = Abilities()


@functools.cache
def probe() -> Abilities:
    """Find out, once per process; a forked child must not use what its parent found."""
    pidfd = PIDFD_SELF
    if not _drops_a_page(pidfd):
        pidfd = -1
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(os.getpid())
        if pidfd >= 0 and not _drops_a_page(pidfd):
            os.close(pidfd)
            pidfd = -1
    batched = pidfd != -1
    return Abilities(
        pidfd=pidfd,
        batched_dontneed=batched,
        batched_remove=batched and _removes_a_page(pidfd),
        splits=_takes_cold(),
    )


def _drops_a_page(pidfd: int) -> bool:
    """Return whether a batched MADV_DONTNEED of two own pages works, and drops both."""
    with mmap.mmap(-1, 3 * PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as room:
        return _loses_both_ends(room, pidfd, system_calls.MADV_DONTNEED)


def _removes_a_page(pidfd: int) -> bool:
    """Return whether a batched MADV_REMOVE takes two pages out of a memory file."""
    fd = os.memfd_create("probe", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, 3 * PAGE_SIZE)
        with mmap.mmap(fd, 3 * PAGE_SIZE) as room:
            done = _loses_both_ends(room, pidfd, system_calls.MADV_REMOVE)
        return done and os.pread(fd, 1, 0) == b"\0"
    finally:
        os.close(fd)


def _loses_both_ends(room: mmap.mmap, pidfd: int, advice: int) -> bool:
    """Return whether advice on the first and the last of three pages works, so that they read zeros."""
    room[:] = b"x" * len(room)
    address = int(np.frombuffer(room, np.uint8).ctypes.data)
    ranges = np.array([(address, PAGE_SIZE), (address + 2 * PAGE_SIZE, PAGE_SIZE)], np.uint64)
    done = system_calls.process_madvise(pidfd, ranges, advice)
    return done == 2 * PAGE_SIZE and room[0] == 0 == room[-1] and room[PAGE_SIZE] != 0


def _takes_cold() -> bool:
    with mmap.mmap(-1, PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as room:
        address = int(np.frombuffer(room, np.uint8).ctypes.data)
        return system_calls.madvise(address, PAGE_SIZE, system_calls.MADV_COLD) == 0
