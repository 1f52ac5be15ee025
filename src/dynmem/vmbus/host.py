"""The host's end of VMBus: contact, offers, GPADLs, opening and closing of channels, signals.

Sans I/O: the VM passes in what the guest posts and signals, and takes messages, signals and events. No post
of a guest raises: a wrong one is counted in `Bus.rejected` under one of a fixed set of reasons, and gets an
error reply where the protocol has one. When replies pile up because the guest does not empty its message
slot, further posts are refused with INSUFFICIENT_BUFFERS, which guests retry.

The table `RULES` says which message is taken in which state, and by what. What a guest posts about a channel
that was rescinded may have crossed the rescind: it is not wrong, and it gets a reply if the guest waits for
one.

Source: QEMU hw/hyperv/vmbus.c; OpenVMM vmbus_server channels.rs; Linux drivers/hv.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dynmem import trace_events
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import VMBUS_EVENTS_MAX
from dynmem.trace_events import NO_TRACE, Trace, stable_pointer
from dynmem.vmbus import tracing
from dynmem.vmbus.bus_events import (
    BusEvent,
    ChannelClosed,
    ChannelFaulted,
    ChannelOpened,
    GuestUnloaded,
)
from dynmem.vmbus.channel import Channel, ChannelEvent, ChannelSnapshot, ChannelState, Offer
from dynmem.vmbus.channels import Channels
from dynmem.vmbus.contact import Connection, as_meant, is_for_this_bus, reply_to
from dynmem.vmbus.gpadl import GpadlSnapshot, GpadlTable, RefusedGpadlError
from dynmem.vmbus.mailbox import Mailbox, OutgoingMessage
from dynmem.vmbus.memory import BadAddressError, GuestMemory
from dynmem.vmbus.opening import RefusedOpenError, open_channel
from dynmem.vmbus.rejection import Rejection
from dynmem.vmbus.signals import Signal, Signals
from dynmem.wire import vmbus as wire
from dynmem.wire.status import STATUS_CONNECTION_REFUSED, STATUS_SUCCESS, STATUS_UNSUCCESSFUL
from dynmem.wire.synic import (
    EVENT_CONNECTION_ID,
    MESSAGE_CONNECTION_ID,
    MESSAGE_CONNECTION_ID_4,
    SINT_COUNT,
    VMBUS_MESSAGE_TYPE,
    VMBUS_SINT,
    HvStatus,
)
from dynmem.wire.versions import VERSION_4_1, VERSION_5_0, VERSION_5_3, VERSION_WIN7
from dynmem.wire.vmbus import TARGET_VP_NONE


class BusState(enum.Enum):
    """How far the guest has got."""

    DISCONNECTED = "disconnected"
    CONNECTED = "connected"
    OFFERED = "offered"


class BusSnapshot(NamedTuple):
    """What can change of a bus but for its counts, including signals that were not taken."""

    state: BusState
    connection: Connection | None
    gpadls: tuple[GpadlSnapshot, ...]
    queue: tuple[OutgoingMessage, ...]
    signals: tuple[Signal, ...]
    channels: tuple[ChannelSnapshot, ...]


class Bus:
    """The VMBus of one virtual machine.

    Args:
        memory: Guest memory, for rings and the interrupt page.
        offers: The channels to offer, in this order; relids are 1, 2, ...
        vp_count: The number of virtual processors, to which messages and signals can go.
        max_version: The newest version to agree to.
        trace: Where QEMU's vmbus_* events go.

    Attributes:
        channels: Every channel by relid.
        rejected: How often the guest posted something wrong, by reason.

    """

    def __init__(
        self,
        memory: GuestMemory,
        offers: Sequence[Offer],
        *,
        vp_count: int = 1,
        max_version: int = VERSION_5_3,
        trace: Trace = NO_TRACE,
    ) -> None:
        self._memory = memory
        self._vp_count = vp_count
        self._max_version = max_version
        self._trace = trace
        self._channels = Channels(notify=self._notify, on_fault=self._fault)
        self.channels: Mapping[int, Channel] = self._channels.by_relid
        self.rejected: dict[Rejection, int] = {}
        self.state: BusState = BusState.DISCONNECTED
        self._connection: Connection | None = None
        self._gpadls = GpadlTable()
        self._mailbox = Mailbox(trace)
        self._signals = Signals(memory)
        self._events: list[BusEvent] = []
        for offer in offers:
            self._channels.add(offer)

    @property
    def version(self) -> int | None:
        """The version that was agreed on; None before."""
        return None if self._connection is None else self._connection.version

    @property
    def monitor_pages(self) -> tuple[int, int]:
        """The two pages that the guest named at contact (host to guest, guest to host), or zeros.

        No offer allocates a monitor, so the host never reads them.
        """
        return (0, 0) if self._connection is None else self._connection.monitor_pages

    # what comes in

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> HvStatus:
        """Take an HvPostMessage of the guest. Never raises; the status says whether the post was taken."""
        if connection_id != MESSAGE_CONNECTION_ID and (
            connection_id != MESSAGE_CONNECTION_ID_4 or self._max_version < VERSION_5_0
        ):
            return HvStatus.INVALID_CONNECTION_ID
        if message_type != VMBUS_MESSAGE_TYPE or len(payload) < wire.HEADER_BYTES:
            self._reject(Rejection.MALFORMED)
            return HvStatus.INVALID_HYPERCALL_INPUT
        tracing.received(self._trace, payload)
        if len(self._events) >= VMBUS_EVENTS_MAX:
            return HvStatus.INSUFFICIENT_BUFFERS
        is_connected = self.state is not BusState.DISCONNECTED
        try:
            message = wire.decode(payload, self.version or 0)
        except RemoteProtocolError:  # an error status, so that the guest does not wait for a reply
            tracing.processed(self._trace, payload, None, is_connected=is_connected)
            self._reject(Rejection.MALFORMED)
            return HvStatus.INVALID_HYPERCALL_INPUT
        meant = as_meant(message, connection_id) if isinstance(message, wire.InitiateContact) else message
        handler, states = RULES.get(type(message), (None, frozenset()))
        is_expected = handler is not None and self.state in states
        if is_expected and self._mailbox.is_full and not _empties_the_mailbox(meant):
            return HvStatus.INSUFFICIENT_BUFFERS
        tracing.processed(self._trace, payload, message, is_connected=is_connected)
        if handler is not None and is_expected:
            handler(self, meant)
        else:
            self._reject(Rejection.UNEXPECTED)
        return HvStatus.SUCCESS

    def signal_event(self, connection_id: int, flag: int) -> HvStatus:
        """Take an HvSignalEvent of the guest, for one channel or (connection id 2) for all.

        After SUCCESS the device calls `Channel.receive` until None, and sends again what found no room.
        """
        if flag:
            return HvStatus.INVALID_PORT_ID
        if connection_id == EVENT_CONNECTION_ID and self.state is not BusState.DISCONNECTED:
            self._trace(trace_events.VMBUS_SIGNAL_EVENT)
            return HvStatus.SUCCESS
        for channel in self.channels.values():
            if channel.connection_id == connection_id and channel.state is not ChannelState.UNOFFERED:
                return HvStatus.SUCCESS
        return HvStatus.INVALID_CONNECTION_ID

    def reset(self) -> None:
        """Forget all that the guest made: the machine was reset. The offers stay."""
        self._disconnect()

    def offer(self, offer: Offer) -> Channel:
        """Offer a device: at once if the guest has had its offers, otherwise when it asks for them.

        A device whose channel was rescinded gets that channel again, and the guest is offered it when it has
        released it. Raises LocalProtocolError for another offer of the same identity, or one too many.
        """
        channel = self._channels.add(offer)
        if self.state is BusState.OFFERED and channel.can(ChannelEvent.OFFER):
            self._send_offer(channel)
        return channel

    def rescind(self, channel: Channel) -> None:
        """Rescind an offer (unplug); the channel leaves `channels` when the guest has released it."""
        if not channel.can(ChannelEvent.RESCIND):
            raise LocalProtocolError(f"{channel} cannot be rescinded")
        is_told = channel.is_rescinded or channel.state is ChannelState.UNOFFERED
        self._move(channel, ChannelEvent.RESCIND)
        if not is_told:
            self._post(wire.RescindChannelOffer(channel.relid))

    # what goes out

    def next_message(self) -> OutgoingMessage | None:
        """Return the message for the guest's slot, the same one until `message_delivered`."""
        return self._mailbox.first

    def message_delivered(self) -> None:
        """Record that the message of `next_message` is in the slot."""
        self._mailbox.delivered()

    def take_signals(self) -> list[Signal]:
        """Return the event flags to set since the last call, each once."""
        return self._signals.take()

    def take_events(self) -> list[BusEvent]:
        """Return what happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    # for model checkers

    def snapshot(self) -> BusSnapshot:
        """Return what can change of the bus. Its events must have been taken."""
        if self._events:
            raise LocalProtocolError("take the events of the bus before its snapshot: they are not in it")
        return BusSnapshot(
            self.state,
            self._connection,
            self._gpadls.snapshot(),
            self._mailbox.snapshot(),
            self._signals.snapshot(),
            self._channels.snapshot(),
        )

    def restore(self, snapshot: BusSnapshot) -> None:
        """Make this bus what that bus was when its snapshot was taken.

        Guest memory is not part of it: the caller puts that back.
        """
        self.state = snapshot.state
        self._connection = snapshot.connection
        self._gpadls.restore(snapshot.gpadls)
        self._mailbox.restore(snapshot.queue)
        self._signals.restore(snapshot.signals)
        self._events = []
        self._channels.restore(snapshot.channels, self._gpadls, self._memory)

    # inside

    def _reject(self, reason: Rejection) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def _post(self, message: wire.Message, target: tuple[int, int] | None = None) -> None:
        """Queue a message for the VP that made contact, or for a reserved channel's own (VP, SINT)."""
        assert self._connection is not None
        vp, sint = target or (self._connection.vp, VMBUS_SINT)
        self._mailbox.post(message, vp, sint, version=self._connection.version)

    def _gpadl_created(self, relid: int, gpadl_id: int, status: int) -> None:
        if status == STATUS_SUCCESS:
            self._trace(trace_events.VMBUS_GPADL_CREATED, gpadl_id)
        self._post(wire.GpadlCreated(relid, gpadl_id, status))

    def _notify(self, channel: Channel) -> None:
        self._trace(trace_events.VMBUS_CHANNEL_NOTIFY_GUEST, channel.relid)
        if self._connection is None:
            return
        try:
            self._signals.add(channel, self._connection)
        except BadAddressError:
            self._reject(Rejection.INTERRUPT_PAGE_OUTSIDE_MEMORY)

    def _fault(self, channel: Channel, reason: str) -> None:
        self._events.append(ChannelFaulted(channel, reason))

    def _move(self, channel: Channel, event: ChannelEvent) -> None:
        """Move a channel out of use, and report that."""
        if self._channels.move(channel, event):
            self._events.append(ChannelClosed(channel))

    def _send_offer(self, channel: Channel) -> None:
        channel.move(ChannelEvent.OFFER)
        self._post_offer(channel)

    def _post_offer(self, channel: Channel) -> None:
        self._trace(trace_events.VMBUS_SEND_OFFER, channel.relid, stable_pointer(channel.offer.instance))
        self._post(channel.offer_message())

    def _disconnect(self) -> None:
        """Return to the state before any contact."""
        for channel in list(self.channels.values()):
            self._move(channel, ChannelEvent.FORGET)
        self._gpadls.clear()
        self._mailbox.clear()
        self._signals.clear()
        self.state = BusState.DISCONNECTED
        self._connection = None

    def _on_initiate_contact(self, contact: wire.InitiateContact) -> None:
        """Start again, whatever the state, if the contact is for this bus."""
        reply = reply_to(contact, max_version=self._max_version, vp_count=self._vp_count)
        if reply.complaint is not None:
            self._reject(reply.complaint)
        if is_for_this_bus(contact):
            self._disconnect()
        if reply.connection is not None:
            self.state = BusState.CONNECTED
            self._connection = reply.connection
        self._mailbox.post(reply.response, reply.vp, reply.sint, version=self.version or 0)

    def _on_request_offers(self, message: wire.RequestOffers) -> None:
        self.state = BusState.OFFERED
        for channel in self.channels.values():
            self._send_offer(channel)
        self._trace(trace_events.VMBUS_TERMINATE_OFFERS)
        self._post(wire.AllOffersDelivered())

    def _on_gpadl_header(self, message: wire.GpadlHeader) -> None:
        known = self._channels.get(message.child_relid) is not None
        try:
            gpadl = self._gpadls.begin(message, channel_is_known=known)
        except RefusedGpadlError as error:
            self._reject(error.cause)
            self._gpadl_created(message.child_relid, message.gpadl, STATUS_UNSUCCESSFUL)
            return
        if gpadl.complete:
            self._gpadl_created(gpadl.relid, gpadl.gpadl_id, STATUS_SUCCESS)

    def _on_gpadl_body(self, message: wire.GpadlBody) -> None:
        gpadl = self._gpadls.get(message.gpadl)
        if gpadl is None or gpadl.complete:
            self._reject(Rejection.STRAY_GPADL_BODY)
            return
        gpadl.add(message.pfns)
        if gpadl.complete:
            self._gpadl_created(gpadl.relid, gpadl.gpadl_id, STATUS_SUCCESS)

    def _on_gpadl_teardown(self, message: wire.GpadlTeardown) -> None:
        """Reply even when there is no such GPADL: the host certainly does not use its pages."""
        gpadl = self._gpadls.get(message.gpadl)
        if gpadl is None:
            self._reject(Rejection.TEARDOWN_OF_UNKNOWN_GPADL)
        elif gpadl.relid != message.child_relid:
            self._reject(Rejection.TEARDOWN_OF_OTHERS_GPADL)
            return
        else:
            channel = self._channels.get(gpadl.relid)
            if channel is not None and channel.is_open and channel.gpadl_id == gpadl.gpadl_id:
                channel.break_off("the guest tore down the rings of an open channel")
            self._gpadls.remove(gpadl)
        self._trace(trace_events.VMBUS_GPADL_TORNDOWN, message.gpadl)
        self._post(wire.GpadlTorndown(message.gpadl))

    def _open(self, message: wire.OpenChannel) -> Channel | None:
        """Open the channel that `message` names; return it, or None if that was refused."""
        channel = self._channels.get(message.child_relid)
        if channel is not None and channel.is_rescinded:
            return None
        gpadl = self._gpadls.get(message.ringbuffer_gpadl)
        try:
            opened = open_channel(message, channel, gpadl, self._memory, self._vp_count)
        except RefusedOpenError as error:
            self._reject(error.cause)
            return None
        self._events.append(ChannelOpened(opened))
        return opened

    def _on_open_channel(self, message: wire.OpenChannel) -> None:
        status = STATUS_UNSUCCESSFUL if self._open(message) is None else STATUS_SUCCESS
        self._trace(trace_events.VMBUS_CHANNEL_OPEN, message.child_relid, status)
        self._post(wire.OpenChannelResult(message.child_relid, message.openid, status))

    def _on_open_reserved_channel(self, message: wire.OpenReservedChannel) -> None:
        """Open a channel whose replies go to a (VP, SINT) of its own and that never interrupts."""
        target = (message.target_vp, message.target_sint)
        if not self._is_target(target):
            self._reject(Rejection.RESERVED_OPEN_FOR_ABSENT_TARGET)
            return
        gpadl, page = message.ringbuffer_gpadl, message.downstream_page_offset
        channel = self._open(wire.OpenChannel(message.channel, 0, gpadl, TARGET_VP_NONE, page))
        if channel is not None:
            channel.reserved = True
        status = STATUS_UNSUCCESSFUL if channel is None else STATUS_SUCCESS
        self._trace(trace_events.VMBUS_CHANNEL_OPEN, message.channel, status)
        self._post(wire.OpenChannelResult(message.channel, 0, status), target)

    def _is_target(self, target: tuple[int, int]) -> bool:
        """Return whether messages can be delivered to that (VP, SINT)."""
        return target[0] < self._vp_count and target[1] < SINT_COUNT

    def _on_close_channel(self, message: wire.CloseChannel) -> None:
        self._close(message.child_relid, reserved=False)

    def _on_close_reserved_channel(self, message: wire.CloseReservedChannel) -> None:
        """Reply where this message says, which need not be where the channel was opened from."""
        target = (message.target_vp, message.target_sint)
        if not self._is_target(target):
            self._reject(Rejection.RESERVED_CLOSE_FOR_ABSENT_TARGET)
        elif self._close(message.channel, reserved=True):
            self._post(wire.CloseReservedChannelResponse(message.channel), target)

    def _close(self, relid: int, *, reserved: bool) -> bool:
        """Close a channel; return whether it is closed now and was not before."""
        channel = self._channels.get(relid)
        if channel is not None and channel.is_rescinded:
            return False
        if channel is None or channel.reserved is not reserved or not channel.can(ChannelEvent.CLOSE):
            self._reject(Rejection.CLOSE_OF_CHANNEL_NOT_OPEN)
            return False
        self._move(channel, ChannelEvent.CLOSE)
        return True

    def _on_relid_released(self, message: wire.RelidReleased) -> None:
        """Forget the guest's part of a channel; a device that is here again is offered at once.

        Linux also releases closed channels that were not rescinded, when its driver for the bus goes.
        """
        channel = self._channels.get(message.child_relid)
        if channel is None or not channel.can(ChannelEvent.RELEASE):
            self._reject(Rejection.RELEASE_OF_CHANNEL_IN_USE)
            return
        self._gpadls.remove_of(channel.relid)
        self._move(channel, ChannelEvent.RELEASE)
        if channel.state is ChannelState.CLOSED:
            self._post_offer(channel)

    def _on_modify_channel(self, message: wire.ModifyChannel) -> None:
        """Move a channel's interrupts, which this message can neither begin nor end."""
        channel = self._channels.get(message.child_relid)
        status = STATUS_UNSUCCESSFUL
        if channel is None or not channel.has_interrupts:
            if channel is None or not channel.is_rescinded:
                self._reject(Rejection.MODIFY_WITHOUT_INTERRUPTS)
        elif message.target_vp >= self._vp_count:
            self._reject(Rejection.MODIFY_FOR_ABSENT_PROCESSOR)
        else:
            channel.target_vp = message.target_vp
            status = STATUS_SUCCESS
        if self.version == VERSION_5_3:  # the first that knows the reply
            self._post(wire.ModifyChannelResponse(message.child_relid, status))

    def _on_tl_connect(self, message: wire.TlConnectRequest) -> None:
        """Refuse: no service listens here. Before 4.1 there is no message for that."""
        if self.version is not None and self.version >= VERSION_4_1:
            self._post(wire.TlConnectResult(message.endpoint, message.service, STATUS_CONNECTION_REFUSED))

    def _on_unload(self, message: wire.Unload) -> None:
        """Reply where the guest waits, from 1.1 on; 0.13 does not know the reply."""
        left = self._connection
        self._disconnect()
        if left is not None and left.version >= VERSION_WIN7:
            self._mailbox.post(wire.UnloadResponse(), left.vp, VMBUS_SINT, version=left.version)
        self._events.append(GuestUnloaded())


_ANY: Final = frozenset(BusState)
_LINKED: Final = frozenset({BusState.CONNECTED, BusState.OFFERED})
_OFFERED: Final = frozenset({BusState.OFFERED})

RULES: Final[dict[type, tuple[Callable[[Bus, Any], None], frozenset[BusState]]]] = {
    wire.InitiateContact: (Bus._on_initiate_contact, _ANY),
    wire.RequestOffers: (Bus._on_request_offers, frozenset({BusState.CONNECTED})),
    wire.GpadlHeader: (Bus._on_gpadl_header, _OFFERED),
    wire.GpadlBody: (Bus._on_gpadl_body, _OFFERED),
    wire.GpadlTeardown: (Bus._on_gpadl_teardown, _OFFERED),
    wire.OpenChannel: (Bus._on_open_channel, _OFFERED),
    wire.CloseChannel: (Bus._on_close_channel, _OFFERED),
    wire.OpenReservedChannel: (Bus._on_open_reserved_channel, _OFFERED),
    wire.CloseReservedChannel: (Bus._on_close_reserved_channel, _OFFERED),
    wire.RelidReleased: (Bus._on_relid_released, _OFFERED),
    wire.ModifyChannel: (Bus._on_modify_channel, _OFFERED),
    wire.TlConnectRequest: (Bus._on_tl_connect, _LINKED),
    wire.Unload: (Bus._on_unload, _LINKED),
}


def _empties_the_mailbox(message: wire.Message) -> bool:
    """Return whether a message is taken even when the mailbox is full, since it ends the connection."""
    if isinstance(message, wire.InitiateContact):
        return is_for_this_bus(message)
    return isinstance(message, wire.Unload)
