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
from dynmem.trace_events import NO_TRACE, Trace
from dynmem.vmbus import tracing
from dynmem.vmbus.bus_events import BusEvent, GuestUnloaded
from dynmem.vmbus.channel import Channel, ChannelEvent, ChannelSnapshot, ChannelState, Offer
from dynmem.vmbus.channel_requests import ChannelRequests
from dynmem.vmbus.channels import Channels
from dynmem.vmbus.contact import Connection, as_meant, is_for_this_bus, reply_to
from dynmem.vmbus.gpadl import GpadlSnapshot, GpadlTable
from dynmem.vmbus.gpadl_requests import GpadlRequests
from dynmem.vmbus.mailbox import Mailbox, OutgoingMessage
from dynmem.vmbus.memory import BadAddressError, GuestMemory
from dynmem.vmbus.rejection import Rejection, Rejections
from dynmem.vmbus.signals import Signal, Signals
from dynmem.wire import vmbus as wire
from dynmem.wire.status import STATUS_CONNECTION_REFUSED
from dynmem.wire.synic import (
    EVENT_CONNECTION_ID,
    MESSAGE_CONNECTION_ID,
    MESSAGE_CONNECTION_ID_4,
    VMBUS_MESSAGE_TYPE,
    VMBUS_SINT,
    HvStatus,
)
from dynmem.wire.versions import VERSION_4_1, VERSION_5_0, VERSION_5_3, VERSION_WIN7


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
        self._channels = Channels(notify=self._notify, report=self._report)
        self.channels: Mapping[int, Channel] = self._channels.by_relid
        self._rejections = Rejections()
        self.rejected: Mapping[Rejection, int] = self._rejections.counts
        self.state: BusState = BusState.DISCONNECTED
        self._gpadls = GpadlTable()
        self._mailbox = Mailbox(trace)
        self._signals = Signals(memory)
        self._events: list[BusEvent] = []
        shared = (self._channels, self._mailbox, self._rejections)
        self._of_gpadls = GpadlRequests(self._gpadls, *shared, trace=trace)
        self._of_channels = ChannelRequests(
            self._gpadls, *shared, memory=memory, vp_count=vp_count, trace=trace, report=self._report
        )
        for offer in offers:
            self._channels.add(offer)

    @property
    def version(self) -> int | None:
        """The version that was agreed on; None before."""
        return None if self._mailbox.connection is None else self._mailbox.connection.version

    @property
    def monitor_pages(self) -> tuple[int, int]:
        """The two pages that the guest named at contact (host to guest, guest to host), or zeros.

        No offer allocates a monitor, so the host never reads them.
        """
        return (0, 0) if self._mailbox.connection is None else self._mailbox.connection.monitor_pages

    # what comes in

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> HvStatus:
        """Take an HvPostMessage of the guest. Never raises; the status says whether the post was taken."""
        if connection_id != MESSAGE_CONNECTION_ID and (
            connection_id != MESSAGE_CONNECTION_ID_4 or self._max_version < VERSION_5_0
        ):
            return HvStatus.INVALID_CONNECTION_ID
        if message_type != VMBUS_MESSAGE_TYPE or len(payload) < wire.HEADER_BYTES:
            self._rejections.add(Rejection.MALFORMED)
            return HvStatus.INVALID_HYPERCALL_INPUT
        tracing.received(self._trace, payload)
        if len(self._events) >= VMBUS_EVENTS_MAX:
            return HvStatus.INSUFFICIENT_BUFFERS
        is_connected = self.state is not BusState.DISCONNECTED
        try:
            message = wire.decode(payload, self.version or 0)
        except RemoteProtocolError:  # an error status, so that the guest does not wait for a reply
            tracing.processed(self._trace, payload, None, is_connected=is_connected)
            self._rejections.add(Rejection.MALFORMED)
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
            self._rejections.add(Rejection.UNEXPECTED)
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
            self._of_channels.offer(channel)
        return channel

    def rescind(self, channel: Channel) -> None:
        """Rescind an offer (unplug); the channel leaves `channels` when the guest has released it."""
        if not channel.can(ChannelEvent.RESCIND):
            raise LocalProtocolError(f"{channel} cannot be rescinded")
        is_told = channel.is_rescinded or channel.state is ChannelState.UNOFFERED
        self._channels.move(channel, ChannelEvent.RESCIND)
        if not is_told:
            self._mailbox.post(wire.RescindChannelOffer(channel.relid))

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
            self._mailbox.connection,
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
        self._gpadls.restore(snapshot.gpadls)
        self._mailbox.restore(snapshot.connection, snapshot.queue)
        self._signals.restore(snapshot.signals)
        self._events = []
        self._channels.restore(snapshot.channels, self._gpadls, self._memory)

    # inside

    def _report(self, event: BusEvent) -> None:
        self._events.append(event)

    def _notify(self, channel: Channel) -> None:
        self._trace(trace_events.VMBUS_CHANNEL_NOTIFY_GUEST, channel.relid)
        if self._mailbox.connection is None:
            return
        try:
            self._signals.add(channel, self._mailbox.connection)
        except BadAddressError:
            self._rejections.add(Rejection.INTERRUPT_PAGE_OUTSIDE_MEMORY)

    def _disconnect(self) -> None:
        """Return to the state before any contact."""
        for channel in list(self.channels.values()):
            self._channels.move(channel, ChannelEvent.FORGET)
        self._gpadls.clear()
        self._mailbox.disconnect()
        self._signals.clear()
        self.state = BusState.DISCONNECTED

    def _on_initiate_contact(self, contact: wire.InitiateContact) -> None:
        """Start again, whatever the state, if the contact is for this bus."""
        reply = reply_to(contact, max_version=self._max_version, vp_count=self._vp_count)
        if reply.complaint is not None:
            self._rejections.add(reply.complaint)
        if is_for_this_bus(contact):
            self._disconnect()
        if reply.connection is not None:
            self.state = BusState.CONNECTED
            self._mailbox.connection = reply.connection
        self._mailbox.post_to(reply.response, reply.vp, reply.sint, version=self.version or 0)

    def _on_request_offers(self, message: wire.RequestOffers) -> None:
        self.state = BusState.OFFERED
        for channel in self.channels.values():
            self._of_channels.offer(channel)
        self._trace(trace_events.VMBUS_TERMINATE_OFFERS)
        self._mailbox.post(wire.AllOffersDelivered())

    def _on_tl_connect(self, message: wire.TlConnectRequest) -> None:
        """Refuse: no service listens here. Before 4.1 there is no message for that."""
        if self.version is not None and self.version >= VERSION_4_1:
            self._mailbox.post(
                wire.TlConnectResult(message.endpoint, message.service, STATUS_CONNECTION_REFUSED)
            )

    def _on_unload(self, message: wire.Unload) -> None:
        """Reply where the guest waits, from 1.1 on; 0.13 does not know the reply."""
        left = self._mailbox.connection
        self._disconnect()
        if left is not None and left.version >= VERSION_WIN7:
            self._mailbox.post_to(wire.UnloadResponse(), left.vp, VMBUS_SINT, version=left.version)
        self._report(GuestUnloaded())


_ANY: Final = frozenset(BusState)
_LINKED: Final = frozenset({BusState.CONNECTED, BusState.OFFERED})
_OFFERED: Final = frozenset({BusState.OFFERED})

RULES: Final[dict[type, tuple[Callable[[Bus, Any], None], frozenset[BusState]]]] = {
    wire.InitiateContact: (Bus._on_initiate_contact, _ANY),
    wire.RequestOffers: (Bus._on_request_offers, frozenset({BusState.CONNECTED})),
    wire.GpadlHeader: (lambda bus, message: bus._of_gpadls.header(message), _OFFERED),
    wire.GpadlBody: (lambda bus, message: bus._of_gpadls.body(message), _OFFERED),
    wire.GpadlTeardown: (lambda bus, message: bus._of_gpadls.teardown(message), _OFFERED),
    wire.OpenChannel: (lambda bus, message: bus._of_channels.open(message), _OFFERED),
    wire.CloseChannel: (lambda bus, message: bus._of_channels.close(message), _OFFERED),
    wire.OpenReservedChannel: (lambda bus, message: bus._of_channels.open_reserved(message), _OFFERED),
    wire.CloseReservedChannel: (lambda bus, message: bus._of_channels.close_reserved(message), _OFFERED),
    wire.RelidReleased: (lambda bus, message: bus._of_channels.release(message), _OFFERED),
    wire.ModifyChannel: (lambda bus, message: bus._of_channels.modify(message), _OFFERED),
    wire.TlConnectRequest: (Bus._on_tl_connect, _LINKED),
    wire.Unload: (Bus._on_unload, _LINKED),
}


def _empties_the_mailbox(message: wire.Message) -> bool:
    """Return whether a message is taken even when the mailbox is full, since it ends the connection."""
    if isinstance(message, wire.InitiateContact):
        return is_for_this_bus(message)
    return isinstance(message, wire.Unload)
