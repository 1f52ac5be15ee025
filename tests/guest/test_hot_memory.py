"""The real guest process while its memory comes and goes: hot add, hot remove, DIMMs, slots."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rigs.board import Board
from tests.rigs.guest_host import ADDED_AT

from dynmem.dm.habits import balloon_floor
from dynmem.dm.states import HostState
from dynmem.memory.backend import MemfdBackend
from dynmem.units import MIB, PAGE_SIZE
from dynmem.wire import hardware as wire

BOOT = 128 * MIB
ADDED = 256 * MIB
BOOT_PAGES, ADDED_PAGES = BOOT // PAGE_SIZE, ADDED // PAGE_SIZE
DIMM_AT = 64 << 30


class Grown(Board):
    """A guest of 128 MiB to which 256 MiB can be hot-added, and whose load is told what to hold."""

    def __init__(self, folder: Path) -> None:
        self.wish = folder / "wish"
        self.wish.write_text("0")
        super().__init__(BOOT, f"told,path={self.wish},rate=4G", added_size=ADDED)
        self.serve(lambda: self.machine.device.state is HostState.IDLE)
        assert self.machine.added is not None
        self.map_slot(1, ADDED_AT * PAGE_SIZE, ADDED, self.machine.added.fd)
        self.serve(lambda: wire.SlotMapped(1) in self.acknowledged)

    def tell(self, wish: str, pages: int) -> None:
        """Wait until the load holds so many pages."""
        self.wish.write_text(wish)
        self.wait_for_report(lambda report: report["held_pages"] == report["wanted_pages"] == pages)

    def dimm(self, size: int) -> MemfdBackend:
        """Plug a DIMM as slot 2, and wait until the guest uses it."""
        backend = MemfdBackend(size, "dimm")
        before = self.reports[-1]["total_pages"]
        self.map_slot(2, DIMM_AT, size, backend.fd)
        self.send(wire.PlugMemory(2))
        self.wait_for_report(lambda report: report["total_pages"] == before + size // PAGE_SIZE)
        return backend

    def unplug(self) -> bool:
        """Ask for the DIMM; whether the guest has let go of it."""
        self.acknowledged.clear()
        self.send(wire.UnplugMemory(2))
        self.serve(lambda: len(self.acknowledged) > 0)
        (answer,) = self.acknowledged
        assert isinstance(answer, wire.UnplugAnswered)
        return answer.is_done


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Grown]:
    with Grown(tmp_path) as guest:
        yield guest
        assert guest.reports[-1]["wrong_bytes"] == guest.reports[-1]["faults"] == 0


def test_a_guest_grows_past_its_boot_size_uses_it_all_and_shrinks_again(guest: Grown) -> None:
    everything = BOOT_PAGES + ADDED_PAGES
    usable = everything - 26
    for _ in range(2):
        guest.set_target(everything)
        guest.tell("80%", usable * 8 // 10)
        assert guest.machine.added is not None
        assert guest.machine.added.resident_bytes() > ADDED // 2
        guest.tell("8M", 2048)
        guest.set_target(BOOT_PAGES)
        assert guest.machine.actual_pages == BOOT_PAGES
        resident = guest.machine.backend.resident_bytes() + guest.machine.added.resident_bytes()
        assert resident <= BOOT + 2 * MIB
    report = guest.reports[-1]
    assert (report["total_pages"], report["added_pages"], report["absent_pages"]) == (
        everything,
        ADDED_PAGES,
        0,
    )
    assert guest.machine.device.status is not None


def test_hot_removed_memory_is_gone_for_good_and_its_slot_can_be_taken_away(guest: Grown) -> None:
    guest.set_target(BOOT_PAGES + ADDED_PAGES)
    assert guest.machine.device.hot_remove(ADDED_PAGES, guest.machine.now)
    guest.serve(lambda: guest.machine.device.state is HostState.IDLE)
    report = guest.wait_for_report(lambda report: report["added_pages"] == 0)
    assert (report["total_pages"], report["absent_pages"]) == (BOOT_PAGES, ADDED_PAGES)
    guest.send(wire.UnmapSlot(1))
    guest.serve(lambda: wire.SlotUnmapped(1) in guest.acknowledged)
    assert "/memfd:test-added" not in Path(f"/proc/{guest.process.pid}/maps").read_text()


def test_a_dimm_is_used_when_it_is_plugged_and_emptied_when_it_is_to_go(guest: Grown) -> None:
    backend = guest.dimm(64 * MIB)
    guest.tell("150M", 150 * MIB // PAGE_SIZE)
    assert backend.resident_bytes() > MIB
    assert not guest.unplug()  # 128 MiB are not enough for what is held
    guest.tell("100M", 100 * MIB // PAGE_SIZE)
    assert guest.unplug()
    report = guest.wait_for_report(lambda report: report["total_pages"] == BOOT_PAGES)
    assert report["held_pages"] == 100 * MIB // PAGE_SIZE
    guest.send(wire.UnmapSlot(2))
    guest.serve(lambda: wire.SlotUnmapped(2) in guest.acknowledged)
    guest.tell("0", 0)  # every page is checked, those that moved too
    backend.close()


def test_a_dimm_with_ballooned_pages_stays(guest: Grown) -> None:
    backend = guest.dimm(512 * MIB)
    guest.machine.device.set_target(BOOT_PAGES // 2, guest.machine.now)
    guest.wait_for_report(lambda report: report["ballooned_pages"] > 0)
    assert not guest.unplug()
    backend.close()


def test_a_slot_that_is_taken_away_in_use_ends_the_guest_with_a_sentence(tmp_path: Path) -> None:
    with Grown(tmp_path) as guest:
        guest.send(wire.UnmapSlot(0))
        _, log = guest.process.communicate(timeout=100)
        assert b"slot 0 was removed, but part of it is in use" in log
        assert guest.process.returncode == 1


def test_every_slot_that_is_there_at_the_start_is_memory_at_boot() -> None:
    kept = MemfdBackend(64 * MIB, "kept")

    class Restarted(Board):
        def send(self, message: wire.Message, descriptor: int | None = None) -> None:
            if isinstance(message, wire.Start):
                self.map_slot(5, ADDED_AT * PAGE_SIZE, kept.size, kept.fd)
            super().send(message, descriptor)

    with Restarted(BOOT, "steady,high=80%,rate=4G") as board:
        total = (BOOT + kept.size) // PAGE_SIZE
        wanted = (total - 26) * 8 // 10
        report = board.wait_for_report(lambda report: report["held_pages"] == wanted)
        assert (report["total_pages"], report["added_pages"]) == (total, kept.size // PAGE_SIZE)
        assert kept.resident_bytes() > kept.size // 2
        assert report["floor_pages"] == balloon_floor(total)
    kept.close()
