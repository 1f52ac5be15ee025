"""Reads an ELF kernel with a PVH note: the `vmlinux` of a Linux build, or any kernel that Xen's PVH boots.

The note has the address of a 32-bit entry point. The program headers say what goes where; they are read at
their physical addresses.

Source: ELF-64 object file format; Xen docs/misc/pvh.pandoc and public/elfnote.h.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from dynmem.units import GIB, MIB, format_size
from dynmem.vm.kvm.boot.file import BootFile
from dynmem.vm.kvm.boot.image import KERNEL_BYTES_MAX, Image, Segment

_MAGIC: Final = b"\x7fELF"
_64_BITS_LITTLE_ENDIAN: Final = b"\x02\x01"
_X86_64: Final = 62
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
_LOAD, _NOTE = 1, 4
_NOTE_HEADER: Final = struct.Struct("<III")
_XEN: Final = b"Xen\0"
_PHYS32_ENTRY: Final = 18
# Linux has 5 or 6.
_PROGRAM_HEADERS_MAX: Final = 64
# Linux has 84 bytes of notes, or a few hundred.
_NOTE_BYTES_MAX: Final = 1 << 16
# What Linux takes on x86, less the closing zero; PVH has no field for it.
_COMMAND_LINE_MAX: Final = 2047


class _ProgramHeader(NamedTuple):
    kind: int
    flags: int
    offset: int
    virtual: int
    physical: int
    file_size: int
    memory_size: int
    alignment: int


def is_elf(beginning: bytes) -> bool:
    """Return whether a file that begins so claims to be one."""
    return beginning.startswith(_MAGIC) and len(beginning) >= _HEADER.size


def parse(file: BootFile, beginning: bytes) -> Image:
    """Return the kernel in a file whose first bytes make it an ELF; or ConfigError."""
    headers = _program_headers(file, beginning)
    segments = tuple(_segments(file, headers))
    if not segments:
        raise file.wrong("has no segment to load: name the vmlinux of a kernel")
    entry = _pvh_entry(file, headers)
    if not any(each.address <= entry < each.address + each.size for each in segments):
        raise file.wrong(f"its PVH entry point {entry:#x} is in none of its segments: get a whole vmlinux")
    return Image(
        protocol="pvh",
        entry=entry,
        segments=segments,
        start=min(each.address for each in segments),
        end=max(each.address + each.size + each.zeros for each in segments),
        initrd_end=4 * GIB,
        command_line_max=_COMMAND_LINE_MAX,
    )


def _program_headers(file: BootFile, beginning: bytes) -> list[_ProgramHeader]:
    identity, _, machine, _, _, offset, _, _, _, size, count, *_ = _HEADER.unpack_from(beginning)
    if identity[4:6] != _64_BITS_LITTLE_ENDIAN or machine != _X86_64:
        raise file.wrong("an ELF file, but not for x86-64: boot a kernel for x86-64")
    if size != _PROGRAM_HEADER.size or not 0 < count <= _PROGRAM_HEADERS_MAX:
        raise file.wrong(
            f"has {count} program headers of {size} bytes: a kernel has 1 to {_PROGRAM_HEADERS_MAX} of "
            f"{_PROGRAM_HEADER.size}"
        )
    table = file.read(offset, count * size)
    return [_ProgramHeader(*fields) for fields in _PROGRAM_HEADER.iter_unpack(table)]


def _segments(file: BootFile, headers: list[_ProgramHeader]) -> Iterator[Segment]:
    """Yield what is to be loaded, all of it inside the file, and in all no more than a kernel may have."""
    total = 0
    for header in headers:
        if header.kind != _LOAD or not header.memory_size:
            continue
        total += header.memory_size
        end = header.physical + header.memory_size
        if header.physical < MIB or end > 4 * GIB or total > KERNEL_BYTES_MAX:
            raise file.wrong(
                f"has a segment of {format_size(header.memory_size)} for {header.physical:#x}: a kernel is "
                f"loaded between 1 MiB and 4 GiB, and has at most {format_size(KERNEL_BYTES_MAX)}"
            )
        if header.file_size > header.memory_size or header.offset + header.file_size > file.size:
            raise file.wrong(
                f"has a segment of {header.file_size} bytes at byte {header.offset}, more than the file or "
                "its own memory holds: get a whole vmlinux"
            )
        zeros = header.memory_size - header.file_size
        yield Segment(header.offset, header.physical, header.file_size, zeros)


def _pvh_entry(file: BootFile, headers: list[_ProgramHeader]) -> int:
    for header in headers:
        if header.kind == _NOTE and header.file_size <= _NOTE_BYTES_MAX:
            for name, kind, description in _notes(file.read(header.offset, header.file_size)):
                if name == _XEN and kind == _PHYS32_ENTRY:
                    return int.from_bytes(description[:8], "little")
    raise file.wrong(
        "an ELF file without a PVH entry point: build the kernel with CONFIG_PVH=y, or boot its bzImage"
    )


def _notes(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    r"""Yield each note's name, type and description, up to the first that is not whole.

    04 00 00 00  08 00 00 00  12 00 00 00  "Xen\0"  ........   ->  Xen, 18, 8 bytes
    name: 4      description  type
    """
    position = 0
    while position + _NOTE_HEADER.size <= len(data):
        name_size, size, kind = _NOTE_HEADER.unpack_from(data, position)
        name_at = position + _NOTE_HEADER.size
        at = name_at + _whole_words(name_size)
        if at + size > len(data):
            return
        yield data[name_at : name_at + name_size], kind, data[at : at + size]
        position = at + _whole_words(size)


def _whole_words(size: int) -> int:
    return size + 3 & ~3
