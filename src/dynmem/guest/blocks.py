"""Memory hot-added and hot-removed by the Dynamic Memory Protocol, as the guest's kernel sees it.

Memory comes in blocks of 128 MiB, as in Linux (drivers/base/memory.c with x86-64's sections), and each is
used as soon as it is added. A block that the hardware has not mapped is a barrier: nothing from there on is
added. A kernel with almost no free memory cannot add a block and reports that, so the host may try again.
Linux cannot remove memory on the host's request; this guest can, page by page, as Windows can.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from dynmem.dm.blocks import Added
from dynmem.dm.habits import balloon_floor
from dynmem.guest.allocator import FREE, IN_USE, Allocator
from dynmem.guest.runs import Runs, merge, runs_of, split
from dynmem.limits import DM_HOT_REMOVE_RANGES
from dynmem.pages import ranges as page_ranges
from dynmem.units import MIB, PAGE_SIZE

BLOCK_PAGES: Final = 128 * MIB // PAGE_SIZE
WORKING_PAGES: Final = 16  # that must be free to add a block: page tables and the block's own descriptor


class Blocks:
    """`dynmem.dm.blocks.MemoryBlocks` over the allocator; `is_mapped` checks the pages [start, end)."""

    alignment_pages: Final = BLOCK_PAGES

    def __init__(self, allocator: Allocator, is_mapped: Callable[[int, int], bool]) -> None:
        self._allocator = allocator
        self._is_mapped = is_mapped
        self._added: set[int] = set()  # first pages of the blocks that are at least partly in use

    def hot_add(self, start: int, pages: int) -> Added:
        """Add whole blocks from page `start` on until one cannot be added."""
        for done in range(0, pages - BLOCK_PAGES + 1, BLOCK_PAGES):
            first = start + done
            end = first + BLOCK_PAGES
            if not self._is_mapped(first, end) or self._in_use(first, end):
                return Added(done)
            if self._allocator.available_pages < WORKING_PAGES:
                return Added(done, is_short=True)
            self._allocator.add(first, BLOCK_PAGES)
            self._added.add(first)
        return Added(pages // BLOCK_PAGES * BLOCK_PAGES)

    def hot_remove(self, pages: int, virtual_node: int, qos_flags: int) -> bytes:
        """Remove free pages of added blocks, whole blocks first, and keep the floor.

        The guest has one node, so no other has memory; the quality of service has no effect.
        """
        if virtual_node:
            return b""
        allocator = self._allocator
        present = allocator.total_pages - allocator.ballooned_pages
        left = min(pages, allocator.available_pages - balloon_floor(present))
        removed: list[Runs] = []
        whole = self._with_free(BLOCK_PAGES)[: max(0, left // BLOCK_PAGES)]
        for first in (*whole, *self._with_free(1)):
            room = DM_HOT_REMOVE_RANGES - sum(runs.starts.size for runs in removed)
            if left <= 0 or room <= 0:
                break
            free = merge(allocator.take_out(first, first + BLOCK_PAGES))
            taken, rest = split(free, left, room)
            allocator.put_back(rest)
            removed.append(taken)
            left -= taken.page_count
        self._added = {first for first in self._added if self._in_use(first, first + BLOCK_PAGES)}
        starts = np.concatenate([runs.starts for runs in removed] or [np.empty(0, np.int64)])
        counts = np.concatenate([runs.counts for runs in removed] or [np.empty(0, np.int64)])
        return page_ranges.merge(page_ranges.pack(starts.astype(np.uint64), counts.astype(np.uint64)))

    def put_back(self, ranges: bytes) -> None:
        """Use pages again that `hot_remove` removed."""
        starts, counts = page_ranges.unpack(ranges)
        runs = runs_of(starts, counts)
        self._allocator.put_back(runs)
        self._added.update((np.unique(runs.pages() // BLOCK_PAGES) * BLOCK_PAGES).tolist())

    def _with_free(self, pages: int) -> list[int]:
        """Return the first pages of the blocks with at least that many free pages, last block first."""
        count = self._allocator.count
        found = [first for first in self._added if count(first, first + BLOCK_PAGES, FREE) >= pages]
        return sorted(found, reverse=True)

    def _in_use(self, start: int, end: int) -> bool:
        return self._allocator.count(start, end, *IN_USE) > 0
