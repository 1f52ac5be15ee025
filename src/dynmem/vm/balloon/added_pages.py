"""Which pages of hv-balloon's memory have been added to the guest: in steps of 1 MiB, less single pages.

A guest adds memory in blocks of its alignment, at least 1 MiB, and may remove any page of it permanently. A
megabyte is *added* as soon as the guest has some of it. Pages of it that the guest has removed, or never
took, are *gone*; when a whole megabyte is gone it is no longer added, and may be added again. Only whole
megabytes make holes in the added memory, up to a limit: what would make another hole stays gone until the
memory is cleared.

Everything here is in pages of this memory, from 0.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from dynmem.limits import VM_ADDED_PIECES_MAX
from dynmem.pages import ranges as page_ranges
from dynmem.pages.algebra import Ranges, joined, within
from dynmem.pages.page_set import PageSet
from dynmem.units import MIB, PAGE_SIZE

UNIT_PAGES: Final = MIB // PAGE_SIZE


class AddedPages:
    """The account of a memory of `pages` pages."""

    def __init__(self, pages: int) -> None:
        self.pages: Final = pages
        units = -(-pages // UNIT_PAGES)
        self._units: npt.NDArray[np.bool_] = np.zeros(units, np.bool_)
        self._gone = PageSet(units * UNIT_PAGES)
        self._follow()

    def _follow(self) -> None:
        """Note the runs of added memory after a change.

        Megabytes 0 1 1 0 1   ->  they change at 1 3 4 5: each run begins at one edge and ends at the next
        in pages of 256 a megabyte  ->  [256,768) [1024,1280)
        """
        edges = np.flatnonzero(np.diff(self._units, prepend=False, append=False)).astype(np.uint64)
        edges *= np.uint64(UNIT_PAGES)
        self._runs = Ranges(edges[::2], edges[1::2])

    def __len__(self) -> int:
        """Return the number of pages that the guest has, given up or not."""
        return self._runs.page_count - len(self._gone)

    def overlaps(self, start: int, end: int) -> bool:
        """Return whether anything in these pages is added."""
        return bool(self._units[start // UNIT_PAGES : -(-end // UNIT_PAGES)].any())

    def find(self, pages: int, alignment: int, offset: int, end: int) -> tuple[int, int] | None:
        """Find free memory below page `end`, in one piece: (start, pages), or None if there is none.

        The first piece of `pages` pages, or else the longest. `pages` is a multiple of `alignment` (a power
        of two of pages, 1 MiB or more), and so is the start with `offset`, the memory's own place, added.

        In megabytes, added 0 1 0 0 0 0 1 0, alignment 2, offset 1: the first aligned place is 1
        blocks from there [1 0] [0 0] [0 1]   ->  free 0 1 0, edges 1 2: one piece of 1 block, at 1 + 1 * 2
        asked for 4   ->  none is as long: the longest, (3, 2)
        """
        skip = -offset % alignment
        blocks = (min(end, self.pages) - skip) // alignment
        if skip % UNIT_PAGES or blocks <= 0:
            return None
        step, first = alignment // UNIT_PAGES, skip // UNIT_PAGES
        is_free = ~self._units[first : first + blocks * step].reshape(blocks, step).any(axis=1)
        edges = np.flatnonzero(np.diff(is_free, prepend=False, append=False))
        if not edges.size:
            return None
        lengths = edges[1::2] - edges[::2]
        long_enough = np.flatnonzero(lengths >= pages // alignment)
        chosen = int(long_enough[0]) if long_enough.size else int(lengths.argmax())
        start = skip + int(edges[2 * chosen]) * alignment
        return start, min(pages, int(lengths[chosen]) * alignment)

    def add(self, start: int, pages: int) -> None:
        """Add pages that were free; `start` is the first page of a megabyte."""
        assert start % UNIT_PAGES == 0
        end = start + pages
        units = slice(start // UNIT_PAGES, -(-end // UNIT_PAGES))
        assert not self._units[units].any()
        self._units[units] = True
        self._gone.add(page_ranges.span(end, -end % UNIT_PAGES))  # of the last megabyte the guest has a part
        self._follow()

    def present(self, ranges: Ranges) -> Ranges:
        """Return the parts of the ranges that the guest has; none at all if a gone page is named.

        Only a broken guest names pages that it does not have, and finding out which pages of a long range it
        has would cost more than a message may.
        """
        found = within(ranges, self._runs)
        if not found.is_empty and len(self._gone) and self._gone.overlaps(found.packed()):
            return joined(b"")
        return found

    def remove(self, ranges: Ranges) -> bool:
        """Remove these pages of the guest's own; return whether a megabyte is no longer added."""
        removed = ranges.packed()
        self._gone.add(removed)
        whole = self._gone.whole(removed, UNIT_PAGES)
        if not whole or self._runs.starts.size + len(whole) // page_ranges.RANGE_BYTES > VM_ADDED_PIECES_MAX:
            return False
        self._gone.remove(whole)
        firsts, counts = page_ranges.unpack(whole)
        for first, count in zip(firsts.tolist(), counts.tolist(), strict=True):
            self._units[first // UNIT_PAGES : (first + count) // UNIT_PAGES] = False
        self._follow()
        return True

    def unused(self, ranges: Ranges, block_pages: int) -> bytes:
        """Return the aligned blocks that ranges touch and that have nothing added. A block is 1 MiB or more.

        Blocks of 4 megabytes, added 0 0 0 0 0 1 0 0 0 0 0 0   ->  used 0 1 0, unused [0,1) [2,3)
        megabytes [1,2) [3,6) touch blocks [0,1) [0,2): the second begins where the first ends, at 1
        cut at the unused   ->  block 0
        """
        size = np.uint64(block_pages)
        step = block_pages // UNIT_PAGES
        blocks = self.pages // block_pages
        is_used = self._units[: blocks * step].reshape(blocks, step).any(axis=1)
        edges = np.flatnonzero(np.diff(is_used, prepend=True, append=True)).astype(np.uint64)
        starts, ends = ranges.starts // size, (ranges.ends + size - np.uint64(1)) // size
        starts[1:] = np.maximum(starts[1:], ends[:-1])
        some = starts < ends
        unused = within(Ranges(starts[some], ends[some]), Ranges(edges[::2], edges[1::2]))
        return Ranges(unused.starts * size, unused.ends * size).packed()

    def clear(self) -> None:
        """Begin again with nothing added."""
        self._units[:] = False
        self._gone.clear()
        self._follow()
