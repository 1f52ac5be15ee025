"""The host's end of VMBus: contact, offers, GPADLs, opening and closing of channels, signals.

Sans I/O: the VM passes in what the guest posts and signals, and takes messages, signals and events. No post
of a guest raises: a wrong one is counted in `Bus.rejected` under one of a fixed set of reasons, and gets an
error reply where the protocol has one. When replies pile up because the guest does not empty its message
slot, further posts are refused with INSUFFICIENT_BUFFERS, which guests retry.

The table `RULES` says which message is taken in which state, and by what.

Source: QEMU hw/hyperv/vmbus.c; OpenVMM vmbus_server channels.rs; Linux drivers/hv.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from dynmem import trace_events
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import VMBUS_CHANNELS_MAX, VMBUS_EVENTS_MAX
from dynmem.trace_events import NO_TRACE, Trace, stable_pointer
from dynmem.vmbus.bus_events import (
    BusEvent,
    ChannelClosed,
    ChannelFaulted,
    ChannelOpened,
    GuestUnloaded,
)
from dynmem.vmbus.channel import Channel, ChannelEvent, ChannelSnapshot, ChannelState, Offer
from dynmem.vmbus.contact import reply_to
from dynmem.vmbus.gpadl import GpadlSnapshot, GpadlTable, RefusedGpadlError
from dynmem.vmbus.mailbox import Mailbox, OutgoingMessage
from dynmem.vmbus.memory import BadAddressError, GuestMemory
from dynmem.vmbus.opening import RefusedOpenError, open_channel
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
from dynmem.wire.versions import VERSION_5_0, VERSION_5_3
from dynmem.wire.vmbus import TARGET_VP_NONE


class BusState(enum.Enum):
    """How far the guest has got."""

    DISCONNECTED = "disconnected"
    CONNECTED = "connected"
    OFFERED = "offered"


class BusSnapshot(NamedTuple):
    """What can change of a bus but for its counts, including signals that were not taken."""

    state: BusState
    version: int | None
    vp: int
    interrupt_page: int
    monitor_pages: tuple[int, int]
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
        monitor_pages: The two pages the guest named at contact (host to guest, guest to host), or zeros. No
            offer allocates a monitor, so that the host never reads them.
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
        identities = {(offer.interface, offer.instance, offer.sub_channel_index) for offer in offers}
        if len(identities) != len(offers) or len(offers) > VMBUS_CHANNELS_MAX:
            raise LocalProtocolError(f"offers must be distinct, and at most {VMBUS_CHANNELS_MAX}")
        self._memory = memory
        self._offers = tuple(offers)
        self._vp_count = vp_count
        self._max_version = max_version
        self._trace = trace
        self._channels = {relid: self._channel(relid) for relid in range(1, len(offers) + 1)}
        self.channels: Mapping[int, Channel] = MappingProxyType(self._channels)
        self.rejected: dict[str, int] = {}
        self.state: BusState = BusState.DISCONNECTED
        self.version: int | None = None
        self.monitor_pages: tuple[int, int] = (0, 0)
        self._vp = 0
        self._interrupt_page = 0
        self._gpadls = GpadlTable()
        self._mailbox = Mailbox(trace)
        self._signals = Signals(memory)
        self._events: list[BusEvent] = []

    def _channel(self, relid: int) -> Channel:
        return Channel(self._offers[relid - 1], relid, notify=self._notify, on_fault=self._fault)

    # what comes in

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> HvStatus:
        """Take an HvPostMessage of the guest. Never raises; the status says whether the post was taken."""
        if connection_id != MESSAGE_CONNECTION_ID and (
            connection_id != MESSAGE_CONNECTION_ID_4 or self._max_version < VERSION_5_0
        ):
            return HvStatus.INVALID_CONNECTION_ID
        message = self._decode(message_type, payload)
        if message is None:  # an error, so that the guest does not wait for a reply
            return HvStatus.INVALID_HYPERCALL_INPUT
        if len(self._events) >= VMBUS_EVENTS_MAX:
            return HvStatus.INSUFFICIENT_BUFFERS
        handler, states = RULES.get(type(message), (None, frozenset()))
        if handler is None or self.state not in states:
            self._reject(f"unexpected {wire.TABLE.of(message).name}")
        elif self._mailbox.is_full and handler not in _EMPTYING:
            return HvStatus.INSUFFICIENT_BUFFERS
        else:
            self._trace(trace_events.VMBUS_PROCESS_INCOMING_MESSAGE, wire.TABLE.of(message).number)
            handler(self, message)
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
        for channel in self._channels.values():
            if channel.connection_id == connection_id and channel.state is not ChannelState.UNOFFERED:
                return HvStatus.SUCCESS
        return HvStatus.INVALID_CONNECTION_ID

    def reset(self) -> None:
        """Forget all that the guest made: the machine was reset. The offers stay."""
        self._disconnect()

    def rescind(self, channel: Channel) -> None:
        """Rescind an offer (unplug); the channel leaves `channels` when the guest has released it."""
        was_open = channel.state in (ChannelState.OPEN, ChannelState.FAULTED)
        if not channel.can(ChannelEvent.RESCIND):
            raise LocalProtocolError(f"{channel} cannot be rescinded")
        channel.move(ChannelEvent.RESCIND)
        if was_open:
            self._events.append(ChannelClosed(channel))
        if channel.state is ChannelState.GONE:
            del self._channels[channel.relid]
        else:
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
            self.version,
            self._vp,
            self._interrupt_page,
            self.monitor_pages,
            self._gpadls.snapshot(),
            self._mailbox.snapshot(),
            self._signals.snapshot(),
            tuple(channel.snapshot() for channel in self._channels.values()),
        )

    def restore(self, snapshot: BusSnapshot) -> None:
        """Make this bus, which has the same offers, what that bus was when its snapshot was taken.

        Guest memory is not part of it: the caller puts that back.
        """
        self.state = snapshot.state
        self.version = snapshot.version
        self._vp = snapshot.vp
        self._interrupt_page = snapshot.interrupt_page
        self.monitor_pages = snapshot.monitor_pages
        self._gpadls.restore(snapshot.gpadls)
        self._mailbox.restore(snapshot.queue)
        self._signals.restore(snapshot.signals)
        self._events = []
        kept = dict(self._channels)
        self._channels.clear()
        for of_channel in snapshot.channels:
            relid = of_channel.relid
            channel = self._channels[relid] = kept.get(relid) or self._channel(relid)
            memory = None
            if of_channel.rings is not None and of_channel.gpadl_id is not None:
                gpadl = self._gpadls.get(of_channel.gpadl_id)
                assert gpadl is not None
                memory = gpadl.memory(self._memory)
            channel.restore(of_channel, memory)

    # inside

    def _reject(self, reason: str) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def _decode(self, message_type: int, payload: bytes) -> wire.Message | None:
        """Return the message, as the negotiated version knows it; None, and counted, if it is malformed."""
        if message_type != VMBUS_MESSAGE_TYPE:
            self._reject("unknown hypervisor message type")
            return None
        if len(payload) >= 4:
            self._trace(trace_events.VMBUS_RECV_MESSAGE, int.from_bytes(payload[:4], "little"), len(payload))
        try:
            return wire.decode(payload, self.version or 0)
        except RemoteProtocolError:
            self._reject("malformed message")
            return None

    def _post(self, message: wire.Message, target: tuple[int, int] | None = None) -> None:
        """Queue a message for the VP that made contact, or for a reserved channel's own (VP, SINT)."""
        self._mailbox.post(message, *(target or (self._vp, VMBUS_SINT)))

    def _gpadl_created(self, relid: int, gpadl_id: int, status: int) -> None:
        if status == STATUS_SUCCESS:
            self._trace(trace_events.VMBUS_GPADL_CREATED, gpadl_id)
        self._post(wire.GpadlCreated(relid, gpadl_id, status))

    def _notify(self, channel: Channel) -> None:
        self._trace(trace_events.VMBUS_CHANNEL_NOTIFY_GUEST, channel.relid)
        if self.version is None:
            return
        try:
            self._signals.add(channel, version=self.version, vp=self._vp, interrupt_page=self._interrupt_page)
        except BadAddressError:
            self._reject("interrupt page outside memory")

    def _fault(self, channel: Channel, reason: str) -> None:
        self._events.append(ChannelFaulted(channel, reason))

    def _disconnect(self) -> None:
        """Return to the state before any contact."""
        for channel in list(self._channels.values()):
            if channel.state in (ChannelState.OPEN, ChannelState.FAULTED):
                self._events.append(ChannelClosed(channel))
            channel.move(ChannelEvent.FORGET)
            if channel.state is ChannelState.GONE:
                del self._channels[channel.relid]
        self._gpadls.clear()
        self._mailbox.clear()
        self._signals.clear()
        self.state = BusState.DISCONNECTED
        self.version = None
        self._vp = 0
        self._interrupt_page = 0
        self.monitor_pages = (0, 0)

    def _on_initiate_contact(self, message: wire.InitiateContact) -> None:
        """Start again, whatever the state. The reply goes to VP 0 unless the contact names another one."""
        self._trace(
            trace_events.VMBUS_INITIATE_CONTACT,
            message.version >> 16,
            message.version & 0xFFFF,
            message.target_vcpu,
            message.monitor_page1,
            message.monitor_page2,
            message.interrupt_page,
        )
        self._disconnect()
        reply = reply_to(message, max_version=self._max_version, vp_count=self._vp_count)
        if reply.complaint is not None:
            self._reject(reply.complaint)
        if reply.is_agreed:
            self.state = BusState.CONNECTED
            self.version = message.version
            self.monitor_pages = (message.monitor_page1, message.monitor_page2)
            self._vp = message.target_vcpu
            # later versions use the same bytes for something else
            self._interrupt_page = message.interrupt_page if message.version < VERSION_5_0 else 0
        self._post(reply.response)

    def _on_request_offers(self, message: wire.RequestOffers) -> None:
        self.state = BusState.OFFERED
        for channel in self._channels.values():
            if channel.can(ChannelEvent.OFFER):
                channel.move(ChannelEvent.OFFER)
                self._trace(
                    trace_events.VMBUS_SEND_OFFER, channel.relid, stable_pointer(channel.offer.instance)
                )
                self._post(channel.offer_message())
        self._trace(trace_events.VMBUS_TERMINATE_OFFERS)
        self._post(wire.AllOffersDelivered())

    def _on_gpadl_header(self, message: wire.GpadlHeader) -> None:
        channel = self._channels.get(message.child_relid)
        known = channel is not None and channel.state is not ChannelState.RESCINDED
        try:
            gpadl = self._gpadls.begin(message, channel_is_known=known)
        except RefusedGpadlError as error:
            self._reject(str(error))
            self._gpadl_created(message.child_relid, message.gpadl, STATUS_UNSUCCESSFUL)
            return
        self._trace(trace_events.VMBUS_GPADL_HEADER, gpadl.gpadl_id, gpadl.pages)
        if gpadl.complete:
            self._gpadl_created(gpadl.relid, gpadl.gpadl_id, STATUS_SUCCESS)

    def _on_gpadl_body(self, message: wire.GpadlBody) -> None:
        gpadl = self._gpadls.get(message.gpadl)
        if gpadl is None or gpadl.complete:
            self._reject("a GPADL body that belongs to no unfinished GPADL")
            return
        self._trace(trace_events.VMBUS_GPADL_BODY, gpadl.gpadl_id)
        gpadl.add(message.pfns)
        if gpadl.complete:
            self._gpadl_created(gpadl.relid, gpadl.gpadl_id, STATUS_SUCCESS)

    def _on_gpadl_teardown(self, message: wire.GpadlTeardown) -> None:
        """Reply even when there is no such GPADL: the host certainly does not use its pages."""
        self._trace(trace_events.VMBUS_GPADL_TEARDOWN, message.gpadl)
        gpadl = self._gpadls.get(message.gpadl)
        if gpadl is None:
            self._reject("teardown of an unknown GPADL")
        elif gpadl.relid != message.child_relid:
            self._reject("teardown of another channel's GPADL")
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
        self._trace(
            trace_events.VMBUS_OPEN_CHANNEL, message.child_relid, message.ringbuffer_gpadl, message.target_vp
        )
        channel = self._channels.get(message.child_relid)
        gpadl = self._gpadls.get(message.ringbuffer_gpadl)
        try:
            opened = open_channel(message, channel, gpadl, self._memory, self._vp_count)
        except RefusedOpenError as error:
            self._reject(str(error))
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
            self._reject("opening a reserved channel for a virtual processor or SINT that does not exist")
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
            self._reject("closing a reserved channel for a virtual processor or SINT that does not exist")
        elif self._close(message.channel, reserved=True):
            self._post(wire.CloseReservedChannelResponse(message.channel), target)

    def _close(self, relid: int, *, reserved: bool) -> bool:
        self._trace(trace_events.VMBUS_CLOSE_CHANNEL, relid)
        channel = self._channels.get(relid)
        if channel is None or channel.reserved is not reserved or not channel.can(ChannelEvent.CLOSE):
            self._reject("closing a channel that is not open, or was opened otherwise")
            return False
        channel.move(ChannelEvent.CLOSE)
        self._events.append(ChannelClosed(channel))
        return True

    def _on_relid_released(self, message: wire.RelidReleased) -> None:
        channel = self._channels.get(message.child_relid)
        if channel is None or not channel.can(ChannelEvent.RELEASE):
            self._reject("release of a channel that is not rescinded")
            return
        channel.move(ChannelEvent.RELEASE)
        self._gpadls.remove_of(channel.relid)
        del self._channels[channel.relid]

    def _on_modify_channel(self, message: wire.ModifyChannel) -> None:
        channel = self._channels.get(message.child_relid)
        status = STATUS_UNSUCCESSFUL
        known_vp = message.target_vp < self._vp_count or message.target_vp == TARGET_VP_NONE
        if channel is not None and channel.is_open and not channel.reserved and known_vp:
            channel.target_vp = message.target_vp
            status = STATUS_SUCCESS
        else:
            self._reject("modifying a channel that is not open or for an unknown virtual processor")
        if self.version == VERSION_5_3:  # the first that knows the reply
            self._post(wire.ModifyChannelResponse(message.child_relid, status))

    def _on_tl_connect(self, message: wire.TlConnectRequest) -> None:
        """Refuse: no service listens here."""
        self._post(wire.TlConnectResult(message.endpoint, message.service, STATUS_CONNECTION_REFUSED))

    def _on_unload(self, message: wire.Unload) -> None:
        vp = self._vp
        self._disconnect()
        self._vp = vp  # the reply still goes where the guest waits for it
        self._post(wire.UnloadResponse())
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
# taken even when the queue is full: they empty it
_EMPTYING: Final = frozenset({Bus._on_initiate_contact, Bus._on_unload})
