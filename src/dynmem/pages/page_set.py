"""The set of pages that a guest has given up, in bounded memory whatever the guest chooses to give.

Guest memory is cut into chunks of 128 MiB. A chunk is empty, full, or a bitmap of 4 KiB, so a set takes at
most 1/32768 of the guest plus 8 bytes a chunk, and a message costs O(its ranges + the chunks it covers), in
any order. A chunk's count of pages tells which of the three it is; **the words of an empty or full chunk are
zero**, so that memory behind them is never touched: covering a terabyte writes 64 KiB of counts.
"""

import mmap
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dynmem.limits import PAGE_RANGE_PAGES_MAX
from dynmem.pages import ranges as page_ranges
from dynmem.pages.ranges import U64Array

CHUNK_SHIFT: Final = 15
CHUNK_PAGES: Final = 1 << CHUNK_SHIFT
WORD_PAGES: Final = 64
CHUNK_WORDS: Final = CHUNK_PAGES // WORD_PAGES

_ROW_BYTES: Final = CHUNK_WORDS * 8  # a page of the host
_CHUNK_WORD_SHIFT: Final = 9  # word index to chunk index
_WORD_SHIFT: Final = 6
_SPAN_CHUNKS: Final = PAGE_RANGE_PAGES_MAX // CHUNK_PAGES  # full chunks that one range can name
_SCAN_CHUNKS: Final = 8192  # chunks looked at in one step when the next occupied one is sought
_BATCH_PAGES: Final = CHUNK_PAGES  # pages decoded into runs at a time, so that a taker of few pays little
_BATCH_CHUNKS: Final = 64

_ALL: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_ONE: Final = np.uint64(1)
_LAST_BIT: Final = np.uint64(63)
_TO_WORD: Final = np.uint64(_WORD_SHIFT)
_TO_CHUNK: Final = np.uint64(CHUNK_SHIFT)
_CHUNK_ROUND_UP: Final = np.uint64(CHUNK_PAGES - 1)

_Indices = npt.NDArray[np.int64]


class Added(NamedTuple):
    """What became of one batch. The three counts, in pages, add up to all the pages that the batch named."""

    new: int
    duplicates: int  # in the set already, or named twice in the batch
    rejected: int  # in ranges that were refused whole
    coalesced: bytes  # the accepted ranges sorted and joined: what is to be discarded now


class _Runs:
    """Runs of set pages, decoded ahead of a taker: ascending, all of them still in the set."""

    def __init__(self, starts: U64Array, ends: U64Array) -> None:
        self.starts = starts
        self.ends = ends
        self.position = 0

    def take(self, max_pages: int, max_ranges: int) -> tuple[U64Array, U64Array]:
        """Take at most so many pages in at most so many runs off the front; the last one may be cut."""
        window = slice(self.position, self.position + max_ranges)
        starts, ends = self.starts[window], self.ends[window].copy()
        reach = np.cumsum(ends - starts)
        fits = int(np.searchsorted(reach, np.uint64(max_pages), side="right"))
        self.position += fits
        if fits == starts.size:
            return starts, ends
        rest = max_pages - (int(reach[fits - 1]) if fits else 0)
        if rest == 0:
            return starts[:fits], ends[:fits]
        starts = starts[: fits + 1].copy()
        cut = starts[fits] + np.uint64(rest)
        ends[fits] = cut
        self.starts[self.position] = cut
        return starts, ends[: fits + 1]


class PageSet:
    """A set of pages of a guest that has `total_pages` of them, numbered from 0."""

    def __init__(self, total_pages: int) -> None:
        if total_pages < 0:
            raise ValueError(f"a guest cannot have {total_pages} pages")
        self.total_pages: Final = total_pages
        self._chunks: Final = (total_pages + CHUNK_PAGES - 1) >> CHUNK_SHIFT
        self.clear()

    def clear(self) -> None:
        """Forget every page."""
        # a mapping of its own, a page a chunk: what was never touched occupies nothing, and rows can be given
        # back (memory from the heap is kept when it is freed, and cleared by touching all of it)
        size = max(self._chunks, 1) * _ROW_BYTES
        self._map = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._words: U64Array = np.frombuffer(self._map, np.uint64)
        self._rows: npt.NDArray[np.uint64] = self._words.reshape(-1, CHUNK_WORDS)
        self._counts: _Indices = np.zeros(self._chunks, np.int64)
        self._size = 0
        self._low = 0  # no chunk below this one has a page
        self._runs: _Runs | None = None

    def __len__(self) -> int:
        return self._size

    def contains(self, page: int) -> bool:
        """Whether the set has this page; False for a page the guest does not have."""
        if not 0 <= page < self.total_pages:
            return False
        if self._counts[page >> CHUNK_SHIFT] == CHUNK_PAGES:
            return True
        return bool(int(self._words[page >> _WORD_SHIFT]) >> (page & 63) & 1)

    def overlaps(self, ranges: bytes) -> bool:
        """Whether the set has any of the pages; what lies outside the guest it cannot have."""
        chunks, starts, ends = _whole_chunks(*self._inside(ranges))
        if self._counts[chunks].any():
            return True
        index, mask = _spread(starts, ends)
        whole = self._counts[index >> _CHUNK_WORD_SHIFT] == CHUNK_PAGES
        return bool((whole | (self._words[index] & mask != 0)).any())

    def intersect(self, ranges: bytes) -> bytes:
        """The parts of `ranges` that the set has: ascending, joined.

        Costs O(its ranges and what comes out): a long range over a fragmented set brings all the fragments.
        """
        starts, ends = self._inside(ranges)
        chunks, starts, ends = _whole_chunks(starts, ends)
        counts = self._counts[chunks]
        full = chunks[counts == CHUNK_PAGES]
        mixed = chunks[(counts > 0) & (counts < CHUNK_PAGES)]
        index, mask = _spread(starts, ends)
        has = np.where(
            self._counts[index >> _CHUNK_WORD_SHIFT] == CHUNK_PAGES, mask, self._words[index] & mask
        )
        index = np.concatenate((index, (mixed[:, None] * CHUNK_WORDS + np.arange(CHUNK_WORDS)).reshape(-1)))
        starts, ends = _word_runs(index, np.concatenate((has, self._rows[mixed].reshape(-1))))
        chunk_starts = full.astype(np.uint64) << _TO_CHUNK
        # disjoint, so sorting either side alone keeps the pairs together
        starts = np.sort(np.concatenate((starts, chunk_starts)))
        ends = np.sort(np.concatenate((ends, chunk_starts + np.uint64(CHUNK_PAGES))))
        return _packed(starts, ends)

    def whole(self, ranges: bytes, block_pages: int) -> bytes:
        """The aligned blocks that `ranges` touch and that the set has completely: ascending, joined.

        `block_pages` is a power of two from 64 up. A block that the guest has only a part of is never whole.
        """
        if block_pages < WORD_PAGES or block_pages & (block_pages - 1):
            raise ValueError(f"a block has a power of two of pages from {WORD_PAGES} up, not {block_pages}")
        starts, ends = self._inside(ranges)
        size = np.uint64(block_pages)
        limit = np.uint64(self.total_pages // block_pages)
        starts, ends = starts // size, np.minimum((ends + size - _ONE) // size, limit)
        sound = starts < ends
        starts, ends = starts[sound], ends[sound]
        # neighbours of the same block: the second begins one block later, or is no more
        starts[1:] = np.maximum(starts[1:], ends[:-1])
        sound = starts < ends
        starts, ends = starts[sound] * size, ends[sound] * size
        if block_pages > CHUNK_PAGES:
            return self._whole_of_chunks(starts, ends, block_pages >> CHUNK_SHIFT)
        chunks, starts, ends = _whole_chunks(starts, ends)
        counts = self._counts[chunks]
        full = chunks[counts == CHUNK_PAGES]
        mixed = chunks[(counts >= block_pages) & (counts < CHUNK_PAGES)]
        blocks_a_chunk = CHUNK_PAGES // block_pages
        first = (starts // size).astype(np.int64)
        apart = _expand(first, (ends // size).astype(np.int64) - first)
        blocks = np.concatenate(
            (apart, (mixed[:, None] * blocks_a_chunk + np.arange(blocks_a_chunk)).reshape(-1))
        )
        has = (self._words.reshape(-1, block_pages // WORD_PAGES)[blocks] == _ALL).all(axis=1)
        has |= self._counts[blocks // blocks_a_chunk] == CHUNK_PAGES
        starts = np.sort(np.concatenate((blocks[has] * block_pages, full * CHUNK_PAGES))).astype(np.uint64)
        ends = np.sort(np.concatenate(((blocks[has] + 1) * block_pages, (full + 1) * CHUNK_PAGES)))
        return _packed(starts, ends.astype(np.uint64))

    def _whole_of_chunks(self, starts: U64Array, ends: U64Array, chunks_a_block: int) -> bytes:
        """The whole ones of aligned blocks of several chunks each."""
        shift = np.uint64(CHUNK_SHIFT + chunks_a_block.bit_length() - 1)
        first = (starts >> shift).astype(np.int64)
        blocks = _expand(first, (ends >> shift).astype(np.int64) - first)
        chunks = blocks[:, None] * chunks_a_block + np.arange(chunks_a_block)
        has = blocks[(self._counts[chunks] == CHUNK_PAGES).all(axis=1)].astype(np.uint64)
        return _packed(has << shift, (has + _ONE) << shift)

    def _inside(self, ranges: bytes) -> tuple[U64Array, U64Array]:
        """What of `ranges` lies inside the guest: starts and ends, ascending, disjoint.

        Raises RemoteProtocolError when `ranges` ends in half a range.
        """
        packed = page_ranges.words(ranges)
        starts, counts = page_ranges.unpack(ranges)
        sound = (counts != 0) & (starts < np.uint64(self.total_pages))
        starts, ends = page_ranges.coalesce(packed[sound])
        return starts, np.minimum(ends, np.uint64(self.total_pages))

    def add(self, ranges: bytes) -> Added:
        """Put a whole batch of packed ranges in; one that is empty or not wholly inside the guest is refused.

        Raises RemoteProtocolError when `ranges` ends in half a range.
        """
        packed = page_ranges.words(ranges)
        if packed.size == 0:
            return Added(0, 0, 0, b"")
        starts, counts = page_ranges.unpack(ranges)
        ends = starts + counts
        named = int(counts.sum())
        rejected = 0
        if int(ends.max()) > self.total_pages or int(counts.min()) == 0:
            sound = (counts != 0) & (ends <= np.uint64(self.total_pages))
            packed = packed[sound]
            rejected = named - int(counts[sound].sum())
            if packed.size == 0:
                return Added(0, 0, rejected, b"")
        starts, ends = page_ranges.coalesce(packed)
        new = self._insert(starts, ends)
        return Added(new, named - rejected - new, rejected, page_ranges.pack(starts, ends - starts))

    def remove(self, ranges: bytes) -> bool:
        """Take exactly these ranges out: True; or, when the set lacks any of their pages, nothing: False.

        A page named twice is lacking the second time; so is an empty range, or one outside the guest.
        """
        starts, counts = page_ranges.unpack(ranges)
        if not counts.all() or bool((starts + counts > np.uint64(self.total_pages)).any()):
            return False
        if starts.size == 0:
            return True
        named = int(counts.sum())
        starts, ends = page_ranges.coalesce(page_ranges.words(ranges))
        if int((ends - starts).sum()) != named:
            return False
        chunks, starts, ends = _whole_chunks(starts, ends)
        index, mask = _spread(starts, ends)
        chunk = index >> _CHUNK_WORD_SHIFT
        whole = self._counts[chunk] == CHUNK_PAGES
        lacking = (self._words[index] & mask != mask) & ~whole
        if lacking.any() or (self._counts[chunks] != CHUNK_PAGES).any():
            return False
        self._counts[chunks] = 0
        self._rows[np.unique(chunk[whole])] = _ALL  # full ones of which a part goes
        self._words[index] &= ~mask
        self._count(chunk, mask, -1)
        self._size -= named
        self._runs = None
        return True

    def take(self, max_pages: int, max_ranges: int) -> bytes:
        """Take out at most so many pages in at most so many packed ranges, lowest first; b"" when empty.

        May return fewer ranges than were allowed though pages are left, never none.
        """
        taken: list[tuple[U64Array, U64Array]] = []
        while max_pages > 0 and max_ranges > 0 and self._size:
            if self._runs is None or self._runs.position == self._runs.starts.size:
                self._runs = self._decode()
            starts, ends = self._runs.take(max_pages, max_ranges)
            pages = int((ends - starts).sum())
            self._clear_below(int(ends[-1]))
            self._size -= pages
            max_pages -= pages
            max_ranges -= starts.size
            taken.append((starts, ends))
        if not taken:
            return b""
        if not self._size:
            self.clear()
        starts = np.concatenate([part[0] for part in taken])
        ends = np.concatenate([part[1] for part in taken])
        return _packed(starts, ends)  # runs end where their chunk ends

    def _insert(self, starts: U64Array, ends: U64Array) -> int:
        """Put in ascending, disjoint ranges, all inside the guest: how many pages are new."""
        self._low = min(self._low, int(starts[0]) >> CHUNK_SHIFT)
        self._runs = None
        chunks, starts, ends = _whole_chunks(starts, ends)
        new = self._fill(chunks) if chunks.size else 0
        if starts.size:
            index, mask = _spread(starts, ends)
            chunk = index >> _CHUNK_WORD_SHIFT
            room = self._counts[chunk] != CHUNK_PAGES
            if not room.all():
                index, mask, chunk = index[room], mask[room], chunk[room]
            old = self._words[index]
            self._words[index] = old | mask
            new += self._count(chunk, mask & ~old, 1)
        self._size += new
        return new

    def _fill(self, chunks: _Indices) -> int:
        """Make whole chunks full: how many of their pages are new."""
        had = self._counts[chunks]
        mixed = chunks[(had > 0) & (had < CHUNK_PAGES)]
        if mixed.size:
            self._zero(mixed)
        self._counts[chunks] = CHUNK_PAGES
        return chunks.size * CHUNK_PAGES - int(had.sum())

    def _count(self, chunk: _Indices, changed: U64Array, sign: int) -> int:
        """Enter the `changed` bits of the words of ascending `chunk` into the counts: how many bits."""
        if chunk.size == 0:
            return 0
        first = np.concatenate(([0], np.flatnonzero(chunk[1:] != chunk[:-1]) + 1))
        sums = np.add.reduceat(np.bitwise_count(changed), first, dtype=np.int64)
        touched = chunk[first]
        counts = self._counts[touched] + sign * sums
        self._counts[touched] = counts
        full = touched[counts == CHUNK_PAGES]
        if full.size:
            self._zero(full)
        return int(sums.sum())

    def _zero(self, chunks: _Indices) -> None:
        """Zero the rows of ascending chunks by giving their memory back; what lies between two stays."""
        breaks = np.flatnonzero(chunks[1:] - chunks[:-1] != 1)
        first = chunks[np.append(0, breaks + 1)]
        lengths = chunks[np.append(breaks, chunks.size - 1)] - first + 1
        for chunk, length in zip(first.tolist(), lengths.tolist(), strict=True):
            self._map.madvise(mmap.MADV_DONTNEED, chunk * _ROW_BYTES, length * _ROW_BYTES)

    def _clear_below(self, page: int) -> None:
        """Take out every page below `page`."""
        chunk = page >> CHUNK_SHIFT
        below = self._counts[self._low : chunk]
        mixed = np.flatnonzero((below > 0) & (below < CHUNK_PAGES)) + self._low
        if mixed.size:
            self._zero(mixed)
        below[:] = 0
        self._low = chunk
        inside = page & (CHUNK_PAGES - 1)
        if inside == 0 or self._counts[chunk] == 0:
            return
        if self._counts[chunk] == CHUNK_PAGES:
            self._rows[chunk] = _ALL
        row = self._rows[chunk]
        word = inside >> _WORD_SHIFT
        row[:word] = 0
        row[word] &= _ALL << np.uint64(inside & 63)
        self._counts[chunk] = int(np.bitwise_count(row).sum(dtype=np.int64))

    def _decode(self) -> _Runs:
        """The lowest pages of a set that is not empty: a span of full chunks, or the runs of some bitmaps."""
        for low in range(self._low, self._chunks, _SCAN_CHUNKS):
            occupied = np.flatnonzero(self._counts[low : low + _SCAN_CHUNKS]) + low
            if occupied.size:
                break
        self._low = int(occupied[0])
        counts = self._counts[occupied]
        full = counts == CHUNK_PAGES
        if full[0]:
            gaps = np.flatnonzero(~full | (occupied != np.arange(occupied.size) + self._low))
            return _full_runs(self._low, int(gaps[0]) if gaps.size else occupied.size)
        enough = 1 + int(np.searchsorted(np.cumsum(counts), _BATCH_PAGES))
        mixed = int(np.argmax(full)) if full.any() else occupied.size
        chunks = occupied[: min(enough, mixed, _BATCH_CHUNKS)]
        return _bitmap_runs(chunks, self._rows[chunks].reshape(-1))


def _whole_chunks(starts: U64Array, ends: U64Array) -> tuple[_Indices, U64Array, U64Array]:
    """Split ascending, disjoint ranges: the chunks they cover whole, and what is left over, ascending."""
    first = (starts + _CHUNK_ROUND_UP) >> _TO_CHUNK
    after = ends >> _TO_CHUNK
    whole = after > first
    if not whole.any():
        return np.empty(0, np.int64), starts, ends
    first, after = first[whole], after[whole]
    chunks = _expand(first.astype(np.int64), (after - first).astype(np.int64))
    lefts = np.concatenate((starts, after << _TO_CHUNK))
    rights = np.concatenate((ends, ends[whole]))
    rights[: starts.size][whole] = first << _TO_CHUNK
    kept = lefts < rights
    # disjoint, so sorting either side alone keeps the pairs together
    return chunks, np.sort(lefts[kept]), np.sort(rights[kept])


def _expand(first: _Indices, lengths: _Indices) -> _Indices:
    """Every index of the runs ``first .. first + length``, ascending when the runs are."""
    offsets = np.cumsum(lengths) - lengths
    return np.repeat(first - offsets, lengths) + np.arange(int(lengths.sum()))


def _spread(starts: U64Array, ends: U64Array) -> tuple[_Indices, U64Array]:
    """The bitmap words that ascending, disjoint ranges touch, each once, ascending; and their bits there."""
    lasts = ends - _ONE
    first = (starts >> _TO_WORD).astype(np.int64)
    further = (lasts >> _TO_WORD).astype(np.int64) - first
    head = _ALL << (starts & _LAST_BIT)
    tail = _ALL >> (~lasts & _LAST_BIT)
    if not further.any():
        index, mask = first, head & tail
    else:
        lengths = further + 1
        index = _expand(first, lengths)
        mask = np.full(index.size, _ALL)
        after = np.cumsum(lengths)
        mask[after - lengths] = head
        mask[after - 1] &= tail
    again = index[1:] == index[:-1]
    if again.any():
        unique = np.concatenate(([0], np.flatnonzero(~again) + 1))
        index, mask = index[unique], np.bitwise_or.reduceat(mask, unique)
    return index, mask


def _full_runs(first: int, chunks: int) -> _Runs:
    """One run per as many full chunks as a range can name."""
    starts = np.arange(first, first + chunks, _SPAN_CHUNKS, dtype=np.uint64)
    ends = np.minimum(starts + np.uint64(_SPAN_CHUNKS), np.uint64(first + chunks))
    return _Runs(starts << _TO_CHUNK, ends << _TO_CHUNK)


def _bitmap_runs(chunks: _Indices, bitmaps: U64Array) -> _Runs:
    """The runs in the bitmaps (512 words each) of `chunks`."""
    at = np.flatnonzero(bitmaps)
    index = (chunks[at >> _CHUNK_WORD_SHIFT] << _CHUNK_WORD_SHIFT) + (at & (CHUNK_WORDS - 1))
    return _Runs(*_word_runs(index, bitmaps[at]))


def _word_runs(index: _Indices, bits: U64Array) -> tuple[U64Array, U64Array]:
    """The runs of set `bits` in the words of `index`: starts and ends, ascending when the words are.

    A run goes on from one word into the next when the two stand one after the other.
    """
    occupied = np.flatnonzero(bits)
    index, bits = index[occupied], bits[occupied]
    page = index << _WORD_SHIFT
    follows = (index[1:] - index[:-1] == 1).astype(np.uint64)
    carry = np.zeros_like(bits)
    carry[1:] = (bits[:-1] >> _LAST_BIT) * follows
    starts = _positions(bits & ~(bits << _ONE | carry), page)
    carry[-1:] = 0
    carry[:-1] = (bits[1:] << _LAST_BIT) * follows
    ends = _positions(bits & ~(bits >> _ONE | carry), page)
    return starts, ends + _ONE


def _packed(starts: U64Array, ends: U64Array) -> bytes:
    """Pack ascending, disjoint ranges, those that touch as one."""
    if starts.size == 0:
        return b""
    apart = np.flatnonzero(starts[1:] != ends[:-1])
    starts, ends = starts[np.append(0, apart + 1)], ends[np.append(apart, ends.size - 1)]
    return page_ranges.pack(starts, ends - starts)


def _positions(bits: U64Array, page: _Indices) -> U64Array:
    """The page of each set bit, ascending; `page` is the one of each word's lowest bit."""
    at = np.flatnonzero(bits)
    found = np.flatnonzero(np.unpackbits(bits[at].view(np.uint8), bitorder="little"))
    return np.asarray(page[at[found >> _WORD_SHIFT]] + (found & 63), np.uint64)
