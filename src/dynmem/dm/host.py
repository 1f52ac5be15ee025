"""The host's end of the Dynamic Memory Protocol: no I/O, no clock; bytes and nanoseconds come in.

The owner (the hv-balloon device) hands over each message body of the channel, sends what `next_message`
offers whenever the ring has room for it, calls `tick` when `deadline_ns` has come, and takes events. It also
owns the set of pages that the guest has given up: this machine asks it for pages to give back and never sends
others. Memory beyond the boot size comes from a source of the owner's in the same way.

Two rules differ from QEMU hw/hyperv/hv-balloon.c, whose behaviour this otherwise is. A guest that is silent
makes the machine STUCK: nothing new is asked of it, and its late answer is taken in full, because answers
carry the guest's own transaction ids and cannot be matched to a request. And a target outlives close and
reset.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from dynmem import trace_events
from dynmem.dm import tracing
from dynmem.dm.events import (
    ActualChanged,
    Anomaly,
    HostEvent,
    StateChanged,
    Status,
    StatusReported,
)
from dynmem.dm.hot_add import HotAdd
from dynmem.dm.journal import Journal
from dynmem.dm.operations import Balloon, HotRemove, Operation, Then, Unballoon
from dynmem.dm.states import (
    HOST_RB_WAITS,
    HOST_SERVES,
    HOST_TABLE,
    HOST_WAITS,
    HostPlace,
    HostState,
    HostStep,
)
from dynmem.dm.stores import HotAddSource, PageStore
from dynmem.dm.target import difference
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import (
    DM_BALLOON_CHUNK_PAGES,
    DM_EVENTS_PENDING,
    DM_REPLIES_PENDING,
    GUEST_PAGE_MAX,
)
from dynmem.trace_events import NO_TRACE, Trace
from dynmem.units import NS_PER_S, PAGE_SHIFT
from dynmem.wire import dm

POST_INIT_WAIT_NS: Final = 50 * NS_PER_S  # asked earlier after its boot, Windows Server 2019 crashes
REPLY_DEADLINE_NS: Final = 20 * NS_PER_S
HOT_ADD_RETRY_NS: Final = 10 * NS_PER_S  # after a guest was short of resources


class DynamicMemoryHost:
    """One balloon channel's host end. Every `now` is in nanoseconds of the virtual machine's clock.

    Attributes:
        boot_pages: The guest's memory but for what is hot-added here; the owner changes it when a DIMM comes
            or goes.

    """

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
        hot_add: HotAddSource | None = None,
        hot_add_region: bool = True,
        hot_add_retry_ns: int = HOT_ADD_RETRY_NS,
        max_page_count: int | None = None,
        trace: Trace = NO_TRACE,
    ) -> None:
        """Start in S_WAIT_RESET.

        Args:
            store: the pages that the guest has given up.
            boot_pages: the guest's memory without any that is added later.
            status_report: whether the guest is told to send status reports.
            post_init_wait_ns: from the end of the handshake to the first request.
            reply_deadline_ns: silence of the guest that makes the machine STUCK.
            balloon_chunk_pages: of one balloon request.
            max_version: the newest protocol version to accept.
            hot_add: memory beyond the boot size, if there is any.
            hot_add_region: whether a hot add names the region of its range, too (the longer form).
            hot_add_retry_ns: until a guest that was short of resources is asked again.
            max_page_count: the most pages that the guest will ever have, to tell it (from version 1.0 on).
            trace: where QEMU's trace events go.

        """
        self._store = store
        self.boot_pages = boot_pages
        self._wants_status = status_report
        self._post_init_wait_ns = post_init_wait_ns
        self._reply_deadline_ns = reply_deadline_ns
        self._balloon_chunk_pages = balloon_chunk_pages
        self._max_version = max_version
        self._source = hot_add
        self._hot_add_region = hot_add_region
        self._no_more_hot_add = False  # the guest has met a barrier
        self._hot_add_retry_ns = hot_add_retry_ns
        self._max_page_count = max_page_count
        self._journal = Journal()
        self._trace = trace
        self._place = HostPlace(HostState.WAIT_RESET)
        self._events: deque[HostEvent] = deque()
        self._target: int | None = None
        self._trans_id = 0
        self._forget_guest()
        self._last_actual = self.actual_pages

    def _forget_guest(self) -> None:
        """Set what is known of the guest behind one opened channel back to nothing."""
        self._deadline: int | None = None
        self._replies: deque[dm.Message] = deque()
        self._message: dm.Message | None = None  # that is offered
        self._offered: bytes | None = None
        self._offers_reply = False
        self._operation: Operation | None = None
        self._removal: HotRemove | None = None  # asked for, not begun
        self._retry_at: int | None = None
        self._target_changed = self._target is not None
        self._caps: dm.CapabilitiesReport | None = None
        self.version: int | None = None
        self.status: Status | None = None
        self.guest_at_floor: bool = False  # asked for this target, it had nothing more to give

    @property
    def state(self) -> HostState:
        """The state of the machine; `HostState.STUCK` for a wait whose deadline has passed."""
        return self._place.shown

    @property
    def actual_pages(self) -> int:
        """The guest's size now: pages that are sent back count from the moment they are in the ring."""
        held = self._operation.held_pages if self._operation else 0
        return max(0, self._ram_pages - self._store.removed_pages - held)

    @property
    def target_pages(self) -> int:
        """The size last asked for, or the boot size."""
        return self.boot_pages if self._target is None else self._target

    @property
    def journal(self) -> Journal:
        """What was asked of this guest and what came of it."""
        return self._journal

    @property
    def _ram_pages(self) -> int:
        """All the memory that the guest has been given, what it gave up included."""
        return self.boot_pages + (self._source.added_pages if self._source else 0)

    @property
    def capabilities(self) -> dm.CapabilitiesReport | None:
        """What the guest said it can do, on the channel that is open."""
        return self._caps

    def reset(self, now: int) -> None:
        """The guest starts anew at its boot size: the owner has emptied set and source just before."""
        self._no_more_hot_add = False
        self._journal.end("the machine was reset", now)
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
        if self._operation is not None:
            self._operation.abandon()
        self._journal.end("the channel was closed", now)
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

    def hot_remove(self, pages: int, now: int, *, virtual_node: int = 0, qos_flags: int = 0) -> bool:
        """Ask for pages back for good, as soon as nothing else is under way; whether that will be done.

        The guest has to know how (version 2.0 and its capabilities), and another must not be waiting.
        """
        knows = self._caps is not None and bool(self._caps.caps & dm.CAP_HOT_REMOVE)
        if not knows or self._source is None or self._removal or (self.version or 0) < dm.VERSION_WIN10:
            return False
        self._removal = HotRemove(pages, self._source, virtual_node=virtual_node, qos_flags=qos_flags)
        self._settle(now)
        return True

    def tick(self, now: int) -> None:
        """Let time pass: the wait after start ends, silence becomes STUCK."""
        if self._place.state in HOST_WAITS and self._deadline is not None and now >= self._deadline:
            self._move(HostStep.SILENCE, now)
        self._settle(now)

    def deadline_ns(self) -> int | None:
        """When `tick` is next needed."""
        if self._place.state is HostState.IDLE:
            return self._retry_at
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
            self._offers_reply = bool(self._replies)
            if self._replies:
                self._message = self._replies[0]
            elif self._operation is not None and self._place.state in HOST_RB_WAITS:
                self._message = self._operation.build(self._trans_id, is_cut=self._target_changed)
            if self._message is not None:
                self._offered = dm.encode(self._message)
        return self._offered

    @property
    def takes_pages_next(self) -> bool:
        """Whether `next_message` would take pages from the store: an owner who is discarding any waits."""
        is_open = self._offered is None and not self._replies and self._place.state in HOST_RB_WAITS
        return is_open and isinstance(self._operation, Unballoon)

    def withdraw_message(self) -> None:
        """Offer another message than the one that is not sent: pages of it are no longer the guest's."""
        if self._message is not None and isinstance(self._operation, Unballoon) and not self._offers_reply:
            self._operation.withdraw()
            self._message = self._offered = None

    def message_sent(self, now: int) -> None:
        """The message that `next_message` gave is in the ring."""
        message = self._message
        if message is None:
            raise LocalProtocolError("no message was offered, so none can have been sent")
        self._message = self._offered = None
        if self._offers_reply:
            self._replies.popleft()
            return
        self._unstick(now)
        self._move(HostStep.ROOM, now)
        assert self._operation is not None
        tracing.posted(self._trace, message, self._operation.left)
        pages, more = self._operation.sent()
        self._journal.posted(pages)
        self._move(HostStep.POSTED_PART if more else HostStep.POSTED, now)
        self._settle(now)

    def receive(self, data: bytes, now: int) -> None:
        """Take one message of the guest. What is malformed raises RemoteProtocolError and changes nothing.

        A sound message at the wrong time is ignored and told as an Anomaly.
        """
        message = dm.decode(data, self.version or self._max_version)
        rule = RULES.get(type(message))
        if rule is None:
            raise RemoteProtocolError(f"a guest sent {type(message).__name__}, which only a host sends")
        handler, states = rule
        if self._place.state in states:
            handler(self, message, now)
        else:
            self._ignore(message, now)
        self._settle(now)

    def _unstick(self, now: int) -> None:
        """Make a stuck wait an ordinary one again: what it waits for has come."""
        if self._place.is_stuck:
            self._move(HostStep.PROGRESS, now)

    def _move(self, step: HostStep, now: int) -> None:
        """Take one step of the table, report it and set the deadline that belongs to the new place."""
        new = HOST_TABLE.get((self._place, step))
        if new is None:
            raise LocalProtocolError(f"the host cannot do {step.name} in {self.state.value}")
        old, self._place = self._place, new
        if new.shown is not old.shown:
            self._trace(trace_events.HV_BALLOON_STATE_CHANGE, new.shown.value)
            self._events.append(StateChanged(old.shown, new.shown))
        self._deadline = None
        if new.state is HostState.POST_INIT_WAIT:
            self._deadline = now + self._post_init_wait_ns
        elif new.state in HOST_WAITS and not new.is_stuck:
            self._deadline = now + self._reply_deadline_ns

    def _report(self, event: HostEvent) -> None:
        """Keep an event that a guest can cause at will, unless too many have not been taken yet."""
        if len(self._events) < DM_EVENTS_PENDING:
            self._events.append(event)

    def _settle(self, now: int) -> None:
        """Do what can be done without the guest: end the wait after start, work for a changed target."""
        if (
            self._place.state is HostState.POST_INIT_WAIT
            and self._deadline is not None
            and now >= self._deadline
        ):
            self._move(HostStep.WAIT_OVER, now)
        if self._place.state is HostState.IDLE:
            self._start(now)
        setup = self._operation if self._place.state is HostState.HOT_ADD_SETUP else None
        if isinstance(setup, HotAdd) and setup.is_mapped():
            self._unstick(now)
            self._move(HostStep.MAPPED if setup.left else HostStep.NOTHING_TO_ADD, now)
            if not setup.left:
                self._journal.end("the host has no memory to add", now)
                self._finish(setup, now)
                self._settle(now)
        if self.actual_pages != self._last_actual:
            self._last_actual = self.actual_pages
            self._events.append(ActualChanged(self._last_actual))

    def _start(self, now: int) -> None:
        """Begin what is due: a hot remove, or the operation that leads to the target."""
        if self._removal is not None:
            removal, self._removal = self._removal, None
            if removal.keep(self.actual_pages, self._caps.min_page_cnt if self._caps else 0):
                self._begin(removal, now)
                return
            self._events.append(removal.finished())
        if self._retry_at is not None and now >= self._retry_at:
            self._target_changed = True
        if self._target_changed:
            self._pursue_target(now)

    def _begin(self, operation: Operation, now: int) -> None:
        """Enter an operation."""
        self._operation = operation
        self._journal.begin(operation.kind, operation.asked, now)
        self._move(operation.step, now)

    def _pursue_target(self, now: int) -> None:
        """Begin the operation that leads to the target, if one does."""
        self._target_changed = False
        self._retry_at = None
        if self._target is None or self._caps is None:
            return
        caps = self._caps.caps
        wanted = difference(
            target_pages=self._target,
            ram_pages=self._ram_pages,
            removed_pages=self._store.removed_pages,
            can_balloon=bool(caps & dm.CAP_BALLOON),
            can_hot_add=bool(caps & dm.CAP_HOT_ADD and self._source and not self._no_more_hot_add),
            least_pages=self._caps.min_page_cnt,
        )
        if wanted.balloon:
            self._begin(Balloon(wanted.balloon, self._store, self._balloon_chunk_pages), now)
        elif wanted.unballoon:
            self.guest_at_floor = False
            self._begin(Unballoon(wanted.unballoon, self._store, wanted.hot_add), now)
        elif wanted.hot_add:
            self._begin_hot_add(wanted.hot_add, now)
        elif self._target < self.actual_pages and not caps & dm.CAP_BALLOON:
            self._events.append(Anomaly("the guest says that it cannot balloon: its size stays"))

    def _begin_hot_add(self, pages: int, now: int) -> None:
        """Set memory aside, where there is some, and wait until it is mapped."""
        assert self._caps is not None
        assert self._source is not None
        operation = HotAdd(self._source, with_region=self._hot_add_region)
        if operation.reserve(pages, self._caps):
            self._begin(operation, now)
        else:
            self._move(HostStep.HOT_ADD, now)
            self._move(HostStep.NOTHING_TO_ADD, now)

    def _answer(self, reply: dm.Message) -> None:
        """Queue an answer. A guest that asks on and on without reading is cut off."""
        if len(self._replies) >= DM_REPLIES_PENDING:
            raise RemoteProtocolError("the guest sends requests and does not read the answers")
        self._replies.append(reply)

    def _ignore(self, message: dm.Message, now: int) -> None:
        self._report(Anomaly(f"the guest sent {type(message).__name__} in {self.state.value}: ignored"))

    def _on_version(self, message: dm.VersionRequest, now: int) -> None:
        tracing.received(self._trace, message)
        # compared as one number, so that versions between the known ones pass too, as with QEMU
        accepted = dm.VERSION_WIN7 <= message.version <= self._max_version
        self._answer(dm.VersionResponse(message.trans_id, accepted))
        if accepted:
            self.version = message.version
            self._move(HostStep.VERSION_ACCEPTED, now)
        elif message.is_last_attempt:
            self._move(HostStep.LAST_VERSION_REFUSED, now)
            self._report(Anomaly("the guest's last protocol version was refused: it stops the service"))

    def _on_capabilities(self, message: dm.CapabilitiesReport, now: int) -> None:
        tracing.received(self._trace, message)
        # hot_remove is what QEMU answers, and what guests have been tested with; it obliges to nothing
        suppress = not self._wants_status
        self._answer(dm.CapabilitiesResponse(message.trans_id, True, True, suppress))
        if self._max_page_count is not None and (self.version or 0) >= dm.VERSION_WIN8:
            data = self._max_page_count.to_bytes(8, "little")
            self._replies.append(dm.InfoMessage(self._trans_id, dm.INFO_TYPE_MAX_PAGE_CNT, data))
        self._caps = message
        self._move(HostStep.CAPS_ACCEPTED, now)

    def _on_status(self, message: dm.StatusReport, now: int) -> None:
        if max(message.num_avail, message.num_committed) > GUEST_PAGE_MAX:
            raise RemoteProtocolError("a status report names more pages than any guest can have")
        if self._wants_status:
            committed, available = message.num_committed << PAGE_SHIFT, message.num_avail << PAGE_SHIFT
            self.status = Status(committed, available, now)
            self._report(StatusReported(committed, available))

    def _on_answer(self, message: dm.Message, now: int) -> None:
        """Take an answer to the current operation, whichever it is; a late one ends being stuck."""
        operation = self._operation
        assert operation is not None
        tracing.received(self._trace, message)
        answer = operation.answered(message)
        self._unstick(now)
        for text in answer.oddities:
            self._report(Anomaly(text))
        if isinstance(operation, Balloon) and (answer.pages or operation.is_at_floor):
            self.guest_at_floor = operation.is_at_floor
        self._journal.answered(answer.pages)
        if answer.then is Then.WAIT:
            if answer.pages:
                self._move(HostStep.PROGRESS, now)
            return
        self._trans_id += 1
        if answer.then is Then.NEXT and not self._target_changed:
            self._move(HostStep.ANSWERED_PART, now)
            return
        self._journal.end("another target came" if answer.then is Then.NEXT else answer.outcome, now)
        self._finish(operation, now, is_retryable=answer.is_retryable)

    def _finish(self, operation: Operation, now: int, *, is_retryable: bool = False) -> None:
        """An operation is over; an unballoon may lead on to a hot add."""
        self._operation = None
        told = operation.finished()
        if told is not None:
            self._events.append(told)
        if is_retryable:
            self._retry_at = now + self._hot_add_retry_ns
        if isinstance(operation, HotAdd):
            self._no_more_hot_add |= operation.is_at_barrier
            self._target_changed |= operation.may_go_on
        if isinstance(operation, Unballoon) and operation.hot_add and not self._target_changed:
            self._begin_hot_add(operation.hot_add, now)
        elif self._place.state is not HostState.IDLE:
            self._move(HostStep.ANSWERED, now)


Rule = tuple[Callable[[DynamicMemoryHost, Any, int], None], frozenset[HostState]]
# what takes a message, and in which states; in any other it is ignored and reported
RULES: Final[Mapping[type, Rule]] = {
    dm.VersionRequest: (DynamicMemoryHost._on_version, frozenset({HostState.VERSION})),
    dm.CapabilitiesReport: (DynamicMemoryHost._on_capabilities, frozenset({HostState.CAPS})),
    dm.StatusReport: (DynamicMemoryHost._on_status, HOST_SERVES),
    dm.BalloonResponse: (DynamicMemoryHost._on_answer, frozenset({HostState.BALLOON_REPLY_WAIT})),
    dm.UnballoonResponse: (DynamicMemoryHost._on_answer, frozenset({HostState.UNBALLOON_REPLY_WAIT})),
    dm.HotAddResponse: (DynamicMemoryHost._on_answer, frozenset({HostState.HOT_ADD_REPLY_WAIT})),
    dm.HotRemoveResponse: (DynamicMemoryHost._on_answer, frozenset({HostState.HOT_REMOVE_REPLY_WAIT})),
    dm.DmError: (DynamicMemoryHost._ignore, frozenset(HostState)),
}
