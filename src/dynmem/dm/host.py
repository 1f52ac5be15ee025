"""The host's end of the Dynamic Memory Protocol: no I/O, no clock; bytes and nanoseconds come in.

The owner (the hv-balloon device) hands over each message body of the channel, sends what `next_message`
offers whenever the ring has room for it, calls `tick` when `deadline_ns` has come, and takes events. It also
owns the set of pages that the guest has given up: this machine asks it for pages to give back and never sends
others.

Two rules differ from QEMU hw/hyperv/hv-balloon.c, whose behaviour this otherwise is. A guest that is silent
makes the machine STUCK: nothing new is asked of it, and its late answer is taken in full, because answers
carry the guest's own transaction ids and cannot be matched to a request. And a target outlives close and
reset.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

import msgspec

from dynmem.dm.events import ActualChanged, Anomaly, BalloonFinished, HostEvent, StateChanged, StatusReported
from dynmem.dm.states import HOST_FROM_ANYWHERE, HOST_MOVES, HOST_WAITS, HostState, HostStep
from dynmem.dm.target import difference
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import (
    DM_BALLOON_CHUNK_PAGES,
    DM_EVENTS_PENDING,
    DM_RANGES_PER_MESSAGE,
    DM_REPLIES_PENDING,
    DM_UNBALLOON_CHUNK_PAGES,
    GUEST_PAGE_MAX,
)
from dynmem.pages.ranges import page_count
from dynmem.units import NS_PER_S, PAGE_SHIFT
from dynmem.wire import dm

POST_INIT_WAIT_NS: Final = (
    50 * NS_PER_S
)  # Windows Server 2019 crashes when it is asked earlier after its boot
REPLY_DEADLINE_NS: Final = 20 * NS_PER_S


class GivenUp(NamedTuple):
    """What became of a batch of ranges that the guest gave up; pages, which add up to those of the batch."""

    new: int
    duplicates: int
    rejected: int


class PageStore(Protocol):
    """The pages that the guest has given up and not got back, kept by the device."""

    @property
    def removed_pages(self) -> int:
        """How many pages there are."""

    def give_up(self, ranges: bytes) -> GivenUp:
        """Enter what the guest gave up. Must not raise for anything a guest can send."""

    def take_back(self, max_pages: int, max_ranges: int) -> bytes:
        """Take out pages for the guest, so many at most; b"" when there are none."""


class Status(NamedTuple):
    """The guest's last status report. Committed memory includes what the guest has given up."""

    committed_bytes: int
    available_bytes: int
    at_ns: int


class _Balloon(msgspec.Struct):
    asked: int  # pages, when the operation began
    left: int  # of them, not answered yet
    open: int = 0  # of the request that is out, not answered yet
    got: int = 0  # pages that were new


class _Unballoon(msgspec.Struct):
    left: int  # pages still to be taken from the store
    ranges: bytes = b""  # taken, not sent yet
    pages: int = 0  # in `ranges`
    more_pages: bool = False  # what the message that is offered says


class DynamicMemoryHost:
    """One balloon channel's host end. Every `now` is in nanoseconds of the virtual machine's clock."""

    def __init__(
        self,
        *,
        store: PageStore,
        boot_pages: int,
        status_report: bool,
        post_init_wait_ns: int = POST_INIT_WAIT_NS,
        reply_deadline_ns: int = REPLY_DEADLINE_NS,
        balloon_chunk_pages: int = DM_BALLOON_CHUNK_PAGES,
        max_version: int = dm.VERSION_WIN10,
    ) -> None:
        """Start in S_WAIT_RESET. `status_report`: whether the guest is told to send status reports."""
        self._store = store
        self._boot_pages = boot_pages
        self._wants_status = status_report
        self._post_init_wait_ns = post_init_wait_ns
        self._reply_deadline_ns = reply_deadline_ns
        self._balloon_chunk_pages = balloon_chunk_pages
        self._max_version = max_version
        self._state = HostState.WAIT_RESET
        self._stuck_in: HostState | None = None
        self._events: deque[HostEvent] = deque()
        self._target: int | None = None
        self._trans_id = 0
        self._forget_guest()
        self._last_actual = self.actual_pages

    def _forget_guest(self) -> None:
        """Set what is known of the guest behind one opened channel back to nothing."""
        self._deadline: int | None = None
        self._replies: deque[dm.Message] = deque()
        self._offered: bytes | None = None
        self._offers_reply = False
        self._balloon: _Balloon | None = None
        self._unballoon: _Unballoon | None = None
        self._target_changed = self._target is not None
        self._caps: dm.CapabilitiesReport | None = None
        self.version: int | None = None
        self.status: Status | None = None
        self.guest_at_floor = False  # asked for this target, it had nothing more to give

    @property
    def state(self) -> HostState:
        """The state of the machine."""
        return self._state

    @property
    def actual_pages(self) -> int:
        """The guest's size now: pages that are sent back count from the moment they are in the ring."""
        held = self._unballoon.pages if self._unballoon else 0
        return max(0, self._boot_pages - self._store.removed_pages - held)

    @property
    def target_pages(self) -> int:
        """The size last asked for, or the boot size."""
        return self._boot_pages if self._target is None else self._target

    @property
    def capabilities(self) -> dm.CapabilitiesReport | None:
        """What the guest said it can do, on the channel that is open."""
        return self._caps

    def reset(self, now: int) -> None:
        """The guest starts anew and owns all of its memory: the device has emptied its set just before."""
        self._forget_guest()
        self._trans_id = 0
        self._move(HostStep.RESET, now)
        self._settle(now)

    def channel_opened(self, now: int) -> None:
        """The guest's driver opened the channel."""
        self._move(HostStep.OPEN, now)
        self._forget_guest()

    def channel_closed(self, now: int) -> None:
        """The channel is gone. What the guest has given up stays given up, until a reset."""
        if self._unballoon and self._unballoon.ranges:
            self._store.give_up(self._unballoon.ranges)  # never sent, so still the guest's gift
        self._forget_guest()
        self._move(HostStep.CLOSE, now)
        self._settle(now)

    def set_target(self, pages: int, now: int) -> None:
        """Ask for a size in pages; 0 is ignored. The same size again means: try again."""
        if pages <= 0:
            return
        self._target = pages
        self._target_changed = True
        self.guest_at_floor = False  # that was the answer to another wish
        self._settle(now)

    def tick(self, now: int) -> None:
        """Let time pass: the wait after start ends, silence becomes STUCK."""
        if self._state in HOST_WAITS and self._deadline is not None and now >= self._deadline:
            self._stuck_in = self._state
            self._move(HostStep.SILENCE, now)
        self._settle(now)

    def deadline_ns(self) -> int | None:
        """When `tick` is next needed."""
        return self._deadline

    def take_events(self) -> list[HostEvent]:
        """Everything that happened since the last call, in order."""
        events = list(self._events)
        self._events.clear()
        return events

    def next_message(self) -> bytes | None:
        """The message to send now, the same one until `message_sent`; None when there is none.

        When the ring has no room for it, ask again later: *_RB_WAIT is the state of waiting for that.
        """
        if self._offered is None:
            if self._replies:
                self._offered = dm.encode(self._replies[0])
                self._offers_reply = True
            elif (build := _REQUESTS.get(self._waiting_in)) is not None:
                self._offered = dm.encode(build(self))
                self._offers_reply = False
        return self._offered

    def message_sent(self, now: int) -> None:
        """The message that `next_message` gave is in the ring."""
        if self._offered is None:
            raise LocalProtocolError("no message was offered, so none can have been sent")
        self._offered = None
        if self._offers_reply:
            self._replies.popleft()
            return
        self._unstick(now)
        self._move(HostStep.ROOM, now)
        operation = self._unballoon
        if operation is None:
            self._move(HostStep.POSTED, now)
            return
        operation.ranges, operation.pages = b"", 0
        self.guest_at_floor = False
        self._move(HostStep.POSTED_PART if operation.more_pages else HostStep.POSTED, now)
        self._settle(now)

    def receive(self, data: bytes, now: int) -> None:
        """Take one message of the guest. What is malformed raises RemoteProtocolError and changes nothing.

        A sound message at the wrong time is ignored and told as an Anomaly.
        """
        message = dm.decode(data)
        handler = _HANDLERS.get(type(message))
        if handler is None:
            raise RemoteProtocolError(f"a guest sent {type(message).__name__}, which only a host sends")
        handler(self, message, now)
        self._settle(now)

    @property
    def _waiting_in(self) -> HostState:
        """The state, or the one in which the machine is stuck."""
        if self._state is HostState.STUCK and self._stuck_in is not None:
            return self._stuck_in
        return self._state

    def _unstick(self, now: int) -> None:
        """Leave STUCK for the wait it was entered from."""
        if self._state is HostState.STUCK and self._stuck_in is not None:
            self._enter(self._stuck_in, now)
            self._stuck_in = None

    def _move(self, step: HostStep, now: int) -> None:
        """Take one step of the table."""
        new = HOST_FROM_ANYWHERE.get(step) or HOST_MOVES.get((self._state, step))
        if new is None:
            raise LocalProtocolError(f"the host cannot do {step.name} in {self._state.value}")
        self._enter(new, now)

    def _enter(self, new: HostState, now: int) -> None:
        """Be in a state, tell it, and set the deadline that belongs to it."""
        if new is not self._state:
            self._events.append(StateChanged(self._state, new))
            self._state = new
        if new is HostState.POST_INIT_WAIT:
            self._deadline = now + self._post_init_wait_ns
        else:
            self._deadline = now + self._reply_deadline_ns if new in HOST_WAITS else None

    def _tell(self, event: HostEvent) -> None:
        """Tell what a guest can cause as often as it likes: no more than somebody takes."""
        if len(self._events) < DM_EVENTS_PENDING:
            self._events.append(event)

    def _settle(self, now: int) -> None:
        """Do what can be done without the guest: end the wait after start, work for a changed target."""
        if self._state is HostState.POST_INIT_WAIT and self._deadline is not None and now >= self._deadline:
            self._move(HostStep.WAIT_OVER, now)
        if self._state is HostState.IDLE and self._target_changed:
            self._start(now)
        if self.actual_pages != self._last_actual:
            self._last_actual = self.actual_pages
            self._events.append(ActualChanged(self._last_actual))

    def _start(self, now: int) -> None:
        """Begin the operation that leads to the target, if one does."""
        self._target_changed = False
        if self._target is None or self._caps is None:
            return
        wanted = difference(
            target_pages=self._target,
            ram_pages=self._boot_pages,
            removed_pages=self._store.removed_pages,
            can_balloon=bool(self._caps.caps & dm.CAP_BALLOON),
            least_pages=self._caps.min_page_cnt,
        )
        if wanted.balloon:
            self._balloon = _Balloon(asked=wanted.balloon, left=wanted.balloon)
            self._move(HostStep.BALLOON, now)
        elif wanted.unballoon:
            self._unballoon = _Unballoon(left=wanted.unballoon)
            self._move(HostStep.UNBALLOON, now)
        elif self._target < self.actual_pages and not self._caps.caps & dm.CAP_BALLOON:
            self._events.append(Anomaly("the guest says that it cannot balloon: its size stays"))

    def _build_balloon(self) -> dm.Message:
        """The next balloon request."""
        assert self._balloon is not None
        self._balloon.open = min(self._balloon.left, self._balloon_chunk_pages)
        return dm.BalloonRequest(self._trans_id, self._balloon.open)

    def _build_unballoon(self) -> dm.Message:
        """The next part of an unballoon operation; a target that has changed meanwhile makes it the last."""
        operation = self._unballoon
        assert operation is not None
        amount = min(operation.left, DM_UNBALLOON_CHUNK_PAGES)
        operation.ranges = self._store.take_back(amount, DM_RANGES_PER_MESSAGE)
        operation.pages = page_count(operation.ranges)
        operation.left -= operation.pages
        more = operation.left > 0 and self._store.removed_pages > 0 and not self._target_changed
        operation.more_pages = more
        return dm.UnballoonRequest(self._trans_id, more, operation.ranges)

    def _answer(self, reply: dm.Message) -> None:
        """Queue an answer. A guest that asks on and on without reading is cut off."""
        if len(self._replies) >= DM_REPLIES_PENDING:
            raise RemoteProtocolError("the guest sends requests and does not read the answers")
        self._replies.append(reply)

    def _unexpected(self, message: dm.Message) -> None:
        self._tell(Anomaly(f"the guest sent {type(message).__name__} in {self._state.value}: ignored"))

    def _on_version(self, message: dm.VersionRequest, now: int) -> None:
        if self._state is not HostState.VERSION:
            self._unexpected(message)
            return
        # compared as one number, so that versions between the known ones pass too, as with QEMU
        accepted = dm.VERSION_WIN7 <= message.version <= self._max_version
        self._answer(dm.VersionResponse(message.trans_id, accepted))
        if accepted:
            self.version = message.version
            self._move(HostStep.VERSION_ACCEPTED, now)
        elif message.is_last_attempt:
            self._tell(Anomaly("the guest's last protocol version was refused: it stops the service"))

    def _on_capabilities(self, message: dm.CapabilitiesReport, now: int) -> None:
        if self._state is not HostState.CAPS:
            self._unexpected(message)
            return
        # hot_remove is what QEMU answers, and what guests have been tested with; it obliges to nothing
        reply = dm.CapabilitiesResponse(
            message.trans_id,
            is_accepted=True,
            hot_remove=True,
            suppress_pressure_reports=not self._wants_status,
        )
        self._answer(reply)
        self._caps = message
        self._move(HostStep.CAPS_ACCEPTED, now)

    def _on_status(self, message: dm.StatusReport, now: int) -> None:
        if self._caps is None:
            self._unexpected(message)
        elif max(message.num_avail, message.num_committed) > GUEST_PAGE_MAX:
            raise RemoteProtocolError("a status report names more pages than any guest can have")
        elif self._wants_status:
            committed, available = message.num_committed << PAGE_SHIFT, message.num_avail << PAGE_SHIFT
            self.status = Status(committed, available, now)
            self._tell(StatusReported(committed, available))

    def _on_balloon(self, message: dm.BalloonResponse, now: int) -> None:
        operation = self._balloon
        if operation is None or self._waiting_in is not HostState.BALLOON_REPLY_WAIT:
            self._unexpected(message)
            return
        pages = page_count(message.ranges)
        given = self._store.give_up(message.ranges) if message.ranges else GivenUp(0, 0, 0)
        self._unstick(now)
        if given.new:
            self.guest_at_floor = False
            self._enter(self._state, now)  # progress: the deadline begins anew
        if given.duplicates or given.rejected:
            self._tell(
                Anomaly(
                    f"of {pages} pages that the guest gave up it had given up {given.duplicates} before, "
                    f"and {given.rejected} are not in its memory"
                )
            )
        if pages > operation.open:
            self._tell(Anomaly(f"the guest gave up {pages} pages where {operation.open} were asked for"))
        operation.got += given.new
        operation.open = max(0, operation.open - pages)
        operation.left = max(0, operation.left - pages)
        if message.more_pages:
            return
        if not message.ranges:
            self.guest_at_floor = True
            operation.left = 0
        self._trans_id += 1
        if operation.left and not self._target_changed:
            self._move(HostStep.ANSWERED_PART, now)
            return
        self._balloon = None
        self._events.append(BalloonFinished(operation.asked, operation.got))
        self._move(HostStep.ANSWERED, now)

    def _on_unballoon(self, message: dm.UnballoonResponse, now: int) -> None:
        if self._waiting_in is not HostState.UNBALLOON_REPLY_WAIT:
            self._unexpected(message)
            return
        self._unstick(now)
        self._trans_id += 1
        self._unballoon = None
        self._move(HostStep.ANSWERED, now)

    def _on_unasked(self, message: dm.Message, now: int) -> None:
        self._unexpected(message)


_REQUESTS: Final[Mapping[HostState, Callable[[DynamicMemoryHost], dm.Message]]] = {
    HostState.BALLOON_RB_WAIT: DynamicMemoryHost._build_balloon,
    HostState.UNBALLOON_RB_WAIT: DynamicMemoryHost._build_unballoon,
}
_HANDLERS: Final[Mapping[type, Callable[..., None]]] = {
    dm.DmError: DynamicMemoryHost._on_unasked,
    dm.VersionRequest: DynamicMemoryHost._on_version,
    dm.CapabilitiesReport: DynamicMemoryHost._on_capabilities,
    dm.StatusReport: DynamicMemoryHost._on_status,
    dm.BalloonResponse: DynamicMemoryHost._on_balloon,
    dm.UnballoonResponse: DynamicMemoryHost._on_unballoon,
    dm.HotAddResponse: DynamicMemoryHost._on_unasked,
    dm.HotRemoveResponse: DynamicMemoryHost._on_unasked,
}
