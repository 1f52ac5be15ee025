"""Return pages that hold only zeros to the host, of memory that nobody writes to meanwhile.

A page that is looked at and then punched loses what is written in between. So both happen in one step, and
whoever takes the steps makes sure before each that no guest runs.

Only memory that the backend has for itself is looked at. Another process may write to a file with a name, and
memory that was set aside (reserved huge pages, preallocated memory) was promised to stay.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from dynmem.memory.backend import Backend
from dynmem.memory.backend_file import FileBackend
from dynmem.memory.discard import Discarder
from dynmem.memory.extents import data_pieces
from dynmem.pages import ranges as page_ranges
from dynmem.units import MIB, PAGE_SHIFT, PAGE_SIZE

_STEP_BYTES: Final = 2 * MIB


class ZeroPages:
    """The zero pages of some backends, punched step by step.

    Attributes:
        looked_at: Bytes that were looked at: those with data.
        zero: Bytes of them in pages that held only zeros.
        discarded: Bytes that were returned to the host.
        left_out: Bytes of memory that was set aside, or that others may write to.
    """

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._backends: Final = [each for each in backends if _is_eligible(each)]
        self.looked_at: int = 0
        self.zero: int = 0
        self.discarded: int = 0
        self.left_out: int = sum(each.size for each in backends if not _is_eligible(each))

    def steps(self) -> Iterator[None]:
        """Look at 2 MiB at most, punch its zero pages, yield; and so on. Raises DiscardError, OSError."""
        buffer = np.empty((_STEP_BYTES // PAGE_SIZE, PAGE_SIZE // 8), np.uint64)
        for backend in self._backends:
            discarder = Discarder(backend)
            for fd, at, offset, length in _pieces(backend):
                got = os.preadv(fd, (buffer.data.cast("B")[:length],), at)
                pages = buffer[: got >> PAGE_SHIFT]
                zeros = np.flatnonzero(~pages.any(axis=1))
                self.looked_at += len(pages) << PAGE_SHIFT
                self.zero += zeros.size << PAGE_SHIFT
                if zeros.size:
                    self.discarded += discarder.discard(
                        page_ranges.from_pages(zeros + (offset >> PAGE_SHIFT))
                    )
                yield


def _is_eligible(backend: Backend) -> bool:
    is_own = backend.owns_file or not isinstance(backend, FileBackend)
    return backend.is_shared and is_own and not backend.hugetlb and not backend.prealloc


def _pieces(backend: Backend) -> Iterator[tuple[int, int, int, int]]:
    """Yield (descriptor, offset in its file, offset in the memory, length) of what holds data."""
    begin = 0
    for fd, start, size in backend.files(0, backend.size):
        for at, length in data_pieces(fd, start, start + size, _STEP_BYTES):
            yield fd, at, begin + at - start, length
        begin += size
