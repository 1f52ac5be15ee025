"""Page ranges as they travel: packed 64-bit words (start page in bits 0 to 39, page count in bits 40 to 63).

A batch of ranges is one `bytes` object, little-endian, from the ring to the discard call; nothing makes a
Python object per range or per page. Arrays of starts and counts are numpy u64, one element per range.
Source: struct dm_page_range, Linux drivers/hv/hv_balloon.c (union dm_mem_page_range).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from dynmem.errors import RemoteProtocolError
from dynmem.limits import PAGE_RANGE_PAGES_MAX

U64Array = npt.NDArray[np.uint64]

RANGE_BYTES: Final = 8
START_BITS: Final = 40
COUNT_BITS: Final = 24

_WIRE: Final = np.dtype("<u8")
_START_MASK: Final = np.uint64((1 << START_BITS) - 1)
_COUNT_MASK: Final = np.uint64((1 << COUNT_BITS) - 1)
_START_BITS: Final = np.uint64(START_BITS)
_COUNT_BITS: Final = np.uint64(COUNT_BITS)
_ONE: Final = np.uint64(1)
_COUNT_MAX: Final = np.uint64(PAGE_RANGE_PAGES_MAX)


def words(ranges: bytes) -> U64Array:
    """View the packed words of `ranges` (n,) without a copy. Raises RemoteProtocolError on half a word."""
    if len(ranges) % RANGE_BYTES:
        raise RemoteProtocolError(
            f"page ranges take {RANGE_BYTES} bytes each, {len(ranges)} bytes are not that"
        )
    return np.frombuffer(ranges, _WIRE)


def unpack(ranges: bytes) -> tuple[U64Array, U64Array]:
    """Split `ranges` into start pages and page counts, in the order they came, unchecked: (n,), (n,)."""
    packed = words(ranges)
    return packed & _START_MASK, packed >> _START_BITS


def pack(starts: U64Array, counts: U64Array) -> bytes:
    """Pack ranges; one that is longer than 24 bits of page count is split, an empty one is left out."""
    if counts.size and int(counts.max()) > PAGE_RANGE_PAGES_MAX:
        starts, counts = _split(starts, counts)
    packed = starts | (counts << _START_BITS)
    if not counts.all():
        packed = packed[counts != 0]
    return packed.astype(_WIRE, copy=False).tobytes()


def span(start: int, pages: int) -> bytes:
    """Pack one run of pages of any length, 0 included."""
    return pack(np.array([start], np.uint64), np.array([pages], np.uint64))


def _split(starts: U64Array, counts: U64Array) -> tuple[U64Array, U64Array]:
    """Cut ranges above the wire's largest count into pieces of that count and a rest."""
    pieces = ((counts + _COUNT_MAX - _ONE) // _COUNT_MAX).astype(np.int64)
    first = np.cumsum(pieces) - pieces
    nth = (np.arange(int(pieces.sum())) - np.repeat(first, pieces)).astype(np.uint64)
    skipped = nth * _COUNT_MAX
    return np.repeat(starts, pieces) + skipped, np.minimum(np.repeat(counts, pieces) - skipped, _COUNT_MAX)


def ordered(packed: U64Array) -> tuple[U64Array, U64Array]:
    """Sort packed ranges by their start: starts and counts, the shorter of two at one start first."""
    # start to the top and count to the bottom: the words then sort by start, with no index array
    keys = (packed << _COUNT_BITS) | (packed >> _START_BITS)
    keys.sort()
    return keys >> _COUNT_BITS, keys & _COUNT_MASK


def join(starts: U64Array, ends: U64Array) -> tuple[U64Array, U64Array]:
    """Join ranges that overlap or touch; they come ascending by start, none empty, and leave disjoint."""
    if starts.size < 2 or bool((starts[1:] > ends[:-1]).all()):
        return starts, ends
    reach = np.maximum.accumulate(ends)
    opens = np.empty(starts.size + 1, np.bool_)  # one more: behind the last, where another would open
    opens[0] = opens[-1] = True
    np.greater(starts[1:], reach[:-1], out=opens[1:-1])
    return starts[opens[:-1]], reach[opens[1:]]


def coalesce(packed: U64Array) -> tuple[U64Array, U64Array]:
    """Sort packed ranges, join those that overlap or touch: starts and ends (exclusive), ascending, disjoint.

    Empty ranges must have been taken out before.
    """
    starts, counts = ordered(packed)
    return join(starts, starts + counts)


def merge(ranges: bytes) -> bytes:
    """Sort `ranges` and join those that overlap or touch; empty ones are left out."""
    packed = words(ranges)
    starts, ends = coalesce(packed[packed > _START_MASK])
    return pack(starts, ends - starts)


def from_pages(pages: npt.NDArray[np.integer]) -> bytes:
    """Pack single pages (any order, any integer type, repeated ones count once) into the fewest ranges."""
    if pages.size == 0:
        return b""
    ordered = np.sort(pages.astype(np.uint64, copy=False))
    opens = np.empty(ordered.size, np.bool_)
    opens[0] = True
    np.greater(ordered[1:] - ordered[:-1], _ONE, out=opens[1:])
    first = np.flatnonzero(opens)
    starts = ordered[first]
    ends = ordered[np.append(first[1:] - 1, ordered.size - 1)] + _ONE
    return pack(starts, ends - starts)


def page_count(ranges: bytes) -> int:
    """Pages that `ranges` name, one that is named twice counted twice."""
    return int((words(ranges) >> _START_BITS).sum())
