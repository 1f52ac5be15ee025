"""The page table: one word for every page of every chunk, which says whose it is.

    private    pfn 32 bits   handle of the VM 16 bits   0 14 bits   0   the pfn is that of the guest
    shared     pfn 32 bits   references 16 bits         0 14 bits   2   the pfn is that of its first guest
    free       0                                                    3

Free pages wait on a stack for each chunk, so that the page that was freed last is used first; the original
links them through their words. With the columns of `chunks` that makes 10.1 bytes a page. (VirtualBox,
GMMR0Internal.h: GMMPAGE; GMMR0.cpp: gmmR0FreePageWorker.)

What a page contains is not touched before it is discarded, and that happens before its word changes: if a
store fails, the books are as they were.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynmem.gmm.accounts import Accounts
from dynmem.gmm.chunks import LARGE_PAGE, MAPPED, MIXED, NOBODY, Chunks, Slots
from dynmem.gmm.codes import GmmError, Status
from dynmem.gmm.constants import (
    GMM_CHUNK_NUM_PAGES,
    GMM_CHUNKID_SHIFT,
    GMM_PAGE_PFN_UNSHAREABLE,
    GMM_PAGE_STATE_FREE,
    GMM_PAGE_STATE_PRIVATE,
    GMM_PAGE_STATE_SHARED,
    GMM_PAGEID_IDX_MASK,
    PAGE_SHIFT,
)
from dynmem.gmm.store import ChunkStore
from dynmem.gmm.vms import Vm, Vms

PFN_MASK: Final = (1 << 32) - 1
HANDLE_SHIFT: Final = 32
HANDLE_MASK: Final = (1 << 16) - 1
STATE_SHIFT: Final = 62
FREE_WORD: Final = GMM_PAGE_STATE_FREE << STATE_SHIFT
_SHARED_WORD: Final = GMM_PAGE_STATE_SHARED << STATE_SHIFT
_ONE_REFERENCE: Final = 1 << HANDLE_SHIFT
_ID_SHIFT: Final = np.uint32(GMM_CHUNKID_SHIFT)
_BLOCK: Final = 4096  # chunks looked through at a time: 16 MiB of the table

Words = NDArray[np.uint64]
Ids = NDArray[np.uint32]


class PageTable:
    """The state of all pages, over a store.

    Attributes:
        chunks: The chunks that they lie in.
        shared_pages: Pages that are shared.
    """

    def __init__(self, store: ChunkStore, vms: Vms, accounts: Accounts, *, spare_chunks: int) -> None:
        self._store = store
        self._vms = vms
        self._accounts = accounts
        self._spare_chunks = spare_chunks
        self.chunks: Final[Chunks] = Chunks(store.last_chunk)
        self.shared_pages: int = 0
        self._words = np.zeros(self.chunks.capacity * GMM_CHUNK_NUM_PAGES, np.uint64)
        self._stacks = np.zeros(self.chunks.capacity * GMM_CHUNK_NUM_PAGES, np.uint16)

    # Pages by id.

    def position(self, page_id: int) -> int:
        """Return where in the table a page is, or raise GmmError (PAGE_NOT_FOUND)."""
        position = self.find(page_id)
        if position < 0:
            raise GmmError(Status.PAGE_NOT_FOUND, f"page {page_id:#x} is not a page of any chunk")
        return position

    def find(self, page_id: int) -> int:
        """Return where in the table a page is, a negative number if it is of no chunk."""
        slot = self.chunks.find(page_id >> GMM_CHUNKID_SHIFT)
        return slot << GMM_CHUNKID_SHIFT | page_id & GMM_PAGEID_IDX_MASK

    def positions(self, page_ids: Ids) -> Slots:
        """Return where in the table pages are, a negative number for one that is of no chunk."""
        slots = self.chunks.find_all(page_ids >> _ID_SHIFT)
        return slots << GMM_CHUNKID_SHIFT | page_ids & GMM_PAGEID_IDX_MASK

    def page_ids(self, positions: Slots) -> Ids:
        """Return the ids of the pages at *positions*."""
        chunk_ids = self.chunks.ids[positions >> GMM_CHUNKID_SHIFT]
        page_ids: Ids = chunk_ids << _ID_SHIFT | (positions & GMM_PAGEID_IDX_MASK).astype(np.uint32)
        return page_ids

    def word(self, position: int) -> int:
        """Return the word of a page."""
        return self._words.item(position)

    def words(self, positions: Slots) -> Words:
        """Return the words of pages."""
        return self._words[positions]

    def address(self, page_id: int) -> int:
        """Return what stands for the host physical address of a page: its place in the store."""
        self.position(page_id)
        return page_id << PAGE_SHIFT

    def set_pfn(self, position: int, pfn: int) -> None:
        """Note where the guest has a page."""
        self._words[position] = self.word(position) & ~PFN_MASK | pfn

    # Pages that come and go.

    def add_chunk(self, chunk_id: int, node: int) -> int:
        """Make a chunk in the store, with all its pages free; return its slot. Raises StoreFullError."""
        self._store.new_chunk(chunk_id)
        slot = self.chunks.add(chunk_id, node)
        size = self.chunks.capacity * GMM_CHUNK_NUM_PAGES
        if size > self._words.size:
            # zeros that are not written yet take no memory
            words, stacks = np.zeros(size, np.uint64), np.zeros(size, np.uint16)
            words[: self._words.size], stacks[: self._stacks.size] = self._words, self._stacks
            self._words, self._stacks = words, stacks
        first = slot << GMM_CHUNKID_SHIFT
        self._words[first : first + GMM_CHUNK_NUM_PAGES] = FREE_WORD
        self._stacks[first : first + GMM_CHUNK_NUM_PAGES] = _ALL_PAGES
        return slot

    def undo_add_chunk(self, slot: int, last_id: int) -> None:
        """Take back a chunk that was added last and is not used."""
        chunk_id = self.chunks.ids.item(slot)
        self.chunks.undo_add(slot, last_id)
        self._store.drop_chunks(np.array([chunk_id], np.uint32))

    def take(self, slot: int, words: Words, vm: Vm) -> Ids:
        """Give free pages of a chunk to a VM, one for each of *words*; return their ids."""
        chunks = self.chunks
        end = chunks.free.item(slot)
        start = end - words.size
        first = slot << GMM_CHUNKID_SHIFT
        indices = self._stacks[first + start : first + end][::-1]
        self._words[indices.astype(np.intp) + first] = words
        self._taken(slot, end, words.size, vm)
        return indices | np.uint32(chunks.ids.item(slot) << GMM_CHUNKID_SHIFT)

    def take_one(self, slot: int, pfn: int, vm: Vm) -> int:
        """Give one free page of a chunk to a VM; return its id."""
        end = self.chunks.free.item(slot)
        first = slot << GMM_CHUNKID_SHIFT
        index = self._stacks.item(first + end - 1)
        self._words[first + index] = pfn | vm.handle << HANDLE_SHIFT
        self._taken(slot, end, 1, vm)
        return self.chunks.ids.item(slot) << GMM_CHUNKID_SHIFT | index

    def _taken(self, slot: int, free: int, pages: int, vm: Vm) -> None:
        """Count pages of a chunk as taken; *free* is how many were free before."""
        chunks = self.chunks
        chunks.free[slot] = free - pages
        chunks.free_pages -= pages
        if free == GMM_CHUNK_NUM_PAGES:
            chunks.owner[slot] = vm.handle
        elif chunks.owner.item(slot) != vm.handle:
            chunks.flags[slot] |= MIXED
        chunks.relink(slot)

    def take_all(self, found: dict[int, int], words: Words, vm: Vm) -> Ids:
        """Give a VM as many free pages of each slot as it was found to have; return their ids."""
        if len(found) == 1:
            return self.take(next(iter(found)), words, vm)
        chunks = self.chunks
        slots = np.fromiter(found, np.intp, len(found))
        counts = np.fromiter(found.values(), np.intp, len(found))
        ends = chunks.free[slots].astype(np.intp)
        firsts = np.repeat(slots << GMM_CHUNKID_SHIFT, counts)
        # down from the top of each stack
        tops = np.repeat(ends - 1 + np.cumsum(counts) - counts, counts)
        indices = self._stacks[firsts + tops - np.arange(words.size)]
        self._words[firsts + indices] = words
        chunks.free[slots] = ends - counts
        chunks.free_pages -= words.size
        unused = ends == GMM_CHUNK_NUM_PAGES
        chunks.owner[slots[unused]] = vm.handle
        chunks.flags[slots[chunks.owner[slots] != vm.handle]] |= np.uint8(MIXED)
        chunks.relink_all(slots)
        return np.repeat(chunks.ids[slots] << _ID_SHIFT, counts) | indices

    def put_back(self, positions: Slots, *, shared: bool = False) -> None:
        """Free pages that are allocated: *shared* ones or private ones.

        Emptied chunks go back to the host, but for as many unused ones as `spare_chunks` says. The store has
        discarded what was in the pages before the first of them counts as free.
        """
        slot = positions.item(0) >> GMM_CHUNKID_SHIFT
        if positions.size == 1 or bool((positions >> GMM_CHUNKID_SHIFT == slot).all()):
            self._put_back_in(slot, positions, shared=shared)
            return
        chunks = self.chunks
        slots, counts, ordered = _by_chunk(positions)
        before = chunks.free[slots].astype(np.intp)
        after = before + counts
        emptied = after == GMM_CHUNK_NUM_PAGES
        dropped = self._to_drop(slots, emptied)
        self._discard(ordered[np.repeat(~dropped, counts)], slots[dropped])
        self._words[ordered] = FREE_WORD
        tops = np.repeat((slots << GMM_CHUNKID_SHIFT) + before - np.cumsum(counts) + counts, counts)
        self._stacks[tops + np.arange(ordered.size)] = ordered & GMM_PAGEID_IDX_MASK
        chunks.free[slots] = after
        chunks.free_pages += positions.size
        if shared:
            self.shared_pages -= positions.size
            chunks.shared[slots] -= counts.astype(np.uint16)
        chunks.flags[slots] &= ~np.uint8(LARGE_PAGE)
        chunks.flags[slots[emptied]] &= np.uint8(MAPPED)
        chunks.owner[slots[emptied]] = NOBODY
        chunks.relink_all(slots)
        for gone in slots[dropped].tolist():
            chunks.drop(gone)

    def _put_back_in(self, slot: int, positions: Slots, *, shared: bool) -> None:
        """Do the same for pages of one chunk."""
        chunks = self.chunks
        first = slot << GMM_CHUNKID_SHIFT
        before, flags = chunks.free.item(slot), chunks.flags.item(slot)
        after = before + positions.size
        emptied = after == GMM_CHUNK_NUM_PAGES
        dropped = emptied and not flags & MAPPED and chunks.unused_count() >= self._spare_chunks
        indices = positions & GMM_PAGEID_IDX_MASK
        if dropped:
            self._store.drop_chunks(chunks.ids[slot : slot + 1])
        else:
            first_id = chunks.ids.item(slot) << GMM_CHUNKID_SHIFT
            self._store.discard((indices + first_id).astype(np.uint32))
        self._words[positions] = FREE_WORD
        self._stacks[first + before : first + after] = indices
        chunks.free[slot] = after
        chunks.free_pages += positions.size
        if shared:
            self.shared_pages -= positions.size
            chunks.shared[slot] = chunks.shared.item(slot) - positions.size
        if emptied:
            chunks.owner[slot] = NOBODY
            chunks.flags[slot] = flags & MAPPED
        elif flags & LARGE_PAGE:
            chunks.flags[slot] = flags ^ LARGE_PAGE
        chunks.relink(slot)
        if dropped:
            chunks.drop(slot)

    def release_unused(self, *, spare: bool = True) -> int:
        """Return unused chunks to the host that are not mapped; return how many.

        With *spare*, as many unused chunks are kept as `spare_chunks` says.
        """
        unused = np.fromiter(self.chunks.unused(), np.intp)
        unmapped = unused[self.chunks.flags[unused] & MAPPED == 0]
        kept = max(0, self._spare_chunks - (unused.size - unmapped.size)) if spare else 0
        dropped = unmapped[kept:]
        if dropped.size:
            self._store.drop_chunks(self.chunks.ids[dropped])
            for slot in dropped.tolist():
                self.chunks.drop(slot)
        return len(dropped)

    def _to_drop(self, slots: Slots, emptied: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of these chunks go back to the host, of those that are about to be empty."""
        unmapped: NDArray[np.bool_] = emptied & (self.chunks.flags[slots] & MAPPED == 0)
        if emptied.any():
            kept = self.chunks.unused_count() + int(emptied.sum()) - int(unmapped.sum())
            unmapped[np.flatnonzero(unmapped)[: max(0, self._spare_chunks - kept)]] = False
        return unmapped

    def _discard(self, positions: Slots, dropped: Slots) -> None:
        """Have the store discard pages, and drop chunks with all that is in them."""
        if positions.size:
            self._store.discard(self.page_ids(positions))
        if dropped.size:
            self._store.drop_chunks(self.chunks.ids[dropped])

    # Pages of one VM.

    def private_positions(self, handle: int) -> Iterator[Slots]:
        """Yield where the private pages of a VM are, block by block."""
        flags, owners = self.chunks.flags, self.chunks.owner
        slots = self.chunks.slots()
        slots = slots[(owners[slots] == handle) | (flags[slots] & MIXED != 0)]
        for block, words in self._blocks(slots):
            rows, columns = np.nonzero(words >> HANDLE_SHIFT == handle)
            if rows.size:
                yield (block[rows] << GMM_CHUNKID_SHIFT) + columns

    def disown(self, handle: int) -> None:
        """Make the chunks of a VM nobody's: what is left in them is of others."""
        slots = self.chunks.slots()
        slots = slots[self.chunks.owner[slots] == handle]
        self.chunks.owner[slots] = NOBODY
        self.chunks.relink_all(slots)

    def pages_of(self, vm: str) -> Ids:
        """Return the ids of the private pages of a VM, in no order."""
        known = self._vms.get(vm)
        blocks = [self.page_ids(block) for block in self.private_positions(known.handle)] if known else []
        return np.concatenate([np.zeros(0, np.uint32), *blocks])

    def private_pages(self, other_than: str) -> Ids:
        """Return the ids of all private pages of other VMs, in no order."""
        known = self._vms.get(other_than)
        handle = known.handle if known else NOBODY
        found = [np.zeros(0, np.uint32)]
        for block, words in self._blocks(self.chunks.slots()):
            rows, columns = np.nonzero(
                (words >> STATE_SHIFT == GMM_PAGE_STATE_PRIVATE) & (words >> HANDLE_SHIFT != handle)
            )
            found.append(self.page_ids((block[rows] << GMM_CHUNKID_SHIFT) + columns))
        return np.concatenate(found)

    def _blocks(self, slots: Slots) -> Iterator[tuple[Slots, Words]]:
        """Yield the words of chunks, a row for each, with their slots: some chunks at a time."""
        table = self._words.reshape(-1, GMM_CHUNK_NUM_PAGES)
        for start in range(0, slots.size, _BLOCK):
            block = slots[start : start + _BLOCK]
            yield block, table[block]

    # Sharing: accounts are no concern of these, for a merged page stays charged to its VM as a reference.

    def owner(self, page_id: int) -> str | None:
        """Return the VM of a private page, None if the page is shared or free."""
        word = self.word(self.position(page_id))
        if word >> STATE_SHIFT != GMM_PAGE_STATE_PRIVATE:
            return None
        return self._vms.name_of(word >> HANDLE_SHIFT)

    def references(self, page_id: int) -> int:
        """Return the references to a shared page, 0 if the page is private or free."""
        word = self.word(self.position(page_id))
        return word >> HANDLE_SHIFT & HANDLE_MASK if word >> STATE_SHIFT == GMM_PAGE_STATE_SHARED else 0

    def may_share(self, page_id: int) -> bool:
        """Return False for a private page marked unshareable, or in a large page."""
        position = self.position(page_id)
        if self.chunks.flags.item(position >> GMM_CHUNKID_SHIFT) & LARGE_PAGE:
            return False
        return self.word(position) & PFN_MASK != GMM_PAGE_PFN_UNSHAREABLE

    def equal(self, page_id: int, other: int) -> bool:
        """Return whether two pages have the same 4096 bytes."""
        self.position(page_id)
        self.position(other)
        return self._store.equal(page_id, other)

    def share(self, page_id: int) -> None:
        """Make a private page a shared one with one reference. Raises GmmError (PAGE_NOT_PRIVATE)."""
        position = self._private(page_id)
        slot = position >> GMM_CHUNKID_SHIFT
        self._words[position] = _SHARED_WORD | _ONE_REFERENCE | self.word(position) & PFN_MASK
        self.shared_pages += 1
        self.chunks.shared[slot] += 1
        self.chunks.relink(slot)

    def refer(self, page_id: int) -> None:
        """Add a reference to a shared page. Raises GmmError (PAGE_NOT_SHARED)."""
        position, left = self._shared(page_id)
        if left == HANDLE_MASK:
            raise GmmError(Status.PAGE_NOT_SHARED, f"page {page_id:#x} has {left} references, the most")
        self._words[position] = self.word(position) + _ONE_REFERENCE
        self._accounts.duplicate_pages += 1

    def release(self, page_id: int) -> None:
        """Drop a reference to a shared page; the last one frees it. Raises GmmError (PAGE_NOT_SHARED)."""
        position, left = self._shared(page_id)
        if left == 1:
            self.put_back(np.array([position], np.intp), shared=True)
        else:
            self._words[position] = self.word(position) - _ONE_REFERENCE
            self._accounts.duplicate_pages -= 1

    def free_shared(self, page_ids: Ids) -> None:
        """Free shared pages that have one reference each. Raises GmmError (PAGE_NOT_SHARED)."""
        positions = self.positions(page_ids)
        one_reference = _SHARED_WORD | _ONE_REFERENCE
        if int(positions.min()) < 0 or bool(
            (self.words(positions) & ~np.uint64(PFN_MASK) != one_reference).any()
        ):
            raise GmmError(Status.PAGE_NOT_SHARED, "a page to be freed does not have one reference")
        self.put_back(positions, shared=True)

    def free(self, page_id: int) -> None:
        """Free a private page, whose VM remains charged for it. Raises GmmError (PAGE_NOT_PRIVATE)."""
        self.put_back(np.array([self._private(page_id)], np.intp))

    def _private(self, page_id: int) -> int:
        position = self.position(page_id)
        if self.word(position) >> STATE_SHIFT != GMM_PAGE_STATE_PRIVATE:
            raise GmmError(Status.PAGE_NOT_PRIVATE, f"page {page_id:#x} is not a private one")
        return position

    def _shared(self, page_id: int) -> tuple[int, int]:
        """Return where a shared page is, and how many references it has."""
        position = self.position(page_id)
        left = self.references(page_id)
        if not left:
            raise GmmError(Status.PAGE_NOT_SHARED, f"page {page_id:#x} is not a shared one")
        return position, left

    # Invariants.

    def private_counts(self) -> dict[int, int]:
        """Return how many private pages each handle has, counted in the table."""
        counts: dict[int, int] = {}
        for _, words in self._blocks(self.chunks.slots()):
            handles = words[words >> STATE_SHIFT == GMM_PAGE_STATE_PRIVATE] >> HANDLE_SHIFT
            for handle, count in zip(*np.unique(handles, return_counts=True), strict=True):
                counts[int(handle)] = counts.get(int(handle), 0) + int(count)
        return counts

    def verify(self) -> None:
        """Assert that words, stacks and the counts of the chunks agree."""
        self.chunks.verify()
        shared = references = 0
        for slot in self.chunks.slots().tolist():
            first = slot << GMM_CHUNKID_SHIFT
            words = self._words[first : first + GMM_CHUNK_NUM_PAGES]
            states = words >> STATE_SHIFT
            free = self.chunks.free.item(slot)
            stack = self._stacks[first : first + free]
            assert np.array_equal(np.sort(stack), np.flatnonzero(states == GMM_PAGE_STATE_FREE))
            assert self.chunks.shared.item(slot) == int((states == GMM_PAGE_STATE_SHARED).sum())
            handles = words[states == GMM_PAGE_STATE_PRIVATE] >> HANDLE_SHIFT
            if not self.chunks.flags.item(slot) & MIXED:
                assert bool((handles == self.chunks.owner.item(slot)).all())
            shared += self.chunks.shared.item(slot)
            counts = words[states == GMM_PAGE_STATE_SHARED] >> HANDLE_SHIFT & HANDLE_MASK
            assert bool((counts > 0).all())
            references += int(counts.sum())
        assert self.shared_pages == shared
        assert self._accounts.duplicate_pages == references - shared


_ALL_PAGES: Final = np.arange(GMM_CHUNK_NUM_PAGES - 1, -1, -1).astype(np.uint16)  # the lowest is taken first


def _by_chunk(positions: Slots) -> tuple[Slots, Slots, Slots]:
    """Return the slots of pages, how many pages are in each, and the pages in that order of slots."""
    slots = positions >> GMM_CHUNKID_SHIFT
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return ordered[starts], np.diff(starts, append=positions.size), positions[order]
