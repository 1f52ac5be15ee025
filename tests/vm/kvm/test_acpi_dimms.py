"""DIMMs as a guest's ACPI finds them: an interpreter of the tests runs the table's methods on the board."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from tests.rigs.dimm_guest import AT, DEVICE_CHECK, EJECT_REQUEST, DimmGuest, paths, table

from dynmem.limits import VM_DIMM_SLOTS_MAX
from dynmem.units import GIB, MIB
from dynmem.vm.kvm import acpi
from dynmem.vm.kvm.board.dimm_slots import Ejected, Module, Reported

SMALL = Module(32 * GIB, 128 * MIB, 0)
LARGE = Module((1 << 45) + GIB, 5 * GIB, 3)


def test_a_machine_without_slots_says_nothing_of_dimms() -> None:
    image = acpi.tables(AT, 1, acpi.FIRMWARE)
    assert struct.unpack_from("<I", table(image, b"FACP"), 80) == (0,)
    dsdt = table(image, b"DSDT")
    assert b"_GPE" not in dsdt
    assert struct.pack("<I", 0x800CD041) not in dsdt


def test_the_event_registers_are_named_twice_alike_and_where_the_board_has_them() -> None:
    fadt = table(acpi.tables(AT, 1, acpi.FIRMWARE, 1), b"FACP")
    assert struct.unpack_from("<I", fadt, 80) == (0x608,)
    assert fadt[92:96] == bytes([2, 0, 0, 0])
    assert struct.unpack_from("<4BQ", fadt, 220) == (1, 16, 0, 0, 0x608)
    assert len(fadt) == 276


@pytest.mark.parametrize("slots", [1, 2, 64, VM_DIMM_SLOTS_MAX])
def test_each_slot_is_a_memory_device_of_its_own_and_every_sum_is_zero(slots: int) -> None:
    guest = DimmGuest(slots)
    image = acpi.tables(AT, acpi.PROCESSORS_MAX, acpi.FIRMWARE, slots)
    assert sum(table(image, b"DSDT")) & 0xFF == 0
    assert AT + len(image) < 1 << 20
    assert [guest.acpi.call((*device, "_UID")) for device in guest.devices] == list(range(slots))
    assert not any(guest.is_there(slot) for slot in range(slots))
    assert len(set(paths(guest.devices))) == slots


def test_a_guest_finds_what_is_there_when_it_starts_and_is_not_interrupted_for_it() -> None:
    guest = DimmGuest(3)
    guest.dimms.insert(2, LARGE, is_news=False)
    guest.dimms.insert(0, SMALL, is_news=False)
    guest.enable()
    assert not guest.level
    assert [guest.is_there(slot) for slot in range(3)] == [True, False, True]
    assert (guest.memory(0), guest.memory(2)) == (SMALL, LARGE)


def test_a_dimm_that_comes_interrupts_and_its_device_is_checked_once() -> None:
    guest = DimmGuest(3)
    guest.enable()
    guest.dimms.insert(1, SMALL, is_news=True)
    guest.dimms.insert(2, LARGE, is_news=True)
    assert guest.level
    assert guest.interrupted() == [(1, DEVICE_CHECK), (2, DEVICE_CHECK)]
    assert (guest.memory(1), guest.memory(2)) == (SMALL, LARGE)
    guest.report(1, DEVICE_CHECK, 0)
    assert guest.acts == [Reported(1, DEVICE_CHECK, 0)]
    assert not guest.level


def test_a_dimm_that_is_to_go_is_asked_for_ejected_and_gone_at_once() -> None:
    guest = DimmGuest(3)
    guest.dimms.insert(1, SMALL, is_news=False)
    guest.enable()
    assert guest.dimms.request(1)
    assert guest.interrupted() == [(1, EJECT_REQUEST)]
    guest.report(1, EJECT_REQUEST, 0x84)
    guest.eject(1)
    assert not guest.is_there(1)
    guest.report(1, EJECT_REQUEST, 0)
    assert guest.acts == [Reported(1, 3, 0x84), Ejected(1), Reported(1, 3, 0)]
    guest.eject(1)  # of an empty slot
    assert len(guest.acts) == 3
    assert not guest.dimms.request(1)
    guest.dimms.remove(1)
    guest.dimms.insert(1, LARGE, is_news=True)
    assert guest.interrupted() == [(1, DEVICE_CHECK)]
    assert guest.memory(1) == LARGE


def test_a_dimm_that_comes_and_is_to_go_before_the_guest_looks_is_announced_first() -> None:
    guest = DimmGuest(1)
    guest.enable()
    guest.dimms.insert(0, SMALL, is_news=True)
    assert guest.dimms.request(0)
    assert guest.interrupted() == [(0, DEVICE_CHECK), (0, EJECT_REQUEST)]


def test_what_happens_before_the_guest_has_enabled_events_is_not_lost() -> None:
    guest = DimmGuest(2)
    guest.dimms.insert(1, SMALL, is_news=True)
    assert not guest.level
    guest.ports.write(guest.events, 1, 0xFF)  # a kernel that starts clears whatever is there
    guest.enable()
    assert guest.interrupted() == [(1, DEVICE_CHECK)]


def test_the_guest_after_a_reset_finds_what_the_machine_still_has_and_has_heard_of_nothing() -> None:
    guest = DimmGuest(3)
    guest.enable()
    guest.dimms.insert(0, SMALL, is_news=True)
    guest.dimms.insert(1, LARGE, is_news=False)
    assert guest.dimms.request(0)
    guest.eject(1)  # and the machine never hears of it
    guest.board.reset()
    assert not guest.level
    guest.enable()
    assert not guest.level
    assert [guest.is_there(slot) for slot in range(3)] == [True, True, False]


def test_what_could_not_be_mapped_is_found_after_a_reset_and_not_before() -> None:
    guest = DimmGuest(1)
    guest.enable()
    guest.dimms.insert(0, SMALL, is_news=True, is_shown=False)
    assert not guest.level
    assert not guest.is_there(0)
    assert not guest.dimms.request(0)
    guest.board.reset()
    assert guest.memory(0) == SMALL


@pytest.mark.skipif(shutil.which("iasl") is None, reason="iasl is not installed (Debian: acpica-tools)")
def test_another_program_reads_the_methods_back(tmp_path: Path) -> None:
    (tmp_path / "dsdt.dat").write_bytes(table(acpi.tables(AT, 1, acpi.FIRMWARE, 3), b"DSDT"))
    subprocess.run(["iasl", "-d", "dsdt.dat"], cwd=tmp_path, check=True, capture_output=True)
    text = (tmp_path / "dsdt.dsl").read_text()
    for found in (
        "OperationRegion (REGS, SystemIO, 0x0A00, 0x18)",
        'Name (_HID, EisaId ("PNP0C80")',
        "QWordMemory (ResourceConsumer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadWrite,",
        "While ((Local0 < 0x03))",
        "ElseIf (GOES)",
        "Method (_L03, 0, Serialized)",
        "\\_SB.DIMC.SCAN ()",
    ):
        assert found in text
