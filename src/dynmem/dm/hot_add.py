"""Hot add at the host's end: how much is asked for at a time, and what an answer means.

The answer is a pair (page_count, result). All that was asked for: go on. (0, 0): the guest is short of
resources, ask again later. Anything else that is less than asked: the guest has met a barrier, and no hot add
is asked for again before the next reset. The header of the protocol says so of every count that is too low;
that (0, 0) passes is what Linux drivers/hv/hv_balloon.c means by it (QEMU takes it for the barrier, too).
"""

from typing import ClassVar

from dynmem.dm.events import HostEvent, HotAddFinished
from dynmem.dm.operations import Answered, Then
from dynmem.dm.states import HostStep
from dynmem.dm.stores import HotAddSource, Reservation
from dynmem.errors import LocalProtocolError
from dynmem.limits import DM_HOT_ADD_CHUNK_PAGES, GUEST_PAGE_MAX
from dynmem.pages.ranges import START_BITS
from dynmem.units import PAGE_SHIFT
from dynmem.wire import dm


class HotAdd:
    """One hot add. `reserve` comes first and says whether there is anything to add."""

    kind: ClassVar[str] = "hot add"
    step: ClassVar[HostStep] = HostStep.HOT_ADD
    held_pages = 0

    def __init__(self, source: HotAddSource, *, with_region: bool) -> None:
        """Take memory from `source`; `with_region`: the longer form of request."""
        self.asked: int = 0
        self.is_at_barrier: bool = False  # the guest adds no more memory
        self._is_partial = False  # there was no piece as long as wanted
        self._source = source
        self._with_region = with_region
        self._alignment = 1
        self._start = 0
        self.left: int = 0  # of the reservation, not answered yet
        self._open = 0  # of the request that is offered or out
        self._is_out = False
        self._got = 0

    def reserve(self, pages: int, capabilities: dm.CapabilitiesReport) -> bool:
        """Reserve as much of `pages` as this guest's alignment and last page allow; whether that is any."""
        self._alignment = dm.hot_add_alignment_bytes(capabilities.caps) >> PAGE_SHIFT
        wanted = pages - pages % self._alignment
        end = min(capabilities.max_page_number, GUEST_PAGE_MAX) + 1
        reserved = self._source.reserve(wanted, self._alignment, end) if wanted else None
        if reserved is None:
            return False
        start, length = reserved
        if start % self._alignment or length % self._alignment or not 0 < length <= wanted:
            raise LocalProtocolError(f"a hot add of {length} pages at {start:#x} does not fit the guest")
        if start + length > end:
            raise LocalProtocolError(f"a hot add ends at page {start + length:#x}, the guest at {end:#x}")
        self._start, self.asked, self.left = start, length, length
        self._is_partial = length < wanted
        return True

    @property
    def may_go_on(self) -> bool:
        """Whether the guest took all, and the source had less in one piece than was wanted."""
        return self._is_partial and not self.left and not self.is_at_barrier

    def is_mapped(self) -> bool:
        """Whether it is settled what may be offered to the guest: `left`, 0 when the host has no memory."""
        if not self._source.is_mapped():
            return False
        backed = self._source.backed(Reservation(self._start, self.left))
        if backed is None:
            self.left, self._is_partial = 0, False
        else:
            self._is_partial |= backed.pages < self.left
            self._start, self.left = backed
        return True

    def build(self, trans_id: int, *, is_cut: bool) -> dm.Message:
        """The next request: 2 GiB at most, or one step of the guest's alignment where that is longer."""
        chunk = DM_HOT_ADD_CHUNK_PAGES - DM_HOT_ADD_CHUNK_PAGES % self._alignment or self._alignment
        self._open = min(self.left, chunk)
        word = self._start | self._open << START_BITS
        return dm.HotAddRequest(trans_id, word, word if self._with_region else None)

    def sent(self) -> tuple[int, bool]:
        """It is in the ring."""
        self._is_out = True
        return self._open, False

    def answered(self, message: dm.Message) -> Answered:
        """Enter the guest's answer; pages that it names are its own, whatever result it names with them."""
        assert isinstance(message, dm.HotAddResponse)
        asked, added = self._open, min(message.page_count, self._open)
        odd: tuple[str, ...] = ()
        if message.page_count > asked:
            odd = (f"the guest added {message.page_count} pages where {asked} were offered",)
        if added:
            self._source.confirm(added)
        self._is_out, self._open = False, 0
        self._start += added
        self.left -= added
        self._got += added
        if added == asked and message.result:
            return Answered(Then.NEXT if self.left else Then.END, added, oddities=odd)
        if added == 0 and message.result == 0:
            return Answered(Then.END, 0, "the guest was short of resources", is_retryable=True)
        self.is_at_barrier = True
        return Answered(Then.END, added, "the guest adds no more memory", odd)

    def finished(self) -> HostEvent:
        """How it went; what the guest has not taken is free again."""
        if self.left:
            self._source.cancel()
        return HotAddFinished(self.asked, self._got)

    def abandon(self) -> None:
        """A request without an answer may have been followed: those pages are the guest's."""
        if self._is_out:
            self._source.confirm(self._open)
            self.left -= self._open
        if self.left:
            self._source.cancel()
