"""A chunk store as a set and a dictionary, which fails on demand; and the books as one value."""

import pickle

import numpy as np
import numpy.typing as npt

from dynmem.gmm import GlobalMemoryManager
from dynmem.gmm.constants import GMM_CHUNK_NUM_PAGES, GMM_CHUNKID_SHIFT
from dynmem.gmm.store import StoreFullError


class NaiveStore:
    """Chunks 1 to *last_chunk*; a page holds a number, 0 until something is written.

    Attributes:
        chunks: Those that were made and not dropped.
        content: What was written, by page id.
        mapped: The chunks that each process has mapped.
        full: Whether the next chunk or mapping is refused.
        broken: Whether the next page or chunk is not returned.
    """

    def __init__(self, last_chunk: int = 8) -> None:
        self.last_chunk = last_chunk
        self.chunks: set[int] = set()
        self.content: dict[int, int] = {}
        self.mapped: set[tuple[int, int]] = set()
        self.full = False
        self.broken = False

    def new_chunk(self, chunk_id: int) -> None:
        assert 0 < chunk_id <= self.last_chunk
        assert chunk_id not in self.chunks
        if self.full:
            raise StoreFullError("no memory")
        self.chunks.add(chunk_id)

    def drop_chunks(self, chunk_ids: npt.ArrayLike) -> None:
        self._check_works()
        for chunk_id in np.atleast_1d(np.asarray(chunk_ids)).tolist():
            assert not any(each == chunk_id for _, each in self.mapped)
            self.chunks.remove(chunk_id)
            first = chunk_id << GMM_CHUNKID_SHIFT
            self._forget(range(first, first + GMM_CHUNK_NUM_PAGES))

    def discard(self, page_ids: npt.NDArray[np.uint32]) -> None:
        self._check_works()
        ids = page_ids.tolist()
        assert len(set(ids)) == len(ids)
        assert all(page_id >> GMM_CHUNKID_SHIFT in self.chunks for page_id in ids)
        self._forget(ids)

    def equal(self, first: int, second: int) -> bool:
        return self.content.get(first, 0) == self.content.get(second, 0)

    def map_chunk(self, process: int, chunk_id: int) -> int:
        assert chunk_id in self.chunks
        assert (process, chunk_id) not in self.mapped
        if self.full:
            raise StoreFullError("no addresses")
        self.mapped.add((process, chunk_id))
        return address(process, chunk_id)

    def unmap_chunk(self, process: int, chunk_id: int) -> None:
        self.mapped.remove((process, chunk_id))

    def _forget(self, page_ids: "list[int] | range") -> None:
        for page_id in page_ids:
            self.content.pop(page_id, None)

    def _check_works(self) -> None:
        if self.broken:
            raise OSError("the store is broken")


def address(process: int, chunk_id: int) -> int:
    """Return where a process has a chunk."""
    return process + 1 << 40 | chunk_id << 21


def snapshot(gmm: GlobalMemoryManager) -> list[object]:
    """Return all that a call can change, but not where it lies: a failed call may have grown a table."""
    table, chunks = gmm._table, gmm._table.chunks
    rows = []
    for slot in sorted(chunks.slots().tolist(), key=chunks.ids.item):
        first = slot << GMM_CHUNKID_SHIFT
        columns = (chunks.ids, chunks.free, chunks.shared, chunks.owner, chunks.node, chunks.flags)
        rows.append(
            (
                [column.item(slot) for column in columns],
                table._words[first : first + GMM_CHUNK_NUM_PAGES].tobytes(),
                table._stacks[first : first + chunks.free.item(slot)].tobytes(),
            )
        )
    lists = [chunks.ids.item(slot) for slot in chunks.any()]
    vms = [
        (vm.name, vm.handle, vm.process, vm.node, chunks.ids.item(vm.hint) if vm.hint is not None else 0)
        for vm in gmm._vms
    ]
    mappings = sorted(
        (chunks.ids.item(slot), vm.name, there)
        for slot, of_chunk in gmm._mappings._by_slot.items()
        for vm, there in of_chunk.items()
    )
    totals = (chunks.count, chunks.free_pages, chunks.dropped, chunks.last_id, table.shared_pages)
    sharing = {vm: gmm.sharing.held(vm) for vm in gmm}
    return [rows, lists, vms, mappings, totals, sharing, pickle.dumps(gmm._accounts)]
