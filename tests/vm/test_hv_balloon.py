"""The device between bus and memory: what is being discarded is nobody's until that is done."""

import asyncio
import struct
from collections.abc import Callable

import pytest

from dynmem.memory.discard import DiscardError
from dynmem.units import MIB, PAGE_SIZE
from dynmem.vm.clock import VirtualClock
from dynmem.vm.faults import Faults
from dynmem.vm.hv_balloon import HvBalloon
from dynmem.vmbus import guest as vmbus
from dynmem.vmbus.host import Bus, ChannelFaulted, ChannelOpened
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import dm
from dynmem.wire.synic import VMBUS_MESSAGE_TYPE
from dynmem.wire.trace_events import NO_TRACE, Trace, matching

SIZE = 32 * MIB
RANGES = struct.pack("<2Q", 1000 | 16 << 40, 2000 | 8 << 40)


class Rig:
    """A bus, the device, and a guest that has negotiated; `discard` says what giving memory back does."""

    def __init__(
        self,
        discard: Callable[[bytes], asyncio.Future[int]],
        *,
        ring_pages: tuple[int, int] = (10, 5),
        trace: Trace = NO_TRACE,
    ) -> None:
        memory = FlatMemory(memoryview(bytearray(SIZE)))
        clock = VirtualClock()
        self.faults = Faults(clock.now_ns)
        self.device = HvBalloon(
            identity="b",
            memory_bytes=SIZE,
            discard=discard,
            status_report=True,
            post_init_wait_ns=0,
            clock=clock,
            faults=self.faults,
            trace=trace,
        )
        self.bus = Bus(memory, [self.device.offer])
        self.client = vmbus.Client(memory)
        self.client.connect()
        self.events: list[vmbus.Event] = []
        self.pump()
        (self.channel,) = [event.channel for event in self.events if isinstance(event, vmbus.Offered)]
        pages, downstream = ring_pages
        self.channel.open(range(16, 16 + pages), downstream)
        self.pump()
        for message in (
            dm.VersionRequest(1, dm.VERSION_WIN10, is_last_attempt=False),
            dm.CapabilitiesReport(2, dm.CAP_BALLOON, 0, (1 << 40) - 1),
        ):
            self.say(message)
            assert len(self.heard()) == 1

    def pump(self) -> None:
        for _ in range(8):
            for post in self.client.take_posts():
                self.bus.post_message(post.connection_id, VMBUS_MESSAGE_TYPE, post.payload)
            while (message := self.bus.next_message()) is not None:
                self.bus.message_delivered()
                self.client.receive_message(message.payload)
            self.events += self.client.take_events()
            for event in self.bus.take_events():
                assert isinstance(event, ChannelOpened)
                self.device.opened(event.channel)

    def say(self, message: dm.Message) -> None:
        """The guest sends, the device receives and answers."""
        assert self.channel.send(dm.encode(message))
        assert self.device.receive()
        if not isinstance(message, dm.BalloonResponse):
            self.device.send()

    def heard(self) -> list[dm.Message]:
        """What the guest finds in its ring."""
        found = []
        while (packet := self.channel.receive()) is not None:
            found.append(dm.decode(packet.data))
        return found

    def channel_is_broken(self) -> bool:
        """Whether the bus gave the guest's channel up."""
        return any(isinstance(event, ChannelFaulted) for event in self.bus.take_events())

    def shrink(self) -> None:
        """Ask for 24 pages; the guest gives them."""
        self.device.set_target(SIZE - 24 * PAGE_SIZE)
        self.device.send()
        assert self.heard() == [dm.BalloonRequest(0, 24)]
        self.say(dm.BalloonResponse(3, more_pages=False, ranges=RANGES))


def test_no_page_goes_back_to_the_guest_while_it_is_being_discarded() -> None:
    async def play() -> None:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asked: list[bytes] = []

        def discard(ranges: bytes) -> asyncio.Future[int]:
            asked.append(ranges)
            return done

        rig = Rig(discard)
        rig.shrink()
        working = asyncio.create_task(rig.device.discard())
        await asyncio.sleep(0)
        assert asked == [RANGES]
        rig.device.set_target(SIZE)
        with pytest.raises(AssertionError):
            rig.device.send()
        assert rig.heard() == []
        done.set_result(24 * PAGE_SIZE)
        await working
        rig.device.send()
        assert rig.heard() == [dm.UnballoonRequest(1, more_pages=False, ranges=RANGES)]
        assert rig.device.actual_bytes == SIZE

    asyncio.run(play())


def test_a_discard_that_the_system_refuses_is_noted_and_the_pages_stay_given_up() -> None:
    async def play() -> None:
        refused: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        refused.set_exception(DiscardError("no", 1, 0))
        rig = Rig(lambda _: refused)
        rig.shrink()
        await rig.device.discard()
        assert rig.faults.counts == {"discard failed": 1}
        assert rig.device.actual_bytes == SIZE - 24 * PAGE_SIZE
        assert (rig.device.removed_guest_pages, rig.device.removed_both_pages) == (24, 0)

    asyncio.run(play())


def test_pages_that_were_not_discarded_go_back_to_the_guest_first() -> None:
    async def play() -> None:
        outcomes: list[asyncio.Future[int]] = [asyncio.get_running_loop().create_future() for _ in range(2)]
        outcomes[0].set_result(24 * PAGE_SIZE)
        outcomes[1].set_exception(DiscardError("no", 1, 0))
        rig = Rig(lambda _: outcomes.pop(0))
        rig.shrink()
        await rig.device.discard()
        assert (rig.device.removed_guest_pages, rig.device.removed_both_pages) == (0, 24)
        rig.device.set_target(SIZE - 32 * PAGE_SIZE)
        rig.device.send()
        rig.heard()
        rig.say(dm.BalloonResponse(4, more_pages=False, ranges=struct.pack("<Q", 5000 | 8 << 40)))
        await rig.device.discard()
        assert (rig.device.removed_guest_pages, rig.device.removed_both_pages) == (8, 24)
        rig.device.set_target(SIZE - 20 * PAGE_SIZE)
        rig.device.send()
        first, second = rig.heard()
        assert first == dm.UnballoonRequest(2, more_pages=True, ranges=struct.pack("<Q", 5000 | 8 << 40))
        assert second == dm.UnballoonRequest(2, more_pages=False, ranges=struct.pack("<Q", 1000 | 4 << 40))
        assert (rig.device.removed_guest_pages, rig.device.removed_both_pages) == (0, 20)

    asyncio.run(play())


def test_a_page_given_up_twice_counts_once_and_a_range_that_leaves_memory_counts_for_nothing() -> None:
    async def play() -> None:
        rig = Rig(lambda _: asyncio.get_running_loop().create_future())
        rig.device.set_target(SIZE - 24 * PAGE_SIZE)
        rig.device.send()
        rig.heard()
        last = SIZE // PAGE_SIZE
        spans = [(1000, 10), (1005, 10), (last - 1, 2), (1 << 39, 1 << 20), (7, 0)]
        rig.say(dm.BalloonResponse(3, False, struct.pack("<5Q", *(a | n << 40 for a, n in spans))))
        assert rig.device.removed_pages == 15
        assert rig.device.actual_bytes == SIZE - 15 * PAGE_SIZE
        rig.device.take_events()
        assert rig.faults.counts == {"anomaly": 2}

    asyncio.run(play())


def test_what_the_guest_gives_up_is_traced_range_by_range_as_qemu_does() -> None:
    async def play() -> None:
        lines: list[str] = []
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        done.set_result(24 * PAGE_SIZE)
        rig = Rig(
            lambda _: done,
            trace=Trace(matching(["hv_balloon_remove*"]), lambda name, text: lines.append(text)),
        )
        rig.shrink()
        assert lines == [
            "processing remove response range 16 @ 0x3e8, both 1",
            "remove response remaining range 16 @ 0x3e8, both 1",
            "processing remove response range 8 @ 0x7d0, both 1",
            "remove response remaining range 8 @ 0x7d0, both 1",
        ]
        await rig.device.discard()
        lines.clear()
        rig.device.set_target(SIZE)
        assert rig.device.host.next_message() is not None
        rig.device.closed()  # what was to be given back is given up still, and no guest said so
        assert (rig.device.removed_pages, lines) == (24, [])

    asyncio.run(play())


def test_a_ring_that_holds_no_whole_message_costs_the_guest_its_channel_and_not_the_machine() -> None:
    async def play() -> None:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        done.set_result(0)
        rig = Rig(lambda _: done, ring_pages=(4, 2))
        rig.device.set_target(SIZE - 600 * PAGE_SIZE)
        rig.device.send()
        scattered = [page | 1 << 40 for page in range(1000, 2200, 2)]
        for more, part in ((True, scattered[:300]), (False, scattered[300:])):
            rig.say(dm.BalloonResponse(3, more, struct.pack("<300Q", *part)))
        await rig.device.discard()
        rig.device.set_target(SIZE)
        rig.device.send()
        assert rig.channel_is_broken()

    asyncio.run(play())


def test_a_new_guest_owns_what_the_former_one_gave_and_nothing_of_it_is_discarded_any_more() -> None:
    async def play() -> None:
        def discard(_: bytes) -> asyncio.Future[int]:
            raise AssertionError("a page of the new guest would be lost")

        rig = Rig(discard)
        rig.shrink()
        rig.device.closed()
        rig.device.restarted()
        await rig.device.discard()
        assert (rig.device.actual_bytes, rig.device.removed_pages, rig.device.resets) == (SIZE, 0, 1)

    asyncio.run(play())
