"""The workload: a process that uses as much memory as its load curve says, and checks all of it.

Each tick does a bounded amount of work: it allocates and fills whole pages, or checks whole pages and frees
them, and now and then checks some that it keeps. If the allocator has too few, the workload tries again at
the next tick; the difference between wanted and held is its unmet demand.
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

TICK_PAGES: Final = 4096  # 16 MiB: under 10 ms if the memory exists, about 20 ms if it must be allocated
BUSY_TICK_NS: Final = 20 * NS_PER_MS
QUIET_TICK_NS: Final = 200 * NS_PER_MS
SAMPLE_PAGES: Final = 64  # kept pages that each sample checks
SAMPLE_NS: Final = 200 * NS_PER_MS
STEP_NS_MAX: Final = NS_PER_S  # growth of this much time may be caught up at once
RESERVE_PAGES_MAX: Final = 256  # left free for the kernel: 1 MiB, less in a guest below 128 MiB


class Workload:
    """A load on `memory` (pages, 512), of which `usable_pages` are available at boot.

    Pages are filled with generations after `generation`. `pages_max` is the most that the load can ever have;
    the kernel updates it.

    The counters `filled_pages`, `verified_pages`, `wrong_bytes` and `wrong_pages` only rise. A wrong byte in
    a page that is kept is counted once, because the page is then rewritten.
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
        self._growth = 0  # growth below one page that is carried over, in bytes x ns
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
        """Pages that the workload holds now."""
        return self._held.page_count

    @property
    def can_grow(self) -> bool:
        """Whether it wants pages that are available, and so need not wait for its next tick."""
        return self.wanted_pages > self.held_pages and self._spare_pages() > 0

    def tick(self, now_ns: int) -> int:
        """Do what is due at guest time `now_ns`. Returns when to call again."""
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
            return now_ns  # the rest follows at once: the host has its turn between two ticks
        return now_ns + (QUIET_TICK_NS if self._is_quiet(now_ns) else BUSY_TICK_NS)

    def leave(self, start: int, end: int) -> bool:
        """Move all held pages from `start` up to `end` elsewhere, and make the old ones absent.

        Each page is checked before it moves. Without enough room elsewhere, nothing moves and the result is
        False. No page in that span may be free.
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
        """Check and free everything that is held."""
        while self.held_pages:
            self._shrink(TICK_PAGES)

    def _is_quiet(self, now_ns: int) -> bool:
        """Return whether the next tick, after this one has moved what it could, is not urgent.

        A squeezed workload is quiet, too: it waits for a message of the host, after which the caller calls
        `tick` again.
        """
        return self.wanted_pages > self.held_pages or self.wanted_pages == self._asked(now_ns)

    def _spare_pages(self) -> int:
        return max(0, self._allocator.available_pages - self._reserve_pages)

    def _asked(self, now_ns: int) -> int:
        """Return what the curve or the file wants, at most what the guest can have."""
        if self._told is not None:
            usable = self._allocator.total_pages - self._allocator.kernel_pages
            asked = self._told.amount().pages(usable)
        else:
            asked = self._load.wanted_pages(now_ns, self._boot_pages)
        return min(asked, self.pages_max)

    def _follow(self, now_ns: int) -> None:
        """Move demand towards the curve, upwards at most at the rate; a gap in time causes no jump."""
        elapsed = 0 if self._last_ns is None else min(max(0, now_ns - self._last_ns), STEP_NS_MAX)
        self._last_ns = now_ns
        curve = self._asked(now_ns)
        self._growth += elapsed * self._load.rate_bytes
        steps, self._growth = divmod(self._growth, PAGE_SIZE * NS_PER_S)
        self.wanted_pages = min(curve, self.wanted_pages + steps)
        self._allocator.asked_pages = self.wanted_pages

    def _grow(self, count: int) -> None:
        """Allocate and fill up to `count` pages that are available."""
        self._fill(min(count, self._spare_pages()))

    def _fill(self, count: int) -> None:
        """Allocate and fill up to `count` pages, of one generation."""
        taken = self._allocator.allocate_held(count)
        if taken.page_count == 0:
            return
        self._generation += 1
        taken.tags[:] = self._generation
        self._pattern.fill(taken.pages(), taken.page_tags())
        self._held.put(taken)
        self.filled_pages += taken.page_count

    def _shrink(self, count: int) -> None:
        """Check and free up to `count` pages."""
        released = self._held.take(count)
        self._check(released)
        self._allocator.free_held(released)

    def _sample(self) -> None:
        """Check the next few kept pages, in turn."""
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
