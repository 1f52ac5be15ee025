"""Page ranges as they travel: packed 64-bit words (start page in bits 0 to 39, page count in bits 40 to 63).

A batch of ranges is one little-endian `bytes` object from the ring to the discard call; no Python object is
made per range or per page. Arrays of starts and counts are numpy u64, one element per range.
Source: struct dm_page_range, Linux drivers/hv/hv_balloon.c (union dm_mem_page_range).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from dynmem.errors import RemoteProtocolError
from dynmem.limits import PAGE_RANGE_PAGES_MAX

U64Array = npt.NDArray[np.uint64]

#: Bytes of one packed range.
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
    """Return the packed words of `ranges`, without copying. Raises RemoteProtocolError on half a word."""
    if len(ranges) % RANGE_BYTES:
        raise RemoteProtocolError(f"{len(ranges)} bytes of page ranges are not a multiple of {RANGE_BYTES}")
    return np.frombuffer(ranges, _WIRE)


def unpack(ranges: bytes) -> tuple[U64Array, U64Array]:
    """Return the start pages and page counts of `ranges`, in their order and unchecked."""
    packed = words(ranges)
    return packed & _START_MASK, packed >> _START_BITS


def pack(starts: U64Array, counts: U64Array) -> bytes:
    """Return ranges packed. One with a count above 24 bits is split, an empty one is left out."""
    if counts.size and int(counts.max()) > PAGE_RANGE_PAGES_MAX:
        starts, counts = _split(starts, counts)
    packed = starts | (counts << _START_BITS)
    if not counts.all():
        packed = packed[counts != 0]
    return packed.astype(_WIRE, copy=False).tobytes()


def span(start: int, pages: int) -> bytes:
    """Return one run of pages packed; `pages` may be 0, or more than one range can hold."""
    return pack(np.array([start], np.uint64), np.array([pages], np.uint64))


def _split(starts: U64Array, counts: U64Array) -> tuple[U64Array, U64Array]:
    """Split ranges above the wire's largest count into pieces of that count and a remainder.

    With a largest count of 4, [10, 20) and [30, 33):  pieces 3 1
    nth 0 1 2 | 0   ->  starts 10 14 18 | 30, counts 4 4 2 | 3
    """
    pieces = ((counts + _COUNT_MAX - _ONE) // _COUNT_MAX).astype(np.int64)
    first = np.cumsum(pieces) - pieces
    nth = (np.arange(int(pieces.sum())) - np.repeat(first, pieces)).astype(np.uint64)
    skipped = nth * _COUNT_MAX
    return np.repeat(starts, pieces) + skipped, np.minimum(np.repeat(counts, pieces) - skipped, _COUNT_MAX)


def ordered(packed: U64Array) -> tuple[U64Array, U64Array]:
    """Return starts and counts of packed ranges, sorted by start, and by count if the starts are equal."""
    # Swap the two fields: with the start on top the words sort by start, without an index array.
    keys = (packed << _COUNT_BITS) | (packed >> _START_BITS)
    keys.sort()
    return keys >> _COUNT_BITS, keys & _COUNT_MASK


def join(starts: U64Array, ends: U64Array) -> tuple[U64Array, U64Array]:
    """Join ranges that overlap or touch. They come sorted by start, none empty, and leave disjoint.

    [0,4) [2,3) [4,6) [9,10):  the furthest end so far is 4 4 6 10
    a start beyond the end before it opens a new range: 0 and 9   ->  [0,6) [9,10)
    """
    if starts.size < 2 or bool((starts[1:] > ends[:-1]).all()):
        return starts, ends
    reach = np.maximum.accumulate(ends)
    opens = np.empty(starts.size + 1, np.bool_)  # one more, past the last, where another would open
    opens[0] = opens[-1] = True
    np.greater(starts[1:], reach[:-1], out=opens[1:-1])
    return starts[opens[:-1]], reach[opens[1:]]


def coalesce(packed: U64Array) -> tuple[U64Array, U64Array]:
    """Return the starts and ends of packed ranges, sorted, with those that overlap or touch joined.

    There must be no empty ranges.
    """
    starts, counts = ordered(packed)
    return join(starts, starts + counts)


def merge(ranges: bytes) -> bytes:
    """Return `ranges` sorted, with those that overlap or touch joined and empty ones left out."""
    packed = words(ranges)
    starts, ends = coalesce(packed[packed > _START_MASK])
    return pack(starts, ends - starts)


def from_pages(pages: npt.NDArray[np.integer]) -> bytes:
    """Return the fewest packed ranges that hold these pages, in any order; repeated pages count once."""
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
    """Return the number of pages that `ranges` name; one named twice counts twice."""
    return int((words(ranges) >> _START_BITS).sum())
