"""The guest's drivers against a real host's bus and balloon device, in one process."""

from collections.abc import Iterator

import numpy as np
import pytest
from tests.rigs.guest_host import GuestHost

from dynmem.dm.habits import LINUX, Habits
from dynmem.dm.states import HostState
from dynmem.dm.windows import Release, windows
from dynmem.guest.allocator import Allocator
from dynmem.guest.curve import parse_load
from dynmem.guest.driver import RING_PAGES, CrashError, Drivers
from dynmem.guest.pattern import PAGE_WORDS
from dynmem.guest.synic import Synic
from dynmem.guest.workload import Workload
from dynmem.pages import ranges as page_ranges
from dynmem.units import MIB, NS_PER_MS, NS_PER_S, PAGE_SIZE

SIZE = 256 * MIB
PAGES = SIZE // PAGE_SIZE
SHRUNK = PAGES * 6 // 10  # well above the floor of a guest of this size
KERNEL_PAGES = 16


class Guest:
    """Drivers and a workload in a machine of their own; time passes in steps of 10 ms."""

    def __init__(
        self, load: str = "steady,high=10%,rate=1G", *, busy_posts: int = 0, habits: Habits = LINUX
    ) -> None:
        self.machine = GuestHost(SIZE, lambda: None)
        self.machine.busy_posts = busy_posts
        self.allocator = Allocator(seed=4)
        self.allocator.add_kernel(0, KERNEL_PAGES)
        self.allocator.add(KERNEL_PAGES, PAGES - KERNEL_PAGES)
        memory = self.machine.memory
        synic = Synic(self.machine, memory, message_page=1, event_page=2, input_page=3)
        self.drivers = Drivers(self.machine, memory, self.allocator, synic, PAGES, habits=habits)
        words = np.frombuffer(self.machine.backend.view, np.uint64).reshape(-1, PAGE_WORDS)
        self.workload = Workload(words, self.allocator, parse_load(load), usable_pages=PAGES, seed=5)
        self.now = 0

    def run(self, duration_ns: int) -> None:
        end = self.now + duration_ns
        while self.now < end:
            self.machine.now = self.now
            self.machine.work()
            self.drivers.step(self.now)
            self.workload.tick(self.now)
            self.now += 10 * NS_PER_MS

    def set_target(self, pages: int) -> None:
        self.machine.device.set_target(pages, self.now)
        self.run(NS_PER_S)


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    guest.run(NS_PER_S)
    assert guest.machine.device.state is HostState.IDLE
    yield guest
    assert guest.drivers.faults == 0
    assert not guest.machine.bus.rejected


def test_the_guest_comes_up_and_reports_its_memory_once_a_second(guest: Guest) -> None:
    guest.run(NS_PER_S)
    status = guest.machine.device.status
    assert status is not None
    assert status.at_ns >= NS_PER_S
    floor = guest.drivers.floor_pages
    assert status.committed_bytes == (guest.allocator.committed_pages + floor) * PAGE_SIZE
    assert status.available_bytes == guest.allocator.available_pages * PAGE_SIZE
    assert guest.allocator.kernel_pages == KERNEL_PAGES + RING_PAGES


def test_pages_the_balloon_takes_leave_the_host_and_come_back_whole(guest: Guest) -> None:
    guest.set_target(SHRUNK)
    assert guest.machine.actual_pages == SHRUNK
    assert guest.allocator.ballooned_pages == len(guest.machine.given_up) == PAGES - SHRUNK
    touched = guest.allocator.held_pages + KERNEL_PAGES + RING_PAGES
    assert guest.machine.backend.resident_bytes() <= touched * PAGE_SIZE
    guest.set_target(PAGES)
    assert guest.machine.actual_pages == PAGES
    assert guest.allocator.ballooned_pages == 0
    guest.workload.finish()
    assert guest.workload.wrong_bytes == 0


def test_a_response_has_many_ranges_of_very_different_length(guest: Guest) -> None:
    guest.set_target(SHRUNK)
    counts = np.concatenate([page_ranges.unpack(ranges)[1] for ranges in guest.machine.responses])
    assert 1 < np.median(counts) <= 64


def test_the_balloon_takes_nothing_from_the_workload_and_stops_at_the_floor(guest: Guest) -> None:
    held = guest.workload.held_pages
    guest.set_target(1)
    assert guest.workload.held_pages == held == PAGES // 10
    assert guest.allocator.available_pages == guest.drivers.floor_pages  # which falls with the guest's size
    assert guest.machine.device.guest_at_floor
    guest.set_target(PAGES)
    guest.workload.finish()
    assert guest.workload.wrong_bytes == 0


def test_ten_rounds_to_the_floor_and_back_lose_nothing() -> None:
    guest = Guest("sine,period=1s,low=5%,high=40%,rate=1G")
    guest.run(NS_PER_S)
    for _ in range(10):
        guest.set_target(1)
        assert guest.machine.device.guest_at_floor
        guest.set_target(PAGES)
    assert guest.machine.actual_pages == PAGES
    guest.workload.finish()
    assert guest.workload.verified_pages > PAGES
    assert guest.workload.wrong_bytes == 0


def test_a_page_the_host_discards_behind_the_guests_back_is_noticed(guest: Guest) -> None:
    held = next(page for page in range(PAGES) if guest.allocator.state_of(page) == 3)
    guest.machine.discarder.discard(page_ranges.from_pages(np.array([held])))
    guest.workload.finish()
    assert guest.workload.wrong_pages == 1


def test_a_host_without_buffers_is_asked_again() -> None:
    guest = Guest(busy_posts=20)
    guest.run(3 * NS_PER_S)
    assert guest.machine.busy_posts == 0
    assert guest.machine.device.state is HostState.IDLE


def test_a_message_that_waited_for_the_slot_is_asked_for_with_an_end_of_message(guest: Guest) -> None:
    assert guest.machine.ends_of_message > 0  # the offer and the end of the offers come together


def test_an_unplugged_balloon_leaves_the_guest_running() -> None:
    guest = Guest()
    guest.run(NS_PER_S)
    guest.machine.unplug()
    guest.run(NS_PER_S)
    assert guest.allocator.kernel_pages == KERNEL_PAGES
    assert not guest.machine.bus.channels
    guest.workload.finish()
    assert guest.workload.wrong_bytes == 0


def test_what_the_host_gets_wrong_is_counted_and_survived() -> None:
    guest = Guest()
    guest.run(NS_PER_S)
    assert guest.machine.channel.send(b"\xff" * 16)
    stolen = page_ranges.from_pages(np.array([17]))
    guest.machine.device.set_target(SHRUNK, guest.now)
    guest.run(NS_PER_S)
    guest.machine.given_up.add(stolen)  # the device will give back a page that it never got
    guest.machine.device.set_target(PAGES, guest.now)
    guest.run(NS_PER_S)
    assert guest.drivers.faults == 2
    assert guest.allocator.ballooned_pages > 0
    guest.workload.finish()
    assert guest.workload.wrong_bytes == 0


def test_a_broken_ring_closes_the_channel_and_frees_its_pages() -> None:
    guest = Guest()
    guest.run(NS_PER_S)
    rings = [page for page in range(KERNEL_PAGES, PAGES) if guest.allocator.state_of(page) == 2]
    assert len(rings) == RING_PAGES
    for page in rings:
        guest.machine.memory.store32(page * PAGE_SIZE, 0xFFFF_FFF0)
    guest.run(NS_PER_S)
    assert guest.drivers.faults == 1
    assert guest.allocator.kernel_pages == KERNEL_PAGES


@pytest.mark.parametrize("release", [Release.SERVER_2012, Release.SERVER_2016])
def test_with_windows_habits_it_balloons_and_keeps_its_memory(release: Release) -> None:
    guest = Guest(habits=windows(release))
    guest.run(2 * NS_PER_S)
    guest.set_target(SHRUNK)
    assert guest.machine.actual_pages == SHRUNK
    guest.set_target(PAGES)
    assert guest.allocator.ballooned_pages == 0
    guest.workload.finish()
    assert (guest.workload.wrong_bytes, guest.drivers.faults) == (0, 0)
    assert guest.drivers.floor_pages == 0
    assert not guest.machine.bus.rejected


def test_with_the_habits_of_server_2019_a_request_right_after_the_start_ends_the_guest() -> None:
    guest = Guest(habits=windows(Release.SERVER_2019))
    guest.run(NS_PER_S)
    with pytest.raises(CrashError, match="before the guest had settled"):
        guest.set_target(SHRUNK)
