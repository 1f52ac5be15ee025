"""What the end of a driver, of a kernel and of a guest means for what the balloon device knows of it.

Each test is a cell of the table in docs/architecture.md: driver (the channel closes and opens again), kernel
(UNLOAD or a new contact), reset.
"""

import contextlib
import dataclasses
from collections.abc import AsyncIterator

import pytest
from tests.rigs.fake_platform import BOOT, OPTIONS, FakePlatform
from tests.rigs.pages import packed
from tests.rigs.scenes import plays, until

from dynmem import vmbus
from dynmem.dm.states import HostState
from dynmem.units import GIB, MIB, PAGE_SHIFT
from dynmem.vm.faults import Faults
from dynmem.vm.machine import Machine
from dynmem.vm.options.machine import BalloonOptions, VmOptions
from dynmem.vm.platform import Owner
from dynmem.vmbus import GuestMemory, OutgoingMessage, Signal
from dynmem.vmbus.memory import BadAddressError
from dynmem.wire import dm

ADDED = 128 * MIB
ADDRESS = 32 * GIB  # of added memory
GIVEN = 8 * MIB
GIVEN_PAGES = GIVEN >> PAGE_SHIFT
FIRST_GIVEN = 4096  # page
TARGET = BOOT + ADDED - GIVEN
PROMISED = 5000  # pages that the guest's programs were promised, and its reserve

DRIVER, UNLOAD, CONTACT, CRASH, RESET = "driver", "unload", "contact", "contact of another processor", "reset"
KERNELS = (UNLOAD, CONTACT, CRASH)


class Guest(FakePlatform):
    """A guest of two processors whose driver and kernel come and go; it remembers what it was asked."""

    def __init__(self, options: VmOptions, memory: GuestMemory, owner: Owner, faults: Faults) -> None:
        super().__init__(options, memory, owner, faults)
        self.asked: list[dm.Message] = []
        self.interrupted: set[int] = set()  # processors
        self.handshakes = 0

    def say(self, message: dm.Message) -> None:
        self.handshakes += isinstance(message, dm.CapabilitiesReport)
        super().say(message)

    def obey(self, message: dm.Message) -> None:
        if isinstance(message, dm.BalloonRequest | dm.UnballoonRequest | dm.HotAddRequest):
            self.asked.append(message)
        super().obey(message)

    def deliver(self, message: OutgoingMessage) -> bool:
        self.interrupted.add(message.vp)
        return super().deliver(message)

    def signal(self, signal: Signal) -> None:
        self.interrupted.add(signal.vp)
        super().signal(signal)


class Life:
    """A machine whose guest has been given 128 MiB, has given up 8 MiB of its own and has reported that."""

    def __init__(self, *, startup_last: bool = False) -> None:
        device = BalloonOptions(memdev="more", status_report=True, startup_last=startup_last)
        options = dataclasses.replace(OPTIONS, balloon=device, vp_count=2)
        self.machine = Machine(options, lambda *_: None, make_platform=Guest)
        assert isinstance(self.machine.platform, Guest)
        self.guest = self.machine.platform
        assert self.machine.balloon is not None
        self.balloon = self.machine.balloon

    async def begin(self) -> None:
        await self.machine.start()
        await self.reaches(BOOT + ADDED)
        self.guest.memory.write(ADDRESS, b"in use")
        await self.reaches(TARGET)
        assert await self.reports(PROMISED + GIVEN_PAGES) == PROMISED + GIVEN_PAGES
        self.guest.asked.clear()
        self.guest.interrupted.clear()

    async def reaches(self, size: int) -> None:
        self.balloon.set_target(size)
        await self.is_at(size)

    async def is_at(self, size: int) -> None:
        await until(lambda: self.balloon.actual_bytes == size and self.balloon.host.state is HostState.IDLE)

    async def reports(self, committed: int) -> int:
        """The guest reports what it has committed: what is believed, in pages."""
        before = self.balloon.status
        self.guest.say(dm.StatusReport(9, 1000, committed, 0, 0, 0, 0))
        await until(lambda: self.balloon.status is not before)
        assert self.balloon.status is not None
        return self.balloon.status.committed_bytes >> PAGE_SHIFT

    async def ends(self, event: str) -> None:
        """A driver, a kernel or a guest ends and the next one has negotiated."""
        guest, before = self.guest, self.guest.handshakes
        if event == DRIVER:
            assert guest.channel is not None
            guest.channel.close()
        elif event == UNLOAD:
            guest.client.unload()
            guest.wake()
            await until(lambda: guest.client.state is vmbus.ClientState.DISCONNECTED)
            guest.connect()
        elif event == CONTACT:
            guest.connect()
        elif event == CRASH:
            guest.vp = 1
            guest.connect()
        else:
            self.machine.reset()
        guest.wake()
        await until(lambda: guest.handshakes > before and self.balloon.host.state is HostState.IDLE)

    @property
    def added(self) -> int:
        assert self.balloon.hot_added is not None
        return self.balloon.hot_added.added_bytes


@contextlib.asynccontextmanager
async def after(event: str, *, startup_last: bool = False) -> AsyncIterator[Life]:
    life = Life(startup_last=startup_last)
    await life.begin()
    await life.ends(event)
    yield life
    await life.machine.close()


# a driver


@plays
async def test_a_driver_that_comes_back_finds_the_target_and_is_asked_for_nothing_that_it_gave() -> None:
    async with after(DRIVER) as life:
        await life.reports(PROMISED)
        assert (life.balloon.actual_bytes, life.balloon.target_bytes) == (TARGET, TARGET)
        assert life.guest.asked == []


@plays
async def test_a_driver_that_comes_back_gets_the_pages_that_the_one_before_it_gave() -> None:
    async with after(DRIVER) as life:
        assert life.balloon.pages.removed_pages == GIVEN_PAGES
        await life.reaches(BOOT + ADDED)
        (returned,) = life.guest.asked
        assert isinstance(returned, dm.UnballoonRequest)
        assert returned.ranges == packed((FIRST_GIVEN, GIVEN_PAGES))


@plays
async def test_added_memory_stays_when_a_driver_goes() -> None:
    async with after(DRIVER) as life:
        assert life.added == ADDED
        assert life.guest.memory.read(ADDRESS, 6) == b"in use"


@plays
async def test_a_driver_is_believed_what_is_committed_whether_it_counts_the_balloon_or_not() -> None:
    for said in (PROMISED, PROMISED + GIVEN_PAGES):
        async with after(DRIVER) as life:
            assert life.balloon.status is None
            assert await life.reports(said) == PROMISED + GIVEN_PAGES
            await life.reaches(BOOT + ADDED)
            wrapped = (said - GIVEN_PAGES) % (1 << 32)  # num_pages_ballooned has 32 bits
            assert await life.reports(wrapped) == PROMISED


# a kernel


@pytest.mark.parametrize("event", KERNELS)
@plays
async def test_the_target_of_a_kernel_is_over_when_another_one_comes(event: str) -> None:
    async with after(event) as life:
        await life.reports(PROMISED)
        assert (life.balloon.actual_bytes, life.balloon.target_bytes) == (BOOT + ADDED, BOOT + ADDED)
        assert life.guest.asked == []


@pytest.mark.parametrize("event", KERNELS)
@plays
async def test_what_a_kernel_gave_is_the_next_ones_own_and_is_not_returned_to_it(event: str) -> None:
    async with after(event) as life:
        page = FIRST_GIVEN << PAGE_SHIFT
        life.guest.memory.write(page, b"used again")
        assert life.balloon.pages.removed_pages == 0
        await life.reaches(BOOT + ADDED)
        await life.reports(PROMISED)
        assert life.guest.asked == []
        assert life.guest.memory.read(page, 10) == b"used again"
        await life.reaches(TARGET)  # it can be shrunk like any other
        assert life.guest.asked == [dm.BalloonRequest(0, GIVEN_PAGES)]


@pytest.mark.parametrize("event", KERNELS)
@plays
async def test_added_memory_stays_mapped_for_the_next_kernel_and_is_not_offered_again(
    event: str,
) -> None:
    """The kernel that kexec starts may live in it, and would refuse to add it: EEXIST in Linux."""
    async with after(event) as life:
        assert [section.address for section in life.guest.slots.sections] == [0, ADDRESS]
        assert life.guest.memory.read(ADDRESS, 6) == b"in use"
        await life.reaches(BOOT + 2 * ADDED)
        (offered,) = life.guest.asked
        assert isinstance(offered, dm.HotAddRequest)
        assert offered.range & ((1 << 40) - 1) == ADDRESS + ADDED >> PAGE_SHIFT
        assert life.guest.memory.read(ADDRESS, 6) == b"in use"


@pytest.mark.parametrize("event", KERNELS)
@plays
async def test_of_the_next_kernel_what_it_reports_is_believed_as_it_is(event: str) -> None:
    async with after(event) as life:
        assert life.balloon.status is None
        assert await life.reports(PROMISED) == PROMISED


@plays
async def test_a_crash_kernel_on_another_processor_gets_what_the_host_sends() -> None:
    async with after(CRASH) as life:
        await life.reaches(TARGET)
        assert life.guest.interrupted == {1}


# a reset


@plays
async def test_after_a_reset_the_guest_has_its_boot_size_and_no_target() -> None:
    async with after(RESET) as life:
        await life.reports(PROMISED)
        assert (life.balloon.actual_bytes, life.balloon.target_bytes) == (BOOT, BOOT)
        assert life.guest.asked == []


@plays
async def test_after_a_reset_all_of_boot_memory_is_the_guests() -> None:
    async with after(RESET) as life:
        assert life.balloon.pages.removed_pages == 0


@plays
async def test_after_a_reset_added_memory_is_empty_and_can_be_added_again() -> None:
    async with after(RESET) as life:
        assert (life.added, [section.address for section in life.guest.slots.sections]) == (0, [0])
        with pytest.raises(BadAddressError):
            life.guest.memory.read(ADDRESS, 6)
        await life.reaches(BOOT + ADDED)
        (offered,) = life.guest.asked
        assert isinstance(offered, dm.HotAddRequest)
        assert offered.range & ((1 << 40) - 1) == ADDRESS >> PAGE_SHIFT
        assert life.guest.memory.read(ADDRESS, 6) == bytes(6)


@plays
async def test_after_a_reset_what_the_guest_reports_is_believed_as_it_is() -> None:
    async with after(RESET) as life:
        assert life.balloon.status is None
        assert await life.reports(PROMISED) == PROMISED


@plays
async def test_with_startup_last_a_reset_keeps_added_memory_and_the_target() -> None:
    async with after(RESET, startup_last=True) as life:
        await life.is_at(TARGET)
        assert life.added == ADDED
        assert life.balloon.target_bytes == TARGET
        assert life.guest.asked == [dm.BalloonRequest(0, GIVEN_PAGES)]


@pytest.mark.parametrize("event", KERNELS)
@plays
async def test_with_startup_last_no_kernel_that_comes_without_a_reset_is_shrunk_twice(event: str) -> None:
    async with after(event, startup_last=True) as life:
        await life.reports(PROMISED)
        assert (life.balloon.actual_bytes, life.guest.asked) == (BOOT + ADDED, [])
