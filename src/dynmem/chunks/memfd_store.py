"""Chunks as real memory: one sealed, sparse memory file, in which a page's id is its page number.

A chunk id is an offset of 2 MiB times the id, so nothing translates, and chunks with consecutive ids are one
range for the kernel: one call drops them all. Chunk 0 is NIL, and its 2 MiB of the file are never touched.

A new chunk is allocated whole before the books count it. A page that the books free is a hole from then on;
when they allocate it again within the same chunk, it takes memory at the first touch and reads zeros.
"""

import os
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from dynmem.gmm.constants import GMM_CHUNK_NUM_PAGES, GMM_CHUNK_SHIFT, GMM_CHUNK_SIZE, GMM_CHUNKID_LAST
from dynmem.gmm.store import StoreFullError
from dynmem.memory import system_calls
from dynmem.memory.abilities import Abilities
from dynmem.memory.backend import MemfdBackend
from dynmem.memory.discard import Discarder
from dynmem.memory.host_memory import host_memory
from dynmem.pages import ranges
from dynmem.units import PAGE_SHIFT, PAGE_SIZE

#: The number of the process that keeps the books. It has every chunk mapped.
OWN_PROCESS: Final = 0

_CHUNKS_A_LOOK: Final = 32  # 64 MiB, taken between two looks at what the host has left


class MemfdStore:
    """Memory for the chunks 1 to `last_chunk`, resident as far as the books use it.

    Other processes map chunks through `fd`: the chunk's offset in the file, at the address that `map_chunk`
    returns. Whoever has `fd` can use all chunks, so all of them are one trust domain.
    """

    def __init__(
        self,
        last_chunk: int = GMM_CHUNKID_LAST,
        *,
        name: str = "gmm-chunks",
        abilities: Abilities | None = None,
    ) -> None:
        """Make the file; none of it is resident. Raises BackendError.

        `name` shows up in /proc/PID/fd as ``/memfd:NAME``; `abilities` are those of the kernel to use.
        """
        self.last_chunk: Final = last_chunk
        self._memory: Final = MemfdBackend(last_chunk + 1 << GMM_CHUNK_SHIFT, name)
        self._discarder: Final = Discarder(self._memory, abilities)
        self._windows: Final[dict[int, int]] = {OWN_PROCESS: self._memory.address}
        self._next_process = OWN_PROCESS + 1
        self._looks_not_due = 0

    def new_chunk(self, chunk_id: int) -> None:
        if not 0 < chunk_id <= self.last_chunk:
            raise StoreFullError(
                f"chunk {chunk_id} is outside the store, which ends with chunk {self.last_chunk}"
            )
        if not self._looks_not_due:
            self._looks_not_due = _chunks_left()
        self._looks_not_due -= 1
        number = system_calls.allocate(self._memory.fd, chunk_id << GMM_CHUNK_SHIFT, GMM_CHUNK_SIZE)
        if number:
            raise StoreFullError(f"chunk {chunk_id} cannot be allocated: {os.strerror(number)}")

    def drop_chunks(self, chunk_ids: npt.ArrayLike) -> None:
        starts = np.atleast_1d(np.asarray(chunk_ids, np.uint64)) * np.uint64(GMM_CHUNK_NUM_PAGES)
        self._discarder.discard(ranges.pack(starts, np.full_like(starts, GMM_CHUNK_NUM_PAGES)))

    def discard(self, page_ids: npt.NDArray[np.uint32]) -> None:
        self._discarder.discard(ranges.from_pages(page_ids))

    def equal(self, first: int, second: int) -> bool:
        # by read(2): looking at a hole through a mapping would allocate the page
        return self._page(first) == self._page(second)

    def map_chunk(self, process: int, chunk_id: int) -> int:
        window = self._windows.get(process)
        if window is None:
            raise StoreFullError(f"process {process} has no window for chunks: attach it first")
        return window + (chunk_id << GMM_CHUNK_SHIFT)

    def unmap_chunk(self, process: int, chunk_id: int) -> None:
        # the process itself unmaps it; there is nothing to undo here
        del process, chunk_id

    def attach(self, window: int) -> int:
        """Return a number, never used before, for a process that maps chunk 0 at the address `window`."""
        process = self._next_process
        self._next_process += 1
        self._windows[process] = window
        return process

    def detach(self, process: int) -> None:
        """Forget a process that has ended, or closed its connection."""
        del self._windows[process]

    @property
    def fd(self) -> int:
        """The memory file, sealed against any change of its size; the store closes it."""
        return self._memory.fd

    @property
    def resident_pages(self) -> int:
        """Pages of 4 KiB that the file occupies now (its `st_blocks`)."""
        return self._memory.resident_bytes() >> PAGE_SHIFT

    def view(self, chunk_id: int) -> memoryview:
        """Return the bytes of one chunk, as this process has them mapped."""
        return self._memory.view[chunk_id << GMM_CHUNK_SHIFT :][:GMM_CHUNK_SIZE]

    def close(self) -> None:
        """Close the file. What processes have mapped stays theirs until they unmap it."""
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _page(self, page_id: int) -> bytes:
        return os.pread(self._memory.fd, PAGE_SIZE, page_id << PAGE_SHIFT)


def _chunks_left() -> int:
    """Return how many chunks may be made before the next look. Raises StoreFullError if none may.

    The kernel would allocate what the host does not have, and then end a process.
    """
    host = host_memory()
    if lacks := host.lacks(GMM_CHUNK_SIZE):
        raise StoreFullError(f"no memory for another chunk: {lacks}")
    return min(_CHUNKS_A_LOOK, (host.available - host.margin) // GMM_CHUNK_SIZE)
