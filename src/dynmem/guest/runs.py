"""Runs of adjacent pages, each with a tag, kept in no particular order.

The allocator's free pages and the workload's pages are such collections. Taking starts at a random place and
costs O(runs taken), not O(runs kept); no Python object is made per page.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dynmem.guest.splitmix import SplitMix

I64Array = npt.NDArray[np.int64]

RUN_PAGES_MAX: Final = 512  # 2 MiB, the largest block a Linux balloon driver asks for
_FIRST_CAPACITY: Final = 64
_RUN_OCTAVES: Final = float(np.log2(RUN_PAGES_MAX))
# Below the mean of `cut`'s lengths, so that one draw of lengths is nearly always enough.
_MEAN_RUN_PAGES: Final = 64


class Runs(NamedTuple):
    """Runs of pages: three arrays of starts, counts and tags."""

    starts: I64Array
    counts: I64Array
    tags: I64Array

    @property
    def page_count(self) -> int:
        """Pages in all the runs."""
        return int(self.counts.sum())

    def pages(self) -> I64Array:
        """Return every page number, run after run.

        starts 7 20, counts 2 3   ->  7 8 20 21 22
        starts minus the pages before them, 7 18, repeated: 7 7 18 18 18; add 0 1 2 3 4
        """
        before = np.cumsum(self.counts) - self.counts
        return np.repeat(self.starts - before, self.counts) + np.arange(self.page_count)

    def page_tags(self) -> I64Array:
        """Return the tag of every page, in the order of `pages`."""
        return np.repeat(self.tags, self.counts)


def runs_of(starts: npt.ArrayLike, counts: npt.ArrayLike, tag: int = 0) -> Runs:
    """Return runs with these starts and counts, all with one tag."""
    first = np.asarray(starts, np.int64)
    return Runs(first, np.asarray(counts, np.int64), np.full(first.size, tag, np.int64))


def cut(runs: Runs, random: SplitMix) -> Runs:
    """Return runs cut into pieces of random length, in random order.

    Lengths are log-uniform from 1 to `RUN_PAGES_MAX`: half the pieces have 22 pages or fewer, while most
    pages are in long pieces, as in the memory of a system that has been up for a while.

    runs [0,5) [9,12) laid end to end: 0..8, with borders at 5 and 8
    drawn lengths 3 4 ...: more borders at 3 and 7   ->  pieces [0,3) [3,5) [9,11) [11,12)
    """
    total = runs.page_count
    if total == 0:
        return runs
    ends = np.cumsum(runs.counts)
    lengths = _lengths(total // _MEAN_RUN_PAGES + _FIRST_CAPACITY, random)
    edges = np.cumsum(lengths)
    while edges[-1] < total:
        edges = np.concatenate((edges, edges[-1] + np.cumsum(_lengths(edges.size, random))))
    bounds = np.union1d(edges[: int(np.searchsorted(edges, total))], ends)
    counts = np.diff(bounds, prepend=0)
    offsets = bounds - counts
    inside = np.searchsorted(ends, offsets, side="right")
    starts = runs.starts[inside] + offsets - (ends[inside] - runs.counts[inside])
    order = random.order(counts.size)
    return Runs(starts[order], counts[order], runs.tags[inside][order])


def merge(runs: Runs) -> Runs:
    """Return runs sorted, with neighbours joined and without tags. The runs must not overlap."""
    if runs.starts.size == 0:
        return runs
    order = np.argsort(runs.starts)
    starts, ends = runs.starts[order], (runs.starts + runs.counts)[order]
    assert bool((starts[1:] >= ends[:-1]).all()), "a page is in two runs"
    first = np.flatnonzero(np.append(True, starts[1:] > ends[:-1]))
    last = np.append(first[1:], starts.size) - 1
    return runs_of(starts[first], ends[last] - starts[first])


def split(runs: Runs, pages: int, runs_max: int) -> tuple[Runs, Runs]:
    """Return the first `pages` pages of `runs`, in at most `runs_max` runs, and the rest."""
    before = np.cumsum(runs.counts) - runs.counts
    kept = np.clip(pages - before, 0, runs.counts)
    kept[runs_max:] = 0
    first = Runs(runs.starts, kept, runs.tags)
    rest = Runs(runs.starts + kept, runs.counts - kept, runs.tags)
    return _not_empty(first), _not_empty(rest)


def _not_empty(runs: Runs) -> Runs:
    some = runs.counts > 0
    return Runs(runs.starts[some], runs.counts[some], runs.tags[some])


def _lengths(count: int, random: SplitMix) -> I64Array:
    return np.exp2(random.fractions(count) * _RUN_OCTAVES).astype(np.int64)


class RunBag:
    """Runs in no particular order, and their number of pages."""

    def __init__(self, random: SplitMix) -> None:
        self._random = random
        self._columns = np.empty((3, _FIRST_CAPACITY), np.int64)
        self._size = 0
        self.page_count: int = 0

    def __len__(self) -> int:
        return self._size

    def put(self, runs: Runs) -> None:
        """Add runs at the end."""
        added = runs.starts.size
        needed = self._size + added
        if needed > self._columns.shape[1]:
            larger = np.empty((3, max(needed, 2 * self._columns.shape[1])), np.int64)
            larger[:, : self._size] = self._columns[:, : self._size]
            self._columns = larger
        for column, values in zip(self._columns, runs, strict=True):
            column[self._size : needed] = values
        self._size = needed
        self.page_count += runs.page_count

    def take(self, pages: int, runs_max: int | None = None) -> Runs:
        """Remove and return up to `pages` pages in up to `runs_max` runs from a random place on.

        The last run may be split. Fewer pages are returned only if the limit of runs is reached or the bag is
        empty.
        """
        limit = min(self._size, pages if runs_max is None else runs_max)
        if limit <= 0 or pages <= 0:
            return runs_of((), ())
        at = self._random.below(self._size)
        window = (at + np.arange(limit)) % self._size
        reach = np.cumsum(self._columns[1, window])
        used = min(int(np.searchsorted(reach, pages)) + 1, limit)
        taken = self._columns[:, window[:used]]
        left_over = max(0, int(reach[used - 1]) - pages)
        if left_over:
            taken[1, -1] -= left_over
            self._columns[0, window[used - 1]] += taken[1, -1]
            self._columns[1, window[used - 1]] = left_over
            used -= 1
        to_the_end = min(used, self._size - at)
        self._remove(at, to_the_end)
        self._remove(0, used - to_the_end)
        self.page_count -= int(taken[1].sum())
        return Runs(taken[0], taken[1], taken[2])

    def take_within(self, start: int, end: int, pages: int | None = None) -> Runs:
        """Remove and return the pages from `start` up to `end`, or only `pages` of them. O(runs kept).

        runs [0,10) [20,30), from 5 up to 24: [5,10) and [20,24) leave, [0,5) and [24,30) stay
        """
        starts, counts, tags = self._columns[:, : self._size]
        touching = np.flatnonzero((starts < end) & (starts + counts > start))
        firsts = np.maximum(starts[touching], start)
        lengths = np.minimum(starts[touching] + counts[touching], end) - firsts
        if pages is not None:
            before = np.cumsum(lengths) - lengths
            used = int(np.searchsorted(before, pages))
            touching, firsts = touching[:used], firsts[:used]
            lengths = np.minimum(lengths, pages - before)[:used]
        taken = Runs(firsts, lengths, tags[touching].copy())
        below = Runs(starts[touching], firsts - starts[touching], taken.tags)
        above = Runs(firsts + lengths, starts[touching] + counts[touching] - firsts - lengths, taken.tags)
        kept = np.ones(self._size, np.bool_)
        kept[touching] = False
        self._columns = self._columns[:, : self._size][:, kept]
        self._size = self._columns.shape[1]
        self.page_count -= taken.page_count + below.page_count + above.page_count
        self.put(_not_empty(below))
        self.put(_not_empty(above))
        return taken

    def _remove(self, at: int, count: int) -> None:
        """Remove `count` runs at `at` by moving the last runs there."""
        end = at + count
        moved = min(count, self._size - end)
        self._columns[:, at : at + moved] = self._columns[:, self._size - moved : self._size].copy()
        self._size -= count

    def slice(self, offset: int, pages: int) -> Runs:
        """Return the runs of up to `pages` pages from the `offset`-th page on, without removing them."""
        starts, counts, tags = self._columns[:, : self._size]
        ends = np.cumsum(counts)
        first = int(np.searchsorted(ends, offset, side="right"))
        last = min(int(np.searchsorted(ends, offset + pages)) + 1, self._size)
        chosen = Runs(starts[first:last].copy(), counts[first:last].copy(), tags[first:last].copy())
        if chosen.starts.size:
            skipped = offset - (int(ends[first]) - int(counts[first]))
            chosen.starts[0] += skipped
            chosen.counts[0] -= skipped
            chosen.counts[-1] -= max(0, chosen.page_count - pages)
        return chosen

    def all(self) -> Runs:
        """Return a copy of every run."""
        starts, counts, tags = self._columns[:, : self._size].copy()
        return Runs(starts, counts, tags)

    def clear(self) -> None:
        """Remove every run."""
        self._size = 0
        self.page_count = 0
