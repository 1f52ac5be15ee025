"""The channels of a bus: which devices are offered, in which order, under which relids.

A relid belongs to a channel until the guest has released it. A device that is offered again after a rescind
keeps its relid, as with OpenVMM, and with it its event flag, connection id and doorbell.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from dynmem.errors import LocalProtocolError
from dynmem.limits import VMBUS_CHANNELS_MAX
from dynmem.vmbus.bus_events import BusEvent, ChannelClosed, ChannelFaulted
from dynmem.vmbus.channel import Channel, ChannelEvent, ChannelSnapshot, ChannelState, Offer
from dynmem.vmbus.gpadl import GpadlTable
from dynmem.vmbus.memory import GuestMemory


class Channels:
    """The channels of one bus.

    Attributes:
        by_relid: All of them, in the order in which they are offered.

    """

    def __init__(self, *, notify: Callable[[Channel], None], report: Callable[[BusEvent], None]) -> None:
        """Make it, with no channel; `notify` signals the guest, `report` takes what the owner is to know."""
        self._notify, self._report = notify, report
        self._by_relid: dict[int, Channel] = {}
        self.by_relid: Mapping[int, Channel] = MappingProxyType(self._by_relid)

    def _make(self, offer: Offer, relid: int) -> Channel:
        return Channel(offer, relid, notify=self._notify, on_fault=self._faulted)

    def _faulted(self, channel: Channel, reason: str) -> None:
        self._report(ChannelFaulted(channel, reason))

    def add(self, offer: Offer) -> Channel:
        """Return a new channel under the lowest free relid; LocalProtocolError if there is no room for it.

        For a device whose channel was rescinded it is that channel, which the guest is offered again when it
        has released it.
        """
        known = next(
            (each for each in self._by_relid.values() if each.offer.identity == offer.identity), None
        )
        if known is not None:
            if known.offer != offer or not known.can(ChannelEvent.OFFER_AGAIN):
                raise LocalProtocolError(f"{offer.name} cannot be offered: {known} has the same identity")
            known.move(ChannelEvent.OFFER_AGAIN)
            return known
        if len(self._by_relid) >= VMBUS_CHANNELS_MAX:
            raise LocalProtocolError(
                f"{offer.name} cannot be offered: a bus has {VMBUS_CHANNELS_MAX} channels"
            )
        relid = next(relid for relid in range(1, VMBUS_CHANNELS_MAX + 1) if relid not in self._by_relid)
        channel = self._by_relid[relid] = self._make(offer, relid)
        return channel

    def get(self, relid: int) -> Channel | None:
        """Return the channel that the guest knows by that number; None if it knows none."""
        channel = self._by_relid.get(relid)
        return None if channel is None or channel.state is ChannelState.UNOFFERED else channel

    def move(self, channel: Channel, event: ChannelEvent) -> None:
        """Move a channel out of use, and report it if it was in use; drop it if it is gone."""
        was_in_use = channel.state in (ChannelState.OPEN, ChannelState.FAULTED)
        channel.move(event)
        if channel.state is ChannelState.GONE:
            del self._by_relid[channel.relid]
        if was_in_use:
            self._report(ChannelClosed(channel))

    def snapshot(self) -> tuple[ChannelSnapshot, ...]:
        """Return all channels as they stand."""
        return tuple(channel.snapshot() for channel in self._by_relid.values())

    def restore(
        self, snapshots: tuple[ChannelSnapshot, ...], gpadls: GpadlTable, memory: GuestMemory
    ) -> None:
        """Make the channels what they were when the snapshots were taken, over GPADLs of that time."""
        kept = dict(self._by_relid)
        self._by_relid.clear()
        for snapshot in snapshots:
            relid = snapshot.relid
            channel = kept.get(relid)
            if channel is None or channel.offer != snapshot.offer:
                channel = self._make(snapshot.offer, relid)
            self._by_relid[relid] = channel
            pages = None
            if snapshot.rings is not None and snapshot.gpadl_id is not None:
                gpadl = gpadls.get(snapshot.gpadl_id)
                assert gpadl is not None
                pages = gpadl.memory(memory)
            channel.restore(snapshot, pages)
