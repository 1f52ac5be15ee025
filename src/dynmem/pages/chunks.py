"""Chunks of 128 MiB, the unit in which a page set counts: ranges of pages split at their borders."""

from typing import Final

import numpy as np

from dynmem.pages import bitmap
from dynmem.pages.bitmap import Indices
from dynmem.pages.ranges import U64Array

CHUNK_SHIFT: Final = 15
CHUNK_PAGES: Final = 1 << CHUNK_SHIFT
CHUNK_WORDS: Final = CHUNK_PAGES // bitmap.WORD_PAGES
TO_CHUNK: Final = np.uint64(CHUNK_SHIFT)

_ONE: Final = np.uint64(1)
_ROUND_UP: Final = np.uint64(CHUNK_PAGES - 1)


def whole_chunks(starts: U64Array, ends: U64Array) -> tuple[Indices, U64Array, U64Array]:
    """Split ascending, disjoint ranges into whole chunks and the starts and ends of the rest, ascending.

    With chunks of 8 pages, [6, 27):
    first = round up 6/8 = 1, after = 27/8 = 3    ->  chunks 1 and 2, which are [8, 24)
    left of them [6, 8), right of them [24, 27)   ->  starts 6 24, ends 8 27
    """
    first = (starts + _ROUND_UP) >> TO_CHUNK
    after = ends >> TO_CHUNK
    whole = after > first
    if not whole.any():
        return np.empty(0, np.int64), starts, ends
    first, after = first[whole], after[whole]
    chunks = bitmap.expand(first.astype(np.int64), (after - first).astype(np.int64))
    lefts = np.concatenate((starts, after << TO_CHUNK))
    rights = np.concatenate((ends, ends[whole]))
    rights[: starts.size][whole] = first << TO_CHUNK
    kept = lefts < rights
    # Disjoint ranges: sorting starts and ends separately keeps the pairs together.
    return chunks, np.sort(lefts[kept]), np.sort(rights[kept])


def of_blocks(blocks: Indices, shift: np.uint64) -> bytes:
    """Pack ascending blocks of ``1 << shift`` pages."""
    numbers = blocks.view(np.uint64)
    return bitmap.packed(numbers << shift, (numbers + _ONE) << shift)
