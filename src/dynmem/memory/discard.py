"""Discard: give the memory behind page ranges back to the host."""

import ctypes
import errno
import os
from typing import Final

from dynmem.errors import DynmemError
from dynmem.memory.backend import MemfdBackend
from dynmem.pages import ranges as page_ranges
from dynmem.units import PAGE_SHIFT

FALLOC_FL_KEEP_SIZE: Final = 0x01
FALLOC_FL_PUNCH_HOLE: Final = 0x02
_PUNCH: Final = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE

# CDLL lets go of the interpreter lock during the call: a punch of 1 GiB takes 100 ms
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_fallocate: Final = _LIBC.fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int


class DiscardError(DynmemError):
    """The system refused a discard: `errno` is its number, `discarded` the bytes it had taken before."""

    def __init__(self, message: str, number: int, discarded: int) -> None:
        super().__init__(message)
        self.errno = number
        self.discarded = discarded


class Discarder:
    """Discards pages of one backend; page 0 is the backend's first."""

    def __init__(self, backend: MemfdBackend) -> None:
        self._backend = backend

    def discard(self, ranges: bytes) -> int:
        """Punch `ranges` out of the memory file, one call per coalesced range: the bytes they cover, in all.

        Every mapping of the file then reads zeros there. The interpreter lock is free during each call, so
        this may run in a worker thread. Raises DiscardError: before anything is done when a range lies
        outside the memory.
        """
        starts, counts = page_ranges.unpack(page_ranges.merge(ranges))
        size = self._backend.size
        if starts.size and (int(starts[-1]) + int(counts[-1])) << PAGE_SHIFT > size:
            raise DiscardError("a range to discard lies outside the memory", errno.EINVAL, 0)
        discarded = 0
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            length = count << PAGE_SHIFT
            number = self._punch(start << PAGE_SHIFT, length)
            if number:
                reason = os.strerror(number)
                raise DiscardError(
                    f"cannot discard {length} bytes at page {start}: {reason}", number, discarded
                )
            discarded += length
        return discarded

    def _punch(self, offset: int, length: int) -> int:
        """Punch one hole, again when a signal interrupts it: 0 or an errno."""
        while _fallocate(self._backend.fd, _PUNCH, offset, length):
            number = ctypes.get_errno()
            if number != errno.EINTR:
                return number
        return 0
