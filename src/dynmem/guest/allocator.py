"""The guest's page allocator: who owns each page of guest memory.

Every page is ABSENT, FREE, KERNEL, HELD (by the workload) or BALLOONED. Free memory is allocated at random
places in runs of random length (`runs.cut`), as in a system that has been up for a while, so that a balloon
response consists of many ranges of very different lengths. A page's state is checked whenever it changes: a
page that is freed twice or given to two owners ends the guest before its data is damaged.

Memory may come and go. The kernel's own pages lie below `kernel_below`, so memory that was added later can
always be emptied, and the rings are where the host looks for them.
"""

from bisect import insort
from typing import Final

import numpy as np

from dynmem.errors import LocalProtocolError
from dynmem.guest.runs import RUN_PAGES_MAX, RunBag, Runs, cut, merge, runs_of
from dynmem.guest.splitmix import SplitMix
from dynmem.limits import DM_RANGES_PER_MESSAGE
from dynmem.pages import ranges as page_ranges

ABSENT: Final = 0
FREE: Final = 1
KERNEL: Final = 2
HELD: Final = 3
BALLOONED: Final = 4
IN_USE: Final = (FREE, KERNEL, HELD, BALLOONED)
STATES: Final = (ABSENT, *IN_USE)

_NAMES: Final = ("absent", "free", "the kernel's", "held", "ballooned")
_FILLER_PAGES: Final = 4096
_FILLERS: Final = tuple(bytes((state,)) * _FILLER_PAGES for state in STATES)
_GAP_PAGES_MAX: Final = 4096  # a wider gap separates two stretches of memory
_NO_STRETCH: Final = (0, bytearray())
_TIDY_RUNS_MIN: Final = 256  # a bag with fewer runs is not worth sorting


class Allocator:
    """The pages of one guest.

    Attributes:
        asked_pages: Pages that the guest's processes have requested; set by the workload.
        given_pages: Pages given to the balloon so far.
        regained_pages: Pages returned from the balloon so far.
    """

    def __init__(self, seed: int, *, kernel_below: int | None = None) -> None:
        """Start without pages. The kernel's own pages will be below `kernel_below`; None: anywhere."""
        self._kernel_below = kernel_below
        self._random = SplitMix(seed)
        self._free = RunBag(self._random)
        self._tidy_above = _TIDY_RUNS_MIN
        self._stretches: list[tuple[int, bytearray]] = []  # (first page, states), ascending, with wide gaps
        self._counts = [0] * len(STATES)
        self.asked_pages = 0
        self.given_pages: int = 0
        self.regained_pages: int = 0

    def add_kernel(self, start: int, count: int) -> None:
        """Make `count` absent pages, from page `start` on, the kernel's own permanently."""
        self._cover(start, start + count)
        self._move(runs_of((start,), (count,)), ABSENT, KERNEL)

    def add(self, start: int, count: int) -> None:
        """Make `count` absent pages, from page `start` on, free."""
        self._cover(start, start + count)
        self.put_back(runs_of((start,), (count,)))

    def put_back(self, runs: Runs) -> None:
        """Make pages free that `take_out` made absent."""
        self._move(runs, ABSENT, FREE)
        self._free.put(cut(runs, self._random))
        self._tidy()

    def take_out(self, start: int, end: int) -> Runs:
        """Make all free pages from `start` up to `end` absent, and return them."""
        return self._move(self._free.take_within(start, end), FREE, ABSENT)

    def take_out_held(self, runs: Runs) -> None:
        """Make pages of the workload absent, without freeing them in between."""
        self._move(runs, HELD, ABSENT)

    @property
    def total_pages(self) -> int:
        """Pages that are not absent, ballooned ones included."""
        return sum(self._counts[FREE:])

    @property
    def available_pages(self) -> int:
        """Pages that are free."""
        return self._counts[FREE]

    @property
    def held_pages(self) -> int:
        """Pages of the workload."""
        return self._counts[HELD]

    @property
    def kernel_pages(self) -> int:
        """Pages of the kernel area and the rings."""
        return self._counts[KERNEL]

    @property
    def ballooned_pages(self) -> int:
        """Pages in the balloon."""
        return self._counts[BALLOONED]

    @property
    def committed_pages(self) -> int:
        """Pages that the kernel and the processes have requested, like Linux's Committed_AS."""
        return self.kernel_pages + max(self.asked_pages, self.held_pages)

    def state_of(self, page: int) -> int:
        """Return the state of `page`; ABSENT for one that does not exist."""
        first, states = self._stretch(page)
        return states[page - first] if 0 <= page - first < len(states) else ABSENT

    def count(self, start: int, end: int, *counted: int) -> int:
        """Return how many pages from `start` up to `end` are in the states `counted`, not ABSENT."""
        assert ABSENT not in counted
        return sum(
            states.count(state, max(0, start - first), max(0, end - first))
            for first, states in self._stretches
            if first < end
            for state in counted
        )

    def allocate_kernel(self, count: int) -> list[int]:
        """Allocate exactly `count` pages for the kernel, where it may have them."""
        if self._kernel_below is None:
            taken = self._free.take(count)
        else:
            taken = self._free.take_within(0, self._kernel_below, count)
        if taken.page_count < count:
            self._free.put(taken)
            raise LocalProtocolError(f"the kernel needs {count} pages, but only {taken.page_count} are free")
        return [int(page) for page in self._move(taken, FREE, KERNEL).pages()]

    def free_kernel(self, pages: list[int]) -> None:
        """Free pages of `allocate_kernel`."""
        self._release(runs_of(pages, np.ones(len(pages))), KERNEL)

    def allocate_held(self, count: int) -> Runs:
        """Allocate up to `count` pages for the workload."""
        return self._allocate(count, None, HELD)

    def free_held(self, runs: Runs) -> None:
        """Free pages of the workload."""
        self._release(runs, HELD)

    def allocate_for_balloon(self, count: int) -> bytes:
        """Give up to `count` free pages to the balloon, in at most 510 ranges."""
        runs = self._allocate(count, DM_RANGES_PER_MESSAGE, BALLOONED)
        self.given_pages += runs.page_count
        return page_ranges.pack(runs.starts.astype(np.uint64), runs.counts.astype(np.uint64))

    def free_from_balloon(self, ranges: bytes) -> None:
        """Free pages that the host returned from the balloon."""
        starts, counts = page_ranges.unpack(ranges)
        runs = runs_of(starts, counts)
        self._release(runs, BALLOONED)
        self.regained_pages += runs.page_count

    def _allocate(self, count: int, runs_max: int | None, state: int) -> Runs:
        return self._move(self._free.take(count, runs_max), FREE, state)

    def _release(self, runs: Runs, state: int) -> None:
        self._move(runs, state, FREE)
        self._free.put(cut(runs, self._random))
        self._tidy()

    def _tidy(self) -> None:
        """Join neighbours and cut again once the number of runs has doubled; they would only get smaller."""
        if len(self._free) <= self._tidy_above:
            return
        tidied = cut(merge(self._free.all()), self._random)
        self._free.clear()
        self._free.put(tidied)
        self._tidy_above = max(_TIDY_RUNS_MIN, 2 * len(self._free))

    def _stretch(self, page: int) -> tuple[int, bytearray]:
        """Return the stretch of memory that `page` is in, or an empty one."""
        for stretch in reversed(self._stretches):
            if page >= stretch[0]:
                return stretch
        return _NO_STRETCH

    def _cover(self, start: int, end: int) -> None:
        """Extend the states to the pages from `start` up to `end`, as absent where there were none.

        Stretches without a wide gap become one, so that no run of pages is ever in two.
        """
        low, high = start - _GAP_PAGES_MAX, end + _GAP_PAGES_MAX
        near = [
            stretch
            for stretch in self._stretches
            if stretch[0] <= high and low <= stretch[0] + len(stretch[1])
        ]
        if near and near[0][0] <= start and len(near) == 1:
            first, states = near[0]
            states.extend(bytes(max(0, end - first - len(states))))
            return
        first = min([start, *(first for first, _ in near)])
        last = max([end, *(first + len(states) for first, states in near)])
        whole = bytearray(last - first)
        for at, states in near:
            whole[at - first : at - first + len(states)] = states
            self._stretches.remove((at, states))
        insort(self._stretches, (first, whole))

    def _move(self, runs: Runs, old: int, new: int) -> Runs:
        """Change the state of every page of `runs`, which must be `old`. Returns the runs."""
        filler = _FILLERS[new]
        moved = 0
        for start, count in zip(runs.starts.tolist(), runs.counts.tolist(), strict=True):
            first, states = self._stretch(start)
            at, end = start - first, start - first + count
            if at < 0 or end > len(states) or states.count(old, at, end) != count:
                raise AssertionError(f"{count} pages from {start} on are not all {_NAMES[old]}")
            states[at:end] = filler[:count] if count <= _FILLER_PAGES else bytes((new,)) * count
            moved += count
        self._counts[old] -= moved
        self._counts[new] += moved
        return runs


assert RUN_PAGES_MAX <= _FILLER_PAGES
