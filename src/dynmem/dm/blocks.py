"""Hot add and hot remove at the guest's end: what its kernel does, and how often it is tried.

A guest that is short of resources holds its answer and tries again; when it has tried in vain often enough it
fails the request. What it answers then is Linux drivers/hv/hv_balloon.c: any page at all, or a barrier, is
result 1; nothing for want of resources is result 0, and the host may ask again later.
"""

from typing import Final, NamedTuple, Protocol

from dynmem.errors import LocalProtocolError
from dynmem.limits import DM_HOT_REMOVE_RANGES, GUEST_PAGE_MAX
from dynmem.pages.ranges import RANGE_BYTES, START_BITS, page_count
from dynmem.units import MIB, PAGE_SIZE
from dynmem.wire import dm


class Added(NamedTuple):
    """What one attempt to add memory came to. Fewer pages, and not short of anything: a barrier."""

    pages: int
    is_short: bool = False  # of resources: worth trying again


class MemoryBlocks(Protocol):
    """The guest's kernel, as far as memory comes and goes for good. All in pages of 4 KiB."""

    @property
    def alignment_pages(self) -> int:
        """Start and length of what is added are multiples of it: a power of two of MiB, 32 GiB at most."""

    def hot_add(self, start: int, pages: int) -> Added:
        """Add memory from page `start` on, as much of it as goes."""

    def hot_remove(self, pages: int, virtual_node: int, qos_flags: int) -> bytes:
        """Take at most so many pages out of use, in at most 509 packed ranges; b"" when there are none."""

    def put_back(self, ranges: bytes) -> None:
        """Use pages again that `hot_remove` gave: the host never heard of them."""


def capabilities(blocks: MemoryBlocks) -> int:
    """The capability bits that go with adding and removing memory."""
    shift = (blocks.alignment_pages * PAGE_SIZE // MIB).bit_length() - 1
    return dm.CAP_HOT_ADD | dm.CAP_HOT_REMOVE | shift << dm.HOT_ADD_ALIGNMENT_SHIFT


def lies_in(region: int | None, start: int, pages: int) -> bool:
    """Whether a region (a packed range word), if there is one, holds these pages."""
    if region is None:
        return True
    first, count = region & GUEST_PAGE_MAX, region >> START_BITS
    return first <= start and start + pages <= first + count


class HotAdding:
    """A hot add that is being answered."""

    def __init__(self, start: int, pages: int, attempts: int) -> None:
        self.start = start
        self.offered = pages
        self.done: int = 0
        self.retry_at: int | None = None
        self._attempts = attempts

    def attempt(self, blocks: MemoryBlocks) -> tuple[Added, tuple[int, int] | None]:
        """Try: what was added, and the answer (page_count, result), or None when it is to be held."""
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
    """A hot remove that is being answered."""

    def __init__(self, request: dm.HotRemoveRequest) -> None:
        self.asked: Final = request.page_count
        self.given = 0  # in responses that were sent
        self.unsent: bytes = b""
        self._request = request

    def build(self, trans_id: int, blocks: MemoryBlocks) -> dm.HotRemoveResponse:
        """The next response; the last one is not full of what is wanted, or has all of it."""
        left = self.asked - self.given
        request = self._request
        self.unsent = blocks.hot_remove(left, request.virtual_node, request.qos_flags) if left else b""
        pages = page_count(self.unsent)
        if pages > left or len(self.unsent) > DM_HOT_REMOVE_RANGES * RANGE_BYTES:
            raise LocalProtocolError(f"the guest removed {pages} pages where {left} were wanted")
        result = int(self.given + pages > 0 or not self.asked)
        return dm.HotRemoveResponse(trans_id, result, 0 < pages < left, self.unsent)
