"""A capture of a stock guest, played again to our bus and our device, which stand in for its host.

The guest's packets go through real rings, in the pages that it had named for them. Time is the capture's.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tests.rigs.added_memory import Plugged
from tests.rigs.memory import memory_of

from dynmem.direction import Direction
from dynmem.memory.backend import Backend
from dynmem.trace.lines import MessageLine, PacketLine, parse
from dynmem.trace_events import NO_TRACE, Trace
from dynmem.vm.balloon.device import HvBalloon
from dynmem.vm.balloon.discards import StartDiscard
from dynmem.vm.clock import VirtualClock
from dynmem.vm.faults import Faults
from dynmem.vm.options.machine import BalloonOptions
from dynmem.vmbus import Bus, ChannelClosed, ChannelFaulted, ChannelOpened
from dynmem.vmbus.memory import FlatMemory, GpadlMemory
from dynmem.vmbus.ring import RingReader, RingWriter
from dynmem.wire import vmbus
from dynmem.wire.synic import MESSAGE_CONNECTION_ID_4, VMBUS_MESSAGE_TYPE, HvStatus

_SLOTS: Final = 4  # of the memory to add, on KVM


class Said(NamedTuple):
    """What a host says: a message of VMBus, or a packet."""

    is_packet: bool
    data: bytes


def lines_of(capture: str) -> list[MessageLine | PacketLine]:
    """Return the messages and packets of a capture."""
    parsed = map(parse, capture.splitlines())
    return [line for line in parsed if isinstance(line, MessageLine | PacketLine)]


def replay(
    lines: Sequence[MessageLine | PacketLine],
    *,
    boot: int,
    added: int,
    sizes: Iterable[int],
    trace: Trace = NO_TRACE,
) -> "ReplayedHost":
    """Play a capture of one guest, to which these sizes were ordered: our host must say what its host said.

    A size, in bytes, is ordered when the captured host says something that ours has no reason for.
    """

    async def scene() -> ReplayedHost:
        host = ReplayedHost(boot, added, trace)
        orders = iter(sizes)
        for line in lines:
            host.now = line.time_ns or 0
            host.turn()
            if line.direction is Direction.GUEST_TO_HOST:
                host.hear(line)
                continue
            if not host.said:
                host.device.set_target(next(orders))
                host.turn()
            said = host.said.popleft()
            data = line.payload if isinstance(line, MessageLine) else line.packet.data
            assert said == (isinstance(line, PacketLine), data), (said, line)
            await asyncio.sleep(0)
        assert list(orders) == []
        assert list(host.said) == []
        return host

    return asyncio.run(scene())


class ReplayedHost:
    """Our bus and hv-balloon. `said` is what they say and nobody has compared yet."""

    def __init__(self, boot: int, added: int, trace: Trace) -> None:
        self.now = 0
        self.said: Final[deque[Said]] = deque()
        clock = VirtualClock(lambda: self.now)
        self.faults: Final = Faults(clock.now_ns)
        memory = memory_of(self, boot)
        self.plugged: Final = Plugged(added, trace=trace)
        self.plugged.memory.cut_into(_SLOTS)
        self.device: Final = HvBalloon(
            BalloonOptions("hvb", status_report=True),
            memory,
            [(0, boot)],
            starter=_nothing_to_discard,
            wake=lambda: None,
            clock=clock,
            faults=self.faults,
            hot_added=self.plugged.memory,
            trace=trace,
        )
        self._memory = FlatMemory(memory.view)
        self.bus: Final = Bus(self._memory, [self.device.offer], trace=trace)
        self._rings: dict[int, Sequence[int]] = {}  # pages of a GPADL
        self._to_host: RingWriter | None = None
        self._to_guest: RingReader | None = None

    def hear(self, line: MessageLine | PacketLine) -> None:
        """Take what the guest says."""
        if isinstance(line, PacketLine):
            assert self._to_host is not None
            assert self._to_host.write(line.packet)
            assert self.device.receive()
        else:
            self._remember_rings(vmbus.decode(line.payload))
            status = self.bus.post_message(MESSAGE_CONNECTION_ID_4, VMBUS_MESSAGE_TYPE, line.payload)
            assert status is HvStatus.SUCCESS
            self._follow()
        self.turn()

    def _remember_rings(self, message: vmbus.Message) -> None:
        """Make the guest's ends of the rings, when it has the channel opened."""
        if isinstance(message, vmbus.GpadlHeader):
            count = struct.unpack_from("<I", message.ranges)[0] >> 12
            self._rings[message.gpadl] = struct.unpack_from(f"<{count}Q", message.ranges, 8)
        elif isinstance(message, vmbus.OpenChannel):
            pages = GpadlMemory(self._memory, self._rings[message.ringbuffer_gpadl])
            down = message.downstream_page_offset
            self._to_host = RingWriter(pages, 0, down)
            self._to_guest = RingReader(pages, down, pages.pages - down)

    def turn(self) -> None:
        """Do what the machine does in a turn."""
        self.device.collect_discards()
        self.device.tick()
        self.device.begin_discards()
        self.device.send()
        while (message := self.bus.next_message()) is not None:
            self.said.append(Said(is_packet=False, data=message.payload))
            self.bus.message_delivered()
        while self._to_guest is not None and (packet := self._to_guest.read()) is not None:
            self.said.append(Said(is_packet=True, data=packet.data))

    def _follow(self) -> None:
        for event in self.bus.take_events():
            if isinstance(event, ChannelOpened):
                self.device.opened(event.channel)
            elif isinstance(event, ChannelClosed | ChannelFaulted):
                self.device.closed()
                self._to_host = self._to_guest = None


def _nothing_to_discard(_: Backend) -> StartDiscard:
    """Discards that are over at once: there is no guest that ever wrote to this memory."""

    def discard(_: bytes) -> "asyncio.Future[int]":
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.set_result(0)
        return future

    return discard
