"""Slots in the guest's kernel: DIMMs come, are used, are emptied and go, and no byte is lost by it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.rigs.guest_host import GuestHost
from tests.rigs.memory import memory_of

from dynmem.errors import RemoteProtocolError
from dynmem.guest.allocator import IN_USE, Allocator
from dynmem.guest.blocks import Blocks
from dynmem.guest.curve import parse_load
from dynmem.guest.driver import Drivers
from dynmem.guest.hardware import Hardware
from dynmem.guest.slots import Slots
from dynmem.guest.synic import Synic
from dynmem.guest.workload import Workload
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE
from dynmem.wire import hardware as wire

BOOT = 32 * MIB
DIMM = 16 * MIB
DIMM_PAGES = DIMM // PAGE_SIZE
FIRST = 32 << 30


class Guest:
    """A kernel without its loop: boot memory of 32 MiB, room for DIMMs of 16 MiB, a load that is steered."""

    def __init__(self, folder: Path) -> None:
        self._now = 0
        self.machine = GuestHost(BOOT, lambda: None)
        self.host, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.host.setblocking(False)
        self.hardware = Hardware(self._theirs)
        self.dimms = memory_of(self, 4 * DIMM, "dimms")
        self.send(wire.MapSlot(0, 0, BOOT, 0), self.machine.backend.fd)
        self.send(wire.Start())
        self.hardware.wait_for_start()
        ram = self.hardware.ram
        self.allocator = Allocator(1, kernel_below=BOOT // PAGE_SIZE)
        self.allocator.add_kernel(0, 16)
        self.allocator.add(16, BOOT // PAGE_SIZE - 16)
        synic = Synic(self.machine, self.machine.memory, message_page=1, event_page=2, input_page=3)
        blocks = Blocks(self.allocator, ram.is_mapped)
        self.drivers = Drivers(
            self.machine, self.machine.memory, self.allocator, synic, BOOT // PAGE_SIZE, blocks
        )
        self._wish = folder / "wish"
        load = parse_load(f"told,path={self._wish},rate=64G")
        self.workload = Workload(ram.memory, self.allocator, load, usable_pages=1 << 20, seed=3)
        self.slots = Slots(self.hardware, self.allocator, self.drivers, self.workload)

    def send(self, message: wire.Message, *descriptors: int) -> None:
        socket.send_fds(self.host, [wire.encode(message)], list(descriptors))

    def ask(self, message: wire.Message, *descriptors: int) -> wire.Message | None:
        """Send a request and let the kernel deal with it; its answer, if it has one."""
        self.send(message, *descriptors)
        self.hardware.wait(0)
        self.slots.serve()
        try:
            return wire.decode(self.host.recv(4096))
        except BlockingIOError:
            return None

    def map(self, number: int) -> None:
        slot = wire.MapSlot(1 + number, FIRST + number * DIMM, DIMM, number * DIMM)
        assert self.ask(slot, self.dimms.fd) == wire.SlotMapped(1 + number)

    def pages(self, number: int) -> tuple[int, int]:
        first = (FIRST + number * DIMM) // PAGE_SIZE
        return first, first + DIMM_PAGES

    def hold(self, pages: int) -> None:
        """Let the load hold so many pages, or as many as there are to spare."""
        self._wish.write_text(str(pages * PAGE_SIZE))
        for _ in range(8):
            self.workload.tick(self._now)
            self._now += NS_PER_S

    def close(self) -> None:
        self.host.close()
        self._theirs.close()
        self.machine.close()
        self.hardware.ram.close()
        self.dimms.close()


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path)
    yield guest
    guest.close()


def test_memory_that_is_only_mapped_is_not_used(guest: Guest) -> None:
    guest.map(0)
    guest.hold(1 << 20)
    assert guest.allocator.count(*guest.pages(0), *IN_USE) == 0
    assert guest.ask(wire.UnmapSlot(1)) == wire.SlotUnmapped(1)


def test_the_balloon_counts_a_dimm_as_memory_that_the_guest_has(guest: Guest) -> None:
    floor = guest.drivers.floor_pages
    guest.map(0)
    assert guest.ask(wire.PlugMemory(1)) is None
    assert guest.drivers.floor_pages > floor
    assert guest.drivers.pages_max == (BOOT + DIMM) // PAGE_SIZE
    assert guest.ask(wire.UnplugMemory(1)) == wire.UnplugAnswered(1, is_done=True)
    assert guest.drivers.floor_pages == floor


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (wire.UnmapSlot(1), "slot 1 was removed, but part of it is in use"),
        (wire.PlugMemory(1), "slot 1 was plugged, but part of it is in use already"),
        (wire.UnmapSlot(7), "slot 7 is not mapped"),
        (wire.PlugMemory(7), "slot 7 is not mapped"),
        (wire.UnplugMemory(7), "slot 7 is not mapped"),
    ],
)
def test_what_no_host_may_ask_ends_in_a_sentence(guest: Guest, request_: wire.Message, sentence: str) -> None:
    guest.map(0)
    guest.ask(wire.PlugMemory(1))
    with pytest.raises(RemoteProtocolError, match=sentence):
        guest.ask(request_)


def test_boot_memory_with_the_kernel_in_it_is_not_let_go(guest: Guest) -> None:
    before = guest.allocator.available_pages
    assert guest.ask(wire.UnplugMemory(0)) == wire.UnplugAnswered(0, is_done=False)
    assert guest.allocator.available_pages == before


STEPS = st.lists(st.tuples(st.sampled_from("mmppuxh"), st.integers(0, 3)), min_size=5, max_size=25)


@given(STEPS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_dimms_come_and_go_in_any_order_and_no_byte_is_lost(
    tmp_path: Path, steps: list[tuple[str, int]]
) -> None:
    guest = Guest(tmp_path)
    mapped: set[int] = set()
    plugged: set[int] = set()
    for action, number in steps:
        if action == "m" and number not in mapped:
            guest.map(number)
            mapped.add(number)
        elif action == "p" and number in mapped - plugged:
            guest.ask(wire.PlugMemory(1 + number))
            plugged.add(number)
        elif action == "u" and number in plugged:
            there = guest.allocator.available_pages + guest.workload.held_pages
            answer = guest.ask(wire.UnplugMemory(1 + number))
            fits = there - DIMM_PAGES >= guest.workload.held_pages
            assert answer == wire.UnplugAnswered(1 + number, is_done=fits)
            plugged -= {number} if fits else set()
        elif action == "x" and number in mapped - plugged:
            assert guest.ask(wire.UnmapSlot(1 + number)) == wire.SlotUnmapped(1 + number)
            mapped.remove(number)
        elif action == "h":
            guest.hold((0, 2000, 6000, 1 << 15)[number])
        assert guest.allocator.total_pages == BOOT // PAGE_SIZE + len(plugged) * DIMM_PAGES
        for dimm in set(range(4)) - plugged:
            assert guest.allocator.count(*guest.pages(dimm), *IN_USE) == 0
    guest.workload.finish()
    assert guest.workload.wrong_bytes == 0
    guest.close()
