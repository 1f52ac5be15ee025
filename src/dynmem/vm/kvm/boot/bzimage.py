"""Reads a bzImage, the format in which distributions ship a Linux kernel for x86-64.

The file begins with the real-mode setup code, which is not run: only its header counts. Behind it is the
protected-mode code with the compressed kernel, which unpacks itself.

Source: Linux Documentation/arch/x86/boot.rst.
"""

import struct
from typing import Final

from dynmem.units import GIB, MIB, format_size
from dynmem.vm.kvm.boot.file import BootFile
from dynmem.vm.kvm.boot.image import KERNEL_BYTES_MAX, Image, Segment

SETUP_HEADER: Final = 0x1F1  # its offset, in the file and in the boot parameters
_SECTOR: Final = 512
_HEADER_END_MIN: Final = 0x264  # with init_size, the last field that is needed
_HEADER_END_MAX: Final = 0x290  # then other boot parameters begin
_BOOT_FLAG: Final = 0xAA55
_MAGIC: Final = b"HdrS"
_VERSION_MIN: Final = 0x020C  # the first that says whether there is a 64-bit entry
_SETUP_SECTORS_OLD: Final = 4  # what 0 stands for
_LOADED_HIGH: Final = 1 << 0
_HAS_64_BIT_ENTRY: Final = 1 << 0
_ENTRY_OFFSET: Final = 0x200


def is_bzimage(beginning: bytes) -> bool:
    """Return whether a file that begins so claims to be one."""
    return (
        len(beginning) >= _HEADER_END_MIN
        and _field(beginning, "H", 0x1FE) == _BOOT_FLAG
        and beginning[0x202:0x206] == _MAGIC
    )


def _field(beginning: bytes, kind: str, offset: int) -> int:
    value: int = struct.unpack_from(f"<{kind}", beginning, offset)[0]
    return value


def parse(file: BootFile, beginning: bytes) -> Image:
    """Return the kernel in a file whose first bytes, at least a page, make it a bzImage; or ConfigError."""
    version = _field(beginning, "H", 0x206)
    if version < _VERSION_MIN:
        raise file.wrong(
            f"boot protocol {version >> 8}.{version & 0xFF:02} is older than 2.12 (Linux 3.8): "
            "boot a newer kernel"
        )
    if not beginning[0x211] & _LOADED_HIGH or not _field(beginning, "H", 0x236) & _HAS_64_BIT_ENTRY:
        raise file.wrong("the kernel has no 64-bit entry point: boot one for x86-64")
    header_end = 0x202 + beginning[0x201]
    if not _HEADER_END_MIN <= header_end <= _HEADER_END_MAX:
        raise file.wrong(
            f"its header ends at {header_end:#x}, not between {_HEADER_END_MIN:#x} and {_HEADER_END_MAX:#x}: "
            "get a whole bzImage"
        )
    offset = ((beginning[SETUP_HEADER] or _SETUP_SECTORS_OLD) + 1) * _SECTOR
    size = file.size - offset
    if size <= _ENTRY_OFFSET:
        raise file.wrong(f"no code behind the {offset} bytes of its setup: get a whole bzImage")
    address = _field(beginning, "Q", 0x258)
    needs = max(size, _field(beginning, "I", 0x260))
    if not MIB <= address < 4 * GIB or needs > KERNEL_BYTES_MAX:
        raise file.wrong(
            f"asks for {format_size(needs)} of memory at {address:#x}: a kernel is loaded between 1 MiB and "
            f"4 GiB, and has at most {format_size(KERNEL_BYTES_MAX)}"
        )
    return Image(
        protocol="linux64",
        entry=address + _ENTRY_OFFSET,
        segments=(Segment(offset, address, size),),
        start=address,
        end=address + needs,
        initrd_end=_field(beginning, "I", 0x22C) + 1,
        command_line_max=_field(beginning, "I", 0x238),
        setup_header=beginning[SETUP_HEADER:header_end],
    )
