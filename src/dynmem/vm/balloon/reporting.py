"""Free page reporting: pages that the guest names as free return to the host, and the guest keeps them.

Nothing says when it uses such a page again: it touches it, and finds zeros. So there is no account of them,
and a report must be carried out before its call returns. It shares the balloon's accounts all the same: what
the guest has given up is not discarded a second time, and what it does not have is left alone.

Memory that somebody has set aside stays: reserved huge pages, and what was allocated in advance. The host
could use it for something else, and the guest, which asks nobody before it touches a page, would end with a
SIGBUS.

Source: Linux drivers/hv/hv_balloon.c (hv_free_page_report) and mm/page_reporting.c.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import numpy as np

from dynmem.pages import ranges as page_ranges
from dynmem.pages.algebra import Ranges
from dynmem.vm.balloon.accounts import GuestPages, Memory
from dynmem.vm.faults import Faults
from dynmem.wire.heat_hint import Span

OUTSIDE: Final = "reported pages outside memory"


class FreePageReporting:
    """What the guest has reported.

    Attributes:
        calls: How many calls there were.
        ranges: How many ranges they named.
        discarded_bytes: How much of them was returned to the host, what was free there before included.

    """

    def __init__(
        self, pages: GuestPages, discard: Callable[[Memory, bytes], Awaitable[int]], faults: Faults
    ) -> None:
        """Begin; `discard` returns a memory's own pages to the host, and says how many bytes that were."""
        self._pages = pages
        self._discard = discard
        self._faults = faults
        self.calls: int = 0
        self.ranges: int = 0
        self.discarded_bytes: int = 0

    def figures(self) -> dict[str, int]:
        """Return the figures by the names that the monitor has for them."""
        return {"calls": self.calls, "ranges": self.ranges, "discarded": self.discarded_bytes}

    async def report(self, spans: Sequence[Span]) -> None:
        """Discard what the guest has of these pages. No page may go to or from the guest meanwhile."""
        self.calls += 1
        self.ranges += len(spans)
        free = _joined(spans)
        held, outside = self._pages.held(free)
        if outside:
            self._faults.note(OUTSIDE, f"{outside} of {free.page_count} pages that the guest reports as free")
        for memory, ranges in held:
            self.discarded_bytes += await self._discard(memory, ranges.packed())


def _joined(spans: Sequence[Span]) -> Ranges:
    """Return the spans sorted and joined. A hint's pages have more bits than a packed range."""
    starts, pages = np.array(spans, np.uint64).reshape(-1, 2).T
    order = np.argsort(starts, kind="stable")
    return Ranges(*page_ranges.join(starts[order], (starts + pages)[order]))
