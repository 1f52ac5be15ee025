"""The operations of the host's end: balloon, unballoon and hot remove; hot add is in `dynmem.dm.hot_add`.

The protocol machine moves through the same states for each: room in the ring, posting, the wait for the
answer. An operation builds the requests and knows what an answer means.
"""

import enum
from typing import ClassVar, Final, NamedTuple, Protocol

from dynmem.dm.events import BalloonFinished, HostEvent, HotRemoveFinished
from dynmem.dm.states import HostStep
from dynmem.dm.stores import GivenUp, HotAddSource, PageStore
from dynmem.errors import LocalProtocolError
from dynmem.limits import DM_RANGES_PER_MESSAGE, DM_UNBALLOON_CHUNK_PAGES
from dynmem.pages.ranges import page_count
from dynmem.wire import dm

DONE = "done"
_U32_MAX = 0xFFFF_FFFF


class Then(enum.Enum):
    """What follows an answer."""

    WAIT = enum.auto()  # more of the answer
    NEXT = enum.auto()  # the next request of the operation
    END = enum.auto()


class Answered(NamedTuple):
    """What came of an answer of the guest.

    Attributes:
        then: What follows.
        pages: Pages that the guest took, or that it gave and were new.
        outcome: How the operation ended, if it did.
        oddities: What was strange about it, in sentences for the log.
        is_retryable: Whether the same request makes sense again later.

    """

    then: Then
    pages: int = 0
    outcome: str = DONE
    oddities: tuple[str, ...] = ()
    is_retryable: bool = False


class Operation(Protocol):
    """One operation, from its beginning to its last answer. Everything is in pages.

    Attributes:
        kind: What the journal calls it.
        step: The step that leads into it from S_IDLE.

    """

    kind: ClassVar[str]
    step: ClassVar[HostStep]

    @property
    def asked(self) -> int:
        """Pages that were wanted when it began."""

    @property
    def left(self) -> int:
        """Pages of it that are not requested or not answered yet."""

    @property
    def held_pages(self) -> int:
        """Pages that were taken from the store and are not in the ring yet."""

    @property
    def allowance_ns(self) -> int:
        """The time that a healthy guest may need for the request that is out, beside the usual deadline."""

    def build(self, trans_id: int, *, is_cut: bool) -> dm.Message:
        """Return the next request; the last one of the operation if `is_cut`."""

    def sent(self) -> tuple[int, bool]:
        """Record that the request was sent; return its pages and whether another part follows at once."""

    def answered(self, message: dm.Message) -> Answered:
        """Take one answer, of the type that goes with the operation."""

    def finished(self) -> HostEvent | None:
        """Return what to report when it is over."""

    def abandon(self) -> None:
        """Put back what was not posted: the channel is closed."""


class Balloon:
    """The guest gives up pages, one chunk after the other.

    Attributes:
        is_at_floor: Whether the guest has no more pages to give.

    """

    kind: ClassVar[str] = "balloon"
    step: ClassVar[HostStep] = HostStep.BALLOON
    held_pages = 0
    allowance_ns = 0

    def __init__(self, asked: int, store: PageStore, chunk: int) -> None:
        self.asked: Final = asked
        self.left: int = asked
        self.is_at_floor: bool = False
        self._store = store
        self._chunk = chunk
        self._open = 0  # of the request that was sent, not answered yet
        self._got = 0

    def build(self, trans_id: int, *, is_cut: bool) -> dm.Message:
        self._open = min(self.left, self._chunk)
        return dm.BalloonRequest(trans_id, self._open)

    def sent(self) -> tuple[int, bool]:
        return self._open, False

    def answered(self, message: dm.Message) -> Answered:
        """Take all pages that come, also those beyond the request."""
        assert isinstance(message, dm.BalloonResponse)
        pages = page_count(message.ranges)
        given = self._store.add_given(message.ranges) if message.ranges else GivenUp(0, 0, 0)
        odd = []
        if given.duplicates or given.rejected:
            odd.append(
                f"of {pages} pages that the guest gave up it had given up {given.duplicates} before, "
                f"and {given.rejected} are not in its memory"
            )
        if pages > self._open:
            odd.append(f"the guest gave up {pages} pages where {self._open} were asked for")
        self._got += given.new
        self._open = max(0, self._open - pages)
        self.left = max(0, self.left - pages)
        if message.more_pages:
            return Answered(Then.WAIT, given.new, oddities=tuple(odd))
        if not message.ranges:
            self.is_at_floor = True
            return Answered(Then.END, 0, "the guest has no more to give", tuple(odd))
        return Answered(Then.NEXT if self.left else Then.END, given.new, oddities=tuple(odd))

    def finished(self) -> HostEvent:
        return BalloonFinished(self.asked, self._got)

    def abandon(self) -> None:
        """Keep what was received."""


class Unballoon:
    """The guest gets pages back, in one or more messages with one answer to all of them.

    Attributes:
        hot_add: Pages that are still missing when all are returned.

    """

    kind: ClassVar[str] = "unballoon"
    step: ClassVar[HostStep] = HostStep.UNBALLOON
    allowance_ns = 0

    def __init__(self, asked: int, store: PageStore, hot_add: int) -> None:
        self.asked: Final = asked
        self.hot_add: Final = hot_add
        self.held_pages: int = 0
        self.left: int = asked
        self._ranges = b""  # taken from the store, not sent yet
        self._more = False
        self._is_short = False
        self._posted = 0
        self._store = store

    def build(self, trans_id: int, *, is_cut: bool) -> dm.Message:
        amount = min(self.left, DM_UNBALLOON_CHUNK_PAGES)
        self._ranges = self._store.remove_for_guest(amount, DM_RANGES_PER_MESSAGE)
        self.held_pages = page_count(self._ranges)
        self.left -= self.held_pages
        more = self.left > 0 and self._store.removed_pages > 0
        self._is_short = more and not self._ranges  # the host has no memory to put under them
        self._more = more and not self._is_short and not is_cut
        return dm.UnballoonRequest(trans_id, self._more, self._ranges)

    def sent(self) -> tuple[int, bool]:
        pages, self.held_pages, self._ranges = self.held_pages, 0, b""
        self._posted += pages
        return pages, self._more

    def answered(self, message: dm.Message) -> Answered:
        if self._is_short:
            odd = (
                f"{self.left} of {self.asked} pages stay in the balloon: the host has no memory for them, "
                "and the guest stays below its target until the target is set again"
            )
            return Answered(Then.END, self._posted, "the host has no memory for the rest", (odd,))
        return Answered(Then.END, self._posted, "another target came" if self.left else DONE)

    def finished(self) -> HostEvent | None:
        """Return None: nothing changes but the size, which is reported as it changes."""
        return None

    def withdraw(self) -> None:
        """Put the pages of the request that was built back into the store: it will not be sent."""
        if self._ranges:
            self._store.undo(self._ranges)
        self.left += self.held_pages
        self.held_pages, self._ranges = 0, b""

    def abandon(self) -> None:
        self.withdraw()


class HotRemove:
    """The guest gives up pages permanently, so that memory can be unplugged."""

    kind: ClassVar[str] = "hot remove"
    step: ClassVar[HostStep] = HostStep.HOT_REMOVE
    held_pages = 0
    allowance_ns = 0

    def __init__(self, asked: int, source: HotAddSource, *, virtual_node: int, qos_flags: int) -> None:
        if not 0 < asked <= _U32_MAX:
            raise LocalProtocolError(f"a hot remove of {asked} pages: it needs 1 to {_U32_MAX}")
        if not 0 <= virtual_node <= _U32_MAX:
            raise LocalProtocolError(f"virtual node {virtual_node} is not in 0..{_U32_MAX}")
        if qos_flags & ~dm.REMOVE_QOS_MASK:
            raise LocalProtocolError(f"{qos_flags:#x} has flags that a hot remove does not have")
        self.asked: Final = asked
        self.left: int = asked
        self._source = source
        self._virtual_node = virtual_node
        self._qos_flags = qos_flags
        self._got = 0

    def keep(self, actual: int, least: int) -> int:
        """Reduce the request to what takes a guest of `actual` pages down to `least`; return its pages."""
        self.left = min(self.asked, max(0, actual - least))
        return self.left

    def build(self, trans_id: int, *, is_cut: bool) -> dm.Message:
        return dm.HotRemoveRequest(trans_id, self._virtual_node, self.left, self._qos_flags)

    def sent(self) -> tuple[int, bool]:
        return self.left, False

    def answered(self, message: dm.Message) -> Answered:
        """Remove the pages of the answer permanently, where they were hot-added before."""
        assert isinstance(message, dm.HotRemoveResponse)
        taken = self._source.remove(message.ranges) if message.ranges else GivenUp(0, 0, 0)
        self._got += taken.new
        lost = taken.duplicates + taken.rejected
        odd = (f"the guest gave up {lost} pages permanently that were not added to it",) if lost else ()
        if message.more_pages:
            return Answered(Then.WAIT, taken.new, oddities=odd)
        return Answered(Then.END, taken.new, DONE if message.result else "the guest could not", odd)

    def finished(self) -> HostEvent:
        return HotRemoveFinished(self.asked, self._got)

    def abandon(self) -> None:
        """Keep what was received."""
