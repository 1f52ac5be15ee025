"""The pages that the guest has given up, memory by memory: boot RAM, DIMMs, and what hv-balloon adds.

A guest names pages by their number in its physical memory. A message is cut at the borders of the memories,
and each memory keeps its own account in pages of its own, from 0, which are also those of its backend. The
guest may have a memory in several pieces, as boot memory beside the hole below 4 GiB; its own pages know
nothing of that. What lies in no memory, or in a part that the guest does not have, is rejected and leaves no
trace: all of the memory that is added there later is the guest's at first.

Each has two accounts, by QEMU's names: removed_both, pages that the guest gave up and the host has reclaimed,
or is about to; and removed_guest, pages that only the guest gave up, as the discard failed. Pages go back to
the guest in QEMU's order: removed_guest before removed_both, added memory last.

Nothing here discards. `due` returns batches to discard, which are *in flight* until `done`; **no page goes
back to the guest while any is**, since a late discard would destroy what the guest has written. Pages that
are only held back, to be discarded in larger blocks, are withdrawn when they go back.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Self

import numpy as np

from dynmem.dm.stores import GivenUp
from dynmem.limits import DISCARD_BATCH_BLOCKS, DISCARD_BATCH_RANGES, VM_LACKING_BLOCKS_MAX
from dynmem.memory.backend import Backend
from dynmem.memory.pending import LONG_PAGES, PendingDiscards
from dynmem.pages import ranges as page_ranges
from dynmem.pages.algebra import Ranges, cut, joined, within, without
from dynmem.pages.page_set import PageSet
from dynmem.units import PAGE_SHIFT, PAGE_SIZE
from dynmem.vm.balloon.pieces import Pieces

_BLOCK_PAGES: Final = 512  # 2 MiB: a host gives these back several times as fast as their pages one by one

_Present = Callable[[Ranges], Ranges]


class Batch(NamedTuple):
    """Ranges of one memory to discard.

    Attributes:
        memory: The memory.
        ranges: In its own pages.
        is_freed: Whether the guest removed them permanently, so that they are not in the balloon.
    """

    memory: "Memory"
    ranges: bytes
    is_freed: bool


class Part(NamedTuple):
    """What of a message lies in one memory, in its own pages."""

    memory: "Memory"
    ranges: Ranges


def _all(ranges: Ranges) -> Ranges:
    """Return the ranges: they are of a memory that the guest has whole."""
    return ranges


class Memory:
    """One memory of the guest.

    Attributes:
        pages: Its size.
        pieces: Where the guest has it.
        is_kept: Whether nothing of it returns to the host but what the balloon is asked for.
        given: Its pages in the balloon.
        guest_only: Those of them whose discard failed.
        pending: Those of them that wait to be discarded, or are in flight.
        present: Returns the parts of ranges that the guest has, given up or not.
    """

    def __init__(
        self,
        pieces: Iterable[tuple[int, int]],
        page_bytes: int = PAGE_SIZE,
        *,
        may_have_huge_pages: bool = True,
        is_kept: bool = False,
        reserve: Callable[[bytes], bytes] | None = None,
        present: _Present | None = None,
    ) -> None:
        """Begin with nothing given up.

        Args:
            pieces: Where the guest has it: the first guest page of each piece and its size, ascending.
            page_bytes: The size of the backend's own pages, which return to the host only whole.
            may_have_huge_pages: Whether the host may use transparent huge pages, so that blocks are worth
                waiting for.
            is_kept: Whether nothing returns to the host but what the balloon is asked for.
            reserve: For huge pages that the host may lack after a discard: reserves those that ranges are
                in, before they go back to the guest, and returns the ranges that it lacks.
            present: Returns the parts of ranges that the guest has, given up or not; by default all.
        """
        self.pieces: Pieces = Pieces(pieces)
        self.pages: Final = self.pieces.pages
        self._page_pages: Final = page_bytes >> PAGE_SHIFT
        self.is_kept: Final = is_kept
        self._reserve: Final = reserve
        self.given: Final = PageSet(self.pages)
        self.guest_only: Final = PageSet(self.pages)
        self.pending: Final = PendingDiscards(
            self.given,
            long_pages=0 if may_have_huge_pages else LONG_PAGES,
            block_pages=max(_BLOCK_PAGES, self._page_pages),
            whole_only=page_bytes > PAGE_SIZE,
        )
        self._freed: Final = PageSet(self.pages)  # removed permanently, not discarded yet
        self._is_freeing = False
        self.present: Final = present or _all

    @classmethod
    def of(cls, ram: Iterable[tuple[int, int]], backend: Backend, *, present: _Present | None = None) -> Self:
        """Make the account of all of a backend; `ram` is where the guest has it, address and bytes."""
        return cls(
            [(address >> PAGE_SHIFT, size >> PAGE_SHIFT) for address, size in ram],
            backend.page_size,
            may_have_huge_pages=backend.may_have_huge_pages,
            is_kept=backend.hugetlb or backend.prealloc,
            reserve=backend.reserve if backend.hugetlb else None,
            present=present,
        )

    @property
    def first_page(self) -> int:
        """The first guest page of it."""
        return self.pieces.first_page

    def move(self, first_page: int) -> None:
        """Record that the guest has it in one piece from a page on; nothing of it is given up yet."""
        self.pieces = Pieces([(first_page, self.pages)])

    @property
    def is_discarding(self) -> bool:
        """Whether a discard is in flight."""
        return self._is_freeing or self.pending.in_flight

    @property
    def is_freeing(self) -> bool:
        """Whether pages that the guest removed permanently are still to be discarded, or in flight."""
        return self._is_freeing or len(self._freed) > 0

    def add_given(self, ranges: Ranges, now_ns: int) -> tuple[int, int]:
        """Add pages that the guest gave up; return how many are new, and how many were given up before."""
        added = self.given.add(ranges.packed())
        if added.new:
            self.pending.add(added.coalesced, now_ns)
        return added.new, added.duplicates

    def take(self, max_pages: int, max_ranges: int, *, guest_only: bool) -> bytes:
        """Take pages out of one account, for the guest, and withdraw them from the discards.

        Pages that the host lacks stay in the account.
        """
        if self._reserve is None:
            return self._take(max_pages, max_ranges, guest_only=guest_only)
        taken: list[bytes] = []
        kept: list[bytes] = []
        blocks_left = VM_LACKING_BLOCKS_MAX
        while max_pages > 0 and max_ranges > 0 and blocks_left > 0:
            ranges = self._take(max_pages, max_ranges, guest_only=guest_only)
            if not ranges:
                break
            backed, lacking, blocks = self._backed(ranges)
            backed, cut_off = self.pieces.part(backed, max_ranges)  # refusals made more ranges of them
            taken.append(backed)
            kept += [lacking, cut_off]
            blocks_left -= blocks
            max_pages -= page_ranges.page_count(backed)
            max_ranges -= len(backed) // page_ranges.RANGE_BYTES
        self._keep(b"".join(kept), guest_only=guest_only)
        return b"".join(taken)

    def _backed(self, ranges: bytes) -> tuple[bytes, bytes, int]:
        """Reserve the huge pages that ranges lie in: what the host has, what it lacks, in how many blocks.

        [1,6) [7,8), blocks of 4 pages, the host refuses [4,8)
        without [4,8) -> [1,4)      within [4,8) -> [4,6) [7,8), 1 block
        """
        assert self._reserve is not None
        refused = self._reserve(ranges)
        if not refused:
            return ranges, b"", 0
        named, holes = joined(ranges), joined(refused)
        blocks = holes.page_count // self._page_pages
        return without(named, holes).packed(), within(named, holes).packed(), blocks

    def _keep(self, ranges: bytes, *, guest_only: bool) -> None:
        """Put pages back into an account. They are not discarded again: their huge pages are gone already."""
        self.given.add(ranges)
        if guest_only:
            self.guest_only.add(ranges)

    def unreserved(self) -> bytes:
        """Return the pages given up that the host would lack if all went back now."""
        if self._reserve is None or not len(self.given):
            return b""
        return self._reserve(self.given.intersect(page_ranges.span(0, self.pages)))

    def _take(self, max_pages: int, max_ranges: int, *, guest_only: bool) -> bytes:
        """Take pages out of one account."""
        account = self.guest_only if guest_only else self.given
        ranges, rest = self.pieces.part(account.take(max_pages, max_ranges), max_ranges)
        if rest:
            account.add(rest)
        if guest_only:
            was_there = self.given.remove(ranges)
            assert was_there  # one is a part of the other
        if ranges:
            self.pending.withdraw(ranges)
        return ranges

    def free(self, ranges: bytes) -> None:
        """Add pages that the guest removed permanently, to be discarded."""
        self._freed.add(ranges)

    def due(self, now_ns: int, *, flush: bool) -> Batch | None:
        """Return the next batch that is due, if any; it is in flight from now on, one at a time."""
        if self.is_discarding:
            return None
        if len(self._freed):
            most = DISCARD_BATCH_BLOCKS * max(_BLOCK_PAGES, self._page_pages)  # whole pages of the host
            ranges = self._freed.take(most, DISCARD_BATCH_RANGES)
            self._is_freeing = True
            return Batch(self, ranges, is_freed=True)
        ranges = self.pending.next_batch(now_ns, flush=flush)
        return Batch(self, ranges, is_freed=False) if ranges else None

    def done(self, batch: Batch, *, failed: bool) -> None:
        """Record the end of a discard."""
        if batch.is_freed:
            self._is_freeing = False
            return
        self.pending.done()
        if failed:
            self.guest_only.add(batch.ranges)
        elif len(self.guest_only):
            self.guest_only.drop(batch.ranges)

    def clear(self) -> None:
        """Return everything to the guest; nothing may be in flight."""
        assert not self.is_discarding
        self.given.clear()
        self.guest_only.clear()
        self.pending.clear()

    def forget(self) -> None:
        """Drop all accounts, and what was to be discarded: the memory may be handed out again."""
        self.clear()
        self._freed.clear()


class GuestPages:
    """All memories of the guest. `now_ns` is the clock by which discards are held back."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._memories: list[Memory] = []  # by address
        self._added: Memory | None = None
        self._find()

    def plug(self, memory: Memory, *, is_added: bool = False) -> None:
        """Add a memory that the guest has from now on; `is_added`: it is the one that hv-balloon adds."""
        self._memories = sorted([*self._memories, memory], key=lambda memory: memory.first_page)
        if is_added:
            self._added = memory
        self._find()

    def unplug(self, memory: Memory) -> None:
        """Remove a memory with what was given up of it; nothing of it may be in flight."""
        assert not memory.is_discarding
        self._memories.remove(memory)
        self._find()

    def memory_at(self, first_page: int) -> Memory:
        """Return the memory that begins at a page."""
        (memory,) = (memory for memory in self._memories if memory.first_page == first_page)
        return memory

    def _find(self) -> None:
        """Note where the memories are."""
        self._pieces = sorted(
            ((piece, memory) for memory in self._memories for piece in memory.pieces),
            key=lambda item: item[0].first_page,
        )
        starts = np.array([piece.first_page for piece, _ in self._pieces], np.uint64)
        sizes = np.array([piece.pages for piece, _ in self._pieces], np.uint64)
        self._regions = Ranges(starts, starts + sizes)
        # in which pages go back
        self._order = [memory for memory in self._memories if memory is not self._added]

    @property
    def removed_pages(self) -> int:
        """Pages that the guest has given up, of both accounts."""
        return sum(len(memory.given) for memory in self._memories)

    @property
    def removed_guest_pages(self) -> int:
        """Pages that the guest has given up though the host could not reclaim their memory."""
        return sum(len(memory.guest_only) for memory in self._memories)

    @property
    def is_discarding(self) -> bool:
        """Whether a discard is in flight."""
        return any(memory.is_discarding for memory in self._memories)

    @property
    def may_remove(self) -> bool:
        """Whether `remove_for_guest` may be called: not while a discard may still hit a page."""
        return not self.is_discarding

    def add_given(self, ranges: bytes) -> GivenUp:
        """Add what the guest gave up; a page that is named twice is a duplicate the second time.

        Raises RemoteProtocolError if `ranges` ends in half a range.
        """
        return self._add(ranges)

    def _add(self, ranges: bytes) -> GivenUp:
        named = page_ranges.page_count(ranges)
        new = duplicates = 0
        distinct = joined(ranges)
        for part in self.parts(distinct):
            came, known = part.memory.add_given(part.ranges, self._now_ns())
            new += came
            duplicates += known
        pages = distinct.page_count
        return GivenUp(new, duplicates + named - pages, pages - new - duplicates)

    def parts(self, ranges: Ranges) -> list[Part]:
        """Return what of the ranges lies in memory that the guest has, by piece of a memory.

        Memories [0,8) [100,104), ranges [4,6) [7,101):  pieces [4,6) [7,8) | [100,101), indices 0 0 1
        parted where the index changes, at 2, and counted in each memory's own pages
        ->  the first memory's [4,6) [7,8), the second one's [0,1)
        """
        index, pieces = cut(ranges, self._regions)
        found = []
        borders = [0, *(np.flatnonzero(index[1:] != index[:-1]) + 1).tolist(), index.size]
        for low, high in itertools.pairwise(borders):
            if low == high:
                continue
            piece, memory = self._pieces[int(index[low])]
            here = Ranges(pieces.starts[low:high], pieces.ends[low:high])
            present = memory.present(here.relative_to(piece.first_page - piece.own_page))
            if not present.is_empty:
                found.append(Part(memory, present))
        return found

    def held(self, ranges: Ranges) -> tuple[list[Part], int]:
        """Return what of the ranges the guest has and has not given up, and how many of their pages it lacks.

        Memory that is kept is left out.
        """
        found = []
        present = 0
        for memory, here in self.parts(ranges):
            present += here.page_count
            if memory.is_kept:
                continue
            given = joined(memory.given.intersect(here.packed())) if len(memory.given) else None
            held = here if given is None else without(here, given)
            if not held.is_empty:
                found.append(Part(memory, held))
        return found, ranges.page_count - present

    def remove_for_guest(self, max_pages: int, max_ranges: int) -> bytes:
        """Remove at most `max_pages` pages to return to the guest; b"" if there are none."""
        assert self.may_remove
        taken: list[bytes] = []
        added = () if self._added is None else (self._added,)
        for memories in (self._order, added):
            for guest_only in (True, False):
                for memory in memories:
                    ranges = memory.take(max_pages, max_ranges, guest_only=guest_only)
                    if not ranges:
                        continue
                    taken.append(memory.pieces.guest_pages(ranges))
                    max_pages -= page_ranges.page_count(ranges)
                    max_ranges -= len(ranges) // page_ranges.RANGE_BYTES
        return b"".join(taken)

    def undo(self, ranges: bytes) -> None:
        """Put back what `remove_for_guest` returned: it was never sent."""
        self._add(ranges)

    def due(self, *, flush: bool) -> list[Batch]:
        """Return the batches that are due; `flush`: nothing is held back for more that may come."""
        now_ns = self._now_ns()
        found = (memory.due(now_ns, flush=flush) for memory in self._memories)
        return [batch for batch in found if batch is not None]

    def deadline_ns(self) -> int | None:
        """Return when something that is held back is due; a memory with a batch in flight waits for that."""
        idle = [memory.pending.deadline_ns() for memory in self._memories if not memory.is_discarding]
        return min((deadline for deadline in idle if deadline is not None), default=None)

    def unreserved_pages(self) -> int:
        """Return the number of pages that the host would lack if all that was given up went back now."""
        return sum(page_ranges.page_count(memory.unreserved()) for memory in self._memories)

    def clear(self) -> None:
        """Return everything to the guest; nothing may be in flight."""
        for memory in self._memories:
            memory.clear()
