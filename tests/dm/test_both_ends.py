"""The host's end against the guest's, every byte encoded and decoded, delivered when the test likes."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rigs.dm_channel import Wire
from tests.rigs.stores import PlainPages, SetStore

from dynmem.dm.events import Anomaly
from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.habits import VERSIONS, Habits, balloon_floor
from dynmem.dm.host import DynamicMemoryHost
from dynmem.dm.options import GuestOptions, HostOptions
from dynmem.dm.states import GuestState, HostState
from dynmem.units import NS_PER_S
from dynmem.wire import dm

TOTAL = 16384


class Pair:
    """Both ends over a wire, the host's store a page set."""

    def __init__(
        self,
        *,
        used: int = 0,
        run: int = 1,
        room: int = 2,
        status: bool = True,
        max_version: int = dm.VERSION_WIN10,
        versions: tuple[int, ...] = VERSIONS,
    ) -> None:
        self.store = SetStore(TOTAL)
        self.pages = PlainPages(TOTAL, used=used, run=run)
        self.host = DynamicMemoryHost(
            store=self.store,
            boot_pages=TOTAL,
            options=HostOptions(
                status_report=status,
                post_init_wait_ns=NS_PER_S,
                balloon_chunk_pages=3000,
                max_version=max_version,
            ),
        )
        self.guest = DynamicMemoryGuest(
            pages=self.pages, total_pages=TOTAL, options=GuestOptions(habits=Habits(versions=versions))
        )
        self.wire = Wire(self.host, self.guest, room=room)
        self.host.reset(0)

    def start(self) -> None:
        self.wire.open()
        self.wire.settle()
        self.wire.now += NS_PER_S
        self.host.tick(self.wire.now)

    def target(self, pages: int) -> None:
        self.host.set_target(pages, self.wire.now)
        self.wire.settle()

    def agree(self) -> bool:
        """Whether both ends tell the same of the same pages; true whenever the rings are empty."""
        return (
            len(self.pages.ballooned) == self.guest.ballooned_pages == TOTAL - self.host.actual_pages
            and all(self.store.pages.contains(page) for page in self.pages.ballooned)
            and len(self.store.pages) == len(self.pages.ballooned)
        )


def test_a_guest_is_shrunk_and_grown_again_page_for_page() -> None:
    pair = Pair(run=7)
    pair.start()
    for target in (12000, 15000, 11000, 16384, 12345, 99999):
        pair.target(target)
        assert pair.host.actual_pages == min(target, TOTAL)
        assert pair.host.state is HostState.IDLE
        assert pair.agree()
    assert pair.pages.available_pages == TOTAL
    assert not [event for event in pair.host.take_events() if isinstance(event, Anomaly)]


def test_a_target_below_the_floor_ends_at_the_floor_and_says_so() -> None:
    pair = Pair(used=2000, run=64)
    pair.start()
    pair.target(100)
    # the floor sinks with the size, and the host goes on asking until nothing comes
    assert pair.pages.available_pages == balloon_floor(pair.host.actual_pages)
    assert pair.host.actual_pages == 2000 + pair.pages.available_pages
    assert pair.agree()
    assert pair.host.guest_at_floor
    assert pair.host.state is HostState.IDLE
    pair.target(TOTAL)
    assert not pair.host.guest_at_floor
    assert pair.host.actual_pages == TOTAL


def test_an_older_host_brings_the_guest_down_to_its_version() -> None:
    for newest in (dm.VERSION_WIN10, dm.VERSION_WIN8, dm.VERSION_WIN7):
        pair = Pair(max_version=newest)
        pair.start()
        assert pair.host.version == pair.guest.version == newest
        pair.target(16000)
        assert pair.host.actual_pages == 16000


def test_no_common_version_stops_both_ends() -> None:
    pair = Pair(versions=(dm.make_version(3, 0), dm.make_version(2, 5)))
    pair.start()
    assert pair.guest.state is GuestState.INIT_ERROR
    assert pair.host.state is HostState.REFUSED
    pair.target(16000)
    assert pair.host.actual_pages == TOTAL


def test_the_hosts_demand_is_what_programs_asked_for_plus_the_floor() -> None:
    pair = Pair(used=1234)
    pair.start()
    pair.target(15000)
    pair.wire.now += 2 * NS_PER_S
    pair.guest.tick(pair.wire.now)
    pair.wire.settle()
    status = pair.host.status
    assert status is not None
    ballooned = TOTAL - pair.host.actual_pages
    assert status.committed_bytes // 4096 - ballooned == 1234 + balloon_floor(15000)
    assert status.available_bytes // 4096 == TOTAL - 1234 - ballooned


def test_a_channel_that_closes_and_opens_again_keeps_balloon_and_target() -> None:
    pair = Pair()
    pair.start()
    pair.host.set_target(12000, pair.wire.now)
    for _ in range(4):
        for step in pair.wire.steps()[:4]:
            step()
    pair.wire.close()
    assert 0 < pair.guest.ballooned_pages < TOTAL - 12000
    assert pair.agree()
    pair.start()
    pair.wire.settle()
    assert pair.host.actual_pages == 12000
    assert pair.agree()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_whatever_the_order_of_delivery_both_ends_agree_once_the_rings_are_empty(data: st.DataObject) -> None:
    pair = Pair(
        used=data.draw(st.integers(0, 4000)),
        run=data.draw(st.sampled_from([1, 3, 64])),
        room=data.draw(st.integers(1, 3)),
        status=data.draw(st.booleans()),
    )
    wire = pair.wire
    pair.host.set_target(data.draw(st.integers(9000, TOTAL)), 0)
    wire.open()
    moves = wire.steps()
    for _ in range(data.draw(st.integers(0, 100))):
        choice = data.draw(st.integers(0, 24))
        if choice < 22:
            moves[choice % len(moves)]()
        elif choice < 24:
            pair.host.set_target(data.draw(st.integers(1, TOTAL + 10)), wire.now)
        elif pair.host.state is not HostState.WAIT_RESET:
            wire.close()
            assert pair.agree()
            wire.open()
        # pages are in the guest's hands, the host's set or a message, never in two of them
        assert pair.pages.ballooned.isdisjoint(pair.pages.free)
        assert len(pair.store.pages) <= pair.guest.ballooned_pages
    wire.settle()
    if pair.guest.state is GuestState.INIT_ERROR:  # time passed while the test delivered nothing
        wire.close()
        wire.open()
        wire.settle()
    wire.now += 2 * NS_PER_S
    pair.host.tick(wire.now)
    wire.settle()
    assert pair.host.state is HostState.IDLE
    assert pair.guest.state is GuestState.INITIALIZED
    assert pair.agree()
    missed = pair.host.actual_pages - min(pair.host.target_pages, TOTAL)
    if missed:
        assert missed > 0
        assert pair.host.guest_at_floor
        assert pair.pages.available_pages == balloon_floor(pair.host.actual_pages)
