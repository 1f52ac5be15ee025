"""Both ends over VMBus: offer, GPADL, open, real rings in memory, and everything that the protocol has."""

import pytest
from tests.rigs.bus import carry
from tests.rigs.stores import PlainBlocks, PlainPages, PlainSource, SetStore

from dynmem import vmbus
from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.habits import LINUX, Habits
from dynmem.dm.host import DynamicMemoryHost
from dynmem.dm.options import POST_INIT_WAIT_NS, GuestOptions, HostOptions
from dynmem.dm.states import GuestState, HostState
from dynmem.dm.windows import WINDOWS
from dynmem.limits import DM_RANGES_PER_MESSAGE
from dynmem.units import NS_PER_S
from dynmem.vmbus import Bus, Channel, ChannelOpened, Offer
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import dm
from dynmem.wire.dm import BALLOON_DEVICE_TYPE

TOTAL = 16384
STEP = 256
REGION = 4 * TOTAL
LIMIT = REGION + 8 * STEP
FIRST_RING_PAGE = 16


class Machine:
    """A bus, a client of it, and the two ends on one channel with `ring_pages` of data each way."""

    def __init__(self, *, version: int, ring_pages: int, habits: Habits) -> None:
        memory = FlatMemory(memoryview(bytearray(64 * 4096)))
        self.bus = Bus(memory, [Offer(BALLOON_DEVICE_TYPE, BALLOON_DEVICE_TYPE, "balloon")])
        self.client = vmbus.Client(memory)
        self.source = PlainSource(REGION, 8 * STEP)
        self.blocks = PlainBlocks(STEP, LIMIT)
        self.pages = PlainPages(TOTAL)
        self.host = DynamicMemoryHost(
            store=SetStore(LIMIT),
            boot_pages=TOTAL,
            hot_add=self.source,
            options=HostOptions(status_report=True, max_version=version),
        )
        self.guest = DynamicMemoryGuest(
            pages=self.pages,
            total_pages=TOTAL,
            blocks=self.blocks,
            options=GuestOptions(page_limit=LIMIT, habits=habits),
        )
        self.now = 0
        self.ring_pages = ring_pages
        self.channel: Channel | None = None
        self.guest_channel: vmbus.GuestChannel | None = None
        self.client.connect()
        self.settle()

    def settle(self) -> None:
        """Go on until nothing moves."""
        while any([self.bus_moves(), self.host_moves(), self.guest_moves()]):
            pass

    def bus_moves(self) -> bool:
        moved = carry(self.client, self.bus)
        for event in self.bus.take_events():
            if isinstance(event, ChannelOpened):
                self.channel = event.channel
                self.host.channel_opened(self.now)
        for change in self.client.take_events():
            if isinstance(change, vmbus.Offered):
                self.guest_channel = change.channel
                size = 2 * (1 + self.ring_pages)
                change.channel.open(range(FIRST_RING_PAGE, FIRST_RING_PAGE + size), size // 2)
            elif isinstance(change, vmbus.Opened):
                self.guest.channel_opened(self.now)
        for signal in self.bus.take_signals():
            self.client.receive_event(signal.flag)
        for _ in self.client.take_doorbells():
            pass  # both ends look at their rings all the time here
        return moved

    def host_moves(self) -> bool:
        channel, moved = self.channel, False
        while channel is not None and (packet := channel.receive()) is not None:
            self.host.receive(packet.data, self.now)
            moved = True
        while channel is not None and (message := self.host.next_message()) is not None:
            if not channel.send(message):
                break
            self.host.message_sent(self.now)
            moved = True
        return moved

    def guest_moves(self) -> bool:
        channel, moved = self.guest_channel, False
        if self.guest.state is GuestState.CLOSED or channel is None:
            return False
        while (packet := channel.receive()) is not None:
            self.guest.receive(packet.data, self.now)
            moved = True
        while (message := self.guest.next_message()) is not None:
            if not channel.send(message):
                break
            self.guest.message_sent(self.now)
            moved = True
        return moved

    def states(self) -> tuple[HostState, GuestState]:
        return self.host.state, self.guest.state

    def passes(self, ns: int) -> None:
        self.now += ns
        self.host.tick(self.now)
        self.guest.tick(self.now)
        self.settle()

    def target(self, pages: int) -> None:
        self.host.set_target(pages, self.now)
        self.settle()


@pytest.mark.parametrize("version", [dm.VERSION_WIN7, dm.VERSION_WIN8, dm.VERSION_WIN10])
@pytest.mark.parametrize(("ring_pages", "habits"), [(2, LINUX), (4, LINUX), (4, WINDOWS)])
def test_the_whole_protocol_goes_over_real_rings(version: int, ring_pages: int, habits: Habits) -> None:
    machine = Machine(version=version, ring_pages=ring_pages, habits=habits)
    assert machine.states() == (HostState.POST_INIT_WAIT, GuestState.INITIALIZED)
    assert machine.host.version == machine.guest.version == version
    machine.passes(POST_INIT_WAIT_NS)
    machine.passes(NS_PER_S)
    assert machine.host.status is not None
    # many more messages than the rings hold: pages come one by one
    machine.target(TOTAL - 5 * DM_RANGES_PER_MESSAGE)
    assert machine.guest.ballooned_pages == 5 * DM_RANGES_PER_MESSAGE
    machine.target(TOTAL + 2 * STEP)
    assert machine.host.actual_pages == machine.guest.total_pages == TOTAL + 2 * STEP
    assert machine.guest.ballooned_pages == 0
    asked = machine.host.hot_remove(STEP, machine.now)
    machine.settle()
    assert asked == (version == dm.VERSION_WIN10)
    assert machine.guest.total_pages == TOTAL + 2 * STEP - asked * STEP
    assert machine.host.actual_pages == machine.guest.total_pages
    assert machine.source.given == machine.blocks.added
    assert machine.states() == (HostState.IDLE, GuestState.INITIALIZED)
