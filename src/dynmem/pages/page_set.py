"""The set of pages that a guest has given up, in bounded memory whichever pages the guest chooses.

Guest memory is divided into chunks of 128 MiB. A chunk is empty, full, or a bitmap of 4 KiB, so a set takes
at most 1/32768 of the guest plus 8 bytes per chunk, and a message costs O(its ranges + the chunks it covers),
in any order. A chunk's count of pages says which of the three it is. **The words of an empty or full chunk
are zero**, so the memory behind them is never touched: covering a terabyte writes 64 KiB of counts.
"""

import mmap
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dynmem.limits import PAGE_RANGE_PAGES_MAX
from dynmem.pages import bitmap
from dynmem.pages import ranges as page_ranges
from dynmem.pages.bitmap import Indices
from dynmem.pages.chunks import CHUNK_PAGES, CHUNK_SHIFT, CHUNK_WORDS, TO_CHUNK, of_blocks, whole_chunks
from dynmem.pages.ranges import U64Array
from dynmem.pages.runs import Runs

WORD_PAGES: Final = bitmap.WORD_PAGES

# A page of the host.
_ROW_BYTES: Final = CHUNK_WORDS * 8
# From a word's index to its chunk's.
_CHUNK_WORD_SHIFT: Final = 9
# As few ranges as this are added one by one: arrays would cost more.
_FEW: Final = 4
# A range as long as this is added by itself: listing its words would cost more.
_LONG_PAGES: Final = 128 * WORD_PAGES
# Chunks searched in one step: as many as one range can name.
_SCAN_CHUNKS: Final = PAGE_RANGE_PAGES_MAX // CHUNK_PAGES
# Bitmaps decoded in one step.
_AHEAD_CHUNKS_MAX: Final = 64
# Runs that make a step worthwhile: several messages.
_AHEAD_RUNS: Final = 2048

_ALL_BITS: Final = (1 << WORD_PAGES) - 1
_ONE: Final = np.uint64(1)


class Added(NamedTuple):
    """The result of adding one batch. The three counts, in pages, add up to all pages that the batch named.

    Attributes:
        new: Pages that were not in the set.
        duplicates: Pages that were in the set already, or were named twice in the batch.
        rejected: Pages in ranges that were rejected as a whole.
        coalesced: The accepted ranges sorted and joined: what to discard now.
    """

    new: int
    duplicates: int
    rejected: int
    coalesced: bytes


class PageSet:
    """A set of pages of a guest with `total_pages` pages, numbered from 0."""

    def __init__(self, total_pages: int) -> None:
        if total_pages < 0:
            raise ValueError(f"a guest cannot have {total_pages} pages")
        self.total_pages: Final = total_pages
        self._chunks: Final = (total_pages + CHUNK_PAGES - 1) >> CHUNK_SHIFT
        self._make_empty()

    def clear(self) -> None:
        """Remove every page. Costs nothing if the set is empty: a guest may reset as often as it likes."""
        if self._size or self._cut:
            self._make_empty()

    def _make_empty(self) -> None:
        # A separate mapping with a page per chunk: untouched rows occupy no memory, and rows can be returned
        # to the kernel. Memory of the heap would be kept when freed, and cleared by touching all of it.
        size = max(self._chunks, 1) * _ROW_BYTES
        self._map = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._words: U64Array = np.frombuffer(self._map, np.uint64)
        self._rows: npt.NDArray[np.uint64] = self._words.reshape(-1, CHUNK_WORDS)
        self._word_at = memoryview(self._map).cast("Q")  # to access single words
        self._counts: Indices = np.zeros(self._chunks, np.int64)
        self._size = 0
        self._low = 0  # no chunk below this one has a page
        self._cut = 0  # pages below this one have been taken, though their bits may still be set: see _settle
        self._runs: Runs | None = None
        self._ahead = 1  # bitmaps to decode in the next step

    def __len__(self) -> int:
        return self._size

    def contains(self, page: int) -> bool:
        """Return whether the set has this page; False for a page the guest does not have."""
        if not 0 <= page < self.total_pages:
            return False
        self._settle()
        if self._counts[page >> CHUNK_SHIFT] == CHUNK_PAGES:
            return True
        return bool(int(self._words[page >> bitmap.WORD_SHIFT]) >> (page & 63) & 1)

    def overlaps(self, ranges: bytes) -> bool:
        """Return whether the set has any of the pages; it has none outside the guest."""
        self._settle()
        chunks, starts, ends = whole_chunks(*self._inside(ranges))
        if self._counts[chunks].any():
            return True
        index, mask = bitmap.spread(starts, ends)
        whole = self._counts[index >> _CHUNK_WORD_SHIFT] == CHUNK_PAGES
        return bool((whole | (self._words[index] & mask != 0)).any())

    def intersect(self, ranges: bytes) -> bytes:
        """Return the parts of `ranges` that the set has: ascending, joined.

        Costs O(ranges + result): a long range over a fragmented set returns all the fragments.

        Chunks of 8 pages, the set has [0,8) and 9 10 12, ranges [0,12):  chunk 0 is whole and full -> [0,8)
        the rest [8,12) is bits 0-3 of a word, of which the set has 1 2   ->  [9,11), in all [0,8) [9,11)
        """
        self._settle()
        chunks, starts, ends = whole_chunks(*self._inside(ranges))
        counts = self._counts[chunks]
        full = chunks[counts == CHUNK_PAGES]
        mixed = chunks[(counts > 0) & (counts < CHUNK_PAGES)]
        index, mask = bitmap.spread(starts, ends)
        has = np.where(
            self._counts[index >> _CHUNK_WORD_SHIFT] == CHUNK_PAGES, mask, self._words[index] & mask
        )
        index = np.concatenate((index, (mixed[:, None] * CHUNK_WORDS + np.arange(CHUNK_WORDS)).reshape(-1)))
        starts, ends = bitmap.word_runs(index, np.concatenate((has, self._rows[mixed].reshape(-1))))
        chunk_starts = full.astype(np.uint64) << TO_CHUNK
        # Disjoint ranges: sorting starts and ends separately keeps the pairs together.
        starts = np.sort(np.concatenate((starts, chunk_starts)))
        ends = np.sort(np.concatenate((ends, chunk_starts + np.uint64(CHUNK_PAGES))))
        return bitmap.packed(starts, ends)

    def whole(self, ranges: bytes, block_pages: int) -> bytes:
        """Return the aligned blocks that `ranges` touch and that the set has completely: ascending, joined.

        `block_pages` is a power of two from 64 up. A block that extends beyond the guest is never whole.
        """
        if block_pages < WORD_PAGES or block_pages & (block_pages - 1):
            raise ValueError(f"a block is a power of two of pages from {WORD_PAGES} up, not {block_pages}")
        self._settle()
        shift = np.uint64(block_pages.bit_length() - 1)
        starts, ends = self._inside(ranges)
        starts, ends = starts >> shift, (ends + np.uint64(block_pages - 1)) >> shift
        ends = np.minimum(ends, np.uint64(self.total_pages // block_pages))
        # Blocks of 8 pages, ranges [3,10) [12,18): blocks [0,2) and [1,3), which share block 1. Let the
        # second begin where the first ends; it may become empty.   ->  [0,2) [2,3)
        starts[1:] = np.maximum(starts[1:], ends[:-1])
        sound = starts < ends
        if not sound.all():
            starts, ends = starts[sound], ends[sound]
        if starts.size == 0:
            return b""
        if block_pages <= CHUNK_PAGES:
            return self._whole_in_chunks(starts << shift, ends << shift, shift)
        first = starts.view(np.int64)
        blocks = bitmap.expand(first, ends.view(np.int64) - first)
        each = block_pages >> CHUNK_SHIFT
        full = self._counts[blocks[:, None] * each + np.arange(each)] == CHUNK_PAGES
        return of_blocks(blocks[full.all(axis=1)], shift)

    def _whole_in_chunks(self, starts: U64Array, ends: U64Array, shift: np.uint64) -> bytes:
        """Return the whole blocks among those that these ranges consist of; a block is at most a chunk."""
        if self._are_full(starts, ends):
            return bitmap.packed(starts, ends)
        chunks, starts, ends = whole_chunks(starts, ends)
        first = (starts >> shift).view(np.int64)
        blocks = bitmap.expand(first, (ends >> shift).view(np.int64) - first)
        each = CHUNK_PAGES >> int(shift)
        if chunks.size == 0:
            return of_blocks(blocks[self._have(blocks, each)], shift)
        counts = self._counts[chunks]
        mixed = chunks[(counts >= 1 << int(shift)) & (counts < CHUNK_PAGES), None] * each + np.arange(each)
        blocks = np.concatenate((blocks, mixed.reshape(-1)))
        full = chunks[counts == CHUNK_PAGES]
        firsts = np.concatenate((blocks[self._have(blocks, each)], full * each))
        lasts = firsts.copy()
        lasts[firsts.size - full.size :] += each - 1
        firsts.sort()  # disjoint: sorting both separately keeps the pairs together
        lasts.sort()
        return bitmap.packed(firsts.view(np.uint64) << shift, (lasts + 1).view(np.uint64) << shift)

    def _have(self, blocks: Indices, each: int) -> npt.NDArray[np.bool_]:
        """Return which of the blocks, `each` of them per chunk, the set has completely."""
        words = self._words.reshape(-1, CHUNK_WORDS // each)[blocks]
        has: npt.NDArray[np.bool_] = np.bitwise_and.reduce(words, axis=1) == bitmap.ALL
        has |= self._counts[blocks // each] == CHUNK_PAGES
        return has

    def _are_full(self, starts: U64Array, ends: U64Array) -> bool:
        """Return whether all chunks that the ranges touch are full; also False if finding out costs much."""
        first = (starts >> TO_CHUNK).view(np.int64)
        if not (self._counts[first] == CHUNK_PAGES).all():
            return False
        last = ((ends - _ONE) >> TO_CHUNK).view(np.int64)
        if first.size <= _FEW:
            spans = zip(first.tolist(), last.tolist(), strict=True)
            return all((self._counts[start : end + 1] == CHUNK_PAGES).all() for start, end in spans)
        return bool((last - first < 2).all() and (self._counts[last] == CHUNK_PAGES).all())

    def _inside(self, ranges: bytes) -> tuple[U64Array, U64Array]:
        """Return the parts of `ranges` inside the guest: starts and ends, ascending, disjoint.

        Raises RemoteProtocolError when `ranges` ends in half a range.
        """
        starts, counts = page_ranges.ordered(page_ranges.words(ranges))
        sound = (counts != 0) & (starts < np.uint64(self.total_pages))
        if not sound.all():
            starts, counts = starts[sound], counts[sound]
        starts, ends = page_ranges.join(starts, starts + counts)
        return starts, np.minimum(ends, np.uint64(self.total_pages))

    def add(self, ranges: bytes) -> Added:
        """Add a batch of packed ranges. A range that is empty or not wholly inside the guest is rejected.

        Raises RemoteProtocolError when `ranges` ends in half a range.
        """
        packed = page_ranges.words(ranges)
        if packed.size == 0:
            return Added(0, 0, 0, b"")
        starts, counts = page_ranges.ordered(packed)
        ends = starts + counts
        named = int(counts.sum())
        rejected = 0
        if int(ends.max()) > self.total_pages or not counts.all():
            sound = (counts != 0) & (ends <= np.uint64(self.total_pages))
            starts, ends = starts[sound], ends[sound]
            rejected = named - int(counts[sound].sum())
            if starts.size == 0:
                return Added(0, 0, rejected, b"")
        joined, reach = page_ranges.join(starts, ends)
        # Ranges that only touch need not be joined to be added.
        if joined.size <= _FEW or bool((starts[1:] < ends[:-1]).any()):
            starts, ends = joined, reach
        new = self._insert(starts, ends)
        return Added(new, named - rejected - new, rejected, page_ranges.pack(joined, reach - joined))

    def remove(self, ranges: bytes) -> bool:
        """Remove exactly these ranges and return True; if any page is lacking, remove none and return False.

        A page named twice counts as lacking, and so does an empty range or one outside the guest.
        """
        starts, counts = page_ranges.ordered(page_ranges.words(ranges))
        ends = starts + counts
        if starts.size == 0:
            return True
        if not counts.all() or int(ends.max()) > self.total_pages or bool((starts[1:] < ends[:-1]).any()):
            return False
        self._settle()
        chunks, starts, ends = whole_chunks(starts, ends)
        index, mask = bitmap.spread(starts, ends)
        chunk = index >> _CHUNK_WORD_SHIFT
        whole = self._counts[chunk] == CHUNK_PAGES
        lacking = (self._words[index] & mask != mask) & ~whole
        if lacking.any() or (self._counts[chunks] != CHUNK_PAGES).any():
            return False
        self._take_out(chunks, index, mask)
        return True

    def drop(self, ranges: bytes) -> int:
        """Remove whatever of `ranges` the set has. Returns the number of pages removed."""
        if not self._size:
            return 0
        starts, ends = self._inside(ranges)
        if starts.size == 0:
            return 0
        self._settle()
        chunks, starts, ends = whole_chunks(starts, ends)
        index, mask = bitmap.spread(starts, ends)
        held = self._counts[index >> _CHUNK_WORD_SHIFT] != 0
        if not held.all():
            index, mask = index[held], mask[held]
        return self._take_out(chunks, index, mask)

    def take(self, max_pages: int, max_ranges: int) -> bytes:
        """Remove the lowest pages and return them, within both limits; b"" when the set is empty.

        May return fewer ranges than allowed though pages are left, but never none.
        """
        taken: list[tuple[U64Array, U64Array]] = []
        while max_pages > 0 and max_ranges > 0 and self._size:
            if self._runs is None or self._runs.is_over:
                self._settle()
                self._runs = self._decode()
            starts, ends, pages = self._runs.take(max_pages, max_ranges)
            self._cut = int(ends[-1])
            self._size -= pages
            max_pages -= pages
            max_ranges -= starts.size
            taken.append((starts, ends))
        if not taken:
            return b""
        if not self._size:
            self.clear()
        if len(taken) > 1:
            starts, ends = (np.concatenate(side) for side in zip(*taken, strict=True))
        return bitmap.packed(starts, ends)  # runs end with their chunk: join those that continue

    def _insert(self, starts: U64Array, ends: U64Array) -> int:
        """Add ascending, disjoint ranges, all inside the guest. Returns how many pages are new."""
        self._settle()
        self._runs = None
        self._low = min(self._low, int(starts[0]) >> CHUNK_SHIFT)
        new = 0
        if starts.size > _FEW:
            longest = int((ends - starts).max())
            if longest >= CHUNK_PAGES:
                chunks, starts, ends = whole_chunks(starts, ends)
                new += self._fill(chunks)
            if longest >= _LONG_PAGES:
                long = ends - starts >= np.uint64(_LONG_PAGES)
                new += self._insert_each(starts[long], ends[long])
                starts, ends = starts[~long], ends[~long]
        if starts.size <= _FEW:
            new += self._insert_each(starts, ends)
        else:
            index, mask = bitmap.spread(starts, ends)
            new += self._insert_words(index, mask)
        self._size += new
        return new

    def _insert_words(self, index: Indices, mask: U64Array) -> int:
        """Add the pages of ascending words. Returns how many are new."""
        chunk = index >> _CHUNK_WORD_SHIFT
        room = self._counts[chunk] != CHUNK_PAGES
        if not room.all():
            index, mask, chunk = index[room], mask[room], chunk[room]
        old = self._words[index]
        merged = old | mask
        self._words[index] = merged
        return self._count(chunk, merged ^ old, 1)

    def _insert_each(self, starts: U64Array, ends: U64Array) -> int:
        """Add ranges one by one. Returns how many pages are new."""
        new = 0
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            at = start
            while at < end:
                chunk = at >> CHUNK_SHIFT
                if at & (CHUNK_PAGES - 1) == 0 and end - at >= CHUNK_PAGES:
                    after = end >> CHUNK_SHIFT
                    new += self._fill(np.arange(chunk, after))
                    at = after << CHUNK_SHIFT
                    continue
                until = min(end, (chunk + 1) << CHUNK_SHIFT)
                had = int(self._counts[chunk])
                if had < CHUNK_PAGES:
                    fresh = self._set_bits(at, until, is_empty=had == 0)
                    self._counts[chunk] = had + fresh
                    if had + fresh == CHUNK_PAGES:
                        self._zero(chunk, chunk + 1)
                    new += fresh
                at = until
        return new

    def _set_bits(self, start: int, end: int, *, is_empty: bool) -> int:
        """Set the bits of pages of one chunk. Returns how many were not set.

        Words of 8 pages, [5, 18):  first word 0, last word 2
        head  pages 5..7 of word 0    between  all of word 1    tail  pages 0..1 of word 2
        """
        words = self._word_at
        first, last = start >> bitmap.WORD_SHIFT, (end - 1) >> bitmap.WORD_SHIFT
        head = _ALL_BITS << (start & 63) & _ALL_BITS
        tail = _ALL_BITS >> (~(end - 1) & 63)
        if first == last:
            head &= tail
        old = words[first]
        words[first] = old | head
        new = (head & ~old).bit_count()
        if first == last:
            return new
        old = words[last]
        words[last] = old | tail
        new += (tail & ~old).bit_count()
        between = self._words[first + 1 : last]
        had = 0 if is_empty else int(np.bitwise_count(between).sum())
        between.fill(bitmap.ALL)
        return new + between.size * WORD_PAGES - had

    def _take_out(self, chunks: Indices, index: Indices, mask: U64Array) -> int:
        """Remove whole chunks and the pages of ascending words beside them. Returns how many the set had."""
        self._runs = None
        gone = self._level(chunks, 0)
        if index.size:
            chunk = index >> _CHUNK_WORD_SHIFT
            full = self._counts[chunk] == CHUNK_PAGES
            if full.any():
                self._rows[np.unique(chunk[full])] = bitmap.ALL
            old = self._words[index]
            left = old & ~mask
            self._words[index] = left
            gone += self._count(chunk, old ^ left, -1)
        self._size -= gone
        return gone

    def _fill(self, chunks: Indices) -> int:
        """Make ascending chunks full. Returns how many of their pages are new."""
        return chunks.size * CHUNK_PAGES - self._level(chunks, CHUNK_PAGES)

    def _level(self, chunks: Indices, count: int) -> int:
        """Make ascending chunks empty or full. Returns how many pages they had."""
        if chunks.size == 0:
            return 0
        had = self._counts[chunks]
        mixed = (had > 0) & (had < CHUNK_PAGES)
        if mixed.any():
            gaps = np.flatnonzero(chunks[1:] - chunks[:-1] != 1)
            if gaps.size > _FEW:
                self._rows[chunks[mixed]] = 0
            else:  # the other rows in between are zero already
                first, last = chunks[np.append(0, gaps + 1)], chunks[np.append(gaps, chunks.size - 1)]
                for start, end in zip(first.tolist(), last.tolist(), strict=True):
                    self._zero(start, end + 1)
        self._counts[chunks] = count
        return int(had.sum())

    def _count(self, chunk: Indices, changed: U64Array, sign: int) -> int:
        """Add `sign` times the `changed` bits per word to the counts of their chunks. Returns how many bits.

        chunk    4 4 7      ascending, one entry per word
        changed  3 1 5      bits, as popcounts    ->  count of chunk 4 += 4, of chunk 7 += 5
        """
        if chunk.size == 0:
            return 0
        opens = np.empty(chunk.size, np.bool_)
        opens[0] = True
        np.not_equal(chunk[1:], chunk[:-1], out=opens[1:])
        first = opens.nonzero()[0]
        sums = np.add.reduceat(np.bitwise_count(changed), first, dtype=np.int64)
        touched = chunk[first]
        counts = self._counts[touched] + sign * sums
        self._counts[touched] = counts
        for full in touched[counts == CHUNK_PAGES].tolist():
            self._zero(full, full + 1)
        return int(sums.sum())

    def _zero(self, first: int, after: int) -> None:
        """Zero the bitmaps of chunks by returning their memory to the kernel."""
        self._map.madvise(mmap.MADV_DONTNEED, first * _ROW_BYTES, (after - first) * _ROW_BYTES)

    def _settle(self) -> None:
        """Clear the bits of taken pages. A series of takes does this once, when it ends.

        Chunks of 8 pages, cut = 21:  chunks 0 and 1 become empty, chunk 2 loses pages 0..4 and keeps 5..7.
        """
        page, self._cut = self._cut, 0
        if page == 0:
            return
        chunk = page >> CHUNK_SHIFT
        below = self._counts[self._low : chunk]
        if below.size:
            self._zero(self._low, chunk)
            below[:] = 0
        self._low = chunk
        inside = page & (CHUNK_PAGES - 1)
        if inside == 0 or self._counts[chunk] == 0:
            return
        row = self._rows[chunk]
        if self._counts[chunk] == CHUNK_PAGES:
            row[:] = bitmap.ALL
        word = inside >> bitmap.WORD_SHIFT
        row[:word] = 0
        row[word] &= bitmap.ALL << np.uint64(inside & 63)
        self._counts[chunk] = int(np.bitwise_count(row).sum())

    def _decode(self) -> Runs:
        """Return the lowest pages of a set that has some: a span of full chunks, or the runs of bitmaps.

        Chunks of 8 pages, counts 8 8 3 0 5:  the lowest is full, and so is the next -> [0,16)
        counts 0 0 3 0 5:  the runs of chunk 2, and of chunk 4 too if `_ahead` is at least 2
        """
        low = self._low
        while (occupied := np.flatnonzero(self._counts[low : low + _SCAN_CHUNKS]) + low).size == 0:
            low += _SCAN_CHUNKS
        self._low = low = int(occupied[0])
        full = self._counts[occupied] == CHUNK_PAGES
        if full[0]:
            gaps = np.flatnonzero(~full | (occupied != np.arange(occupied.size) + low))
            after = low + (int(gaps[0]) if gaps.size else occupied.size)
            return Runs(*(np.array([chunk << CHUNK_SHIFT], np.uint64) for chunk in (low, after)))
        mixed = int(np.argmax(full)) if full.any() else occupied.size
        chunks = occupied[: min(mixed, self._ahead)]
        runs = Runs(*bitmap.row_runs(chunks << CHUNK_SHIFT, self._rows[chunks]))
        more = runs.starts.size < _AHEAD_RUNS
        self._ahead = min(2 * self._ahead, _AHEAD_CHUNKS_MAX) if more else max(self._ahead // 2, 1)
        return runs
