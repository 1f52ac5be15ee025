"""The PVH boot protocol: the start info that a kernel is passed, with its modules and the memory map.

Source: Xen docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h.
"""

import struct
from collections.abc import Sequence
from typing import Final

from dynmem.units import PAGE_SIZE
from dynmem.vm.kvm.boot.layout import ACPI_TABLES, COMMAND_LINE, MAP_ENTRIES_MAX, PARAMETERS, MapEntry
from dynmem.vmbus.memory import GuestMemory

_MAGIC: Final = 0x336EC578
_VERSION: Final = 1  # the first with a memory map
_START_INFO: Final = struct.Struct("<4I4Q2I")
_MODULE: Final = struct.Struct("<4Q")
_MAP_ENTRY: Final = struct.Struct("<2Q2I")
_MODULES_OFFSET: Final = 0x40
_MAP_OFFSET: Final = 0x80


def write(memory: GuestMemory, *, initrd: tuple[int, int], memory_map: Sequence[MapEntry]) -> None:
    """Write all of it into one page; `initrd` is address and size, or zeros. It is the only module."""
    assert len(memory_map) <= MAP_ENTRIES_MAX
    has_initrd = initrd != (0, 0)
    start_info = _START_INFO.pack(
        _MAGIC,
        _VERSION,
        0,
        int(has_initrd),
        PARAMETERS + _MODULES_OFFSET if has_initrd else 0,
        COMMAND_LINE,
        ACPI_TABLES,
        PARAMETERS + _MAP_OFFSET,
        len(memory_map),
        0,
    )
    page = start_info.ljust(_MODULES_OFFSET, b"\0") + _MODULE.pack(*initrd, 0, 0)
    page = page.ljust(_MAP_OFFSET, b"\0") + b"".join(_MAP_ENTRY.pack(*entry, 0) for entry in memory_map)
    memory.write(PARAMETERS, page.ljust(PAGE_SIZE, b"\0"))
