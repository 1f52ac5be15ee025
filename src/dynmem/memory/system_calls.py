"""System calls for memory that Python has no name for, each without the interpreter lock.

`mmap.madvise` holds the lock for the whole call (97 ms for 1 GiB); a call by ctypes does not. Every function
returns 0 or an errno, and calls again if a signal interrupts it, unless it says otherwise.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Final

from dynmem.pages.ranges import U64Array

FALLOC_FL_KEEP_SIZE: Final = 0x01
FALLOC_FL_PUNCH_HOLE: Final = 0x02
MADV_DONTNEED: Final = 4
MADV_REMOVE: Final = 9
MADV_DONTFORK: Final = 10
MADV_COLD: Final = 20
MADV_POPULATE_WRITE: Final = 23
HUGETLBFS_MAGIC: Final = 0x958458F6
TMPFS_MAGIC: Final = 0x01021994
IOVECS_MAX: Final = 1024  # UIO_MAXIOV: more of them are EINVAL
CALL_BYTES_MAX: Final = 0x7FFF_F000  # MAX_RW_COUNT: what is beyond in one call is silently left

_PROCESS_MADVISE: Final = 440  # the same number on every architecture since Linux 5.10
_PUNCH: Final = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_STATFS_BYTES: Final = 120  # struct statfs of x86-64: its type and its block size come first

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_fallocate: Final = _LIBC.fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int
_madvise: Final = _LIBC.madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_madvise.restype = ctypes.c_int
_syscall: Final = _LIBC.syscall
_syscall.restype = ctypes.c_long


def punch(fd: int, offset: int, length: int) -> int:
    """Free the pages of a part of a file on tmpfs or hugetlbfs, or its blocks on disk."""
    return _again(lambda: _fallocate(fd, _PUNCH, offset, length))


def allocate(fd: int, offset: int, length: int) -> int:
    """Allocate all pages of a part of a file; its content stays. ENOSPC if there are too few."""
    return _again(lambda: _fallocate(fd, 0, offset, length))


def madvise(address: int, length: int, advice: int) -> int:
    """Advise on one range of this process's own memory."""
    return _again(lambda: _madvise(address, length, advice))


def process_madvise(pidfd: int, ranges: U64Array, advice: int) -> int:
    """Advise on ranges, (n, 2) of address and length in bytes, n ≤ 1024; return the bytes done, or -errno.

    The kernel may stop early: at a range that it refuses, and after 2 GiB - 4 KiB.
    """
    while True:
        done = _syscall(
            ctypes.c_long(_PROCESS_MADVISE),
            ctypes.c_long(pidfd),
            ctypes.c_void_p(ranges.ctypes.data),
            ctypes.c_long(len(ranges)),
            ctypes.c_long(advice),
            ctypes.c_long(0),
        )
        if done >= 0:
            return int(done)
        number = ctypes.get_errno()
        if number != errno.EINTR:
            return -number


def file_system(fd: int) -> tuple[int, int]:
    """Return the magic number of a file's file system, and its block size. Raises OSError."""
    room = (ctypes.c_uint64 * (_STATFS_BYTES // 8))()
    if _LIBC.fstatfs64(ctypes.c_int(fd), ctypes.byref(room)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(room[0]), int(room[1])


def _again(call: Callable[[], int]) -> int:
    """Call until no signal interrupts it; return 0 or an errno."""
    while call():
        number = ctypes.get_errno()
        if number != errno.EINTR:
            return number
    return 0
