"""Boot memory that goes round a hole in the platform's addresses: two pieces for the guest, one backend."""

import dataclasses
import os

import pytest
from tests.rigs.fake_platform import OPTIONS, FakePlatform
from tests.rigs.pages import packed, pages_of
from tests.rigs.scenes import plays, until

from dynmem.errors import ConfigError
from dynmem.units import GIB, MIB, PAGE_SHIFT, PAGE_SIZE
from dynmem.vm.balloon.pieces import Pieces
from dynmem.vm.machine import Machine
from dynmem.vm.options.machine import BalloonOptions
from dynmem.vm.options.memory import BackendOptions, DimmOptions, MemoryOptions
from dynmem.vm.platform import round_hole
from dynmem.vmbus.memory import BadAddressError
from dynmem.wire import dm
from dynmem.wire.heat_hint import Span

BOOT = 6 * GIB
SIX_GIB = MemoryOptions(BOOT, BOOT)
HOLE = range(7 * GIB // 2, 4 * GIB)
BELOW = HOLE.start >> PAGE_SHIFT  # the pages before the hole
ABOVE = HOLE.stop >> PAGE_SHIFT  # the first page behind it


class WithHole(FakePlatform):
    """A platform with a hole, whose guest gives up the pages that a test names and remembers what it gets."""

    ram_hole = HOLE

    def obey(self, message: dm.Message) -> None:
        if isinstance(message, dm.BalloonRequest):
            self.say(dm.BalloonResponse(3, more_pages=False, ranges=self.gives))
            self.gives = b""
        elif isinstance(message, dm.UnballoonRequest):
            self.got += message.ranges
            if not message.more_pages:
                self.say(dm.UnballoonResponse(4))
        else:
            super().obey(message)

    gives = b""
    got = b""


def machine_of(
    memory: MemoryOptions = SIX_GIB, objects: tuple[BackendOptions, ...] = ()
) -> tuple[Machine, WithHole]:
    options = dataclasses.replace(OPTIONS, memory=memory, objects=objects, balloon=BalloonOptions("b"))
    machine = Machine(options, lambda *_: None, make_platform=WithHole)
    assert isinstance(machine.platform, WithHole)
    return machine, machine.platform


def resident(machine: Machine) -> set[int]:
    """The pages of boot memory's file that have a block."""
    fd, at = machine.memory.boot.fd, 0
    pages: set[int] = set()
    while True:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # there is none behind it
            return pages
        end = os.lseek(fd, at, os.SEEK_HOLE)
        pages |= set(range(at >> PAGE_SHIFT, end >> PAGE_SHIFT))
        at = end


def own_page(page: int) -> int:
    """Where in the file a page of the guest is."""
    return page if page < BELOW else page - (len(HOLE) >> PAGE_SHIFT)


async def reaches(machine: Machine, size: int) -> None:
    balloon = machine.balloon
    assert balloon is not None
    balloon.set_target(size)
    await until(lambda: balloon.actual_bytes == size)


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (HOLE.start, ((0, HOLE.start),)),
        (HOLE.start + PAGE_SIZE, ((0, HOLE.start), (HOLE.stop, PAGE_SIZE))),
        (BOOT, ((0, HOLE.start), (HOLE.stop, BOOT - HOLE.start))),
    ],
)
def test_boot_memory_goes_round_the_hole(size: int, pieces: tuple[tuple[int, int], ...]) -> None:
    assert round_hole(size, HOLE) == pieces
    assert round_hole(size, range(0)) == ((0, size),)


def test_the_picture_of_pieces_holds() -> None:
    pieces = Pieces([(0, 8), (12, 4)])
    assert pieces.part(packed((6, 4)), 1) == (packed((6, 2)), packed((8, 2)))
    assert pieces.guest_pages(packed((6, 2), (8, 2))) == packed((6, 2), (12, 2))


@plays
async def test_pages_of_both_pieces_leave_the_host_and_come_back_and_no_others() -> None:
    machine, guest = machine_of()
    assert machine.memory.boot_ram == ((0, HOLE.start), (HOLE.stop, BOOT - HOLE.start))
    await machine.start()
    # what the guest gives, a page before the hole and one behind it that stay, and the last page of all
    given = packed((BELOW - 600, 599), (ABOVE + 1, 512), (ABOVE + 5000, 1))
    kept = {BELOW - 1: 1, ABOVE: 2, (BOOT + len(HOLE) >> PAGE_SHIFT) - 1: 3, BELOW - 601: 4, ABOVE + 513: 5}
    for page in [*kept, *pages_of(given)]:
        guest.memory.write(page << PAGE_SHIFT, bytes([kept.get(page, 9)]) * 8)
    own = {own_page(page) for page in pages_of(given)}
    assert own <= resident(machine)
    guest.gives = given
    await reaches(machine, BOOT - len(own) * PAGE_SIZE)
    await until(lambda: not own & resident(machine))
    assert {own_page(page) for page in kept} <= resident(machine)
    assert machine.resident_bytes == len(resident(machine)) * PAGE_SIZE
    for page, content in kept.items():
        assert guest.memory.read(page << PAGE_SHIFT, 8) == bytes([content]) * 8
    await reaches(machine, BOOT)
    assert sorted(pages_of(guest.got)) == sorted(pages_of(given))
    await machine.close()


@plays
async def test_a_range_over_the_hole_counts_for_the_memory_on_both_sides_of_it() -> None:
    machine, guest = machine_of()
    await machine.start()
    guest.gives = packed((BELOW - 2, 2 + (len(HOLE) >> PAGE_SHIFT) + 3))
    await reaches(machine, BOOT - 5 * PAGE_SIZE)
    await reaches(machine, BOOT)
    assert guest.got == packed((BELOW - 2, 2), (ABOVE, 3))
    await machine.close()


@plays
async def test_free_pages_that_are_reported_on_both_sides_of_the_hole_leave_the_host() -> None:
    machine, guest = machine_of()
    await machine.start()
    assert machine.balloon is not None
    assert machine.balloon.reporting is not None
    free, kept = {BELOW - 2, BELOW - 1, ABOVE, ABOVE + 1}, {BELOW - 3, ABOVE + 2}
    for page in free | kept:
        guest.memory.write(page << PAGE_SHIFT, b"once used")
    await machine.balloon.reporting.report([Span(BELOW - 2, ABOVE + 2 - (BELOW - 2))])
    assert not {own_page(page) for page in free} & resident(machine)
    assert {own_page(page) for page in kept} <= resident(machine)
    assert machine.balloon.reporting.discarded_bytes == len(free) * PAGE_SIZE
    await machine.close()


@plays
async def test_the_hole_is_no_memory_for_the_bus_and_each_piece_is_a_slot() -> None:
    machine, guest = machine_of()
    sections = [(each.address, each.size, each.offset) for each in guest.slots.sections]
    assert sections == [(0, HOLE.start, 0), (HOLE.stop, BOOT - HOLE.start, HOLE.start)]
    for address in (HOLE.start, HOLE.stop - 1):
        with pytest.raises(BadAddressError):
            guest.memory.read(address, 1)
    with pytest.raises(BadAddressError):
        guest.memory.write(HOLE.start - 4, bytes(8))
    guest.memory.write(HOLE.stop, b"behind")
    assert bytes(machine.memory.boot.view[HOLE.start : HOLE.start + 6]) == b"behind"
    await machine.close()


@plays
async def test_a_guest_of_a_terabyte_gives_up_its_last_page_and_gets_it_back() -> None:
    size = 1024 * GIB
    machine, guest = machine_of(MemoryOptions(size, size))
    assert machine.memory.boot_ram[-1] == (HOLE.stop, size - HOLE.start)
    await machine.start()
    last = (size + len(HOLE) >> PAGE_SHIFT) - 1
    guest.memory.write(last << PAGE_SHIFT, b"last")
    assert own_page(last) in resident(machine)
    guest.gives = packed((last, 1))
    await reaches(machine, size - PAGE_SIZE)
    await until(lambda: own_page(last) not in resident(machine))
    await reaches(machine, size)
    assert guest.got == packed((last, 1))
    await machine.close()


@plays
async def test_memory_devices_begin_behind_the_last_piece() -> None:
    machine, _ = machine_of(memory=MemoryOptions(BOOT, BOOT + 2 * MIB, 1), objects=OPTIONS.objects[1:])
    assert machine.dimms.plug(DimmOptions("a", "x")).get_addr() == 32 * GIB
    await machine.close()
    high, _ = machine_of(memory=MemoryOptions(32 * GIB, 33 * GIB))
    assert high.device_memory.base == 64 * GIB  # the last half GiB of boot memory is above 32 GiB
    await high.close()
    with pytest.raises(ConfigError, match="-m: too few addresses above 1 TiB"):
        machine_of(memory=MemoryOptions(992 * GIB, 993 * GIB))


@pytest.mark.parametrize(
    ("memory", "refusal"),
    [
        (
            MemoryOptions(64 * GIB, 64 * GIB),
            r"-m: too few addresses \(.* 64 GiB .*\) for 64 GiB: take a smaller size",
        ),
        (
            MemoryOptions(8 * GIB, 41 * GIB),
            r"-m: too few addresses above 32 GiB, .* 64 GiB .* at most 40 GiB with",
        ),
    ],
)
@plays
async def test_memory_that_the_hosts_processors_have_no_addresses_for_is_refused(
    memory: MemoryOptions, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WithHole, "addresses", 64 * GIB)
    with pytest.raises(ConfigError, match=refusal):
        machine_of(memory=memory)
    machine, _ = machine_of(memory=MemoryOptions(63 * GIB, 63 * GIB))
    await machine.close()
