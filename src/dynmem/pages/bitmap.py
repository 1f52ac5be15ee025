"""Ranges of pages and the bitmap words that represent them, 64 pages per word, lowest bit first.

Everything works on whole arrays: of ascending, disjoint ranges (starts and exclusive ends), or of word
indices with the bits in each. The examples use words of 8 pages.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from dynmem.pages import ranges as page_ranges
from dynmem.pages.ranges import U64Array

WORD_PAGES: Final = 64
WORD_SHIFT: Final = 6
ALL: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)

_ONE: Final = np.uint64(1)
_WORD: Final = np.uint64(WORD_PAGES)
_LAST_BIT: Final = np.uint64(63)
_TO_WORD: Final = np.uint64(WORD_SHIFT)

Indices = npt.NDArray[np.int64]


def expand(first: Indices, lengths: Indices) -> Indices:
    """Return every index of the runs ``first .. first + length``, ascending if the runs are.

    first 2 9, lengths 3 2   ->  2 3 4 9 10
    offsets 0 3: first - offsets, repeated, is 2 2 2 6 6; add 0 1 2 3 4
    """
    if (lengths == 1).all():
        return first
    offsets = np.cumsum(lengths) - lengths
    return np.repeat(first - offsets, lengths) + np.arange(int(lengths.sum()))


def spread(starts: U64Array, ends: U64Array) -> tuple[Indices, U64Array]:
    """Return the words that ranges touch, each once, ascending; and the bits of the ranges in them.

    [3,5) [6,18):  words 0 | 0 1 2, bits 3-4 | 6-7, all, 0-1
    word 0 occurs twice: its bits are ORed    ->  index 0 1 2, mask 3-4+6-7, all, 0-1
    """
    lasts = ends - _ONE
    first = (starts >> _TO_WORD).view(np.int64)
    last = (lasts >> _TO_WORD).view(np.int64)
    inside = starts & _LAST_BIT
    if bool((first == last).all()):
        index, mask = first, (ALL >> (_WORD - (ends - starts))) << inside
    else:
        lengths = last - first + 1
        index = expand(first, lengths)
        mask = np.full(index.size, ALL)
        after = np.cumsum(lengths)
        mask[after - lengths] = ALL << inside
        mask[after - 1] &= ALL >> (~lasts & _LAST_BIT)
    again = index[1:] == index[:-1]
    if again.any():
        opens = np.append(0, np.flatnonzero(~again) + 1)
        index, mask = index[opens], np.bitwise_or.reduceat(mask, opens)
    return index, mask


def word_runs(index: Indices, bits: U64Array) -> tuple[U64Array, U64Array]:
    """Return the runs of set `bits` in the words of `index`: starts and ends, ascending if the words are.

    A run continues from one word into the next if their indices are consecutive:
    index 0 1, bits 6-7 and 0-1   ->  one run, [6,10): bit 0 of word 1 is no start, as bit 7 of word 0 carries
    """
    occupied = np.flatnonzero(bits)
    if occupied.size == 0:
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    index, bits = index[occupied], bits[occupied]
    page: Indices = index << WORD_SHIFT
    follows = index[1:] - index[:-1] == 1
    carry = np.zeros_like(bits)
    np.multiply(bits[:-1] >> _LAST_BIT, follows, out=carry[1:])
    starts = _positions(bits & ~(bits << _ONE | carry), page)
    carry[-1] = 0
    np.multiply(bits[1:] << _LAST_BIT, follows, out=carry[:-1])
    ends = _positions(bits & ~(bits >> _ONE | carry), page)
    ends += 1
    return starts.view(np.uint64), ends.view(np.uint64)


def row_runs(first_pages: Indices, rows: U64Array) -> tuple[U64Array, U64Array]:
    """Return the runs in rows of words (n, k) that begin at `first_pages`: starts and ends.

    They ascend if the rows do. A run ends with its row. Faster than `word_runs` where many bits are set,
    because it processes whole rows.

    a row with bits 2-4, XORed with itself shifted by one   ->  bits 2 and 5: the run's start and end
    """
    count, width = rows.shape
    padded = np.zeros((count, width + 1), np.uint64)  # a word after each row, for the ends there
    padded[:, :width] = rows
    bits = padded.reshape(-1)
    before = bits << _ONE
    before[1:] |= bits[:-1] >> _LAST_BIT
    pages = first_pages[:, None] + (np.arange(width + 1) << WORD_SHIFT)
    # Starts and ends alternate.
    edges = _positions(bits ^ before, pages.reshape(-1)).view(np.uint64)
    return edges[0::2], edges[1::2]


def _positions(bits: U64Array, page: Indices) -> Indices:
    """Return the page of each set bit, ascending; `page` holds the page of each word's lowest bit."""
    at = (bits != 0).nonzero()[0]  # twice as fast on booleans as on words
    bits, page = bits[at], page[at]
    below = bits - _ONE
    if not (bits & below).any():  # one bit per word: its position is the number of bits below it
        page += np.bitwise_count(below)
        return page
    found = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))
    page = page[found >> WORD_SHIFT]
    page += found & 63
    return page


def packed(starts: U64Array, ends: U64Array) -> bytes:
    """Return ascending, disjoint ranges packed, with those that touch joined."""
    if starts.size == 0:
        return b""
    apart = starts[1:] != ends[:-1]
    if not apart.all():
        gaps = np.flatnonzero(apart)
        starts, ends = starts[np.append(0, gaps + 1)], ends[np.append(gaps, ends.size - 1)]
    return page_ranges.pack(starts, ends - starts)
