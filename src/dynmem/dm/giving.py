"""Ballooning at the guest's end: what its page allocator does, and how a balloon request is answered.

A request is answered in parts, each of as many pages as one message holds. It ends with the last of the
pages, or with an empty part when the guest has no more to give.
"""

from typing import Final, Protocol

from dynmem.dm.habits import Habits
from dynmem.errors import LocalProtocolError
from dynmem.limits import DM_RANGES_PER_MESSAGE
from dynmem.pages.ranges import RANGE_BYTES, page_count
from dynmem.wire import dm


class PageAllocator(Protocol):
    """The guest's page allocator, as far as the balloon needs it. Everything is in pages of 4 KiB."""

    @property
    def available_pages(self) -> int:
        """Free pages, with those that could be freed at no cost (MemAvailable)."""

    @property
    def committed_pages(self) -> int:
        """Pages that programs have requested, without what the balloon holds."""

    def allocate_for_balloon(self, pages: int) -> bytes:
        """Allocate at most `pages` in at most 510 packed ranges; b"" when there are none."""

    def free_from_balloon(self, ranges: bytes) -> None:
        """Free pages that were allocated for the balloon."""


class Giving:
    """A balloon request that is being answered.

    Attributes:
        asked: Pages that the host wants.
        given: Pages in the responses that were sent.
        unsent: Ranges that are allocated, and not sent yet.

    """

    def __init__(self, asked: int, limit: int, habits: Habits) -> None:
        """Answer a request for `asked` pages with at most `limit`, for the reserve's sake."""
        self.asked: Final = asked
        self.given: int = 0
        self.unsent: bytes = b""
        self._left = min(asked, limit)  # to be allocated
        if habits.gives_all_or_nothing and limit < asked:
            self._left = 0
        self._full = habits.ranges_per_response - DM_RANGES_PER_MESSAGE  # ranges with no room for more
        self._has_more = False

    def build(self, trans_id: int, allocator: PageAllocator) -> dm.BalloonResponse:
        """Allocate the pages of the next response and return it."""
        pages = self._allocate(allocator)
        while pages and len(self.unsent) <= self._full * RANGE_BYTES:
            pages = self._allocate(allocator)
        self._has_more = pages > 0 and self._left > 0
        return dm.BalloonResponse(trans_id, self._has_more, self.unsent)

    def _allocate(self, allocator: PageAllocator) -> int:
        """Add the pages of one allocation to the response; return how many they are."""
        ranges = allocator.allocate_for_balloon(self._left) if self._left else b""
        pages = page_count(ranges)
        if pages > self._left or len(ranges) > DM_RANGES_PER_MESSAGE * RANGE_BYTES:
            raise LocalProtocolError(
                f"the allocator returned {pages} pages in {len(ranges) // RANGE_BYTES} ranges: "
                f"at most {self._left} in {DM_RANGES_PER_MESSAGE} were wanted"
            )
        self.unsent += ranges
        self._left -= pages
        return pages

    def sent(self) -> tuple[bytes, bool]:
        """Record that the response was sent; return its ranges, and whether it was the last."""
        ranges, self.unsent = self.unsent, b""
        self.given += page_count(ranges)
        return ranges, not self._has_more
