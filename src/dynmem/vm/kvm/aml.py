"""ACPI Machine Language, as far as a small DSDT needs it: each function returns the bytes of one term.

Here are data, devices and resources; what a device's methods do is in `aml_methods`.

Source: ACPI specification, chapter 20 (AML grammar) and 6.4 (resource descriptors).
"""

import struct
from typing import Final

_ZERO: Final = b"\x00"
_ONE: Final = b"\x01"
_BYTE, _WORD, _DWORD, _QWORD = b"\x0a", b"\x0b", b"\x0c", b"\x0e"
_STRING: Final = b"\x0d"
_NAME: Final = b"\x08"
_SCOPE: Final = b"\x10"
_BUFFER: Final = b"\x11"
_PACKAGE: Final = b"\x12"
_DEVICE: Final = b"\x5b\x82"
_IRQ_WITHOUT_FLAGS: Final = b"\x22"
_IO_PORTS: Final = struct.Struct("<BB2HBB")
_IO_PORTS_TAG: Final = 0x47
_ALL_16_LINES: Final = 1
_ADDRESSES: Final = struct.Struct("<BH3B5Q")
_ADDRESSES_TAG: Final = 0x8A
_MEMORY: Final = 0
_CONSUMED_AND_FIXED: Final = 1 << 0 | 1 << 2 | 1 << 3  # both ends are what they are
_CACHED_AND_WRITABLE: Final = 1 << 0 | 1 << 1
#: Where the bytes of `addresses` have the first address, the last one and their number, 8 bytes each.
FIRST, LAST, NUMBER = 14, 22, 38
# Its checksum byte may be zero: it counts as right.
_END_TAG: Final = b"\x79\x00"
_SEGMENT: Final = 4


def integer(value: int) -> bytes:
    """Return an unsigned integer, at the smallest width that holds it."""
    if value <= 1:
        return _ONE if value else _ZERO
    for prefix, size in ((_BYTE, 1), (_WORD, 2), (_DWORD, 4)):
        if value < 1 << 8 * size:
            return prefix + value.to_bytes(size, "little")
    return _QWORD + value.to_bytes(8, "little")


def string(text: str) -> bytes:
    """Return a string of ASCII characters."""
    return _STRING + text.encode("ascii") + b"\0"


def buffer(data: bytes) -> bytes:
    """Return a buffer that holds `data`."""
    return _BUFFER + measured(integer(len(data)) + data)


def package(*elements: bytes) -> bytes:
    """Return a package of terms, at most 255."""
    return _PACKAGE + measured(bytes([len(elements)]) + b"".join(elements))


def name(label: str, value: bytes) -> bytes:
    """Return the definition of a named object."""
    return _NAME + segment(label) + value


def scope(label: str, *terms: bytes) -> bytes:
    """Return terms below an object that exists."""
    return _SCOPE + measured(segment(label) + b"".join(terms))


def device(label: str, *terms: bytes) -> bytes:
    """Return a device with what it is made of."""
    return _DEVICE + measured(segment(label) + b"".join(terms))


def eisa_id(text: str) -> bytes:
    """Return the number that stands for an id such as ``PNP0C80``: three letters and four hex digits.

    PNP0C80   5 bits a letter: 10000 01110 10000, then 0c80; 41d00c80, the bytes from the highest on
    """
    letters = 0
    for letter in text[:3]:
        letters = letters << 5 | ord(letter) - ord("@")
    return integer(int.from_bytes((letters << 16 | int(text[3:], 16)).to_bytes(4, "big"), "little"))


def irq(line: int) -> bytes:
    """Return the resource descriptor of one interrupt line, edge-triggered, 0 to 15."""
    return _IRQ_WITHOUT_FLAGS + (1 << line).to_bytes(2, "little")


def io_ports(first: int, count: int) -> bytes:
    """Return the resource descriptor of ports that are decoded by all their 16 lines."""
    return _IO_PORTS.pack(_IO_PORTS_TAG, _ALL_16_LINES, first, first, 1, count)


def addresses() -> bytes:
    """Return the resource descriptor of a piece of memory; a method fills in where (`FIRST` and so on)."""
    flags = (_MEMORY, _CONSUMED_AND_FIXED, _CACHED_AND_WRITABLE)
    return _ADDRESSES.pack(_ADDRESSES_TAG, _ADDRESSES.size - 3, *flags, 0, 0, 0, 0, 0)


def resources(*descriptors: bytes) -> bytes:
    """Return resource descriptors as ``_CRS`` holds them."""
    return buffer(b"".join(descriptors) + _END_TAG)


def segment(label: str) -> bytes:
    """Return a name of one segment, filled up to four characters, which is looked up where it stands."""
    return label.ljust(_SEGMENT, "_").encode("ascii")


def measured(body: bytes) -> bytes:
    """Return `body` with its length before it. The length counts its own bytes, 1 to 4 of them.

    60 bytes   3d              61, in the low 6 bits
    100 bytes  46 06           102 = 6 | 6 << 4: bits 7:6 say that 1 byte follows, bits 3:0 are the lowest
    """
    if len(body) + 1 < 1 << 6:
        return bytes([len(body) + 1]) + body
    for more in (1, 2, 3):
        length = len(body) + 1 + more
        if length < 1 << 4 + 8 * more:
            return bytes([more << 6 | length & 0xF]) + (length >> 4).to_bytes(more, "little") + body
    raise AssertionError("a term of 256 MiB")
