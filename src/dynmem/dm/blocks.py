"""Hot add and hot remove at the guest's end: what its kernel does, and how often it tries.

A guest that is short of resources holds its answer and tries again; after enough attempts it fails the
request. Its answer is then that of Linux drivers/hv/hv_balloon.c: result 1 for any page at all or a barrier,
result 0 for nothing for want of resources, after which the host may ask again.
"""

from typing import Final, NamedTuple, Protocol

from dynmem.dm.habits import Habits
from dynmem.errors import LocalProtocolError
from dynmem.limits import DM_HOT_REMOVE_RANGES, GUEST_PAGE_MAX
from dynmem.pages.ranges import RANGE_BYTES, START_BITS, page_count
from dynmem.units import MIB, PAGE_SIZE
from dynmem.wire import dm

# what a probe adds: a page that every guest has
_PROBED_PAGE: Final = 1


class Added(NamedTuple):
    """What one attempt to add memory came to. Fewer pages without being short: a barrier.

    Attributes:
        pages: Pages that were added.
        is_short: Whether resources ran out, so that another attempt makes sense.
        is_unsupported: Whether this kernel cannot add memory at all.

    """

    pages: int
    is_short: bool = False
    is_unsupported: bool = False


class MemoryBlocks(Protocol):
    """The guest's kernel, as far as it adds and removes memory. Everything is in pages of 4 KiB."""

    @property
    def alignment_pages(self) -> int:
        """What start and length of added memory are multiples of: 2^n MiB, at most 32 GiB."""

    def hot_add(self, start: int, pages: int) -> Added:
        """Add memory from page `start` on, as much as possible; nothing where there is memory already."""

    def hot_remove(self, pages: int, virtual_node: int, qos_flags: int) -> bytes:
        """Take at most `pages` out of use, in at most 509 packed ranges; b"" when there are none."""

    def put_back(self, ranges: bytes) -> None:
        """Use pages again that `hot_remove` returned: they were never sent to the host."""


def capabilities(blocks: MemoryBlocks, habits: Habits) -> int:
    """Return the capability bits that go with adding and removing memory; a driver may probe the kernel."""
    bits = 0
    if habits.hot_adds and not (habits.probes_hot_add and blocks.hot_add(_PROBED_PAGE, 1).is_unsupported):
        shift = (blocks.alignment_pages * PAGE_SIZE // MIB).bit_length() - 1
        bits |= dm.CAP_HOT_ADD | shift << dm.HOT_ADD_ALIGNMENT_SHIFT
    if habits.hot_removes:
        bits |= dm.CAP_HOT_REMOVE
    return bits


def lies_in(region: int | None, start: int, pages: int) -> bool:
    """Return whether a region (a packed range word), if there is one, holds these pages."""
    if region is None:
        return True
    first, count = region & GUEST_PAGE_MAX, region >> START_BITS
    return first <= start and start + pages <= first + count


class HotAdding:
    """A hot add that is being answered.

    Attributes:
        start: The first page of the offer.
        offered: Pages in the offer.
        done: Pages that were added.
        retry_at: When to try again, if the answer is held.

    """

    def __init__(self, start: int, pages: int, attempts: int) -> None:
        self.start: Final = start
        self.offered: Final = pages
        self.done: int = 0
        self.retry_at: int | None = None
        self._attempts = attempts

    def attempt(self, blocks: MemoryBlocks) -> tuple[Added, tuple[int, int] | None]:
        """Try once; return what was added and the answer (page_count, result), None to hold it."""
        left = self.offered - self.done
        added = blocks.hot_add(self.start + self.done, left)
        if not 0 <= added.pages <= left:
            raise LocalProtocolError(f"the guest added {added.pages} of {left} pages")
        self.done += added.pages
        if self.done == self.offered or not added.is_short:
            return added, (self.done, 1)
        if not added.pages:
            self._attempts -= 1
        if self._attempts > 0:
            return added, None
        return added, (self.done, int(self.done > 0))


class HotRemoving:
    """A hot remove that is being answered.

    Attributes:
        asked: Pages that the host wants.
        given: Pages in the responses that were sent.
        unsent: Ranges that are out of use, and not sent yet.

    """

    def __init__(self, request: dm.HotRemoveRequest) -> None:
        self.asked: Final = request.page_count
        self.given: int = 0
        self.unsent: bytes = b""
        self._request = request

    def build(self, trans_id: int, blocks: MemoryBlocks) -> dm.HotRemoveResponse:
        """Return the next response; it is the last if it is empty or has all that is left."""
        left = self.asked - self.given
        request = self._request
        self.unsent = blocks.hot_remove(left, request.virtual_node, request.qos_flags) if left else b""
        pages = page_count(self.unsent)
        if pages > left or len(self.unsent) > DM_HOT_REMOVE_RANGES * RANGE_BYTES:
            raise LocalProtocolError(f"the guest removed {pages} pages where {left} were wanted")
        result = int(self.given + pages > 0 or not self.asked)
        return dm.HotRemoveResponse(trans_id, result, 0 < pages < left, self.unsent)
