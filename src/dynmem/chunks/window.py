"""Where a process maps chunks: a window of reserved addresses, in which each chunk has its own place.

The place is known before anything is mapped: the window's first address, and 2 MiB times the chunk's id.
Chunks with consecutive ids lie side by side in the file as in the window, so the kernel keeps them as one
mapping, and the limit of mappings (vm.max_map_count) is far away.
"""

import ctypes
import os
from typing import Final

from dynmem import mappings
from dynmem.errors import DynmemError
from dynmem.gmm.constants import GMM_CHUNK_SHIFT, GMM_CHUNK_SIZE, GMM_CHUNKID_LAST
from dynmem.memory import system_calls

_WINDOW_BYTES: Final = GMM_CHUNKID_LAST + 1 << GMM_CHUNK_SHIFT


class WindowError(DynmemError):
    """The system does not map a chunk, or has no addresses for a window."""


class Window:
    """A terabyte of addresses of this process, none of it committed."""

    def __init__(self) -> None:
        """Reserve the addresses. Raises WindowError."""
        self.base: Final = mappings.reserve(_WINDOW_BYTES)
        self._open = self.base > 0
        if not self._open:
            raise WindowError(
                f"no addresses for 1 TiB of chunks: {os.strerror(-self.base)}: raise the limit of addresses"
                " (ulimit -v)"
            )

    def address(self, chunk_id: int) -> int:
        """Return the place of a chunk, whether or not it is mapped."""
        return self.base + (chunk_id << GMM_CHUNK_SHIFT)

    def map(self, fd: int, chunk_id: int) -> None:
        """Map a chunk of a memory file. Raises WindowError.

        A forked child does not inherit it: the child would keep a chunk that nobody counts.
        """
        address = self.address(chunk_id)
        number = mappings.map_file(address, GMM_CHUNK_SIZE, fd, chunk_id << GMM_CHUNK_SHIFT)
        number = number or system_calls.madvise(address, GMM_CHUNK_SIZE, system_calls.MADV_DONTFORK)
        if number:
            mappings.clear(address, GMM_CHUNK_SIZE)
            raise WindowError(f"chunk {chunk_id} cannot be mapped: {os.strerror(number)}")

    def unmap(self, chunk_id: int) -> None:
        """Unmap a chunk. Raises WindowError. Touching a view of it is then a segmentation fault."""
        number = mappings.clear(self.address(chunk_id), GMM_CHUNK_SIZE)
        if number:
            raise WindowError(f"chunk {chunk_id} cannot be unmapped: {os.strerror(number)}")

    def view(self, chunk_id: int) -> memoryview:
        """Return the bytes of a chunk that is mapped, to read and write until it is unmapped."""
        room = (ctypes.c_ubyte * GMM_CHUNK_SIZE).from_address(self.address(chunk_id))
        return memoryview(room).cast("B")

    def close(self) -> None:
        """Unmap all chunks and return the addresses."""
        if self._open:
            self._open = False
            mappings.release(self.base, _WINDOW_BYTES)
