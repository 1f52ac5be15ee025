"""The host's end of the Dynamic Memory Protocol: no I/O, no clock; bytes and nanoseconds come in.

The owner (the hv-balloon device) passes in each message body of the channel, sends what `next_message` offers
whenever the ring has room for it, calls `tick` when `deadline_ns` has come, and takes events. It also owns
the pages that the guest has given up: this machine asks it for pages to return to the guest and never sends
others. Memory beyond the boot size comes from a source of the owner's in the same way.

The table `RULES` says which message is taken in which state, and by what.

Two rules differ from QEMU hw/hyperv/hv-balloon.c, whose behaviour this otherwise is. A guest that is silent
makes the machine stuck: it sends no new request, and takes a late answer in full, because answers carry the
guest's own transaction ids and cannot be matched to a request. A guest that goes on reporting its status is
not silent, only slow. And a driver may close its channel and open it
again: `dynmem.dm.target` says what then holds.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from dynmem import trace_events
from dynmem.dm import tracing
from dynmem.dm.commitment import Commitment
from dynmem.dm.events import (
    ActualChanged,
    Anomaly,
    GuestStatus,
    HostEvent,
    StateChanged,
    StatusReported,
)
from dynmem.dm.handshake import HostHandshake
from dynmem.dm.hot_add import HotAdd, Refusals
from dynmem.dm.journal import OperationJournal
from dynmem.dm.operations import Balloon, HotRemove, Operation, Then, Unballoon
from dynmem.dm.options import HostOptions
from dynmem.dm.outbox import Outbox
from dynmem.dm.states import (
    HOST_RB_WAITS,
    HOST_REPLY_WAITS,
    HOST_SERVES,
    HOST_TABLE,
    HOST_WAITS,
    HostPlace,
    HostState,
    HostStep,
)
from dynmem.dm.stores import HotAddSource, PageStore
from dynmem.dm.target import Target, difference
from dynmem.dm.waiting import OVERDUE, Waiting
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import DM_EVENTS_PENDING, GUEST_PAGE_MAX
from dynmem.trace_events import NO_TRACE, Trace
from dynmem.units import PAGE_SHIFT
from dynmem.wire import dm


class DynamicMemoryHost:
    """One balloon channel's host end. Every `now` is in nanoseconds of the virtual machine's clock.

    Attributes:
        boot_pages: The guest's memory but for what is hot-added here; the owner changes it when a DIMM comes
            or goes.
        journal: What was requested of this guest and what came of it.
        status: The guest's last status report on this channel.
        guest_at_floor: Whether the guest, asked for the current target, had no more pages to give.

    """

    def __init__(
        self,
        *,
        store: PageStore,
        boot_pages: int,
        options: HostOptions,
        hot_add: HotAddSource | None = None,
        trace: Trace = NO_TRACE,
    ) -> None:
        """Start in S_WAIT_RESET.

        Args:
            store: The pages that the guest has given up.
            boot_pages: The guest's memory without any that is added later.
            options: The set-up.
            hot_add: Memory beyond the boot size, if there is any.
            trace: Where QEMU's trace events go.

        """
        self.boot_pages = boot_pages
        self.journal: Final = OperationJournal()
        self._store = store
        self._options = options
        self._source = hot_add
        self._refusals = Refusals()
        self._trace = trace
        self._place = HostPlace(HostState.WAIT_RESET)
        self._events: deque[HostEvent] = deque()
        self._target = Target()
        self._commitment = Commitment()
        self._trans_id = 0
        self._forget_guest()
        self._last_actual = self.actual_pages

    def _forget_guest(self) -> None:
        """Forget what is known of the guest behind one opened channel."""
        self._waiting = Waiting()
        self._outbox = Outbox()
        self._operation: Operation | None = None
        self._removal: HotRemove | None = None  # requested by the owner, not begun
        self._target.channel_changed()
        self._refusals.driver_gone()
        self._handshake = HostHandshake(self._options)
        self.status: GuestStatus | None = None
        self.guest_at_floor: bool = False

    @property
    def state(self) -> HostState:
        """The state of the machine; `HostState.STUCK` for a wait whose deadline has passed."""
        return self._place.shown

    @property
    def version(self) -> int | None:
        """The protocol version that was accepted on this channel."""
        return self._handshake.version

    @property
    def capabilities(self) -> dm.CapabilitiesReport | None:
        """What the guest said it can do, on the channel that is open."""
        return self._handshake.capabilities

    @property
    def actual_pages(self) -> int:
        """The guest's size now. Pages that go back to it count from the moment they are in the ring."""
        return max(0, self._ram_pages - self._store.removed_pages - self.held_pages)

    @property
    def held_pages(self) -> int:
        """Pages that were taken from the store for the message on offer and are not in the ring yet."""
        return self._operation.held_pages if self._operation else 0

    @property
    def target_pages(self) -> int:
        """The target, or all the memory of a guest that has none."""
        return self._ram_pages if self._target.pages is None else self._target.pages

    @property
    def _ram_pages(self) -> int:
        """All the memory that the guest has been given, including what it gave up."""
        return self.boot_pages + (self._source.added_pages if self._source else 0)

    @property
    def _most_pages(self) -> int:
        """All the memory that the guest can be given."""
        return self.boot_pages + (self._source.most_pages if self._source else 0)

    @property
    def _least_pages(self) -> int:
        """The size below which the guest says that it must not go."""
        report = self._handshake.capabilities
        return report.min_page_cnt if report is not None else 0

    # what the owner wants

    def reset(self, now: int, *, keeps_target: bool = False) -> None:
        """Start again with another guest. The owner has emptied store and, at a power cycle, source."""
        self._refusals = Refusals()
        self._commitment = Commitment()
        self._target.guest_gone(is_kept=keeps_target)
        self.journal.end("another guest came", now)
        self._forget_guest()
        self._trans_id = 0
        self._move(HostStep.RESET, now)
        self._settle(now)

    def channel_opened(self, now: int) -> None:
        """Wait for the guest's version: its driver opened the channel."""
        self._move(HostStep.OPEN, now)
        self._forget_guest()
        self._commitment.driver_came(self._store.removed_pages)

    def channel_closed(self, now: int) -> None:
        """End what is under way: the channel is gone. What the guest has given up stays given up."""
        if self._operation is not None:
            self._operation.abandon()
        self.journal.end("the channel was closed", now)
        self._forget_guest()
        self._move(HostStep.CLOSE, now)
        self._settle(now)

    def set_target(self, pages: int, now: int) -> None:
        """Work towards a size in pages; 0 is ignored. The same size again means: try again."""
        if pages <= 0:
            return
        self._target.set(pages)
        self.guest_at_floor = False
        self._settle(now)

    def hot_remove(self, pages: int, now: int, *, virtual_node: int = 0, qos_flags: int = 0) -> bool:
        """Request pages permanently, as soon as nothing else is under way; return whether that will be done.

        It will not when the guest cannot do it (version 2.0 and a capability) or another one is waiting.
        """
        if self._source is None or self._removal is not None or not self._handshake.can_hot_remove:
            return False
        self._removal = HotRemove(pages, self._source, virtual_node=virtual_node, qos_flags=qos_flags)
        self._settle(now)
        return True

    def tick(self, now: int) -> None:
        """Let time pass: the wait after start ends, a silent guest makes the machine stuck."""
        if self._place.state in HOST_WAITS and self._waiting.is_over(now):
            self._move(HostStep.SILENCE, now)
        self._settle(now)

    def deadline_ns(self) -> int | None:
        """Return when `tick` is next needed."""
        if self._place.state is HostState.IDLE:
            return self._target.retry_at
        return self._waiting.until

    def take_events(self) -> list[HostEvent]:
        """Return everything that happened since the last call, in order."""
        events = list(self._events)
        self._events.clear()
        return events

    # messages, out and in

    def next_message(self) -> bytes | None:
        """Return the message to send now, the same one until `message_sent`; None when there is none.

        When the ring has no room for it, ask again later: ``*_RB_WAIT`` is the state of waiting for that.
        """
        return self._outbox.offer(self._build_request)

    def _build_request(self) -> dm.Message | None:
        if self._operation is None or self._place.state not in HOST_RB_WAITS:
            return None
        return self._operation.build(self._trans_id, is_cut=self._target.is_due)

    @property
    def takes_pages_next(self) -> bool:
        """Whether `next_message` would take pages from the store. An owner who is discarding any waits."""
        is_open = self._outbox.is_empty and self._place.state in HOST_RB_WAITS
        return is_open and isinstance(self._operation, Unballoon)

    def withdraw_message(self) -> None:
        """Withdraw the message on offer if it names pages: some of them are no longer the guest's."""
        if self._outbox.offers_request and isinstance(self._operation, Unballoon):
            self._operation.withdraw()
            self._outbox.withdraw()

    def message_sent(self, now: int) -> None:
        """Record that the message of `next_message` is in the ring."""
        request = self._outbox.sent()
        if request is None:
            return
        self._unstick(now)
        self._move(HostStep.ROOM, now)
        assert self._operation is not None
        tracing.posted(self._trace, request, self._operation.left)
        pages, more = self._operation.sent()
        self.journal.posted(pages)
        self._move(HostStep.POSTED_PART if more else HostStep.POSTED, now)
        self._settle(now)

    def receive(self, data: bytes, now: int) -> None:
        """Take one message of the guest. A malformed one raises RemoteProtocolError and changes nothing.

        A sound message at the wrong time is ignored and reported as an Anomaly.
        """
        message = dm.decode(data, self.version or self._options.max_version)
        rule = RULES.get(type(message))
        if rule is None:
            raise RemoteProtocolError(f"a guest sent {type(message).__name__}, which only a host sends")
        handler, states = rule
        if self._place.state in states:
            handler(self, message, now)
        else:
            self._ignore(message, now)
        self._settle(now)

    # the state

    def _move(self, step: HostStep, now: int) -> None:
        """Take one step of the table, report it and set the deadline that belongs to the new place."""
        new = HOST_TABLE.get((self._place, step))
        if new is None:
            raise LocalProtocolError(f"the host cannot do {step.name} in {self.state.value}")
        old, self._place = self._place, new
        if new.shown is not old.shown:
            self._trace(trace_events.HV_BALLOON_STATE_CHANGE, new.shown.value)
            self._events.append(StateChanged(old.shown, new.shown))
        self._waiting.begin(None)
        if new.state is HostState.POST_INIT_WAIT:
            self._waiting.begin(now + self._options.post_init_wait_ns)
        elif new.state in HOST_WAITS and not new.is_stuck:
            self._waiting.begin(self._deadline(now))

    def _deadline(self, now: int) -> int:
        """Return until when there must be progress."""
        allowance_ns = self._operation.allowance_ns if self._operation is not None else 0
        return now + self._options.reply_deadline_ns + allowance_ns

    def _unstick(self, now: int) -> None:
        """Make a stuck wait an ordinary one again: what it waits for has come."""
        if self._place.is_stuck:
            self._move(HostStep.PROGRESS, now)

    def _is_alive(self, now: int) -> None:
        """Wait longer for an answer, as the guest is there; report once if that is overdue all the same."""
        if self._place.state not in HOST_REPLY_WAITS:
            return
        self._unstick(now)
        if self._waiting.renew(self._deadline(now), now):
            self._report(Anomaly(OVERDUE))

    def _report(self, event: HostEvent) -> None:
        """Keep an event that a guest can cause at will, unless too many have not been taken yet."""
        if len(self._events) < DM_EVENTS_PENDING:
            self._events.append(event)

    # operations

    def _settle(self, now: int) -> None:
        """Do what needs no message of the guest: end the wait after start, begin what is due."""
        if self._place.state is HostState.POST_INIT_WAIT and self._waiting.is_over(now):
            self._move(HostStep.WAIT_OVER, now)
        if self._place.state is HostState.IDLE:
            self._start(now)
        if self._place.state is HostState.HOT_ADD_SETUP:
            self._offer_mapped_memory(now)
        if self.actual_pages != self._last_actual:
            self._last_actual = self.actual_pages
            self._events.append(ActualChanged(self._last_actual))

    def _start(self, now: int) -> None:
        """Begin what is due: a hot remove, or the operation that leads to the target."""
        if self._removal is not None:
            removal, self._removal = self._removal, None
            if removal.keep(self.actual_pages, self._least_pages):
                self._begin(removal, now)
                return
            self._events.append(removal.finished())
        self._target.tick(now)
        if self._target.is_due:
            self._pursue_target(now)

    def _begin(self, operation: Operation, now: int) -> None:
        self._operation = operation
        self.journal.begin(operation.kind, operation.asked, now)
        self._move(operation.step, now)

    def _pursue_target(self, now: int) -> None:
        """Begin the operation that leads to the target, if one does."""
        self._target.asked()
        if self._target.pages is None or self._handshake.capabilities is None:
            return
        can_balloon = self._handshake.can(dm.CAP_BALLOON)
        wanted = difference(
            target_pages=self._target.pages,
            ram_pages=self._ram_pages,
            removed_pages=self._store.removed_pages,
            can_balloon=can_balloon,
            can_hot_add=self._source is not None
            and not self._refusals.is_final
            and self._handshake.can(dm.CAP_HOT_ADD),
            least_pages=self._least_pages,
        )
        if wanted.balloon:
            self._begin(Balloon(wanted.balloon, self._store, self._options.balloon_chunk_pages), now)
        elif wanted.unballoon:
            self.guest_at_floor = False
            self._begin(Unballoon(wanted.unballoon, self._store, wanted.hot_add), now)
        elif wanted.hot_add:
            self._begin_hot_add(wanted.hot_add, now)
        elif self._target.pages < self.actual_pages and not can_balloon:
            self._events.append(Anomaly("the guest says that it cannot balloon: its size stays"))

    def _begin_hot_add(self, pages: int, now: int) -> None:
        """Reserve memory, where there is some, and wait until it is mapped."""
        report = self._handshake.capabilities
        assert report is not None
        assert self._source is not None
        operation = HotAdd(self._source, self._refusals, with_region=self._options.hot_add_region)
        self._move(HostStep.HOT_ADD, now)  # in which QEMU looks for memory, too
        if operation.reserve(pages, report):
            self._operation = operation
            self.journal.begin(operation.kind, operation.asked, now)
        else:
            self._move(HostStep.NOTHING_TO_ADD, now)

    def _offer_mapped_memory(self, now: int) -> None:
        """Go on with the hot add once its memory is mapped, or end it when the host has no memory."""
        operation = self._operation
        assert isinstance(operation, HotAdd)
        if not operation.is_mapped():
            return
        self._unstick(now)
        if operation.left:
            self._move(HostStep.MAPPED, now)
        else:
            self._move(HostStep.NOTHING_TO_ADD, now)
            self.journal.end("the host has no memory to add", now)
            self._conclude(operation, now)
            self._settle(now)

    def _conclude(self, operation: Operation, now: int, *, is_retryable: bool = False) -> None:
        """Take what remains of an operation that is over."""
        self._operation = None
        event = operation.finished()
        if event is not None:
            self._events.append(event)
        if is_retryable:
            self._target.retry(now + self._refusals.pauses * self._options.hot_add_retry_ns)
        if isinstance(operation, HotAdd) and operation.may_go_on:
            self._target.again()

    # what comes, in one of the states that `RULES` names

    def _ignore(self, message: dm.Message, now: int) -> None:
        self._report(Anomaly(f"the guest sent {type(message).__name__} in {self.state.value}: ignored"))

    def _on_version(self, message: dm.VersionRequest, now: int) -> None:
        self._outbox.expect_read()
        tracing.received(self._trace, message)
        response = self._handshake.take_version(message)
        self._outbox.reply(response)
        if response.is_accepted:
            self._move(HostStep.VERSION_ACCEPTED, now)
        elif message.is_last_attempt:
            self._move(HostStep.LAST_VERSION_REFUSED, now)
            self._report(Anomaly("the guest's last protocol version was refused: it stops the service"))

    def _on_capabilities(self, message: dm.CapabilitiesReport, now: int) -> None:
        self._outbox.expect_read()
        tracing.received(self._trace, message)
        self._outbox.reply(*self._handshake.take_capabilities(message, info_trans_id=self._trans_id))
        self._move(HostStep.CAPS_ACCEPTED, now)

    def _on_status(self, message: dm.StatusReport, now: int) -> None:
        if max(message.num_avail, message.num_committed) > GUEST_PAGE_MAX:
            raise RemoteProtocolError("a status report names more pages than any guest can have")
        self._is_alive(now)
        if self._options.status_report:
            removed, most = self._store.removed_pages, self._most_pages
            committed = self._commitment.reported(message.num_committed, removed, most) << PAGE_SHIFT
            available = min(message.num_avail, most) << PAGE_SHIFT
            self.status = GuestStatus(committed, available, now)
            self._report(StatusReported(committed, available))

    def _on_answer(self, message: dm.Message, now: int) -> None:
        """Take an answer to the operation. One that brings nothing and promises more is no progress."""
        operation = self._operation
        assert operation is not None
        tracing.received(self._trace, message)
        answer = operation.answered(message)
        for text in answer.oddities:
            self._report(Anomaly(text))
        if isinstance(operation, Balloon) and (answer.pages or operation.is_at_floor):
            self.guest_at_floor = operation.is_at_floor
        self.journal.answered(answer.pages)
        if answer.then is Then.WAIT:
            if answer.pages:
                self._move(HostStep.PROGRESS, now)
            return
        self._unstick(now)
        self._trans_id += 1
        if answer.then is Then.NEXT and not self._target.is_due:
            self._move(HostStep.ANSWERED_PART, now)
            return
        self.journal.end("another target came" if answer.then is Then.NEXT else answer.outcome, now)
        self._conclude(operation, now, is_retryable=answer.is_retryable)
        if isinstance(operation, Unballoon) and operation.hot_add and not self._target.is_due:
            self._begin_hot_add(operation.hot_add, now)
        else:
            self._move(HostStep.ANSWERED, now)


_H: Final = HostState
_M: Final = DynamicMemoryHost

# what takes a message, and in which states; in any other state it is ignored and reported
RULES: Final[Mapping[type, tuple[Callable[[DynamicMemoryHost, Any, int], None], frozenset[HostState]]]] = {
    dm.VersionRequest: (_M._on_version, frozenset({_H.VERSION})),
    dm.CapabilitiesReport: (_M._on_capabilities, frozenset({_H.CAPS})),
    dm.StatusReport: (_M._on_status, HOST_SERVES),
    dm.BalloonResponse: (_M._on_answer, frozenset({_H.BALLOON_REPLY_WAIT})),
    dm.UnballoonResponse: (_M._on_answer, frozenset({_H.UNBALLOON_REPLY_WAIT})),
    dm.HotAddResponse: (_M._on_answer, frozenset({_H.HOT_ADD_REPLY_WAIT})),
    dm.HotRemoveResponse: (_M._on_answer, frozenset({_H.HOT_REMOVE_REPLY_WAIT})),
    dm.DmError: (_M._ignore, frozenset(HostState)),
}
