"""The guest's end of the Dynamic Memory Protocol: no I/O, no clock; bytes and nanoseconds come in.

It behaves as Linux drivers/hv/hv_balloon.c does: it tries versions from the newest down, reports its status
once a second with the floor and the given-up pages counted as committed, gives fewer pages than requested
rather than none, and numbers its own transactions. Unlike Linux it does not trust the host: it knows which
pages it has given and accepts no others back, and it adds no memory twice. Other guests' habits are data
(`dynmem.dm.habits`).

The table `RULES` says which message is taken in which state, and by what.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from dynmem.dm.blocks import HotAdding, HotRemoving, MemoryBlocks, lies_in
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
from dynmem.dm.giving import Giving, PageAllocator
from dynmem.dm.handshake import MAX_PAGE_COUNT_BYTES, GuestHandshake
from dynmem.dm.options import GuestOptions
from dynmem.dm.report import status_report
from dynmem.dm.states import GUEST_SERVES, GUEST_TABLE, GuestState, GuestStep
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import DM_EVENTS_PENDING, DM_REPLIES_PENDING, GUEST_PAGE_MAX
from dynmem.pages.page_set import PageSet
from dynmem.pages.ranges import START_BITS, page_count, span
from dynmem.wire import dm
from dynmem.wire.layout import NEWEST

# the result of a hot add that adds no pages and never will; 0 would mean "ask again later"
HOT_ADD_NEVER: Final = 1
_DEFAULTS: Final = GuestOptions()
_DEAF: Final = frozenset({GuestState.CRASHED, GuestState.STOPPED})


class DynamicMemoryGuest:
    """One balloon channel's guest end. Every `now` is in nanoseconds of the guest's clock.

    Attributes:
        max_page_count: The most pages that this guest will ever have, if the host has said so.

    """

    def __init__(
        self,
        *,
        pages: PageAllocator,
        total_pages: int,
        blocks: MemoryBlocks | None = None,
        options: GuestOptions = _DEFAULTS,
    ) -> None:
        """Start CLOSED.

        Args:
            pages: The allocator.
            total_pages: The guest's memory at boot, ballooned or not: pages 0 to `total_pages` - 1.
            blocks: The kernel that adds and removes memory, if there is one.
            options: The set-up.

        """
        self.max_page_count: int | None = None
        self._pages = pages
        self._blocks = blocks
        self._options = options
        self._page_limit = max(total_pages, options.page_limit or 0)
        self._owned = PageSet(self._page_limit)  # its memory, given up or not
        self._owned.add(span(0, total_pages))
        self._given = PageSet(self._page_limit)  # sent to the host, not come back
        self._state = GuestState.CLOSED
        self._events: deque[GuestEvent] = deque()
        self._trans_id = 0
        self._forget_channel()

    def _forget_channel(self) -> None:
        """Forget what belongs to one opened channel."""
        self._handshake = GuestHandshake(self._options, self._blocks, self._page_limit)
        self._deadline: int | None = None
        self._status_at: int | None = None
        self._status_due = False
        self._replies: deque[Callable[[int], dm.Message]] = deque()  # each takes the transaction id
        self._giving: Giving | None = None
        self._adding: HotAdding | None = None
        self._removing: HotRemoving | None = None
        self._settled_at = 0
        self._offered: bytes | None = None
        self._on_sent: Callable[[int], None] = self._sent_nothing

    @property
    def state(self) -> GuestState:
        """The state of the machine."""
        return self._state

    @property
    def version(self) -> int | None:
        """The protocol version that the host accepted on this channel."""
        return self._handshake.version

    @property
    def ballooned_pages(self) -> int:
        """Pages that the host has and this guest must not touch."""
        return len(self._given)

    @property
    def total_pages(self) -> int:
        """The guest's memory, including what was added and what it has given up."""
        return len(self._owned)

    @property
    def floor_pages(self) -> int:
        """Free pages that it keeps, by its size now; as in Linux since 5.11, the balloon does not count."""
        return self._options.habits.reserve_pages(len(self._owned) - len(self._given))

    def memory_changed(self, *, come: bytes = b"", gone: bytes = b"") -> None:
        """Record memory (ranges) that came or went by another way than this protocol, as a DIMM does."""
        self._owned.add(come)
        self._owned.remove(gone)

    def channel_opened(self, now: int) -> None:
        """Ask for the first version: the channel is open."""
        self._move(GuestStep.OPEN)
        self._forget_channel()
        if self._state is not GuestState.VERSION_WAIT:
            return
        if self._options.habits.speaks:
            self._ask_version(now)
        else:
            self._fail("the driver does not start the service here")

    def channel_closed(self, now: int) -> None:
        """Free what was allocated and not sent: the channel is gone. What was given stays given."""
        if self._giving is not None and self._giving.unsent:
            self._pages.free_from_balloon(self._giving.unsent)
        if self._removing is not None and self._removing.unsent and self._blocks is not None:
            self._blocks.put_back(self._removing.unsent)
        self._forget_channel()
        self._move(GuestStep.CLOSE)

    def tick(self, now: int) -> None:
        """Let time pass: fail a handshake without answers, make a status report due, try a hot add again."""
        if self._deadline is not None and now >= self._deadline:
            self._fail(f"the host did not answer in {self._state.value}")
        if self._status_at is not None and now >= self._status_at:
            self._status_due = True
            self._status_at = None
        if self._adding is not None and self._adding.retry_at is not None and now >= self._adding.retry_at:
            self._try_hot_add(self._adding, now)

    def deadline_ns(self) -> int | None:
        """Return when `tick` is next needed."""
        retry_at = self._adding.retry_at if self._adding is not None else None
        times = (self._deadline, self._status_at, retry_at)
        return min((time for time in times if time is not None), default=None)

    def take_events(self) -> list[GuestEvent]:
        """Return everything that happened since the last call, in order."""
        events = list(self._events)
        self._events.clear()
        return events

    def next_message(self) -> bytes | None:
        """Return the message to send now, the same one until `message_sent`; None when there is none.

        Pages for the balloon are allocated here, as many as one response holds, so each call is short.
        """
        if self._offered is None:
            built = self._build()
            if built is None:
                return None
            self._offered = dm.encode(built, self._options.habits.most_bytes)
        return self._offered

    def message_sent(self, now: int) -> None:
        """Record that the message of `next_message` is in the ring."""
        if self._offered is None:
            raise LocalProtocolError("no message was offered, so none can have been sent")
        self._offered = None
        self._trans_id = (self._trans_id + 1) & 0xFFFF_FFFF
        self._on_sent(now)

    def receive(self, data: bytes, now: int) -> None:
        """Take one message of the host.

        Raises RemoteProtocolError, and changes nothing, when it is malformed, comes at the wrong time or
        returns pages that were not given. After the handshake has failed every message is skipped: an answer
        may come too late. A guest that has crashed, or whose driver has stopped, takes nothing.
        """
        if self._state in _DEAF:
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
        """End the service on this channel."""
        self._forget_channel()
        self._move(GuestStep.FAIL)
        self._events.append(ServiceFailed(reason))

    def _stop(self, reason: str) -> None:
        """Read and send nothing more on this channel."""
        self._forget_channel()
        self._move(GuestStep.STOP)
        self._events.append(ServiceFailed(reason))

    def _crash(self, reason: str) -> None:
        self._forget_channel()
        self._move(GuestStep.CRASH)
        self._events.append(Crashed(reason))

    def _expect_answers_read(self) -> None:
        """Reject a host that sends requests without end and does not read the answers."""
        if len(self._replies) >= DM_REPLIES_PENDING:
            raise RemoteProtocolError("the host sends requests and does not read the answers")

    # what is sent, and what follows once it is in the ring

    def _build(self) -> dm.Message | None:
        """Return the next message and note what follows; built late, so that it says what is true now."""
        if self._replies:
            self._on_sent = self._sent_reply
            return self._replies[0](self._trans_id)
        if self._status_due:
            self._on_sent = self._sent_status
            return self._build_status()
        if self._giving is not None:
            self._on_sent = self._sent_response
            return self._giving.build(self._trans_id, self._pages)
        if self._removing is not None and self._blocks is not None:
            self._on_sent = self._sent_removal
            return self._removing.build(self._trans_id, self._blocks)
        return None

    def _build_status(self) -> dm.StatusReport:
        return status_report(
            self._trans_id,
            self._pages,
            self._options.habits,
            total_pages=len(self._owned),
            ballooned_pages=len(self._given),
        )

    def _sent_nothing(self, now: int) -> None:
        """Do nothing: no message was built yet."""

    def _sent_reply(self, now: int) -> None:
        self._replies.popleft()

    def _sent_status(self, now: int) -> None:
        self._status_due = False
        self._status_at = now + self._options.status_interval_ns

    def _sent_response(self, now: int) -> None:
        giving = self._giving
        assert giving is not None
        ranges, is_last = giving.sent()
        if ranges and self._given.add(ranges).new != page_count(ranges):
            raise LocalProtocolError("the allocator gave pages that the balloon has, or that do not exist")
        if is_last:
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

    # what comes, in one of the states that `RULES` names

    def _skip(self, message: dm.Message, now: int) -> None:
        self._report(Anomaly(f"the host sent {type(message).__name__} in {self._state.value}: skipped"))

    def _ask_version(self, now: int) -> None:
        self._replies.append(self._handshake.version_request)
        self._deadline = now + self._options.answer_deadline_ns

    def _on_version(self, message: dm.VersionResponse, now: int) -> None:
        self._expect_answers_read()
        if message.is_accepted:
            self._handshake.version_accepted()
            self._move(GuestStep.VERSION_ACCEPTED)
            self._replies.append(self._handshake.capabilities_report)
            self._deadline = now + self._options.answer_deadline_ns
        elif self._handshake.next_version():
            self._ask_version(now)
        else:
            self._fail("the host refused every protocol version")

    def _on_capabilities(self, message: dm.CapabilitiesResponse, now: int) -> None:
        if not message.is_accepted:
            self._fail("the host refused the capabilities")
            return
        self._deadline = None
        self._handshake.capabilities_accepted(message)
        self._settled_at = now + self._options.habits.settles_ns
        if self._handshake.reports_status:
            self._status_at = now + self._options.status_delay_ns
        self._move(GuestStep.CAPABILITIES_ACCEPTED)

    def _on_balloon(self, message: dm.BalloonRequest, now: int) -> None:
        habits = self._options.habits
        most = habits.largest_request_pages
        if most is not None and message.num_pages > most:
            self._report(Anomaly(f"the host asked for {message.num_pages} pages at once: not answered"))
            return
        spare = max(0, self._pages.available_pages - self.floor_pages)
        self._giving = Giving(message.num_pages, spare, habits)
        self._move(GuestStep.BALLOON)

    def _on_unballoon(self, message: dm.UnballoonRequest, now: int) -> None:
        self._expect_answers_read()
        pages = page_count(message.ranges)
        if not self._given.remove(message.ranges):
            raise RemoteProtocolError(f"the host returns {pages} pages, not all of which it was given")
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
            raise RemoteProtocolError(
                f"the host's largest page count has {len(message.data)} bytes, not {MAX_PAGE_COUNT_BYTES}"
            )
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
        self._adding = HotAdding(start, pages, self._options.hot_add_attempts)
        self._try_hot_add(self._adding, now)

    def _can_add(self, start: int, pages: int, alignment: int) -> bool:
        """Return whether this is memory that the guest lacks and can use."""
        if start % alignment or pages % alignment or start + pages > self._page_limit:
            return False
        return not self._owned.overlaps(span(start, pages))

    def _try_hot_add(self, adding: HotAdding, now: int) -> None:
        """Add as much as possible now; answer, or hold the answer until the next attempt."""
        assert self._blocks is not None
        start = adding.start + adding.done
        added, answer = adding.attempt(self._blocks)
        if added.pages:
            self._owned.add(span(start, added.pages))
        if added.is_unsupported and self._options.habits.stops_if_unsupported:
            self._stop("adding memory failed in a way that the driver does not expect")
            return
        if answer is None:
            adding.retry_at = now + self._options.hot_add_retry_ns
            return
        count, result = answer
        self._adding = None
        self._replies.append(lambda trans_id: dm.HotAddResponse(trans_id, count, result))
        self._events.append(HotAdded(adding.offered, count))
        self._move(GuestStep.DONE)

    def _knows_hot_remove(self) -> bool:
        offered = self._blocks is not None and self._options.habits.hot_removes
        return offered and self._handshake.host_hot_removes

    def _on_hot_remove(self, message: dm.HotRemoveRequest, now: int) -> None:
        self._removing = HotRemoving(message)
        self._move(GuestStep.HOT_REMOVE)


class Rule(NamedTuple):
    """What a message does.

    Attributes:
        handler: What takes it.
        states: Where it may come; in any other state the host is in error.
        is_request: Whether a guest that has not settled crashes on it, if those are its habits.
        is_known: Whether this guest knows the message; otherwise it is skipped in every state.

    """

    handler: Callable[[DynamicMemoryGuest, Any, int], None]
    states: frozenset[GuestState]
    is_request: bool = False
    is_known: Callable[[DynamicMemoryGuest], bool] = lambda _: True


_G: Final = GuestState
_M: Final = DynamicMemoryGuest

RULES: Final[Mapping[type, Rule]] = {
    dm.VersionResponse: Rule(_M._on_version, frozenset({_G.VERSION_WAIT})),
    dm.CapabilitiesResponse: Rule(_M._on_capabilities, frozenset({_G.CAPABILITIES_WAIT})),
    dm.BalloonRequest: Rule(_M._on_balloon, frozenset({_G.INITIALIZED}), is_request=True),
    dm.UnballoonRequest: Rule(
        _M._on_unballoon, frozenset({_G.INITIALIZED, _G.BALLOON_DOWN}), is_request=True
    ),
    dm.HotAddRequest: Rule(_M._on_hot_add, frozenset({_G.INITIALIZED}), is_request=True),
    dm.HotRemoveRequest: Rule(
        _M._on_hot_remove, frozenset({_G.INITIALIZED}), is_request=True, is_known=_M._knows_hot_remove
    ),
    dm.InfoMessage: Rule(_M._on_info, GUEST_SERVES),
    dm.DmError: Rule(_M._skip, frozenset(GuestState)),
}
