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

# what iasl makes of two slots (DSDT, without the table's header)
BY_IASL = bytes.fromhex(
    "104a2f5f53425f5b82422f44494d43085f4849440c41d00c02085f5549440d44494d4d20736c6f747300085f435253110d0a"
    "0a4701000a000a011879005b8052454753010b000a0a185b8117524547530342415345400453495a4540044e4f4445205b81"
    "155245475303534c4f5420535243452053544154205b811d524547534100400a484552450143414d4501474f455301454a43"
    "54015b01444c434b00143647535441095b23444c434bffff7068534c4f54a00843414d45700060a110a00948455245700a0f"
    "60a1047000605b27444c434ba46014224750584d095b23444c434bffff7068534c4f54704e4f4445605b27444c434ba46014"
    "4c094743525309084445534311330a308a2b00000d0300000000000000000000000000000000000000000000000000000000"
    "00000000000000000000000079008f444553430a0e465253548f444553430a164c4153548f444553430a264e4d42525b2344"
    "4c434bffff7068534c4f547042415345465253547053495a454e4d42525b27444c434b7472465253544e4d425200014c4153"
    "54a4444553431426444f53540b5b23444c434bffff7068534c4f54706953524345706a535441545b27444c434b142044454a"
    "30095b23444c434bffff7068534c4f547001454a43545b27444c434b141c4e5446590aa00a936800864d30303069a00a9368"
    "01864d30303169144d045343414e087000605b23444c434bffffa23495600a027060534c4f54a01143414d454e5446596001"
    "700143414d45a114a012474f45534e544659600a037001474f455375605b27444c434b5b8247054d303030085f4849440c41"
    "d00c80085f55494400140c5f53544108a44753544100140c5f43525308a44743525300140c5f50584d08a44750584d00140d"
    "5f4f53540b444f5354006869140b5f454a300944454a30005b8247054d303031085f4849440c41d00c80085f55494401140c"
    "5f53544108a44753544101140c5f43525308a44743525301140c5f50584d08a44750584d01140d5f4f53540b444f53540168"
    "69140b5f454a300944454a3001101b5f47504514155f4c3033085c2f035f53425f44494d435343414e"
)
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
    assert not guest.is_there(1)  # before that is said
    assert guest.interrupted() == [(1, DEVICE_CHECK), (2, DEVICE_CHECK)]
    assert guest.is_there(1)
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


@pytest.mark.parametrize("source", [EJECT_REQUEST, 0x103])
@pytest.mark.parametrize("is_to_go", [False, True])
def test_a_dimm_that_takes_the_place_of_one_just_ejected_waits_until_the_guest_is_done(
    source: int, is_to_go: bool
) -> None:
    guest = DimmGuest(1)
    guest.dimms.insert(0, SMALL, is_news=False)
    guest.enable()
    assert guest.dimms.request(0)
    assert guest.interrupted() == [(0, EJECT_REQUEST)]
    guest.report(0, source, 0x84)
    guest.eject(0)
    guest.dimms.remove(0)
    guest.dimms.insert(0, LARGE, is_news=True)  # faster than the guest
    if is_to_go:
        assert guest.dimms.request(0)
    assert not guest.level
    assert not guest.is_there(0)  # it looks whether the ejected one is gone
    guest.eject(0)  # and has nothing to eject
    guest.report(0, source, 0)
    assert guest.interrupted() == [(0, DEVICE_CHECK), *[(0, EJECT_REQUEST)] * is_to_go]
    assert guest.memory(0) == LARGE


def test_a_guest_that_reports_nothing_is_not_waited_for() -> None:
    guest = DimmGuest(1)
    guest.dimms.insert(0, SMALL, is_news=False)
    guest.enable()
    guest.eject(0)
    guest.dimms.remove(0)
    guest.dimms.insert(0, LARGE, is_news=True)
    assert not guest.is_there(0)
    assert guest.interrupted() == [(0, DEVICE_CHECK)]
    assert guest.memory(0) == LARGE


def test_what_waits_for_a_guest_is_there_after_a_reset() -> None:
    guest = DimmGuest(1)
    guest.dimms.insert(0, SMALL, is_news=False)
    guest.enable()
    guest.report(0, EJECT_REQUEST, 0x84)
    guest.eject(0)
    guest.dimms.remove(0)
    guest.dimms.insert(0, LARGE, is_news=True)
    guest.board.reset()
    assert guest.memory(0) == LARGE
    guest.enable()
    assert not guest.level


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


def test_two_slots_are_the_bytes_that_another_compiler_makes_of_them() -> None:
    dsdt = table(acpi.tables(AT, 1, acpi.FIRMWARE, 2), b"DSDT")
    assert dsdt.endswith(BY_IASL)


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
