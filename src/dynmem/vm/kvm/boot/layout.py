"""Where things lie in guest memory when a kernel starts, and the map of that memory which it is passed.

0x6000    GDT (linux64)
0x7000    boot parameters (linux64), or start info with modules and memory map (pvh)
0x9000    page tables (linux64)
0x20000   command line, to 0x30000
0x9fc00   reserved from here on, as on a PC
0xe0000   ACPI tables, where a kernel that is not passed their address looks for them
1 MiB     RAM again: kernel, and initrd as high as possible
"""

import enum
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from dynmem.units import GIB, MIB, PAGE_SIZE

GDT: Final = 0x6000
PARAMETERS: Final = 0x7000
PAGE_TABLES: Final = 0x9000
COMMAND_LINE: Final = 0x20000
COMMAND_LINE_BYTES_MAX: Final = 0x10000
LOW_RAM_END: Final = 0x9FC00
ACPI_TABLES: Final = 0xE0000
#: Entries that the boot parameters have room for. Linux reads no more from PVH's map.
MAP_ENTRIES_MAX: Final = 128


class MemoryType(enum.IntEnum):
    """Types of memory in the map, as ACPI numbers them."""

    RAM = 1
    RESERVED = 2


class MapEntry(NamedTuple):
    """A part of the memory map.

    Attributes:
        address: Its first byte.
        size: Its bytes.
        kind: Its type.
    """

    address: int
    size: int
    kind: MemoryType


def memory_map(ram: Sequence[tuple[int, int]]) -> list[MapEntry]:
    """Return the map of a machine with RAM in these pieces of (address, size), ascending from 0 on."""
    (first, size), *rest = ram
    assert first == 0
    assert size > MIB
    return [
        MapEntry(0, LOW_RAM_END, MemoryType.RAM),
        MapEntry(LOW_RAM_END, MIB - LOW_RAM_END, MemoryType.RESERVED),
        MapEntry(MIB, size - MIB, MemoryType.RAM),
        *(MapEntry(address, size, MemoryType.RAM) for address, size in rest),
    ]


def has_ram(ram: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    """Return whether [start, end) is RAM above 1 MiB, in one piece."""
    return start >= MIB and any(address <= start and end <= address + size for address, size in ram)


def ram_below_4_gib(ram: Sequence[tuple[int, int]]) -> int:
    """Return the bytes of RAM that a kernel can be loaded to."""
    return sum(min(address + size, 4 * GIB) - address for address, size in ram if address < 4 * GIB)


def highest_room(
    ram: Sequence[tuple[int, int]], size: int, *, end: int, taken: tuple[int, int]
) -> int | None:
    """Return the highest page from which on `size` bytes of RAM are free, below both `end` and 4 GiB.

    [taken[0], taken[1]) is not free, nor is what lies below 1 MiB. None if there is no such page.

    RAM [0, 256 MiB), taken [16 MiB, 68 MiB), 10 MiB  ->  246 MiB; with `end` at 70 MiB  ->  6 MiB
    """
    rooms = []
    for start, stop in _around(ram, taken):
        address = (min(stop, end, 4 * GIB) - size) // PAGE_SIZE * PAGE_SIZE
        if address >= max(start, MIB):
            rooms.append(address)
    return max(rooms, default=None)


def _around(ram: Sequence[tuple[int, int]], taken: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the parts [start, stop) of RAM before and after what is taken."""
    for address, size in ram:
        yield address, min(address + size, taken[0])
        yield max(address, taken[1]), address + size
