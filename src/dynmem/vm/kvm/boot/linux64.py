"""Linux's 64-bit boot protocol: the boot parameters, page tables and GDT that a kernel starts with.

Source: Linux Documentation/arch/x86/boot.rst, "64-bit Boot Protocol", and zero-page.rst.
"""

import struct
from collections.abc import Sequence
from typing import Final

from dynmem.units import MIB, PAGE_SIZE
from dynmem.vm.kvm.boot.bzimage import SETUP_HEADER
from dynmem.vm.kvm.boot.layout import (
    ACPI_TABLES,
    COMMAND_LINE,
    GDT,
    MAP_ENTRIES_MAX,
    PAGE_TABLES,
    PARAMETERS,
    MapEntry,
)
from dynmem.vmbus.memory import GuestMemory

CODE_SELECTOR: Final = 0x10
DATA_SELECTOR: Final = 0x18

# descriptors by index: flat 64-bit code (execute, read), flat data (read, write)
_DESCRIPTORS: Final = (0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
GDT_LIMIT: Final = 8 * len(_DESCRIPTORS) - 1

_PRESENT_WRITABLE: Final = 0b11
_LARGE: Final = 1 << 7
_ENTRIES: Final = 512
_DIRECTORIES: Final = 4  # a GiB each
_LOADER_WITHOUT_ID: Final = 0xFF
_MAP_ENTRY: Final = struct.Struct("<QQI")
_MAP: Final = 0x2D0


def write(
    memory: GuestMemory,
    *,
    address: int,
    setup_header: bytes,
    initrd: tuple[int, int],
    memory_map: Sequence[MapEntry],
) -> None:
    """Write all of it for a kernel at `address`; `initrd` is address and size, or zeros."""
    parameters = _parameters(address, setup_header, initrd, memory_map)
    memory.write(PARAMETERS, parameters)
    memory.write(GDT, struct.pack(f"<{len(_DESCRIPTORS)}Q", *_DESCRIPTORS))
    memory.write(PAGE_TABLES, _page_tables())


def _parameters(
    address: int, setup_header: bytes, initrd: tuple[int, int], memory_map: Sequence[MapEntry]
) -> bytes:
    """Return the "zero page": the kernel's own setup header, with the loader's fields filled in."""
    assert len(memory_map) <= MAP_ENTRIES_MAX
    page = bytearray(PAGE_SIZE)
    page[SETUP_HEADER : SETUP_HEADER + len(setup_header)] = setup_header
    fields = {
        0x070: struct.pack("<Q", ACPI_TABLES),
        0x1E8: bytes([len(memory_map)]),
        0x210: bytes([_LOADER_WITHOUT_ID]),
        0x214: struct.pack("<3I", address, *initrd),
        0x228: struct.pack("<I", COMMAND_LINE),
        0x250: bytes(8),  # no setup_data
        _MAP: b"".join(_MAP_ENTRY.pack(*entry) for entry in memory_map),
    }
    for offset, field in fields.items():
        page[offset : offset + len(field)] = field
    return bytes(page)


def _page_tables() -> bytes:
    """Return tables for PAGE_TABLES that map the first 4 GiB to themselves, in pages of 2 MiB."""
    pointers = PAGE_TABLES + PAGE_SIZE
    directories = pointers + PAGE_SIZE
    top = [pointers | _PRESENT_WRITABLE]
    second = [directories + PAGE_SIZE * each | _PRESENT_WRITABLE for each in range(_DIRECTORIES)]
    pages = [2 * MIB * each | _PRESENT_WRITABLE | _LARGE for each in range(_DIRECTORIES * _ENTRIES)]
    return _table(top) + _table(second) + _table(pages)


def _table(entries: Sequence[int]) -> bytes:
    """Return entries, filled up with absent ones to whole pages."""
    absent = -len(entries) % _ENTRIES
    return struct.pack(f"<{len(entries) + absent}Q", *entries, *[0] * absent)
