"""A bzImage in guest memory: what the 64-bit boot protocol promises it."""

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.rigs.boot import SIZE, Machine
from tests.rigs.kernels import KERNEL_AT, PAGE, bzimage

from dynmem.errors import ConfigError
from dynmem.units import GIB, MIB
from dynmem.vm.kvm.boot import layout, linux64
from dynmem.vm.kvm.boot.loader import Entry


def test_a_kernel_lies_where_it_prefers_and_starts_at_its_64_bit_entry(machine: Machine) -> None:
    entry = machine.load(bzimage(PAGE * 3))
    assert entry == Entry("linux64", KERNEL_AT + 0x200, layout.PARAMETERS, layout.PAGE_TABLES)
    assert machine.read(KERNEL_AT, len(PAGE) * 3) == PAGE * 3


@pytest.mark.parametrize(("sectors", "stands_for"), [(1, 1), (39, 39), (0, 4)])
def test_the_code_begins_behind_as_many_sectors_as_the_header_says(
    machine: Machine, sectors: int, stands_for: int
) -> None:
    kernel = bzimage(PAGE, sectors=stands_for, setup_sects=sectors)
    machine.load(kernel)
    assert machine.read(KERNEL_AT, len(PAGE)) == PAGE


def test_the_boot_parameters_are_the_kernels_header_and_what_a_loader_adds(machine: Machine) -> None:
    kernel = bzimage(setup_data=0xDEAD)
    initrd = b"initrd" * 1000
    machine.load(kernel, initrd)
    page = bytearray(4096)
    page[0x1F1:0x26C] = kernel[0x1F1:0x26C]
    added = {
        0x070: (layout.ACPI_TABLES, 8),
        0x1E8: (3, 1),
        0x210: (0xFF, 1),
        0x214: (KERNEL_AT, 4),
        0x218: ((SIZE - len(initrd)) & ~0xFFF, 4),
        0x21C: (len(initrd), 4),
        0x228: (layout.COMMAND_LINE, 4),
        0x250: (0, 8),
    }
    for offset, (value, size) in added.items():
        page[offset : offset + size] = value.to_bytes(size, "little")
    entries = [(0, 0x9FC00, 1), (0x9FC00, 0x60400, 2), (MIB, SIZE - MIB, 1)]
    page[0x2D0 : 0x2D0 + 60] = b"".join(struct.pack("<QQI", *entry) for entry in entries)
    assert machine.read(layout.PARAMETERS, 4096) == page


def test_an_initrd_is_whole_and_without_one_none_is_named(machine: Machine) -> None:
    initrd = bytes(range(251)) * 5000  # more than a piece that is copied at once
    machine.load(bzimage(), initrd)
    address = machine.field("I", layout.PARAMETERS + 0x218)
    assert address + len(initrd) <= SIZE
    assert machine.read(address, len(initrd)) == initrd
    machine.load(bzimage())
    assert machine.read(layout.PARAMETERS + 0x218, 8) == bytes(8)


def test_an_initrd_stays_below_the_highest_address_that_the_kernel_names(machine: Machine) -> None:
    machine.load(bzimage(initrd_addr_max=3 * MIB - 1), PAGE)
    assert machine.field("I", layout.PARAMETERS + 0x218) == 3 * MIB - len(PAGE)
    machine.load(bzimage(initrd_addr_max=3 * MIB - 2), PAGE)
    assert machine.field("I", layout.PARAMETERS + 0x218) == 3 * MIB - 2 * len(PAGE)


def walk(machine: Machine, cr3: int, address: int) -> tuple[int, bool]:
    """Translate as a processor does: the physical address, and whether it is writable."""
    entry, is_writable = cr3, True
    for shift in (39, 30, 21):
        entry = machine.field("Q", (entry & ~0xFFF) + 8 * (address >> shift & 511))
        assert entry & 1, f"{address:#x} is not mapped"
        is_writable = is_writable and bool(entry & 2)
    assert entry & 1 << 7
    return (entry & ~0x1FFFFF) + (address & 0x1FFFFF), is_writable


def test_the_page_tables_map_the_first_4_gib_to_themselves(machine: Machine) -> None:
    cr3 = machine.load(bzimage()).cr3
    for address in (0, layout.PARAMETERS, KERNEL_AT, 2 * MIB - 1, GIB, 3 * GIB - 1, 4 * GIB - 1):
        assert walk(machine, cr3, address) == (address, True)
    assert machine.field("Q", cr3 + 8) == 0
    assert machine.field("Q", cr3 + 4096 + 8 * 4) == 0


def test_the_gdt_has_the_selectors_of_the_protocol(machine: Machine) -> None:
    machine.load(bzimage())
    gdt = [machine.field("Q", layout.GDT + at) for at in range(0, linux64.GDT_LIMIT, 8)]
    code, data = gdt[linux64.CODE_SELECTOR >> 3], gdt[linux64.DATA_SELECTOR >> 3]
    assert (linux64.CODE_SELECTOR, linux64.DATA_SELECTOR) == (0x10, 0x18)
    assert gdt[0] == 0
    # access byte: present, ring 0, code that can be read, data that can be written; then L, or D/B
    assert (code >> 40 & 0xFF, code >> 53 & 1) == (0x9B, 1)
    assert (data >> 40 & 0xFF, data >> 54 & 1) == (0x93, 1)
    for flat in (code, data):
        assert flat & 0x000F_0000_0000_FFFF == 0x000F_0000_0000_FFFF
        assert flat >> 16 & 0xFFFFFF == 0
        assert flat >> 55 & 1


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"version": 0x020B}, "older than 2.12"),
        ({"loadflags": 0}, "no 64-bit entry"),
        ({"xloadflags": 0x7E}, "no 64-bit entry"),
        ({"header_length": 0x61}, "its header ends at 0x263"),
        ({"header_length": 0x8F}, "its header ends at 0x291"),
        ({"setup_sects": 255}, "no code behind the 131072 bytes"),
        ({"pref_address": MIB - 1}, "at 0xfffff"),
        ({"pref_address": 1 << 63}, "at 0x8000000000000000"),
        ({"init_size": 0xFFFFFFFF}, "asks for 4 GiB of memory"),
        ({"boot_flag": 0xAA56}, "neither a bzImage nor an ELF"),
        ({"magic": 0}, "neither a bzImage nor an ELF"),
        ({"pref_address": 16 * MIB}, "needs memory up to .* and the machine has 4 MiB below 4 GiB: raise -m"),
        ({"init_size": 3 * MIB + 1}, "the machine has 4 MiB below 4 GiB: raise -m"),
    ],
)
def test_a_kernel_that_cannot_be_started_is_refused_and_nothing_is_written(
    machine: Machine, fields: dict[str, int], why: str
) -> None:
    with pytest.raises(ConfigError, match=f"--kernel .*{why}"):
        machine.load(bzimage(**fields), b"initrd")
    assert machine.is_untouched()


@pytest.mark.parametrize("code", [b"", PAGE[:0x200]])
def test_a_kernel_that_ends_before_its_entry_is_refused(machine: Machine, code: bytes) -> None:
    with pytest.raises(ConfigError, match=r"--kernel .*no code behind the 2048 bytes"):
        machine.load(bzimage(code))


def test_a_kernel_that_asks_for_less_memory_than_it_has_bytes_gets_what_these_need(machine: Machine) -> None:
    machine.load(bzimage(PAGE * 2, pref_address=SIZE - 2 * len(PAGE), init_size=0))
    with pytest.raises(ConfigError, match="raise -m"):
        machine.load(bzimage(PAGE * 2, pref_address=SIZE - len(PAGE), init_size=0))


def test_all_memory_that_a_kernel_names_may_be_used_to_the_last_byte(machine: Machine) -> None:
    machine.load(bzimage(init_size=3 * MIB))
    assert machine.read(KERNEL_AT, len(PAGE)) == PAGE


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    at=st.integers(256, 700).map(lambda page: page << 12),
    spare=st.integers(0, 1 << 19),
    size=st.integers(1, 1 << 20),
    limit=st.integers(MIB, 5 * MIB),
)
def test_kernel_and_initrd_never_overlap_and_lie_in_ram(
    machine: Machine, at: int, spare: int, size: int, limit: int
) -> None:
    kernel, initrd = bzimage(pref_address=at, init_size=len(PAGE) + spare, initrd_addr_max=limit), b"r" * size
    try:
        machine.load(kernel, initrd)
    except ConfigError:
        return
    address = machine.field("I", layout.PARAMETERS + 0x218)
    assert address + size <= at or address >= at + len(PAGE) + spare
    assert MIB <= address <= min(SIZE, limit + 1) - size
    assert machine.read(at, len(PAGE)) == PAGE
    assert machine.read(address, size) == initrd
