"""Runs of pages, decoded ahead of a caller that takes a few at a time."""

import numpy as np

from dynmem.pages.ranges import U64Array


class Runs:
    """Ascending runs, taken from the front."""

    def __init__(self, starts: U64Array, ends: U64Array) -> None:
        self.starts = starts
        self.ends = ends
        self.position: int = 0

    def take(self, max_pages: int, max_ranges: int) -> tuple[U64Array, U64Array, int]:
        """Remove runs from the front, within both limits, and cut the last one if necessary.

        Returns starts, ends and the number of pages.

        runs [0,3) [5,9), at most 5 pages   ->  [0,3) [5,7), and [7,9) stays
        """
        window = slice(self.position, self.position + max_ranges)
        starts, ends = self.starts[window], self.ends[window]
        reach = np.cumsum(ends - starts)
        pages = int(reach[-1])
        if pages <= max_pages:
            self.position += starts.size
            return starts, ends, pages
        fits = int(np.searchsorted(reach, np.uint64(max_pages), side="right"))
        self.position += fits
        rest = max_pages - (int(reach[fits - 1]) if fits else 0)
        if rest == 0:
            return starts[:fits], ends[:fits], max_pages
        starts, ends = starts[: fits + 1].copy(), ends[: fits + 1].copy()
        ends[fits] = starts[fits] + np.uint64(rest)
        self.starts[self.position] = ends[fits]
        return starts, ends, max_pages

    @property
    def is_over(self) -> bool:
        """Whether every run has been taken."""
        return self.position == self.starts.size
