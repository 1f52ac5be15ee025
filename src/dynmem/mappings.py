"""Mappings of this process that Python has no name for: at chosen addresses, and of addresses alone.

Addresses are reserved as a whole, without memory; files are then mapped at them, and cleared from them again.
Each function returns 0 or an errno, unless it says otherwise, and none holds the interpreter lock.
"""

import ctypes
import mmap
from typing import Final

_MAP_FIXED: Final = 0x10  # of mmap(2), on x86-64
_NOTHING: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
_MAP_FAILED: Final = ctypes.c_void_p(-1).value

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_mmap: Final = _LIBC.mmap64
_mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_mmap.restype = ctypes.c_void_p
_munmap: Final = _LIBC.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def reserve(length: int) -> int:
    """Reserve addresses at which nothing is mapped yet; return the first, or -errno."""
    address = _mmap(None, length, 0, _NOTHING, -1, 0)
    return -ctypes.get_errno() if address == _MAP_FAILED else int(address)


def map_file(address: int, length: int, fd: int, offset: int = 0) -> int:
    """Map a part of a file, shared, in the place of what this process has mapped there."""
    flags = mmap.MAP_SHARED | _MAP_FIXED
    if _mmap(address, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, offset) == _MAP_FAILED:
        return ctypes.get_errno()
    return 0


def clear(address: int, length: int) -> int:
    """Unmap what is mapped at reserved addresses, which stay reserved."""
    if _mmap(address, length, 0, _NOTHING | _MAP_FIXED, -1, 0) == _MAP_FAILED:
        return ctypes.get_errno()
    return 0


def release(address: int, length: int) -> int:
    """Unmap everything at these addresses and return them to the system."""
    return ctypes.get_errno() if _munmap(address, length) else 0


def reserve_huge(fd: int, offset: int, length: int) -> int:
    """Reserve huge pages for a part of a file on hugetlbfs, untouched: ENOMEM if there are too few.

    A shared mapping does that, and the file keeps the reservation when the mapping is gone. Pages that exist
    or are reserved already are not counted again. If it fails nothing is reserved.
    """
    address = _mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, offset)
    if address == _MAP_FAILED:
        return ctypes.get_errno()
    _munmap(address, length)
    return 0
