"""The chunks: whose each is, how much of it is free, and lists to find one by that.

A chunk has an id, which is part of the ids of its pages, and a slot, its place in the tables of the books.
Ids go round all that there are, so that an id that was just freed is not used again at once; slots are used
again at once, so that the tables are as long as there were chunks at most.

A chunk with free pages is on one list, by how many it has: 33 lists (GMM_CHUNK_FREE_SET_LISTS) to a set, the
last for chunks that nothing is used of. There is a set for each VM (the chunks that it was the first to use),
one for those that are nobody's, and one for those that have shared pages. (VirtualBox, GMMR0.cpp: GMMCHUNK,
GMMCHUNKFREESET, gmmR0SelectSetAndLinkChunk; its tree of chunks is a table here.)
"""

from collections.abc import Iterator
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from dynmem.gmm.constants import (
    GMM_CHUNK_FLAGS_LARGE_PAGE,
    GMM_CHUNK_FREE_SET_LISTS,
    GMM_CHUNK_FREE_SET_SHIFT,
    GMM_CHUNK_FREE_SET_UNUSED_LIST,
    GMM_CHUNK_NUM_PAGES,
    NIL_GMM_CHUNKID,
)

N = TypeVar("N", bound=np.generic)

LARGE_PAGE: Final = GMM_CHUNK_FLAGS_LARGE_PAGE
MIXED: Final = 4  # it has private pages of others than its owner
MAPPED: Final = 8  # a process has it mapped

NOBODY: Final = 0  # the handle of no VM
SHARED: Final = 1 << 16  # the set of chunks with shared pages, beyond all handles
NONE: Final = -1  # no slot, no list
_PLACE_SHIFT: Final = 6  # a place is a set and one of its 33 lists
_LIST_MASK: Final = (1 << _PLACE_SHIFT) - 1
_FIRST_SLOTS: Final = 16
_FEW: Final = 3  # chunks that are put on lists one by one

Slots = NDArray[np.intp]


class FreeSet:
    """The heads of 33 lists, and a bit for each that has a chunk."""

    __slots__ = ("heads", "mask")

    def __init__(self) -> None:
        self.heads: list[int] = [NONE] * GMM_CHUNK_FREE_SET_LISTS
        self.mask: int = 0


class Chunks:
    """All chunks, by slot.

    Attributes:
        ids: The id of the chunk in a slot; NIL: the slot is not used.
        free: Its free pages.
        shared: Its shared pages.
        owner: The handle of the VM that used it first, or NOBODY.
        node: Its NUMA node.
        flags: LARGE_PAGE, MIXED, MAPPED.
        count: Chunks there are.
        free_pages: Free pages in all of them.
        dropped: Chunks that went back to the host, ever.
    """

    __slots__ = (
        "_last_id", "_next", "_place", "_previous", "_sets", "_slots", "_used", "_vacant",
        "count", "dropped", "flags", "free", "free_pages", "ids", "last_chunk", "node", "owner", "shared",
    )  # fmt: skip

    def __init__(self, last_chunk: int) -> None:
        self.last_chunk: Final[int] = last_chunk
        self.ids: NDArray[np.uint32] = np.zeros(_FIRST_SLOTS, np.uint32)
        self.free: NDArray[np.uint16] = np.zeros(_FIRST_SLOTS, np.uint16)
        self.shared: NDArray[np.uint16] = np.zeros(_FIRST_SLOTS, np.uint16)
        self.owner: NDArray[np.uint16] = np.zeros(_FIRST_SLOTS, np.uint16)
        self.node: NDArray[np.uint8] = np.zeros(_FIRST_SLOTS, np.uint8)
        self.flags: NDArray[np.uint8] = np.zeros(_FIRST_SLOTS, np.uint8)
        self._next = np.zeros(_FIRST_SLOTS, np.int32)
        self._previous = np.zeros(_FIRST_SLOTS, np.int32)
        self._place = np.zeros(_FIRST_SLOTS, np.int32)
        self._slots: NDArray[np.int32] = np.zeros(_FIRST_SLOTS, np.int32)  # by id: slot + 1
        self._sets: dict[int, FreeSet] = {}
        self._vacant = NONE  # slots that were used, as a list
        self._used = 0  # slots that ever were
        self._last_id = NIL_GMM_CHUNKID
        self.count: int = 0
        self.free_pages: int = 0
        self.dropped: int = 0

    @property
    def capacity(self) -> int:
        """Slots that there is room for."""
        return self.ids.size

    def find(self, chunk_id: int) -> int:
        """Return the slot of a chunk, or NONE."""
        return self._slots.item(chunk_id) - 1 if 0 <= chunk_id < self._slots.size else NONE

    def find_all(self, chunk_ids: NDArray[np.uint32]) -> Slots:
        """Return the slot of each chunk, NONE for an id that is not one."""
        if int(chunk_ids.max()) < self._slots.size:
            return self._slots[chunk_ids].astype(np.intp) - 1
        known = np.minimum(chunk_ids, self._slots.size - 1)
        return np.where(chunk_ids < self._slots.size, self._slots[known].astype(np.intp) - 1, NONE)

    def slots(self) -> Slots:
        """Return the slots of all chunks."""
        return np.flatnonzero(self.ids[: self._used])

    def next_id(self) -> int:
        """Return the id for the next chunk, NIL if all are used: the one after the last, and round again."""
        if self.count >= self.last_chunk:
            return NIL_GMM_CHUNKID
        chunk_id = self._last_id
        while True:
            chunk_id = chunk_id + 1 if chunk_id < self.last_chunk else 1
            if chunk_id >= self._slots.size or not self._slots.item(chunk_id):
                return chunk_id

    def add(self, chunk_id: int, node: int) -> int:
        """Add a chunk with all its pages free; return its slot."""
        if self._vacant != NONE:
            slot = self._vacant
            self._vacant = self._next.item(slot)
        else:
            slot = self._used
            if slot == self.ids.size:
                self._grow()
            self._used += 1
        if chunk_id >= self._slots.size:
            self._slots = _longer(self._slots, max(chunk_id + 1, self._slots.size * 2))
        self._slots[chunk_id] = slot + 1
        self._last_id = chunk_id
        self.ids[slot] = chunk_id
        self.free[slot] = GMM_CHUNK_NUM_PAGES
        self.shared[slot] = 0
        self.owner[slot] = NOBODY
        self.node[slot] = node
        self.flags[slot] = 0
        self._place[slot] = NONE
        self.count += 1
        self.free_pages += GMM_CHUNK_NUM_PAGES
        self.relink(slot)
        return slot

    def drop(self, slot: int) -> None:
        """Remove a chunk that nothing is used of."""
        self._unlink(slot)
        self._slots[self.ids[slot]] = 0
        self.ids[slot] = NIL_GMM_CHUNKID
        self._next[slot] = self._vacant
        self._vacant = slot
        self.count -= 1
        self.free_pages -= GMM_CHUNK_NUM_PAGES
        self.dropped += 1

    def undo_add(self, slot: int, last_id: int) -> None:
        """Remove a chunk that was added last, as if it had never been; *last_id* was the id before."""
        self.drop(slot)
        self.dropped -= 1
        self._last_id = last_id

    @property
    def last_id(self) -> int:
        """The id that was given last."""
        return self._last_id

    def relink(self, slot: int) -> None:
        """Put a chunk on the list where it belongs now."""
        free = self.free.item(slot)
        if not free:
            place = NONE
        else:
            key = SHARED if self.shared.item(slot) else self.owner.item(slot)
            place = key << _PLACE_SHIFT | free >> GMM_CHUNK_FREE_SET_SHIFT
        if place != self._place.item(slot):
            self._unlink(slot)
            if place != NONE:
                self._link(slot, place)

    def relink_all(self, slots: Slots) -> None:
        """Put different chunks on the lists where they belong now."""
        if slots.size <= _FEW:
            for slot in slots.tolist():
                self.relink(slot)
            return
        free = self.free[slots]
        keys = np.where(self.shared[slots] > 0, np.int32(SHARED), self.owner[slots].astype(np.int32))
        places = keys << _PLACE_SHIFT | free.astype(np.int32) >> GMM_CHUNK_FREE_SET_SHIFT
        places[free == 0] = NONE
        former = self._place[slots]
        moved = places != former
        self._unlink_all(slots[moved & (former != NONE)])
        arriving = moved & (places != NONE)
        self._link_all(slots[arriving], places[arriving])

    def own(self, handle: int) -> Iterator[int]:
        """Yield the chunks of a VM that have both used and free pages, fullest first."""
        yield from self._walk(handle, 0, GMM_CHUNK_FREE_SET_UNUSED_LIST)

    def unused(self) -> Iterator[int]:
        """Yield the chunks that nothing is used of."""
        yield from self._walk(NOBODY, GMM_CHUNK_FREE_SET_UNUSED_LIST, GMM_CHUNK_FREE_SET_LISTS)

    def any(self) -> Iterator[int]:
        """Yield all chunks that have free pages: those without shared pages first, then fullest first."""
        for key in sorted(self._sets):
            yield from self._walk(key, 0, GMM_CHUNK_FREE_SET_LISTS)

    def unused_count(self) -> int:
        """Return how many chunks nothing is used of: few, for most go back to the host."""
        return sum(1 for _ in self.unused())

    def _walk(self, key: int, first: int, end: int) -> Iterator[int]:
        free_set = self._sets.get(key)
        if free_set is None:
            return
        mask = free_set.mask >> first << first
        while mask:
            index = (mask & -mask).bit_length() - 1
            if index >= end:
                return
            mask &= mask - 1
            slot = free_set.heads[index]
            while slot != NONE:
                yield slot
                slot = self._next.item(slot)

    def _link(self, slot: int, place: int) -> None:
        head = self._head(place)
        self._next[slot] = head
        self._previous[slot] = NONE
        if head != NONE:
            self._previous[head] = slot
        self._set_head(place, slot)
        self._place[slot] = place

    def _unlink(self, slot: int) -> None:
        place = self._place.item(slot)
        if place == NONE:
            return
        following, previous = self._next.item(slot), self._previous.item(slot)
        if following != NONE:
            self._previous[following] = previous
        if previous != NONE:
            self._next[previous] = following
        else:
            self._set_head(place, following)
        self._place[slot] = NONE

    def _link_all(self, slots: Slots, places: NDArray[np.int32]) -> None:
        """Put chunks that are on no list on lists: those for one list together, before the others there."""
        if not slots.size:
            return
        order = np.argsort(places, kind="stable")
        slots, places = slots[order], places[order]
        starts = [0, *(np.flatnonzero(places[1:] != places[:-1]) + 1).tolist()]
        for start, end in zip(starts, [*starts[1:], slots.size], strict=True):
            chain = slots[start:end]
            self._next[chain[:-1]] = chain[1:]
            self._previous[chain[1:]] = chain[:-1]
            head = self._head(places.item(start))
            if head != NONE:
                self._previous[head] = chain[-1]
            self._next[chain[-1]] = head
            self._previous[chain[0]] = NONE
            self._set_head(places.item(start), chain.item(0))
        self._place[slots] = places

    def _unlink_all(self, slots: Slots) -> None:
        """Take chunks off their lists; those at the beginning of one, which were found first, together."""
        gone = set(slots.tolist())
        for place in set(self._place[slots].tolist()):
            head = first = self._head(place)
            while head in gone:
                gone.remove(head)
                head = self._next.item(head)
            if head != first:
                self._set_head(place, head)
                if head != NONE:
                    self._previous[head] = NONE
        for slot in gone:
            self._unlink(slot)
        self._place[slots] = NONE

    def _head(self, place: int) -> int:
        free_set = self._sets.get(place >> _PLACE_SHIFT)
        return free_set.heads[place & _LIST_MASK] if free_set else NONE

    def _set_head(self, place: int, slot: int) -> None:
        """Begin a list with another chunk, or with NONE; a set without chunks is no longer kept."""
        key, index = place >> _PLACE_SHIFT, place & _LIST_MASK
        free_set = self._sets.get(key)
        if free_set is None:
            free_set = self._sets[key] = FreeSet()
        free_set.heads[index] = slot
        if slot != NONE:
            free_set.mask |= 1 << index
            return
        free_set.mask &= ~(1 << index)
        if not free_set.mask:
            del self._sets[key]

    def _grow(self) -> None:
        size = self.ids.size * 2
        for name in ("ids", "free", "shared", "owner", "node", "flags", "_next", "_previous", "_place"):
            setattr(self, name, _longer(getattr(self, name), size))

    def verify(self) -> None:
        """Assert that ids and slots agree, and that each chunk is on the list where it belongs alone."""
        slots = self.slots()
        assert slots.size == self.count
        assert all(self.find(self.ids.item(slot)) == slot for slot in slots.tolist())
        assert int(np.count_nonzero(self._slots)) == self.count
        assert self.free_pages == int(self.free[slots].sum(dtype=np.int64))
        assert bool((self.free[slots] + self.shared[slots] <= GMM_CHUNK_NUM_PAGES).all())
        listed = {}
        for key, free_set in self._sets.items():
            assert free_set.mask
            for index, head in enumerate(free_set.heads):
                assert (head != NONE) == bool(free_set.mask >> index & 1)
                before = NONE
                for slot in self._walk(key, index, index + 1):
                    assert slot not in listed
                    assert self._previous.item(slot) == before
                    before = slot
                    listed[slot] = (key, index)
        for slot in slots.tolist():
            free = self.free.item(slot)
            key = SHARED if self.shared.item(slot) else self.owner.item(slot)
            assert listed.get(slot) == ((key, free >> GMM_CHUNK_FREE_SET_SHIFT) if free else None)
            if free == GMM_CHUNK_NUM_PAGES:
                assert key == NOBODY
                assert not self.flags.item(slot) & ~MAPPED


def _longer(column: NDArray[N], size: int) -> NDArray[N]:
    """Return a column with room for more: zeros that take no memory until they are written."""
    longer = np.zeros(size, column.dtype)
    longer[: column.size] = column
    return longer
