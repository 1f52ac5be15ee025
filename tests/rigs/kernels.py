"""Small kernels for the tests of boot: files that are right in every byte that a loader reads."""

import struct
from typing import Any

KERNEL_AT = 0x100000
PAGE = bytes(range(256)) * 16


def bzimage(code: bytes = PAGE, /, *, sectors: int = 3, **fields: int) -> bytes:
    """A bzImage with `code` behind its setup; `fields` override those of its header."""
    header = {
        "setup_sects": sectors,
        "boot_flag": 0xAA55,
        "header_length": 0x6A,
        "magic": 0x53726448,
        "version": 0x020F,
        "type_of_loader": 0,
        "loadflags": 1,
        "initrd_addr_max": 0x7FFFFFFF,
        "kernel_alignment": 0x200000,
        "xloadflags": 0x7F,
        "cmdline_size": 2047,
        "setup_data": 0,
        "pref_address": KERNEL_AT,
        "init_size": len(code) + 0x3000,
    } | fields
    setup = bytearray(512 * (sectors + 1))
    for name, value in header.items():
        offset, kind = _SETUP_FIELDS[name]
        struct.pack_into(f"<{kind}", setup, offset, value)
    return bytes(setup) + code


_SETUP_FIELDS = {
    "setup_sects": (0x1F1, "B"),
    "boot_flag": (0x1FE, "H"),
    "header_length": (0x201, "B"),
    "magic": (0x202, "I"),
    "version": (0x206, "H"),
    "type_of_loader": (0x210, "B"),
    "loadflags": (0x211, "B"),
    "initrd_addr_max": (0x22C, "I"),
    "kernel_alignment": (0x230, "I"),
    "xloadflags": (0x236, "H"),
    "cmdline_size": (0x238, "I"),
    "setup_data": (0x250, "Q"),
    "pref_address": (0x258, "Q"),
    "init_size": (0x260, "I"),
}


def note(name: bytes, kind: int, description: bytes) -> bytes:
    """An ELF note, each part filled up to whole words."""
    words = [part + bytes(-len(part) % 4) for part in (name, description)]
    return struct.pack("<III", len(name), len(description), kind) + b"".join(words)


def pvh_note(entry: int) -> bytes:
    return note(b"GNU\0", 3, bytes(20)) + note(b"Xen\0", 18, entry.to_bytes(8, "little"))


def load_segment(address: int, data: bytes, *, memory: int | None = None, **fields: int) -> dict[str, Any]:
    size = len(data)
    return {
        "kind": 1,
        "physical": address,
        "data": data,
        "memory": size if memory is None else memory,
        **fields,
    }


def note_segment(notes: bytes, **fields: int) -> dict[str, Any]:
    return {"kind": 4, "physical": 0, "data": notes, "memory": len(notes), **fields}


def elf(*segments: dict[str, Any], machine: int = 62, bits: int = 2, **fields: int) -> bytes:
    """An ELF file of these segments; by default a kernel of two that starts at its beginning."""
    if not segments:
        segments = (
            load_segment(KERNEL_AT, PAGE),
            load_segment(KERNEL_AT + 0x2000, b"data", memory=0x1800),
            note_segment(pvh_note(KERNEL_AT + 16)),
        )
    at = 64 + 56 * len(segments)
    header, body = b"", b""
    for segment in segments:
        data = segment["data"]
        place = segment.get("offset", at + len(body))
        size = segment.get("size", len(data))
        header += struct.pack(
            "<IIQQQQQQ", segment["kind"], 7, place, 0, segment["physical"], size, segment["memory"], 4096
        )
        body += data
    identity = b"\x7fELF" + bytes([bits, 1, 1]) + bytes(9)
    start = struct.pack(
        "<16sHHIQQQIHHHHHH", identity, 2, machine, 1, KERNEL_AT, fields.get("table", 64), 0, 0, 64,
        fields.get("entry_size", 56), fields.get("count", len(segments)), 0, 0, 0,
    )  # fmt: skip
    return start + header + body
