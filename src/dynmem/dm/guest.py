"""The guest's end of the Dynamic Memory Protocol: no I/O, no clock; bytes and nanoseconds come in.

It behaves as Linux drivers/hv/hv_balloon.c does: versions from the newest down, status once a second with the
floor and the given-up pages counted as committed, fewer pages than asked rather than none, transaction ids of
its own. Unlike Linux it does not trust the host: it knows which pages it has given and takes back no others,
and which memory it has and adds none of it twice. Other guests' habits can be put on.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from dynmem.dm.blocks import HotAdding, HotRemoving, MemoryBlocks, capabilities, lies_in
from dynmem.dm.events import (
    Anomaly,
    BalloonedDown,
    BalloonedUp,
    Crashed,
    GuestEvent,
    HotAdded,
    HotRemoved,
    ServiceFailed,
    StateChanged,
)
from dynmem.dm.floor import balloon_floor
from dynmem.dm.habits import LINUX, Habits
from dynmem.dm.states import GUEST_SERVES, GUEST_TABLE, GuestState, GuestStep
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import (
    DM_EVENTS_PENDING,
    DM_HOT_ADD_ATTEMPTS,
    DM_RANGES_PER_MESSAGE,
    DM_REPLIES_PENDING,
    GUEST_PAGE_MAX,
)
from dynmem.pages.page_set import PageSet
from dynmem.pages.ranges import RANGE_BYTES, START_BITS, page_count, span
from dynmem.units import NS_PER_S
from dynmem.wire import dm
from dynmem.wire.layout import NEWEST

VERSIONS: Final = (dm.VERSION_WIN10, dm.VERSION_WIN8, dm.VERSION_WIN7)
ANSWER_DEADLINE_NS: Final = 5 * NS_PER_S  # for the version and for the capabilities, each, as Linux
MAX_PAGE_COUNT_BYTES: Final = 8
HOT_ADD_NEVER: Final = 1  # with no pages: added nothing and never will; 0 would mean "ask again later"


class GuestPages(Protocol):
    """The guest's page allocator, as far as the balloon needs it. All in pages of 4 KiB."""

    @property
    def available_pages(self) -> int:
        """Free pages, with what could be freed at no cost (MemAvailable)."""

    @property
    def committed_pages(self) -> int:
        """What programs have asked for, without what the balloon holds."""

    def allocate_for_balloon(self, pages: int) -> bytes:
        """Allocate at most so many pages in at most 510 packed ranges; b"" when there are none."""

    def free_from_balloon(self, ranges: bytes) -> None:
        """Free pages that were allocated for the balloon."""


class _Giving(msgspec.Struct):
    asked: int  # pages the host wants
    left: int  # pages still to be allocated: may be fewer, for the floor's sake
    given: int = 0  # in responses that were sent


class _Response(msgspec.Struct):
    ranges: bytes  # allocated, not sent yet
    pages: int
    more_pages: bool


class DynamicMemoryGuest:
    """One balloon channel's guest end. Every `now` is in nanoseconds of the guest's clock."""

    def __init__(
        self,
        *,
        pages: GuestPages,
        total_pages: int,
        versions: Sequence[int] = VERSIONS,
        caps: int = dm.CAP_BALLOON,
        min_page_cnt: int = 0,
        status_interval_ns: int = NS_PER_S,
        status_delay_ns: int = 0,
        answer_deadline_ns: int = ANSWER_DEADLINE_NS,
        blocks: MemoryBlocks | None = None,
        page_limit: int | None = None,
        hot_add_attempts: int = DM_HOT_ADD_ATTEMPTS,
        hot_add_retry_ns: int = NS_PER_S,
        habits: Habits = LINUX,
    ) -> None:
        """Start CLOSED.

        Args:
            pages: the allocator.
            total_pages: the guest's memory at boot, ballooned or not: pages 0 to `total_pages` - 1.
            versions: protocol versions to try, in this order, at least one.
            caps: capability bits to report, beside those that `blocks` brings.
            min_page_cnt: pages below which the guest does not want to go, to report.
            status_interval_ns: between two status reports.
            status_delay_ns: from the end of the handshake to the first one (Linux: 45 s).
            answer_deadline_ns: for each answer of the handshake.
            blocks: the kernel that adds and removes memory, if there is one.
            page_limit: page numbers that can ever be added are below this.
            hot_add_attempts: in vain, for want of resources, before a hot add is failed.
            hot_add_retry_ns: between two attempts.
            habits: of another system's guest.

        """
        if not versions:
            raise ValueError("a guest needs at least one protocol version to try")
        self._pages = pages
        self._versions = tuple(versions)
        self._caps = caps | (capabilities(blocks) if blocks is not None else 0)
        self._blocks = blocks
        self._page_limit = max(total_pages, page_limit or 0)
        self._hot_add_attempts = hot_add_attempts
        self._hot_add_retry_ns = hot_add_retry_ns
        self._habits = habits
        self._min_page_cnt = min_page_cnt
        self._status_interval_ns = status_interval_ns
        self._status_delay_ns = status_delay_ns
        self._answer_deadline_ns = answer_deadline_ns
        self._owned = PageSet(self._page_limit)  # its memory, given up or not
        self._owned.add(span(0, total_pages))
        self._given = PageSet(self._page_limit)  # sent to the host, not come back
        self._state = GuestState.CLOSED
        self._events: deque[GuestEvent] = deque()
        self._trans_id = 0
        self.max_page_count: int | None = None  # what the host said this guest will ever have, in pages
        self._forget_channel()

    def _forget_channel(self) -> None:
        """Set what belongs to one opened channel back to nothing."""
        self._attempt = 0
        self._deadline: int | None = None
        self._status_at: int | None = None
        self._status_due = False
        self._replies: deque[Callable[[int], dm.Message]] = deque()  # each takes the transaction id
        self._giving: _Giving | None = None
        self._response: _Response | None = None
        self._adding: HotAdding | None = None
        self._removing: HotRemoving | None = None
        self._settled_at = 0
        self._offered: bytes | None = None
        self._on_sent: Callable[[int], None] = self._sent_nothing
        self.version: int | None = None
        self.reports_status: bool = True
        self.may_hot_remove: bool = False  # the host said that it can

    @property
    def state(self) -> GuestState:
        """The state of the machine."""
        return self._state

    @property
    def ballooned_pages(self) -> int:
        """Pages that the host has and this guest must not touch."""
        return len(self._given)

    @property
    def total_pages(self) -> int:
        """Its memory, what was added included, and what it has given up."""
        return len(self._owned)

    @property
    def floor_pages(self) -> int:
        """Free pages that it keeps, by its size now: Linux, since 5.11, leaves out what the balloon holds."""
        return balloon_floor(len(self._owned) - len(self._given))

    def memory_changed(self, *, come: bytes = b"", gone: bytes = b"") -> None:
        """Tell of memory that came or went by another way than this protocol, as a DIMM does: ranges."""
        self._owned.add(come)
        self._owned.remove(gone)

    def channel_opened(self, now: int) -> None:
        """The channel is open: ask for the first version."""
        self._move(GuestStep.OPEN)
        self._forget_channel()
        if self._state is GuestState.VERSION_WAIT:
            self._ask_version(now)

    def channel_closed(self, now: int) -> None:
        """The channel is gone: what was allocated and not sent is freed, what was given stays given."""
        if self._response is not None and self._response.ranges:
            self._pages.free_from_balloon(self._response.ranges)
        if self._removing is not None and self._removing.unsent and self._blocks is not None:
            self._blocks.put_back(self._removing.unsent)
        self._forget_channel()
        self._move(GuestStep.CLOSE)

    def tick(self, now: int) -> None:
        """Let time pass: an answer that never came ends the handshake, a status report falls due."""
        if self._deadline is not None and now >= self._deadline:
            self._fail(f"the host did not answer in {self._state.value}")
        if self._status_at is not None and now >= self._status_at:
            self._status_due = True
            self._status_at = None
        if self._adding is not None and self._adding.retry_at is not None and now >= self._adding.retry_at:
            self._try_hot_add(self._adding, now)

    def deadline_ns(self) -> int | None:
        """When `tick` is next needed."""
        retry_at = self._adding.retry_at if self._adding is not None else None
        times = (self._deadline, self._status_at, retry_at)
        return min((time for time in times if time is not None), default=None)

    def take_events(self) -> list[GuestEvent]:
        """Everything that happened since the last call, in order."""
        events = list(self._events)
        self._events.clear()
        return events

    def next_message(self) -> bytes | None:
        """The message to send now, the same one until `message_sent`; None when there is none.

        Pages for the balloon are allocated here, as many as one response holds, so each call is short.
        """
        if self._offered is None:
            built = self._build()
            if built is None:
                return None
            self._offered = dm.encode(built)
        return self._offered

    def message_sent(self, now: int) -> None:
        """The message that `next_message` gave is in the ring."""
        if self._offered is None:
            raise LocalProtocolError("no message was offered, so none can have been sent")
        self._offered = None
        self._trans_id = (self._trans_id + 1) & 0xFFFF_FFFF
        self._on_sent(now)

    def receive(self, data: bytes, now: int) -> None:
        """Take one message of the host.

        Raises RemoteProtocolError, and changes nothing, when it is malformed, comes at the wrong time or
        gives back pages that were not given. After the handshake has failed everything is skipped: an answer
        that came too late is nobody's fault. A guest that has crashed takes nothing in.
        """
        if self._state is GuestState.CRASHED:
            return
        message = dm.decode(data, self.version or NEWEST)
        rule = RULES.get(type(message))
        if rule is None:
            raise RemoteProtocolError(f"a host sent {type(message).__name__}, which only a guest sends")
        if rule.is_request and self._state in GUEST_SERVES and now < self._settled_at:
            self._crash(f"a {type(message).__name__} came before the guest had settled")
        elif self._state is GuestState.INIT_ERROR or not rule.is_known(self):
            self._skip(message, now)
        elif self._state in rule.states:
            rule.handler(self, message, now)
        else:
            raise RemoteProtocolError(f"the host sent {type(message).__name__} in {self._state.value}")

    def _move(self, step: GuestStep) -> None:
        """Take one step of the table."""
        new = GUEST_TABLE.get((self._state, step))
        if new is None:
            raise LocalProtocolError(f"the guest cannot do {step.name} in {self._state.value}")
        if new is not self._state:
            self._events.append(StateChanged(self._state, new))
            self._state = new

    def _report(self, event: GuestEvent) -> None:
        """Keep an event that a host can cause at will, unless too many have not been taken yet."""
        if len(self._events) < DM_EVENTS_PENDING:
            self._events.append(event)

    def _fail(self, reason: str) -> None:
        """Give the service up on this channel."""
        self._forget_channel()
        self._move(GuestStep.FAIL)
        self._events.append(ServiceFailed(reason))

    def _crash(self, reason: str) -> None:
        """Be gone."""
        self._forget_channel()
        self._move(GuestStep.CRASH)
        self._events.append(Crashed(reason))

    def _expect_answers_read(self) -> None:
        """Cut off a host that asks on and on without reading."""
        if len(self._replies) >= DM_REPLIES_PENDING:
            raise RemoteProtocolError("the host sends requests and does not read the answers")

    def _ask_version(self, now: int) -> None:
        """Ask for the version whose turn it is."""
        version = self._versions[self._attempt]
        last = self._attempt == len(self._versions) - 1
        self._replies.append(lambda trans_id: dm.VersionRequest(trans_id, version, last))
        self._deadline = now + self._answer_deadline_ns

    def _build(self) -> dm.Message | None:
        """The next message, and what follows once it is sent; built late, so that it tells what is so."""
        if self._replies:
            self._on_sent = self._sent_reply
            return self._replies[0](self._trans_id)
        if self._status_due:
            self._on_sent = self._sent_status
            return self._build_status()
        if self._giving is not None:
            self._on_sent = self._sent_response
            return self._build_response(self._giving)
        if self._removing is not None and self._blocks is not None:
            self._on_sent = self._sent_removal
            return self._removing.build(self._trans_id, self._blocks)
        return None

    def _build_status(self) -> dm.StatusReport:
        """Memory as Linux's post_status tells it: what is given up and the floor count as committed."""
        committed = self._pages.committed_pages + self.ballooned_pages + self.floor_pages
        return dm.StatusReport(self._trans_id, self._pages.available_pages, committed, 0, 0, 0, 0)

    def _build_response(self, giving: _Giving) -> dm.BalloonResponse:
        """Allocate one message of pages; the request ends with its last page or with an empty response."""
        ranges = self._pages.allocate_for_balloon(giving.left) if giving.left else b""
        pages = page_count(ranges)
        if pages > giving.left or len(ranges) > DM_RANGES_PER_MESSAGE * RANGE_BYTES:
            raise LocalProtocolError("the allocator gave more pages or ranges than it was asked for")
        giving.left -= pages
        more = pages > 0 and giving.left > 0
        self._response = _Response(ranges, pages, more)
        return dm.BalloonResponse(self._trans_id, more, ranges)

    def _sent_nothing(self, now: int) -> None:
        """Nothing hangs on this message."""

    def _sent_reply(self, now: int) -> None:
        self._replies.popleft()

    def _sent_status(self, now: int) -> None:
        self._status_due = False
        self._status_at = now + self._status_interval_ns

    def _sent_response(self, now: int) -> None:
        giving, response = self._giving, self._response
        assert giving is not None
        assert response is not None
        if response.ranges and self._given.add(response.ranges).new != response.pages:
            raise LocalProtocolError("the allocator gave pages that the balloon has, or that do not exist")
        self._response = None
        giving.given += response.pages
        if not response.more_pages:
            self._giving = None
            self._events.append(BalloonedUp(giving.asked, giving.given))
            self._move(GuestStep.DONE)

    def _sent_removal(self, now: int) -> None:
        removing = self._removing
        assert removing is not None
        ranges, removing.unsent = removing.unsent, b""
        pages = page_count(ranges)
        if ranges and (self._given.overlaps(ranges) or not self._owned.remove(ranges)):
            raise LocalProtocolError("the guest removed memory that it does not have")
        removing.given += pages
        if not pages or removing.given == removing.asked:
            self._removing = None
            self._events.append(HotRemoved(removing.asked, removing.given))
            self._move(GuestStep.DONE)

    def _on_version(self, message: dm.VersionResponse, now: int) -> None:
        self._expect_answers_read()
        if message.is_accepted:
            self.version = self._versions[self._attempt]
            self._move(GuestStep.VERSION_ACCEPTED)
            caps, least = self._caps, self._min_page_cnt
            last = self._page_limit - 1 if self._blocks is not None else _NO_LIMIT
            self._replies.append(lambda trans_id: dm.CapabilitiesReport(trans_id, caps, least, last))
            self._deadline = now + self._answer_deadline_ns
        elif self._attempt + 1 < len(self._versions):
            self._attempt += 1
            self._ask_version(now)
        else:
            self._fail("the host refused every protocol version")

    def _on_capabilities(self, message: dm.CapabilitiesResponse, now: int) -> None:
        if not message.is_accepted:
            self._fail("the host refused the capabilities")
            return
        self._deadline = None
        self.reports_status = not message.suppress_pressure_reports
        self.may_hot_remove = message.hot_remove
        self._settled_at = now + self._habits.settles_ns
        if self.reports_status:
            self._status_at = now + self._status_delay_ns
        self._move(GuestStep.CAPABILITIES_ACCEPTED)

    def _on_balloon(self, message: dm.BalloonRequest, now: int) -> None:
        most = self._habits.largest_request_pages
        if most is not None and message.num_pages > most:
            self._report(Anomaly(f"the host asked for {message.num_pages} pages at once: not answered"))
            return
        spare = max(0, self._pages.available_pages - self.floor_pages)
        self._giving = _Giving(asked=message.num_pages, left=min(message.num_pages, spare))
        self._move(GuestStep.BALLOON)

    def _on_unballoon(self, message: dm.UnballoonRequest, now: int) -> None:
        self._expect_answers_read()
        pages = page_count(message.ranges)
        if not self._given.remove(message.ranges):
            raise RemoteProtocolError(f"the host gives back {pages} pages, not all of which it was given")
        if message.ranges:
            self._pages.free_from_balloon(message.ranges)
        if self._state is GuestState.INITIALIZED:
            self._move(GuestStep.UNBALLOON)
        self._report(BalloonedDown(pages))
        if not message.more_pages:
            self._replies.append(dm.UnballoonResponse)
            self._move(GuestStep.DONE)

    def _on_info(self, message: dm.InfoMessage, now: int) -> None:
        if message.info_type != dm.INFO_TYPE_MAX_PAGE_CNT:
            self._report(Anomaly(f"the host sent information of unknown type {message.info_type}: skipped"))
            return
        if len(message.data) != MAX_PAGE_COUNT_BYTES:
            raise RemoteProtocolError(f"the host's largest page count has {len(message.data)} bytes, not 8")
        self.max_page_count = int.from_bytes(message.data, "little")

    def _on_hot_add(self, message: dm.HotAddRequest, now: int) -> None:
        self._expect_answers_read()
        start, pages = message.range & GUEST_PAGE_MAX, message.range >> START_BITS
        if not pages or not lies_in(message.region, start, pages):
            raise RemoteProtocolError(f"the host offers {pages} pages at {start:#x}, outside their region")
        if self._blocks is None or not self._can_add(start, pages, self._blocks.alignment_pages):
            self._report(Anomaly(f"the host offers {pages} pages at {start:#x} that cannot be added"))
            self._replies.append(lambda trans_id: dm.HotAddResponse(trans_id, 0, HOT_ADD_NEVER))
            return
        self._move(GuestStep.HOT_ADD)
        self._adding = HotAdding(start, pages, self._hot_add_attempts)
        self._try_hot_add(self._adding, now)

    def _can_add(self, start: int, pages: int, alignment: int) -> bool:
        """Whether this is memory that the guest lacks and can use."""
        if start % alignment or pages % alignment or start + pages > self._page_limit:
            return False
        return not self._owned.overlaps(span(start, pages))

    def _try_hot_add(self, adding: HotAdding, now: int) -> None:
        """Add what goes; answer, or hold the answer until the next attempt."""
        assert self._blocks is not None
        start = adding.start + adding.done
        added, answer = adding.attempt(self._blocks)
        if added.pages:
            self._owned.add(span(start, added.pages))
        if answer is None:
            adding.retry_at = now + self._hot_add_retry_ns
            return
        count, result = answer
        self._adding = None
        self._replies.append(lambda trans_id: dm.HotAddResponse(trans_id, count, result))
        self._events.append(HotAdded(adding.offered, count))
        self._move(GuestStep.DONE)

    def _on_hot_remove(self, message: dm.HotRemoveRequest, now: int) -> None:
        self._removing = HotRemoving(message)
        self._move(GuestStep.HOT_REMOVE)

    def _skip(self, message: dm.Message, now: int) -> None:
        self._report(Anomaly(f"the host sent {type(message).__name__} in {self._state.value}: skipped"))

    def _knows_hot_remove(self) -> bool:
        """Whether there is a kernel that removes memory, and the two ends agreed that it may be asked to."""
        return self._blocks is not None and self.may_hot_remove


_NO_LIMIT: Final = (1 << 64) - 1  # max_page_number of a guest that can use any
_S: Final = GuestState


class Rule(NamedTuple):
    """What a message does.

    Attributes:
        handler: What takes it.
        states: Where it may come; elsewhere the host is in error.
        is_request: Whether a guest that has not settled yet crashes on it, if it has Windows' habits.
        is_known: Whether this guest knows the message; otherwise it is skipped in every state.

    """

    handler: Callable[[DynamicMemoryGuest, Any, int], None]
    states: frozenset[GuestState]
    is_request: bool = False
    is_known: Callable[[DynamicMemoryGuest], bool] = lambda _: True


RULES: Final[Mapping[type, Rule]] = {
    dm.VersionResponse: Rule(DynamicMemoryGuest._on_version, frozenset({_S.VERSION_WAIT})),
    dm.CapabilitiesResponse: Rule(DynamicMemoryGuest._on_capabilities, frozenset({_S.CAPABILITIES_WAIT})),
    dm.BalloonRequest: Rule(DynamicMemoryGuest._on_balloon, frozenset({_S.INITIALIZED}), is_request=True),
    dm.UnballoonRequest: Rule(
        DynamicMemoryGuest._on_unballoon, frozenset({_S.INITIALIZED, _S.BALLOON_DOWN}), is_request=True
    ),
    dm.HotAddRequest: Rule(DynamicMemoryGuest._on_hot_add, frozenset({_S.INITIALIZED}), is_request=True),
    dm.HotRemoveRequest: Rule(
        DynamicMemoryGuest._on_hot_remove,
        frozenset({_S.INITIALIZED}),
        is_request=True,
        is_known=DynamicMemoryGuest._knows_hot_remove,
    ),
    dm.InfoMessage: Rule(DynamicMemoryGuest._on_info, GUEST_SERVES),
    dm.DmError: Rule(DynamicMemoryGuest._skip, frozenset(GuestState)),
}
