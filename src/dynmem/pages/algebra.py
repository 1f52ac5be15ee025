"""Ranges against ranges: what lies in both, what is left over, what a guest's message names in all.

`Ranges` are ascending and disjoint, so each function makes a fixed number of passes over arrays, whatever a
guest has chosen to name.
"""

from typing import NamedTuple, Self

import numpy as np

from dynmem.pages import ranges as page_ranges
from dynmem.pages.bitmap import Indices
from dynmem.pages.ranges import U64Array


class Ranges(NamedTuple):
    """Page ranges, ascending, disjoint, none empty.

    Attributes:
        starts: The first page of each.
        ends: The page behind the last one of each.
    """

    starts: U64Array
    ends: U64Array

    @classmethod
    def span(cls, start: int, end: int) -> Self:
        """Return the one range [start, end)."""
        return cls(np.array([start], np.uint64), np.array([end], np.uint64))

    @property
    def is_empty(self) -> bool:
        """Whether there is not a single page."""
        return self.starts.size == 0

    @property
    def page_count(self) -> int:
        """The number of pages."""
        return int((self.ends - self.starts).sum())

    def packed(self) -> bytes:
        """Return them as a batch of packed ranges."""
        return page_ranges.pack(self.starts, self.ends - self.starts)

    def relative_to(self, page: int) -> Self:
        """Return them counted from `page`, before which none of them begins."""
        first = np.uint64(page)
        return type(self)(self.starts - first, self.ends - first)


def joined(batch: bytes) -> Ranges:
    """Return what a batch of packed ranges names, sorted and joined; empty ones are left out.

    start+count 6+4 0+4 9+0 2+3   ->  [0,4) [2,5) [6,10) in order, without the empty one
    [0,4) and [2,5) overlap       ->  [0,5) [6,10)
    """
    packed = page_ranges.words(batch)
    return Ranges(*page_ranges.coalesce(packed[packed >> np.uint64(page_ranges.START_BITS) != 0]))


def cut(ranges: Ranges, regions: Ranges) -> tuple[Indices, Ranges]:
    """Return the pieces of the ranges that lie in regions, and the index of each one's region.

    ranges [0,4) [6,20), regions [2,8) [9,12):  [0,4) meets 1 region, [6,20) meets 2
    regions 0 | 0 1, starts max(0,2) | max(6,2) max(6,9), ends min(4,8) | min(20,8) min(20,12)
    ->  [2,4) [6,8) [9,12), indices 0 0 1
    """
    first = np.searchsorted(regions.ends, ranges.starts, side="right")
    counts = np.searchsorted(regions.starts, ranges.ends, side="left") - first
    reach = np.cumsum(counts)
    index = np.repeat(first - reach + counts, counts) + np.arange(int(counts.sum()))
    starts = np.maximum(np.repeat(ranges.starts, counts), regions.starts[index])
    ends = np.minimum(np.repeat(ranges.ends, counts), regions.ends[index])
    return index, Ranges(starts, ends)


def within(ranges: Ranges, regions: Ranges) -> Ranges:
    """Return the pieces of the ranges that lie in regions.

    ranges [0,4) [6,20), regions [2,8) [9,12)   ->  [2,4) [6,8) [9,12)
    """
    return cut(ranges, regions)[1]


def without(ranges: Ranges, taken: Ranges) -> Ranges:
    """Return what is left of the ranges when others are taken out.

    ranges [0,4) [6,20), taken [0,2) [8,9):  between what is taken lie [2,8) [9,max)
    the ranges cut at those                  ->  [2,4) [6,8) [9,20)
    """
    starts = np.concatenate((np.zeros(1, np.uint64), taken.ends))
    ends = np.concatenate((taken.starts, np.full(1, np.iinfo(np.uint64).max, np.uint64)))
    some = starts < ends  # nothing lies before a first one that begins at 0, nor between two that touch
    return within(ranges, Ranges(starts[some], ends[some]))
