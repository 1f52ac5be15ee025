"""What the books need of the memory that they are about: chunks by id, and pages by id within them."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from dynmem.errors import DynmemError
from dynmem.gmm.constants import GMM_CHUNK_SHIFT, GMM_CHUNKID_LAST


class StoreFullError(DynmemError):
    """A store has no memory or addresses for another chunk; a call on the books reports OUT_OF_MEMORY."""


class ChunkStore(Protocol):
    """Memory in chunks of 2 MiB, which are there from `new_chunk` to `drop_chunks`.

    A page id is the id of its chunk times 512 and the index of the page in it. The books call `discard` and
    `drop_chunks` before they change: what these two raise passes through the call on the books, which then
    has changed nothing.
    """

    @property
    def last_chunk(self) -> int:
        """The last chunk id that the store has room for; the first is 1."""

    def new_chunk(self, chunk_id: int, /) -> None:
        """Make a chunk, whose pages read as zeros. Raises StoreFullError."""

    def drop_chunks(self, chunk_ids: npt.ArrayLike, /) -> None:
        """Return chunks to the host, with all that is in them. None of them is mapped."""

    def discard(self, page_ids: npt.NDArray[np.uint32], /) -> None:
        """Return the memory of these pages to the host: they read as zeros from now on."""

    def equal(self, first: int, second: int, /) -> bool:
        """Return whether two pages have the same 4096 bytes."""

    def map_chunk(self, process: int, chunk_id: int, /) -> int:
        """Return the address at which a process can use a chunk. Raises StoreFullError."""

    def unmap_chunk(self, process: int, chunk_id: int, /) -> None:
        """End the use of a chunk by a process, which may have ended itself."""


class NoStore:
    """Books without memory: every chunk can be made, and no two pages are equal."""

    last_chunk = GMM_CHUNKID_LAST

    def new_chunk(self, chunk_id: int, /) -> None:
        del chunk_id

    def drop_chunks(self, chunk_ids: npt.ArrayLike, /) -> None:
        del chunk_ids

    def discard(self, page_ids: npt.NDArray[np.uint32], /) -> None:
        del page_ids

    def equal(self, first: int, second: int, /) -> bool:
        del first, second
        return False

    def map_chunk(self, process: int, chunk_id: int, /) -> int:
        del process
        return chunk_id << GMM_CHUNK_SHIFT

    def unmap_chunk(self, process: int, chunk_id: int, /) -> None:
        del process, chunk_id
