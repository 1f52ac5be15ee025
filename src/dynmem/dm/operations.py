"""The operations of the host's end: each is asked for in messages, answered, and over in the end.

The protocol machine moves through the same states for each (room in the ring, posting, the wait for the
answer); what is asked and what an answer means is here, hot add in `dynmem.dm.hot_add`.
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
    """What an answer of the guest came to."""

    then: Then
    pages: int = 0  # that the guest took, or gave and were new
    outcome: str = DONE  # how the operation ended, if it did
    oddities: tuple[str, ...] = ()  # sentences for the log
    is_retryable: bool = False  # the guest may be asked again later


class Operation(Protocol):
    """One operation, from its begin to its last answer. Everything is in pages."""

    kind: ClassVar[str]
    step: ClassVar[HostStep]  # that leads into it from S_IDLE

    @property
    def asked(self) -> int:
        """What was asked for when it began."""

    @property
    def left(self) -> int:
        """Pages of it that are still to be asked for or answered."""

    @property
    def held_pages(self) -> int:
        """Pages taken from the store that are not in the ring yet."""

    def build(self, trans_id: int, *, is_cut: bool) -> dm.Message:
        """The next request; the last one of the operation if it is to be cut short."""

    def sent(self) -> tuple[int, bool]:
        """Enter that the request is in the ring: its pages, and whether more of it follows at once."""

    def answered(self, message: dm.Message) -> Answered:
        """Enter one answer, of the type that goes with the operation."""

    def finished(self) -> HostEvent | None:
        """What is to be told when it is over."""

    def abandon(self) -> None:
        """The channel is closed: leave nothing behind that was not posted."""


class Balloon:
    """The guest is to give up pages, one chunk after the other."""

    kind: ClassVar[str] = "balloon"
    step: ClassVar[HostStep] = HostStep.BALLOON
    held_pages = 0

    def __init__(self, asked: int, store: PageStore, chunk: int) -> None:
        self.asked = asked
        self.left: int = asked  # not answered yet
        self.is_at_floor: bool = False  # the guest has nothing more to give
        self._store = store
        self._chunk = chunk
        self._open = 0  # of the request that is out, not answered yet
        self._got = 0

    def build(self, trans_id: int, *, is_cut: bool) -> dm.Message:
        """The next chunk."""
        self._open = min(self.left, self._chunk)
        return dm.BalloonRequest(trans_id, self._open)

    def sent(self) -> tuple[int, bool]:
        """It is in the ring."""
        return self._open, False

    def answered(self, message: dm.Message) -> Answered:
        """Enter pages: all that come, also those beyond what was asked for."""
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
        """How it went."""
        return BalloonFinished(self.asked, self._got)

    def abandon(self) -> None:
        """What came, came."""


class Unballoon:
    """The guest gets pages back, as many messages as it takes, with one answer to all of them."""

    kind: ClassVar[str] = "unballoon"
    step: ClassVar[HostStep] = HostStep.UNBALLOON

    def __init__(self, asked: int, store: PageStore, hot_add: int) -> None:
        self.asked = asked
        self.hot_add = hot_add  # pages that are still missing when all are given back
        self.held_pages: int = 0
        self.left: int = asked  # to be taken from the store
        self._ranges = b""  # taken, not sent yet
        self._more = False
        self._is_short = False
        self._posted = 0
        self._store = store

    def build(self, trans_id: int, *, is_cut: bool) -> dm.Message:
        """The next part."""
        amount = min(self.left, DM_UNBALLOON_CHUNK_PAGES)
        self._ranges = self._store.remove_for_guest(amount, DM_RANGES_PER_MESSAGE)
        self.held_pages = page_count(self._ranges)
        self.left -= self.held_pages
        more = self.left > 0 and self._store.removed_pages > 0
        self._is_short = more and not self._ranges  # the host cannot have their memory again
        self._more = more and not self._is_short and not is_cut
        return dm.UnballoonRequest(trans_id, self._more, self._ranges)

    def sent(self) -> tuple[int, bool]:
        """It is in the ring, and the pages are the guest's."""
        pages, self.held_pages, self._ranges = self.held_pages, 0, b""
        self._posted += pages
        return pages, self._more

    def answered(self, message: dm.Message) -> Answered:
        """The guest has them all, but for what the host has no memory for."""
        if self._is_short:
            odd = (
                f"{self.left} of {self.asked} pages stay in the balloon: the host has no memory for them, "
                "and the guest is short of its target until it is asked again"
            )
            return Answered(Then.END, self._posted, "the host has no memory for the rest", (odd,))
        return Answered(Then.END, self._posted, "another target came" if self.left else DONE)

    def finished(self) -> HostEvent | None:
        """Nothing but the size, which is told as it changes."""
        return None

    def withdraw(self) -> None:
        """The request that was built is not to be sent: its pages are in the store again."""
        if self._ranges:
            self._store.undo(self._ranges)
        self.left += self.held_pages
        self.held_pages, self._ranges = 0, b""

    def abandon(self) -> None:
        """What was taken and never sent is still the guest's gift."""
        self.withdraw()


class HotRemove:
    """The guest is to give up pages for good, so that memory can be unplugged."""

    kind: ClassVar[str] = "hot remove"
    step: ClassVar[HostStep] = HostStep.HOT_REMOVE
    held_pages = 0

    def __init__(self, asked: int, source: HotAddSource, *, virtual_node: int, qos_flags: int) -> None:
        if not 0 < asked <= _U32_MAX:
            raise LocalProtocolError(f"{asked} pages cannot be asked for in a hot remove")
        if not 0 <= virtual_node <= _U32_MAX:
            raise LocalProtocolError(f"there is no virtual node {virtual_node}")
        if qos_flags & ~dm.REMOVE_QOS_MASK:
            raise LocalProtocolError(f"{qos_flags:#x} has flags that a hot remove does not know")
        self.asked: Final = asked
        self.left: int = asked
        self._source = source
        self._virtual_node = virtual_node
        self._qos_flags = qos_flags
        self._got = 0

    def keep(self, actual: int, least: int) -> int:
        """Reduce the wish to what takes a guest of `actual` pages down to `least`; return the pages left."""
        self.left = min(self.asked, max(0, actual - least))
        return self.left

    def build(self, trans_id: int, *, is_cut: bool) -> dm.Message:
        """The only request."""
        return dm.HotRemoveRequest(trans_id, self._virtual_node, self.left, self._qos_flags)

    def sent(self) -> tuple[int, bool]:
        """It is in the ring."""
        return self.left, False

    def answered(self, message: dm.Message) -> Answered:
        """Enter one answer: pages come back for good only where they were hot-added before."""
        assert isinstance(message, dm.HotRemoveResponse)
        taken = self._source.remove(message.ranges) if message.ranges else GivenUp(0, 0, 0)
        self._got += taken.new
        lost = taken.duplicates + taken.rejected
        odd = (f"the guest gave up {lost} pages for good that were not added to it",) if lost else ()
        if message.more_pages:
            return Answered(Then.WAIT, taken.new, oddities=odd)
        return Answered(Then.END, taken.new, DONE if message.result else "the guest could not", odd)

    def finished(self) -> HostEvent:
        """How it went."""
        return HotRemoveFinished(self.asked, self._got)

    def abandon(self) -> None:
        """What came, came."""
