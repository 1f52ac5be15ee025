"""The workload: a process that uses as much memory as its load curve says, and checks all of it.

Each tick does a bounded amount of work: it takes pages and fills them whole, or checks pages whole and lets
go of them, and now and then checks some that it keeps. What the allocator does not have is not there: the
workload asks again at the next tick, and the difference between wanted and held is its unmet demand.
"""

from typing import Final

import numpy as np

from dynmem.guest.allocator import Allocator
from dynmem.guest.curve import Load
from dynmem.guest.pattern import Memory, Pattern
from dynmem.guest.runs import I64Array, RunBag, Runs
from dynmem.guest.splitmix import SplitMix
from dynmem.guest.told import Told
from dynmem.units import NS_PER_MS, NS_PER_S, PAGE_SIZE

TICK_PAGES: Final = 4096  # 16 MiB: under 10 ms where memory is there, about 20 ms where it has to be made
BUSY_TICK_NS: Final = 20 * NS_PER_MS
QUIET_TICK_NS: Final = 200 * NS_PER_MS
SAMPLE_PAGES: Final = 64  # of the pages that are kept, checked at each sample
SAMPLE_NS: Final = 200 * NS_PER_MS
STEP_NS_MAX: Final = NS_PER_S  # of growth that may be made up for at once
RESERVE_PAGES_MAX: Final = 256  # left free for the kernel: 1 MiB, less in a guest below 128 MiB


class Workload:
    """A load on `memory` (pages, 512), of which `usable_pages` are there for it at boot.

    Pages are filled with generations after `generation`. `pages_max` is how many there will ever be for the
    load; whoever knows better sets it anew.

    Counters only ever rise: `filled_pages`, `verified_pages`, `wrong_bytes`, `wrong_pages`. A wrong byte in a
    page that is kept is counted once: the page is written anew.
    """

    def __init__(
        self,
        memory: Memory,
        allocator: Allocator,
        load: Load,
        *,
        usable_pages: int,
        seed: int,
        generation: int = 0,
    ) -> None:
        self._allocator = allocator
        self._load = load
        self._boot_pages = usable_pages
        self._told = Told(load.path) if load.path is not None else None
        self._reserve_pages = min(RESERVE_PAGES_MAX, usable_pages // 128)
        self._pattern = Pattern(memory)
        self._held = RunBag(SplitMix(seed))
        self._generation = generation
        self._last_ns: int | None = None
        self._growth = 0  # bytes x ns that demand may still grow by, below one page
        self._sampled_ns = 0
        self._sample_at = 0
        self.pages_max = usable_pages
        self.wanted_pages: int = 0
        self.filled_pages: int = 0
        self.verified_pages: int = 0
        self.wrong_bytes: int = 0
        self.wrong_pages: int = 0

    @property
    def held_pages(self) -> int:
        """Pages that the workload has now."""
        return self._held.page_count

    @property
    def can_grow(self) -> bool:
        """Whether it wants pages that there are, and so need not wait for its next tick."""
        return self.wanted_pages > self.held_pages and self._spare_pages() > 0

    def tick(self, now_ns: int) -> int:
        """Do what is due at guest time `now_ns`; when to come back."""
        self._follow(now_ns)
        difference = self.wanted_pages - self.held_pages
        if difference > 0:
            self._grow(min(difference, TICK_PAGES))
        elif difference < 0:
            self._shrink(min(-difference, TICK_PAGES))
        if now_ns - self._sampled_ns >= SAMPLE_NS:
            self._sampled_ns = now_ns
            self._sample()
        if self.can_grow or self.held_pages > self.wanted_pages:
            return now_ns  # the rest of it at once: the host has its turn between two ticks
        return now_ns + (QUIET_TICK_NS if self._is_quiet(now_ns) else BUSY_TICK_NS)

    def leave(self, start: int, end: int) -> bool:
        """Move everything that is held from `start` up to `end` elsewhere, and take it out of use there.

        Each page is checked before it moves. False, and nothing has moved, when there is no room for it; no
        page in there may be free.
        """
        leaving = self._held.take_within(start, end)
        if leaving.page_count > self._allocator.available_pages:
            self._held.put(leaving)
            return False
        self._check(leaving)
        self._allocator.take_out_held(leaving)
        self._fill(leaving.page_count)
        return True

    def finish(self) -> None:
        """Check everything that is held and let go of it."""
        while self.held_pages:
            self._shrink(TICK_PAGES)

    def _is_quiet(self, now_ns: int) -> bool:
        """Whether the next tick, when this one has moved what it could, has nothing in a hurry.

        A squeezed workload is quiet too: what it waits for comes with a message of the host, and whoever
        delivers that calls `tick` again.
        """
        return self.wanted_pages > self.held_pages or self.wanted_pages == self._asked(now_ns)

    def _spare_pages(self) -> int:
        return max(0, self._allocator.available_pages - self._reserve_pages)

    def _asked(self, now_ns: int) -> int:
        """What the curve or the file asks for, of what there can be."""
        if self._told is not None:
            usable = self._allocator.total_pages - self._allocator.kernel_pages
            asked = self._told.amount().pages(usable)
        else:
            asked = self._load.wanted_pages(now_ns, self._boot_pages)
        return min(asked, self.pages_max)

    def _follow(self, now_ns: int) -> None:
        """Move demand to the curve: up no faster than the rate, and a gap in time is no reason to jump."""
        elapsed = 0 if self._last_ns is None else min(max(0, now_ns - self._last_ns), STEP_NS_MAX)
        self._last_ns = now_ns
        curve = self._asked(now_ns)
        self._growth += elapsed * self._load.rate_bytes
        steps, self._growth = divmod(self._growth, PAGE_SIZE * NS_PER_S)
        self.wanted_pages = min(curve, self.wanted_pages + steps)
        self._allocator.asked_pages = self.wanted_pages

    def _grow(self, count: int) -> None:
        """Take up to `count` pages that are to spare and fill them."""
        self._fill(min(count, self._spare_pages()))

    def _fill(self, count: int) -> None:
        """Hold up to `count` more pages, of one generation."""
        taken = self._allocator.allocate_held(count)
        if taken.page_count == 0:
            return
        self._generation += 1
        taken.tags[:] = self._generation
        self._pattern.fill(taken.pages(), taken.page_tags())
        self._held.put(taken)
        self.filled_pages += taken.page_count

    def _shrink(self, count: int) -> None:
        """Check up to `count` pages and let go of them."""
        released = self._held.take(count)
        self._check(released)
        self._allocator.free_held(released)

    def _sample(self) -> None:
        """Check the next few of the pages that are kept, in turn."""
        if self._sample_at >= self.held_pages:
            self._sample_at = 0
        sample = self._held.slice(self._sample_at, SAMPLE_PAGES)
        self._sample_at += sample.page_count
        wrong = self._check(sample)
        if wrong.size:
            pages, generations = sample.pages(), sample.page_tags()
            again = np.isin(pages, wrong)
            self._pattern.fill(pages[again], generations[again])

    def _check(self, runs: Runs) -> I64Array:
        pages = runs.pages()
        wrong = self._pattern.check(pages, runs.page_tags())
        self.verified_pages += pages.size
        self.wrong_bytes += wrong.byte_count
        self.wrong_pages += wrong.pages.size
        return wrong.pages
