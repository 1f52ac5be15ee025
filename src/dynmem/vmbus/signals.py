"""The event flags that the host sets: one bit of guest memory and an interrupt for each channel.

From version 2.4 on a channel has an event flag of its own, for the virtual processor that it names. Older
guests have one page of bits for all channels, the interrupt page, and flag 0 that says: look there.
"""

import msgspec

from dynmem.vmbus.channel import Channel
from dynmem.vmbus.contact import Connection
from dynmem.vmbus.memory import GuestMemory
from dynmem.wire.synic import VMBUS_SINT
from dynmem.wire.versions import VERSION_WIN8
from dynmem.wire.vmbus import TARGET_VP_NONE


class Signal(msgspec.Struct, frozen=True):
    """An event flag to set, and the interrupt that goes with it.

    Attributes:
        vp: The virtual processor to interrupt.
        sint: The interrupt source; 2 for VMBus.
        flag: A bit of the processor's event page: the channel's relid, or 0 for guests before 2.4.

    """

    vp: int
    sint: int
    flag: int


class Signals:
    """The signals of one bus that have not been taken yet, each once."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._signals: dict[Signal, None] = {}

    def add(self, channel: Channel, connection: Connection) -> None:
        """Signal the guest for a channel; an older guest by its interrupt page.

        Raises BadAddressError, with the signal added, when the interrupt page is outside memory.
        """
        if channel.target_vp == TARGET_VP_NONE:
            return
        if connection.version >= VERSION_WIN8:
            self._signals[Signal(channel.target_vp, VMBUS_SINT, channel.relid)] = None
            return
        self._signals[Signal(connection.vp, VMBUS_SINT, 0)] = None
        word = connection.interrupt_page + channel.relid // 32 * 4
        # a bit that the guest clears between load and store is set again: it looks once more, nothing is lost
        self._memory.store32(word, self._memory.load32(word) | 1 << channel.relid % 32)

    def take(self) -> list[Signal]:
        """Return the signals since the last call, in order."""
        signals = list(self._signals)
        self._signals.clear()
        return signals

    def clear(self) -> None:
        """Drop them."""
        self._signals.clear()

    def snapshot(self) -> tuple[Signal, ...]:
        """Return them, untaken."""
        return tuple(self._signals)

    def restore(self, snapshot: tuple[Signal, ...]) -> None:
        """Have the signals of that snapshot."""
        self._signals = dict.fromkeys(snapshot)
