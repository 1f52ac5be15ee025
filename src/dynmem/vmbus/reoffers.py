"""Broken channels are replaced: rescinded, and offered again when the guest has released them.

A guest's driver does not notice that its host no longer reads a channel. A rescind tells it: it releases the
channel, and drives the device again when that is offered. The first time this happens at once. A channel that
breaks again and again waits between the times, twice as long each time up to a minute, so that a guest which
breaks what it gets costs its host no more than that.
"""

from typing import Final

import msgspec

from dynmem.limits import REOFFER_PAUSE_NS_MAX
from dynmem.units import NS_PER_S
from dynmem.vmbus.channel import Channel, ChannelState
from dynmem.vmbus.host import Bus

FIRST_PAUSE_NS: Final = NS_PER_S
CALM_NS: Final = 600 * NS_PER_S  # a channel that was sound for so long begins again at once


class _Record(msgspec.Struct):
    """A channel that broke: when to replace it, when that was done last, and the pause since."""

    due_ns: int | None = None
    replaced_ns: int = 0
    pause_ns: int = 0


class Reoffers:
    """The broken channels of one bus. Every `now_ns` is of the virtual machine's clock."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._records: dict[int, _Record] = {}  # by relid

    def faulted(self, channel: Channel, now_ns: int) -> None:
        """Record that a channel broke."""
        record = self._records.setdefault(channel.relid, _Record())
        if record.due_ns is None:
            if now_ns - record.replaced_ns >= CALM_NS:
                record.pause_ns = 0
            record.due_ns = max(now_ns, record.replaced_ns + record.pause_ns)

    def tick(self, now_ns: int) -> None:
        """Replace the channels that are due, unless the guest has closed them itself."""
        for relid, record in self._records.items():
            if record.due_ns is None or now_ns < record.due_ns:
                continue
            record.due_ns = None
            channel = self._bus.channels.get(relid)
            if channel is None or channel.state is not ChannelState.FAULTED:
                continue
            record.replaced_ns = now_ns
            record.pause_ns = min(max(FIRST_PAUSE_NS, 2 * record.pause_ns), REOFFER_PAUSE_NS_MAX)
            self._bus.rescind(channel)
            self._bus.offer(channel.offer)

    def forget(self) -> None:
        """Begin again with another guest, after a power cycle: it broke nothing."""
        self._records.clear()

    def deadline_ns(self) -> int | None:
        """Return when `tick` has something to do next; None if no channel waits."""
        return min(
            (record.due_ns for record in self._records.values() if record.due_ns is not None), default=None
        )
