"""An ELF kernel with a PVH note in guest memory, and ELF files that are none."""

import struct
from typing import Any

import pytest
from tests.rigs.boot import SIZE, Machine
from tests.rigs.kernels import KERNEL_AT, PAGE, elf, load_segment, note, note_segment, pvh_note

from dynmem.errors import ConfigError
from dynmem.units import GIB, MIB
from dynmem.vm.kvm.boot import layout
from dynmem.vm.kvm.boot.loader import Entry

TEXT = load_segment(KERNEL_AT, PAGE)
NOTES = note_segment(pvh_note(KERNEL_AT + 16))


def test_segments_lie_at_their_physical_addresses_and_the_note_says_where_to_start(machine: Machine) -> None:
    entry = machine.load(elf())
    assert entry == Entry("pvh", KERNEL_AT + 16, layout.PARAMETERS, 0)
    assert machine.read(KERNEL_AT, len(PAGE)) == PAGE
    assert machine.read(KERNEL_AT + 0x2000, 4) == b"data"


def test_what_a_segment_has_beyond_its_file_is_zero_and_no_more(machine: Machine) -> None:
    zeros = 2 * MIB + 5  # more than are written at once
    machine.load(elf(load_segment(KERNEL_AT, PAGE, memory=len(PAGE) + zeros), NOTES))
    assert machine.read(KERNEL_AT + len(PAGE), zeros + 1) == bytes(zeros) + b"\xa5"


def test_the_start_info_names_map_modules_command_line_and_tables(machine: Machine) -> None:
    initrd = b"initrd" * 1000
    machine.load(elf(), initrd)
    info = struct.unpack("<4I4Q2I", machine.read(layout.PARAMETERS, 56))
    magic, version, flags, modules, module_at, text_at, rsdp, map_at, entries, reserved = info
    assert (magic, version, flags, modules, entries, reserved) == (0x336EC578, 1, 0, 1, 3, 0)
    assert (text_at, rsdp) == (layout.COMMAND_LINE, layout.ACPI_TABLES)
    assert machine.read(rsdp, 8) == b"RSD PTR "
    address, size, module_text, _ = struct.unpack("<4Q", machine.read(module_at, 32))
    assert (size, module_text) == (len(initrd), 0)
    assert machine.read(address, size) == initrd
    found = [struct.unpack("<QQII", machine.read(map_at + 24 * at, 24)) for at in range(entries)]
    assert found == [(0, 0x9FC00, 1, 0), (0x9FC00, 0x60400, 2, 0), (MIB, SIZE - MIB, 1, 0)]


def test_without_an_initrd_there_is_no_module(machine: Machine) -> None:
    machine.load(elf())
    assert struct.unpack("<IQ", machine.read(layout.PARAMETERS + 12, 12)) == (0, 0)


@pytest.mark.parametrize("size", [4, 8])
def test_the_entry_of_a_note_has_4_or_8_bytes(machine: Machine, size: int) -> None:
    notes = note(b"Xen\0", 18, (KERNEL_AT + 16).to_bytes(size, "little"))
    assert machine.load(elf(TEXT, note_segment(notes))).rip == KERNEL_AT + 16


def test_notes_are_filled_up_to_whole_words(machine: Machine) -> None:
    notes = note(b"Linux\0", 257, b"a word") + pvh_note(KERNEL_AT + 16)
    assert machine.load(elf(TEXT, note_segment(notes))).rip == KERNEL_AT + 16


@pytest.mark.parametrize(
    "notes",
    [
        b"",
        note(b"Xen\0", 17, bytes(8)),
        note(b"GNU\0", 18, bytes(8)),
        pvh_note(KERNEL_AT)[:-1],
        struct.pack("<III", 0xFFFFFFFF, 8, 18) + b"Xen\0" + bytes(8),
        struct.pack("<III", 4, 0xFFFFFFFF, 18) + b"Xen\0" + bytes(8),
    ],
)
def test_an_elf_file_without_a_whole_pvh_note_is_refused(machine: Machine, notes: bytes) -> None:
    with pytest.raises(ConfigError, match=r"--kernel .*without a PVH entry point"):
        machine.load(elf(TEXT, note_segment(notes)))
    assert machine.is_untouched()


def test_notes_too_long_to_be_a_kernels_are_not_read(machine: Machine) -> None:
    with pytest.raises(ConfigError, match="without a PVH entry point"):
        machine.load(elf(TEXT, note_segment(pvh_note(KERNEL_AT), size=1 << 40)))


HUGE = 1 << 63
WRONG: list[tuple[tuple[dict[str, Any], ...], dict[str, int], str]] = [
    ((TEXT, NOTES), {"machine": 3}, "not for x86-64"),
    ((TEXT, NOTES), {"bits": 1}, "not for x86-64"),
    ((TEXT, NOTES), {"count": 0}, "has 0 program headers"),
    ((TEXT, NOTES), {"count": 0xFFFF}, "has 65535 program headers"),
    ((TEXT, NOTES), {"entry_size": 32}, "program headers of 32 bytes"),
    ((TEXT, NOTES), {"table": HUGE}, "ends before byte"),
    ((NOTES,), {}, "no segment to load"),
    ((load_segment(KERNEL_AT, b"", memory=0), NOTES), {}, "no segment to load"),
    ((load_segment(MIB - 1, PAGE), NOTES), {}, "for 0xfffff"),
    ((load_segment(4 * GIB - 4095, PAGE), NOTES), {}, "between 1 MiB and 4 GiB"),
    ((load_segment(KERNEL_AT, PAGE, memory=(1 << 64) - 1), NOTES), {}, "between 1 MiB and 4 GiB"),
    ((load_segment(KERNEL_AT, PAGE, memory=GIB + 1), NOTES), {}, "at most 1 GiB"),
    ((*[load_segment(KERNEL_AT, PAGE, memory=GIB >> 1)] * 3, NOTES), {}, "at most 1 GiB"),
    ((load_segment(KERNEL_AT, PAGE, memory=4095), NOTES), {}, "more than the file or its own memory"),
    ((load_segment(KERNEL_AT, PAGE, offset=1 << 40), NOTES), {}, "more than the file or its own memory"),
    ((TEXT, note_segment(pvh_note(KERNEL_AT + 4096))), {}, "0x101000 is in none of its segments"),
    ((TEXT, note_segment(pvh_note(HUGE))), {}, "is in none of its segments"),
    ((TEXT, note_segment(pvh_note(KERNEL_AT), offset=1 << 40)), {}, "ends before byte"),
    ((load_segment(KERNEL_AT, PAGE, memory=3 * MIB + 1), NOTES), {}, "raise -m"),
]


@pytest.mark.parametrize(("segments", "fields", "why"), WRONG)
def test_a_file_that_is_no_kernel_is_refused_and_nothing_is_written(
    machine: Machine, segments: tuple[dict[str, Any], ...], fields: dict[str, int], why: str
) -> None:
    with pytest.raises(ConfigError, match=f"--kernel .*{why}"):
        machine.load(elf(*segments, **fields), b"initrd")
    assert machine.is_untouched()


def test_a_file_that_ends_within_its_headers_is_refused(machine: Machine) -> None:
    whole = elf()
    for length in (1, 4, 63, 64, 119, 64 + 3 * 56 - 1):
        with pytest.raises(ConfigError, match="--kernel"):
            machine.load(whole[:length])
    assert machine.is_untouched()
