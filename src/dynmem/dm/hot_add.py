"""Hot add at the host's end: how much goes into one request, and what an answer means.

The answer is a pair (page_count, result). All pages of the request: go on. (0, 0): the guest is short of
resources, try again later. Anything else below the request: the guest has met a barrier, and no hot add
follows before the next reset. The protocol's header file says that of every count that is too low; but (0, 0)
means "try again" in Linux drivers/hv/hv_balloon.c (QEMU takes it for the barrier, too).

Pages that a guest says it added are its own even if it calls that a failure (result 0), which QEMU takes to
mean that it added none: memory that a guest uses and the host takes away kills the guest.
"""

from typing import ClassVar, Final

from dynmem.dm.events import HostEvent, HotAddFinished
from dynmem.dm.operations import Answered, Then
from dynmem.dm.states import HostStep
from dynmem.dm.stores import HotAddSource, Reservation
from dynmem.errors import LocalProtocolError
from dynmem.limits import DM_HOT_ADD_CHUNK_PAGES, GUEST_PAGE_MAX
from dynmem.pages.ranges import START_BITS
from dynmem.units import MIB, NS_PER_S, PAGE_SHIFT
from dynmem.wire import dm

# Linux drivers/hv/hv_balloon.c: HA_CHUNK, and how long it waits for one to be brought online
_LINUX_BLOCK_PAGES: Final = 128 * MIB >> PAGE_SHIFT
_LINUX_BLOCK_NS: Final = 5 * NS_PER_S
# of the pause between two attempts: to about ten minutes
_PAUSE_DOUBLINGS: Final = 6

_NO_HOT_ADD: Final = (
    "the guest adds no memory and calls that a success: Linux does so without its hot_add option,"
    " and if it can hibernate (ACPI S4), so do not offer it S4"
)


class Refusals:
    """What a guest has refused to add since its last reset, and what follows for the next request.

    Linux keeps a record of each range that it could not add. Another request from the same page is measured
    by that record, so that a longer one is added only up to its end, which reads as a barrier: the next
    request from there ends where the refused one did.

    Attributes:
        is_final: Whether it has met a barrier.

    """

    def __init__(self) -> None:
        self.is_final: bool = False
        self._range = range(0)  # the last one that it was short of resources for
        self._in_a_row = 0

    @property
    def pauses(self) -> int:
        """How many times the usual pause is due before the next request: one that never works gets rare."""
        return 1 << min(self._in_a_row - 1, _PAUSE_DOUBLINGS)

    def most(self, start: int) -> int:
        """Return the most pages that a request from page `start` may have."""
        return self._range.stop - start if start in self._range else GUEST_PAGE_MAX

    def short(self, start: int, pages: int) -> None:
        """Record a request that the guest was short of resources for."""
        self._range = range(start, start + pages)
        self._in_a_row += 1

    def added(self) -> None:
        """Record a request that the guest has done."""
        self._in_a_row = 0

    def driver_gone(self) -> None:
        """Forget what the guest's driver kept; a barrier is its kernel's, and stays."""
        self._range = range(0)
        self._in_a_row = 0


class HotAdd:
    """One hot add. `reserve` comes first and says whether there is memory to add.

    Attributes:
        asked: Pages that were reserved.
        left: Pages of the reservation that are not answered yet.

    """

    kind: ClassVar[str] = "hot add"
    step: ClassVar[HostStep] = HostStep.HOT_ADD
    held_pages = 0

    def __init__(self, source: HotAddSource, refusals: Refusals, *, with_region: bool) -> None:
        """Add memory of `source`; `with_region`: by the longer form of request."""
        self.asked: int = 0
        self._refusals = refusals
        self._is_partial = False  # there was no piece as long as wanted
        self._source = source
        self._with_region = with_region
        self._alignment = 1
        self._start = 0
        self.left: int = 0
        self._open = 0  # of the request that is on offer or was sent
        self._is_out = False
        self._got = 0

    def reserve(self, pages: int, capabilities: dm.CapabilitiesReport) -> bool:
        """Reserve as much of `pages` as this guest's alignment and last page allow; return if that is any."""
        self._alignment = dm.hot_add_alignment_bytes(capabilities.caps) >> PAGE_SHIFT
        wanted = pages - pages % self._alignment
        end = min(capabilities.max_page_number, GUEST_PAGE_MAX) + 1
        reserved = self._source.reserve(wanted, self._alignment, end)
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
        return self._is_partial and not self.left and not self._refusals.is_final

    @property
    def allowance_ns(self) -> int:
        """What Linux may take for the request that is out: it waits for each block to be brought online."""
        return -(-self._open // _LINUX_BLOCK_PAGES) * _LINUX_BLOCK_NS if self._is_out else 0

    def is_mapped(self) -> bool:
        """Return whether `left` can be offered to the guest now; it is 0 when the host has no memory."""
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
        """Return the next request: at most 2 GiB, or one step of the guest's alignment if that is longer."""
        chunk = DM_HOT_ADD_CHUNK_PAGES - DM_HOT_ADD_CHUNK_PAGES % self._alignment or self._alignment
        self._open = min(self.left, chunk, self._refusals.most(self._start))
        word = self._start | self._open << START_BITS
        return dm.HotAddRequest(trans_id, word, word if self._with_region else None)

    def sent(self) -> tuple[int, bool]:
        self._is_out = True
        return self._open, False

    def answered(self, message: dm.Message) -> Answered:
        """Give the guest the pages that it says it added, whatever result it names with them."""
        assert isinstance(message, dm.HotAddResponse)
        asked, added = self._open, min(message.page_count, self._open)
        odd: tuple[str, ...] = ()
        if message.page_count > asked:
            odd = (f"the guest added {message.page_count} pages where {asked} were offered",)
        if added:
            self._source.confirm(added)
        self._is_out, self._open = False, 0
        if added == 0 and message.result == 0:
            self._refusals.short(self._start, asked)
            return Answered(Then.END, 0, "the guest was short of resources", is_retryable=True)
        self._start += added
        self.left -= added
        self._got += added
        if added == asked and message.result:
            self._refusals.added()
            return Answered(Then.NEXT if self.left else Then.END, added, oddities=odd)
        self._refusals.is_final = True
        if not added:  # a failure has result 0
            odd = (_NO_HOT_ADD,)
        return Answered(Then.END, added, "the guest adds no more memory", odd)

    def finished(self) -> HostEvent:
        """Free what the guest has not taken, and return how it went."""
        if self.left:
            self._source.cancel()
        return HotAddFinished(self.asked, self._got)

    def abandon(self) -> None:
        """Give the guest the pages of a request without an answer, which it may have added; free the rest."""
        if self._is_out:
            self._source.confirm(self._open)
            self.left -= self._open
        if self.left:
            self._source.cancel()
