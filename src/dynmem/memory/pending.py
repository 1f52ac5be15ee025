"""Discards that are held back: pages given up, whose memory the host has not reclaimed yet.

Discarding 4 KiB pages one by one costs 4 to 12 times as much as a whole block of 2 MiB, so pages wait here
until the guest has given up all of their block, but not for long. Where the host has no huge pages, ranges of
128 KiB and more gain nothing by that and are due at once. Two rules protect guest data: pages that go back
to the guest are withdrawn from here first, and none goes back while a batch is in flight. So a batch never
holds a page that the guest has.

Pure: no clock, no system call. Pages are the backend's own, from 0.
"""

from typing import Final, NamedTuple

import numpy as np

from dynmem.errors import LocalProtocolError
from dynmem.limits import (
    DISCARD_BATCH_BLOCKS,
    DISCARD_BATCH_RANGES,
    DISCARD_NEW_BYTES_MAX,
    DISCARD_PENDING_PAGES_MAX,
)
from dynmem.pages import ranges as page_ranges
from dynmem.pages.page_set import PageSet
from dynmem.units import NS_PER_MS

HOLD_NS: Final = 100 * NS_PER_MS
BLOCK_PAGES: Final = 512
# Ranges of 64 KiB were 1.1 times as fast after waiting; those of 128 KiB and more lost 2 to 10 % (measured).
LONG_PAGES: Final = 32


class PendingSnapshot(NamedTuple):
    """What waits and what is in flight, as packed ascending ranges of pages.

    Attributes:
        parts: Pages that wait outside of complete blocks.
        long: Long ranges, due at once.
        blocks: Complete blocks, due at once.
        flight: The batch that is being discarded.
        due_ns: When the oldest of `parts` has waited long enough.

    """

    parts: bytes
    long: bytes
    blocks: bytes
    flight: bytes
    due_ns: int


class PendingDiscards:
    """The pages of one memory that wait to be discarded, and the batch that is being discarded now."""

    def __init__(
        self,
        given: PageSet,
        *,
        block_pages: int = BLOCK_PAGES,
        whole_only: bool = False,
        long_pages: int = 0,
        hold_ns: int = HOLD_NS,
        pages_max: int = DISCARD_PENDING_PAGES_MAX,
    ) -> None:
        """Hold discards back for pages of `given`, the set that the pages are put in and taken out of.

        `block_pages`: a power of two from 64 up. `whole_only`: the host's own pages have that size, so
        incomplete blocks wait without end. Others wait for `hold_ns`, or until more than `pages_max` wait;
        ranges of `long_pages` and more do not wait at all (0: they do).
        """
        self._given = given
        self._block_pages: Final = block_pages
        self._whole_only: Final = whole_only
        self._long_pages: Final = 0 if whole_only else long_pages
        self._hold_ns: Final = hold_ns
        self._pages_max: Final = pages_max
        self._parts = PageSet(given.total_pages)  # what waits outside of complete blocks
        self._long = PageSet(given.total_pages)  # the same, but due at once; none of it is among the others
        self._new: list[bytes] = []  # of the first, not entered yet: one batch of many messages costs less
        self._new_bytes = 0
        self._ready = PageSet(given.total_pages // block_pages)  # complete blocks, by number
        self._flight = b""
        self._due_ns = 0  # when the oldest of what waits has waited long enough

    def __len__(self) -> int:
        """Return the pages that wait, without those in flight; all of a complete block counts."""
        self._merge()
        return len(self._parts) + len(self._long) + len(self._ready) * self._block_pages

    @property
    def in_flight(self) -> bool:
        """Whether a batch is being discarded: until it is done no page may go back to the guest."""
        return self._flight != b""

    def add(self, ranges: bytes, now_ns: int) -> None:
        """Let pages wait, all of which are in the given set; one that waits already counts once."""
        if not (self._new or len(self._parts) or len(self._long) or len(self._ready)):
            self._due_ns = now_ns + self._hold_ns
        whole = self._given.whole(ranges, self._block_pages)
        if whole != ranges:
            short = self._without_long(ranges) if self._long_pages else ranges
            self._new.append(short)
            self._new_bytes += len(short)
            if whole or self._new_bytes > DISCARD_NEW_BYTES_MAX:
                self._merge()
        if whole:
            self._parts.drop(whole)
            self._long.drop(whole)
            self._ready.add(self._exact_blocks(whole))

    def withdraw(self, ranges: bytes) -> None:
        """Drop whatever waits of `ranges`, which go back to the guest.

        Raises LocalProtocolError while any of them is in flight.
        """
        if self._flight and _overlap(self._flight, ranges):
            raise LocalProtocolError("pages whose discard is in flight cannot go back to the guest")
        self._merge()
        if len(self._ready):
            broken = self._ready.intersect(self._blocks(ranges))
            self._ready.drop(broken)
            (self._long if self._long_pages else self._parts).add(self._pages(broken))
        self._parts.drop(ranges)
        self._long.drop(ranges)

    def next_batch(self, now_ns: int, *, flush: bool = False) -> bytes:
        """Return what is due, in flight until `done`, as packed ascending ranges; b"" if nothing is due.

        Complete blocks are due at once, whole, though parts of them may have been discarded before. `flush`
        makes everything due that waits now, even if this call cannot return it all.
        """
        if flush:
            self._due_ns = min(self._due_ns, now_ns)
        if self._flight:
            return b""
        blocks = self._ready.take(DISCARD_BATCH_BLOCKS, DISCARD_BATCH_RANGES)
        if blocks:
            self._flight = self._pages(blocks)
        elif len(self._long) or self._parts_due(now_ns):
            most = DISCARD_BATCH_BLOCKS * self._block_pages
            self._flight = (self._long if len(self._long) else self._parts).take(most, DISCARD_BATCH_RANGES)
        return self._flight

    def done(self) -> None:
        """End the flight of the batch, whether or not the system discarded all of it."""
        if not self._flight:
            raise LocalProtocolError("no discard is in flight")
        self._flight = b""

    def deadline_ns(self) -> int | None:
        """Return when `next_batch` has something without a flush: a time in the past if it has now.

        None if only an event can change that: `done`, or more pages.
        """
        if self._flight:
            return None
        if len(self._ready) or len(self._long):
            return 0
        if self._whole_only or not (self._new or len(self._parts)):
            return None
        return 0 if self._are_too_many() else self._due_ns

    def clear(self) -> None:
        """Drop all that waits: the guest that gave it up is gone. Raises LocalProtocolError in flight."""
        if self._flight:
            raise LocalProtocolError("a discard is in flight: wait until it is done")
        self._new.clear()
        self._new_bytes = 0
        self._parts.clear()
        self._long.clear()
        self._ready.clear()

    def snapshot(self) -> PendingSnapshot:
        """Return what waits and what is in flight."""
        self._merge()
        blocks = self._pages(_all_of(self._ready))
        return PendingSnapshot(_all_of(self._parts), _all_of(self._long), blocks, self._flight, self._due_ns)

    def restore(self, snapshot: PendingSnapshot) -> None:
        """Restore what waits and what is in flight; the caller restores the given set."""
        self._flight = b""
        self.clear()
        self._parts.add(snapshot.parts)
        self._long.add(snapshot.long)
        self._ready.add(self._exact_blocks(snapshot.blocks))
        self._flight = snapshot.flight
        self._due_ns = snapshot.due_ns

    def _parts_due(self, now_ns: int) -> bool:
        if self._whole_only or not (self._new or len(self._parts)):
            return False
        if now_ns < self._due_ns and not self._are_too_many():
            return False
        self._merge()
        return True

    def _are_too_many(self) -> bool:
        if len(self._parts) + sum(map(page_ranges.page_count, self._new)) <= self._pages_max:
            return False
        self._merge()  # some may have been named twice
        return len(self._parts) > self._pages_max

    def _merge(self) -> None:
        """Merge what was added since the last time."""
        if self._new:
            came = b"".join(self._new)
            self._long.drop(came)
            self._parts.add(came)
            self._new.clear()
            self._new_bytes = 0

    def _without_long(self, ranges: bytes) -> bytes:
        """Make the long ones of coalesced ranges due at once; return the others."""
        packed = page_ranges.words(ranges)
        long = packed >> np.uint64(page_ranges.START_BITS) >= np.uint64(self._long_pages)
        if not long.any():
            return ranges
        self._merge()
        self._long.add(packed[long].tobytes())
        self._parts.drop(packed[long].tobytes())
        return packed[~long].tobytes()

    def _blocks(self, ranges: bytes) -> bytes:
        """Return the blocks that `ranges` of pages touch, as ranges of block numbers.

        Blocks of 4 pages: [3,5) [9,12) touch blocks [0,2) [2,3)
        """
        starts, counts = page_ranges.unpack(page_ranges.merge(ranges))
        size = np.uint64(self._block_pages)
        ends = (starts + counts + size - np.uint64(1)) // size
        starts //= size
        return page_ranges.pack(starts, ends - starts)

    def _exact_blocks(self, ranges: bytes) -> bytes:
        """Return the same for ranges that are whole blocks."""
        starts, counts = page_ranges.unpack(ranges)
        size = np.uint64(self._block_pages)
        return page_ranges.pack(starts // size, counts // size)

    def _pages(self, blocks: bytes) -> bytes:
        """Return the pages of ranges of blocks."""
        starts, counts = page_ranges.unpack(blocks)
        size = np.uint64(self._block_pages)
        return page_ranges.pack(starts * size, counts * size)


def _all_of(pages: PageSet) -> bytes:
    return pages.intersect(page_ranges.span(0, pages.total_pages))


def _overlap(one: bytes, other: bytes) -> bool:
    """Return whether two batches of ranges have a page in common."""
    apart = page_ranges.page_count(page_ranges.merge(one)) + page_ranges.page_count(page_ranges.merge(other))
    return page_ranges.page_count(page_ranges.merge(one + other)) < apart
