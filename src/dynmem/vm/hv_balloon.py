"""The hv-balloon device: the Dynamic Memory Protocol's host end, on one VMBus channel, over the guest's RAM.

The device owns the set of pages that the guest has given up; what enters it is discarded, in a worker thread,
since giving a gigabyte back to the host takes 100 ms. Until that is done the device does nothing else: no
page is given back to the guest, and no new guest takes over, while a discard may still hit it.

Two accounts, by QEMU's names: removed_both, pages that the guest gave up and the host has its memory back of;
and removed_guest, pages that only the guest gave up, as the discard failed. Those go back to the guest first.
"""

import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from dynmem.dm.events import Anomaly, HostEvent
from dynmem.dm.host import DynamicMemoryHost, GivenUp, Status
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.memory.discard import DiscardError
from dynmem.pages.page_set import PageSet
from dynmem.pages.ranges import unpack
from dynmem.trace.capture import Capture
from dynmem.units import PAGE_SHIFT
from dynmem.vm.clock import VirtualClock
from dynmem.vm.faults import Faults
from dynmem.vmbus.host import Channel, Offer
from dynmem.wire.dm import BALLOON_DEVICE_TYPE
from dynmem.wire.layout import Direction
from dynmem.wire.packet import Packet, PacketType
from dynmem.wire.trace_events import NO_TRACE, Trace

INSTANCE: Final = uuid.UUID(
    "f2a7a1c5-92f1-4a3c-8a3e-0d8b6b8a1f5d"
)  # the same at every start: it is one device


class HvBalloon:
    """The device; `discard` is given packed ranges and gives their memory back to the host.

    Everything runs in the machine's task, except that `set_target` may be called while `discard` is awaited.

    Attributes:
        host: The protocol machine, for its figures.
        resets: How often the guest began anew.

    """

    def __init__(
        self,
        *,
        identity: str,
        memory_bytes: int,
        discard: Callable[[bytes], Awaitable[int]],
        status_report: bool,
        post_init_wait_ns: int,
        clock: VirtualClock,
        faults: Faults,
        trace: Trace = NO_TRACE,
        capture: Capture | None = None,
    ) -> None:
        self.identity: Final = identity
        self.memory_bytes: Final = memory_bytes
        self.status_report: Final = status_report
        self.offer: Final = Offer(BALLOON_DEVICE_TYPE, INSTANCE, "hv-balloon")
        self.resets = 0
        self._clock = clock
        self._faults = faults
        self._trace = trace
        self._capture = capture
        self._give_back = discard
        self._pages = PageSet(memory_bytes >> PAGE_SHIFT)
        self._guest_only = PageSet(memory_bytes >> PAGE_SHIFT)  # of them, those that were not discarded
        self._undiscarded: list[bytes] = []
        self._channel: Channel | None = None
        self.host: Final = DynamicMemoryHost(
            store=self,
            boot_pages=memory_bytes >> PAGE_SHIFT,
            status_report=status_report,
            post_init_wait_ns=post_init_wait_ns,
            trace=trace,
        )
        self.host.reset(clock.now_ns())

    # what the protocol machine asks of its store

    @property
    def removed_pages(self) -> int:
        """Pages that the guest has given up, of both accounts."""
        return len(self._pages)

    @property
    def removed_guest_pages(self) -> int:
        """Pages that the guest has given up though the host could not take their memory."""
        return len(self._guest_only)

    @property
    def removed_both_pages(self) -> int:
        """Pages that the guest has given up and the host has taken, or is about to."""
        return len(self._pages) - len(self._guest_only)

    def give_up(self, ranges: bytes) -> GivenUp:
        """Enter pages, and put them down for the discard that ends this turn."""
        added = self._pages.add(ranges)
        if added.coalesced:
            self._undiscarded.append(added.coalesced)
            if self._channel is not None:  # else it is what was never sent, and comes back at the close
                self._trace_removed(added.coalesced)
        return GivenUp(added.new, added.duplicates, added.rejected)

    def take_back(self, max_pages: int, max_ranges: int) -> bytes:
        """Take pages out for the guest; nothing of them waits to be discarded."""
        assert not self._undiscarded  # a discard may not hit a page that the guest has back
        if not len(self._guest_only):
            return self._pages.take(max_pages, max_ranges)
        ranges = self._guest_only.take(max_pages, max_ranges)
        was_there = self._pages.remove(ranges)
        assert was_there  # one is a part of the other
        return ranges

    def _trace_removed(self, ranges: bytes) -> None:
        """Trace what the guest gave up, range by range: none of it lies in memory that was added."""
        response, remainder = "hv_balloon_remove_response", "hv_balloon_remove_response_remainder"
        if not (self._trace.on(response) or self._trace.on(remainder)):
            return
        starts, counts = unpack(ranges)
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            self._trace(response, count, start, 1)
            self._trace(remainder, count, start, 1)

    # what the monitor asks

    @property
    def actual_bytes(self) -> int:
        """The guest's size now."""
        return self.host.actual_pages << PAGE_SHIFT

    @property
    def target_bytes(self) -> int:
        """The size last asked for."""
        return self.host.target_pages << PAGE_SHIFT

    @property
    def status(self) -> Status | None:
        """The guest's last status report."""
        return self.host.status

    def set_target(self, size: int) -> None:
        """Ask the guest for a size in bytes."""
        self.host.set_target(size >> PAGE_SHIFT, self._clock.now_ns())

    # what the bus tells

    def opened(self, channel: Channel) -> None:
        """The guest's driver opened the channel."""
        self._channel = channel
        self.host.channel_opened(self._clock.now_ns())

    def closed(self) -> None:
        """The channel is closed or broken; what the guest has given up stays given up."""
        if self._channel is not None:
            self._channel = None
            self.host.channel_closed(self._clock.now_ns())

    def restarted(self) -> None:
        """Another guest owns all of the memory from now on."""
        self.resets += 1
        self._pages.clear()
        self._guest_only.clear()
        self._undiscarded.clear()
        self.host.reset(self._clock.now_ns())

    # work

    def tick(self) -> None:
        """Let time pass."""
        self.host.tick(self._clock.now_ns())

    def deadline_ns(self) -> int | None:
        """When `tick` is needed though the guest is silent."""
        return self.host.deadline_ns()

    def take_events(self) -> list[HostEvent]:
        """What happened; the guest's oddities have gone to the faults already."""
        events: list[HostEvent] = []
        for event in self.host.take_events():
            if isinstance(event, Anomaly):
                self._faults.note("anomaly", event.text)
            else:
                events.append(event)
        return events

    def receive(self) -> bool:
        """Take one packet; whether there was one. What is malformed breaks the channel off."""
        channel = self._channel
        packet = channel.receive() if channel is not None else None
        if channel is None or packet is None:
            return False
        if self._capture is not None:
            self._capture.packet(Direction.GUEST_TO_HOST, channel.relid, packet)
        if packet.type != PacketType.INBAND:
            self._faults.note("unexpected packet", f"{self.identity}: a ring packet of type {packet.type}")
            return True
        try:
            self.host.receive(packet.data, self._clock.now_ns())
        except RemoteProtocolError as error:
            channel.break_off(f"a malformed message: {error}")
            return False
        return True

    def send(self) -> None:
        """Send until there is nothing more, or no room: the guest signals when there is."""
        channel = self._channel
        while channel is not None and channel.is_open and (message := self.host.next_message()) is not None:
            packet = Packet(PacketType.INBAND, 0, 0, message)
            try:
                if not channel.send_packet(packet):
                    return
            except LocalProtocolError as error:  # the guest made its ring smaller than a message
                channel.break_off(f"the ring is too small: {error}")
                return
            if self._capture is not None:
                self._capture.packet(Direction.HOST_TO_GUEST, channel.relid, packet)
            self.host.message_sent(self._clock.now_ns())

    async def discard(self) -> None:
        """Give back to the host what the guest has given up: before `send`, which may return pages."""
        if not self._undiscarded:
            return
        ranges = b"".join(self._undiscarded)
        try:
            await self._give_back(ranges)
        except DiscardError as error:  # the pages stay the balloon's, only the host's memory is not free
            self._faults.note("discard failed", str(error))
            self._guest_only.add(ranges)
        finally:
            self._undiscarded.clear()
