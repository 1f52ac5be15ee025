"""The host that `dynmem vm` is made of, as far as protocols go: its bus and its hv-balloon device."""

import asyncio
import mmap

from tests.rigs.memory import memory_of

from dynmem.conformance import adapter
from dynmem.memory.backend import Backend
from dynmem.units import MIB, NS_PER_S, PAGE_SHIFT, PAGE_SIZE
from dynmem.vm.balloon.device import HvBalloon
from dynmem.vm.balloon.discards import StartDiscard
from dynmem.vm.balloon.memory_device import HotAddedMemory
from dynmem.vm.clock import VirtualClock
from dynmem.vm.faults import Faults
from dynmem.vm.options.machine import BalloonOptions
from dynmem.vmbus import Bus, BusState, ChannelClosed, ChannelFaulted, ChannelOpened
from dynmem.vmbus.memory import FlatMemory
from dynmem.vmbus.reoffers import Reoffers

BOOT_BYTES = 1 << 32
ADDED_BYTES = 1 << 33
ADDED_AT = 1 << 35
POST_INIT_WAIT_NS = 50 * NS_PER_S


class DeviceHost:
    """A device whose discards are done at once."""

    def __init__(self) -> None:
        self.groups = frozenset(adapter.GROUPS)
        self.memory = FlatMemory(memoryview(mmap.mmap(-1, 4 * MIB)))
        self.scratch = range(16, 1024)
        self.boot_pages = BOOT_BYTES // PAGE_SIZE
        self.post_init_wait_ns = POST_INIT_WAIT_NS
        self.hot_add_pages = ADDED_BYTES // PAGE_SIZE
        self._now = 0
        clock = VirtualClock(lambda: self._now)
        self.boot = memory_of(self, BOOT_BYTES)
        self._added = HotAddedMemory("b0", memory_of(self, ADDED_BYTES), is_mapped=lambda *_: True)
        self._added.set_addr(ADDED_AT)
        self._loop = asyncio.new_event_loop()  # of futures that are done before anybody waits
        self.device = HvBalloon(
            BalloonOptions("balloon0", status_report=True, post_init_wait_ns=POST_INIT_WAIT_NS),
            self.boot,
            [(0, BOOT_BYTES)],
            starter=self._starter,
            hot_added=self._added,
            wake=lambda: None,
            clock=clock,
            faults=Faults(clock.now_ns),
        )
        self.bus = Bus(self.memory, [self.device.offer])
        self._reoffers = Reoffers(self.bus)

    def __del__(self) -> None:
        self._loop.close()

    def _starter(self, _: Backend) -> StartDiscard:
        return self._discard

    def _discard(self, ranges: bytes) -> "asyncio.Future[int]":
        future: asyncio.Future[int] = self._loop.create_future()
        future.set_result(len(ranges))
        return future

    def _restart(self) -> None:
        for _ in self.device.restarted().__await__():
            raise AssertionError("no discard is in flight")

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        offered = self.bus.state is BusState.OFFERED
        status = self.bus.post_message(connection_id, message_type, payload)
        self._follow_bus()
        if offered and self.bus.state is not BusState.OFFERED:
            self._restart()
        self._turn()
        return status

    def signal_event(self, connection_id: int, flag: int) -> int:
        status = self.bus.signal_event(connection_id, flag)
        self._turn()
        return status

    def take_message(self) -> bytes | None:
        message = self.bus.next_message()
        if message is None:
            return None
        self.bus.message_delivered()
        return message.payload

    def take_event_flags(self) -> list[int]:
        return [signal.flag for signal in self.bus.take_signals()]

    def advance(self, ns: int) -> None:
        self._now += ns
        self._turn()

    def set_target(self, pages: int) -> None:
        self.device.set_target(pages << PAGE_SHIFT)
        self._turn()

    def reset(self) -> None:
        self.bus.reset()
        self._follow_bus()
        for _ in self.device.reset().__await__():
            raise AssertionError("no discard is in flight")

    def unplug(self) -> bool:
        self.bus.rescind(next(iter(self.bus.channels.values())))
        self._follow_bus()
        return True

    def actual_pages(self) -> int | None:
        return self.device.actual_bytes >> PAGE_SHIFT

    def _follow_bus(self) -> None:
        for event in self.bus.take_events():
            if isinstance(event, ChannelFaulted):
                self._reoffers.faulted(event.channel, self._now)
            if isinstance(event, ChannelOpened):
                self.device.opened(event.channel)
            elif isinstance(event, ChannelClosed | ChannelFaulted):
                self.device.closed()
        self._reoffers.tick(self._now)

    def _turn(self) -> None:
        """What the machine does in a turn, to the end of its packets."""
        self.device.collect_discards()
        self.device.tick()
        received = 1
        while received:
            received = self.device.receive()
            self._follow_bus()
            self.device.begin_discards()
            self.device.send()
            self._follow_bus()
        self.device.take_events()
