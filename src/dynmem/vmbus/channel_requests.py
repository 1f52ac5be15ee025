"""What a guest asks of its host about channels: to open, close and release them, and to move interrupts.

Offers are here too, since a release may be followed by one.
"""

from collections.abc import Callable

from dynmem import trace_events
from dynmem.trace_events import Trace, stable_pointer
from dynmem.vmbus.bus_events import BusEvent, ChannelOpened
from dynmem.vmbus.channel import Channel, ChannelEvent, ChannelState
from dynmem.vmbus.channels import Channels
from dynmem.vmbus.gpadl import GpadlTable
from dynmem.vmbus.mailbox import Mailbox
from dynmem.vmbus.memory import GuestMemory
from dynmem.vmbus.opening import RefusedOpenError, open_channel
from dynmem.vmbus.rejection import Rejection, Rejections
from dynmem.wire import vmbus as wire
from dynmem.wire.status import STATUS_SUCCESS, STATUS_UNSUCCESSFUL
from dynmem.wire.synic import SINT_COUNT
from dynmem.wire.versions import VERSION_5_3
from dynmem.wire.vmbus import TARGET_VP_NONE


class ChannelRequests:
    """Carries them out on one bus, of `vp_count` virtual processors; `report` takes its events."""

    def __init__(
        self,
        gpadls: GpadlTable,
        channels: Channels,
        mailbox: Mailbox,
        rejections: Rejections,
        *,
        memory: GuestMemory,
        vp_count: int,
        trace: Trace,
        report: Callable[[BusEvent], None],
    ) -> None:
        self._channels = channels
        self._gpadls = gpadls
        self._mailbox = mailbox
        self._rejections = rejections
        self._memory = memory
        self._vp_count = vp_count
        self._trace = trace
        self._report = report

    def offer(self, channel: Channel) -> None:
        """Offer a channel to the guest."""
        channel.move(ChannelEvent.OFFER)
        self._post_offer(channel)

    def _post_offer(self, channel: Channel) -> None:
        self._trace(trace_events.VMBUS_SEND_OFFER, channel.relid, stable_pointer(channel.offer.instance))
        self._mailbox.post(channel.offer_message())

    def open(self, message: wire.OpenChannel) -> None:
        """Open a channel over the rings in a GPADL."""
        status = STATUS_UNSUCCESSFUL if self._open(message) is None else STATUS_SUCCESS
        self._trace(trace_events.VMBUS_CHANNEL_OPEN, message.child_relid, status)
        self._mailbox.post(wire.OpenChannelResult(message.child_relid, message.openid, status))

    def open_reserved(self, message: wire.OpenReservedChannel) -> None:
        """Open a channel whose replies go to a (VP, SINT) of its own and that never interrupts."""
        target = (message.target_vp, message.target_sint)
        if not self._is_target(target):
            self._rejections.add(Rejection.RESERVED_OPEN_FOR_ABSENT_TARGET)
            return
        gpadl, page = message.ringbuffer_gpadl, message.downstream_page_offset
        channel = self._open(wire.OpenChannel(message.channel, 0, gpadl, TARGET_VP_NONE, page))
        if channel is not None:
            channel.reserved = True
        status = STATUS_UNSUCCESSFUL if channel is None else STATUS_SUCCESS
        self._trace(trace_events.VMBUS_CHANNEL_OPEN, message.channel, status)
        self._mailbox.post(wire.OpenChannelResult(message.channel, 0, status), target)

    def close(self, message: wire.CloseChannel) -> None:
        """Close a channel, which gets no reply."""
        self._close(message.child_relid, reserved=False)

    def close_reserved(self, message: wire.CloseReservedChannel) -> None:
        """Close a reserved channel; the reply goes where this message says, not where it was opened from."""
        target = (message.target_vp, message.target_sint)
        if not self._is_target(target):
            self._rejections.add(Rejection.RESERVED_CLOSE_FOR_ABSENT_TARGET)
        elif self._close(message.channel, reserved=True):
            self._mailbox.post(wire.CloseReservedChannelResponse(message.channel), target)

    def release(self, message: wire.RelidReleased) -> None:
        """Forget the guest's part of a channel; a device that is here again is offered at once.

        Linux also releases closed channels that were not rescinded, when its driver for the bus goes.
        """
        channel = self._channels.get(message.child_relid)
        if channel is None or not channel.can(ChannelEvent.RELEASE):
            self._rejections.add(Rejection.RELEASE_OF_CHANNEL_IN_USE)
            return
        self._gpadls.remove_of(channel.relid)
        self._channels.move(channel, ChannelEvent.RELEASE)
        if channel.state is ChannelState.CLOSED:
            self._post_offer(channel)

    def modify(self, message: wire.ModifyChannel) -> None:
        """Move a channel's interrupts, which this message can neither begin nor end."""
        channel = self._channels.get(message.child_relid)
        status = STATUS_UNSUCCESSFUL
        if channel is None or not channel.has_interrupts:
            if channel is None or not channel.is_rescinded:
                self._rejections.add(Rejection.MODIFY_WITHOUT_INTERRUPTS)
        elif message.target_vp >= self._vp_count:
            self._rejections.add(Rejection.MODIFY_FOR_ABSENT_PROCESSOR)
        else:
            channel.target_vp = message.target_vp
            status = STATUS_SUCCESS
        connection = self._mailbox.connection
        if connection is not None and connection.version == VERSION_5_3:  # the first that knows the reply
            self._mailbox.post(wire.ModifyChannelResponse(message.child_relid, status))

    def _open(self, message: wire.OpenChannel) -> Channel | None:
        """Open the channel that `message` names; return it, or None if that was refused."""
        channel = self._channels.get(message.child_relid)
        if channel is not None and channel.is_rescinded:
            return None
        gpadl = self._gpadls.get(message.ringbuffer_gpadl)
        try:
            opened = open_channel(message, channel, gpadl, self._memory, self._vp_count)
        except RefusedOpenError as error:
            self._rejections.add(error.cause)
            return None
        self._report(ChannelOpened(opened))
        return opened

    def _is_target(self, target: tuple[int, int]) -> bool:
        """Return whether messages can be delivered to that (VP, SINT)."""
        return target[0] < self._vp_count and target[1] < SINT_COUNT

    def _close(self, relid: int, *, reserved: bool) -> bool:
        """Close a channel; return whether it is closed now and was not before."""
        channel = self._channels.get(relid)
        if channel is not None and channel.is_rescinded:
            return False
        if channel is None or channel.reserved is not reserved or not channel.can(ChannelEvent.CLOSE):
            self._rejections.add(Rejection.CLOSE_OF_CHANNEL_NOT_OPEN)
            return False
        self._channels.move(channel, ChannelEvent.CLOSE)
        return True
