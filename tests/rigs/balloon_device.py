"""The hv-balloon device on a bus, with a guest's end of it and no process: discards are the test's own."""

import asyncio
from collections.abc import Callable

from tests.rigs.bus import carry
from tests.rigs.memory import memory_of
from tests.rigs.pages import packed

from dynmem import vmbus
from dynmem.memory.backend import Backend
from dynmem.trace_events import NO_TRACE, Trace
from dynmem.units import MIB, PAGE_SIZE
from dynmem.vm.balloon.device import HvBalloon
from dynmem.vm.balloon.discards import StartDiscard
from dynmem.vm.balloon.memory_device import HotAddedMemory
from dynmem.vm.clock import VirtualClock
from dynmem.vm.faults import Faults
from dynmem.vm.options.machine import BalloonOptions
from dynmem.vmbus import Bus, ChannelClosed, ChannelFaulted, ChannelOpened
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import dm

SIZE = 32 * MIB
CAPS = dm.CAP_BALLOON | dm.CAP_HOT_ADD | dm.CAP_HOT_REMOVE  # added in steps of 1 MiB


_GREETINGS = dm.CapabilitiesResponse | dm.InfoMessage


class Rig:
    """A bus, the device, and a guest that has negotiated; `starter` says what discarding memory does."""

    def __init__(
        self,
        starter: Callable[[Backend], StartDiscard],
        *,
        added: HotAddedMemory | None = None,
        caps: int = CAPS,
        ring_pages: tuple[int, int] = (10, 5),
        trace: Trace = NO_TRACE,
        boot: Backend | None = None,
        startup_last: bool = False,
    ) -> None:
        self.boot = boot or memory_of(self, SIZE)
        self.now = 0
        self.woken = 0
        clock = VirtualClock(lambda: self.now)
        self.faults = Faults(clock.now_ns)
        self.device = HvBalloon(
            BalloonOptions("b", status_report=True, startup_last=startup_last),
            self.boot,
            [(0, self.boot.size)],
            starter=starter,
            wake=self._wake,
            clock=clock,
            faults=self.faults,
            hot_added=added,
            trace=trace,
        )
        self._memory = FlatMemory(self.boot.view)
        self.bus = Bus(self._memory, [self.device.offer])
        self._ring_pages = ring_pages
        self._caps = caps
        self.connect()

    def _wake(self) -> None:
        self.woken += 1

    def connect(self) -> list[dm.Message]:
        """A guest comes and negotiates: what it is asked at once."""
        self.client = vmbus.Client(self._memory)
        self.client.connect()
        events = self.pump()
        (self.channel,) = [event.channel for event in events if isinstance(event, vmbus.Offered)]
        return self.open()

    def close(self) -> None:
        """The guest's driver goes; the guest stays."""
        self.channel.close()
        self.pump()

    def open(self) -> list[dm.Message]:
        """The guest's driver comes and negotiates: what it is asked at once."""
        pages, downstream = self._ring_pages
        self.channel.open(range(16, 16 + pages), downstream)
        self.pump()
        for message in (
            dm.VersionRequest(1, dm.VERSION_WIN10, is_last_attempt=False),
            dm.CapabilitiesReport(2, self._caps, 0, (1 << 40) - 1),
        ):
            self.say(message)
            self.send()
            heard = self.heard()
        return [message for message in heard if not isinstance(message, _GREETINGS)]

    def disconnect(self) -> None:
        """The guest is gone."""
        self.bus.reset()
        self.follow()

    def follow(self) -> None:
        for event in self.bus.take_events():
            if isinstance(event, ChannelOpened):
                self.device.opened(event.channel)
            elif isinstance(event, ChannelClosed | ChannelFaulted):
                self.device.closed()

    def pump(self) -> list[vmbus.ClientEvent]:
        events: list[vmbus.ClientEvent] = []
        for _ in range(8):
            carry(self.client, self.bus)
            events += self.client.take_events()
            self.follow()
        return events

    def say(self, message: dm.Message) -> None:
        """The guest sends, the device receives."""
        assert self.channel.send(dm.encode(message))
        assert self.device.receive()

    def heard(self) -> list[dm.Message]:
        """What the guest finds in its ring."""
        found = []
        while (packet := self.channel.receive()) is not None:
            found.append(dm.decode(packet.data))
        return found

    def turn(self) -> list[dm.Message]:
        """What the machine does when it is woken, with no packet there: what the guest then finds."""
        self.tick()
        self.send()
        return self.heard()

    def tick(self) -> None:
        """What the machine does first in a turn."""
        self.device.collect_discards()
        self.device.tick()

    def send(self) -> None:
        """What the machine does after each packet."""
        self.device.begin_discards()
        self.device.send()

    def channel_is_broken(self) -> bool:
        """Whether the bus gave the guest's channel up."""
        return any(isinstance(event, ChannelFaulted) for event in self.bus.take_events())

    def give(self, *spans: tuple[int, int], more: bool = False) -> None:
        """The guest gives up pages that it was asked for."""
        self.say(dm.BalloonResponse(3, more_pages=more, ranges=packed(*spans)))

    def ask(self, size: int) -> list[dm.Message]:
        """The operator asks for a size: what the guest then finds."""
        self.device.set_target(size)
        return self.turn()


class Discards:
    """Discards that are over when the test says so."""

    def __init__(self) -> None:
        self.open: list[tuple[Backend, bytes, asyncio.Future[int]]] = []

    def __call__(self, backend: Backend) -> StartDiscard:
        def discard(ranges: bytes) -> "asyncio.Future[int]":
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self.open.append((backend, ranges, future))
            return future

        return discard

    def finish(self, error: Exception | None = None) -> bytes:
        """The oldest is over: its ranges."""
        _, ranges, future = self.open.pop(0)
        if error is None:
            future.set_result(len(ranges) and PAGE_SIZE)
        else:
            future.set_exception(error)
            future.exception()  # a test may end before the device has asked for it
        return ranges
