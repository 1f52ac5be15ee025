"""Ring packets: a 16-byte descriptor, for some types a longer one, the body, and an eight-byte footer.

Descriptor: type u16, offset8 u16 (where the body begins, in units of 8 bytes), len8 u16 (where it ends),
flags u16 (bit 0: completion requested), transaction id u64. The body is padded to 8 bytes and its exact
length is not on the wire. The footer (reserved u32, offset of the packet in the ring u32) is counted in the
ring's indices but not in len8; receivers ignore it, since some senders leave it unwritten.

Source: Linux include/linux/hyperv.h (struct vmpacket_descriptor, struct vmdata_gpa_direct).
"""

import enum
import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.units import PAGE_SIZE

DESCRIPTOR_BYTES: Final = 16
FOOTER_BYTES: Final = 8
FLAG_COMPLETION_REQUESTED: Final = 1
_LEN8_MAX: Final = 0xFFFF

_DESCRIPTOR: Final = struct.Struct("<HHHHQ")
_FOOTER: Final = struct.Struct("<II")
_TWO_WORDS: Final = struct.Struct("<II")


class PacketType(enum.IntEnum):
    """Types of ring packets."""

    SYNCH = 1
    ADD_XFER_PAGESET = 2
    REMOVE_XFER_PAGESET = 3
    ESTABLISH_GPADL = 4
    TEARDOWN_GPADL = 5
    INBAND = 6
    XFER_PAGES = 7
    GPADL = 8
    GPA_DIRECT = 9
    CANCEL = 10
    COMPLETION = 11
    ADDITIONAL_PACKET = 12
    ADDITIONAL_DATA = 13


_KNOWN: Final = frozenset(int(kind) for kind in PacketType)


class GpaRange(msgspec.Struct, frozen=True, gc=False):
    """Guest memory that a packet points to: `byte_count` bytes from `byte_offset` on in pages `pfns`.

    `pfns` are packed little-endian u64 page numbers, one for each page that offset and count touch.
    """

    byte_count: int
    byte_offset: int
    pfns: bytes


class Packet(msgspec.Struct, frozen=True, gc=False):
    """One ring packet. A decoded packet's `data` is padded to a multiple of 8.

    `descriptor` holds the type's own words between descriptor and body (transfer pages, GPADL packets, the
    ranges of GPA-direct packets, which `decode_gpa_ranges` reads). Only who needs them reads them: a packet
    may hold 65,533 of them, and its sender chooses its type.
    """

    type: int
    flags: int
    trans_id: int
    data: bytes
    descriptor: bytes = b""


def _pages_touched(byte_offset: int, byte_count: int) -> int:
    return (byte_offset + byte_count + PAGE_SIZE - 1) // PAGE_SIZE


def encode_gpa_ranges(ranges: Sequence[GpaRange]) -> bytes:
    """Return the descriptor words of a GPA-direct packet; LocalProtocolError if a range lacks pages."""
    parts = [_TWO_WORDS.pack(0, len(ranges))]
    for item in ranges:
        if len(item.pfns) != 8 * _pages_touched(item.byte_offset, item.byte_count):
            raise LocalProtocolError(f"{item.byte_count} bytes do not lie in {len(item.pfns) // 8} pages")
        parts.append(_TWO_WORDS.pack(item.byte_count, item.byte_offset) + item.pfns)
    return b"".join(parts)


def decode_gpa_ranges(words: bytes) -> tuple[GpaRange, ...]:
    """Return the ranges in the descriptor words of a GPA-direct packet.

    Raises RemoteProtocolError. The work is bounded by the bytes, at least 8 for each range.
    """
    if len(words) < _TWO_WORDS.size:
        raise RemoteProtocolError("a GPA-direct packet has no range count")
    count = _TWO_WORDS.unpack_from(words)[1]
    if not 0 < count <= (len(words) - 8) // 8:
        raise RemoteProtocolError(f"a GPA-direct packet says {count} ranges in {len(words)} bytes")
    ranges, position = [], 8
    for _ in range(count):
        if position + 8 > len(words):
            raise RemoteProtocolError("a GPA-direct packet ends before its ranges")
        byte_count, byte_offset = _TWO_WORDS.unpack_from(words, position)
        end = position + 8 + 8 * _pages_touched(byte_offset, byte_count)
        if end > len(words):
            raise RemoteProtocolError(f"a GPA range of {byte_count} bytes passes the end of its packet")
        ranges.append(GpaRange(byte_count, byte_offset, words[position + 8 : end]))
        position = end
    return tuple(ranges)


def encode(packet: Packet, write_index: int) -> bytes:
    """Return descriptor, padded body and footer of `packet`, which will begin at `write_index` in the ring.

    Raises LocalProtocolError when a field does not fit or the packet is longer than len8 can say.
    """
    extra, data = packet.descriptor, packet.data
    if len(extra) % 8:
        raise LocalProtocolError(f"{len(extra)} bytes of descriptor words are not whole words of 8 bytes")
    offset8 = (DESCRIPTOR_BYTES + len(extra)) // 8
    len8 = offset8 + (len(data) + 7) // 8
    if len8 > _LEN8_MAX:
        raise LocalProtocolError(f"a packet of {len8 * 8} bytes is above {_LEN8_MAX * 8}")
    try:
        head = _DESCRIPTOR.pack(packet.type, offset8, len8, packet.flags, packet.trans_id)
        return b"".join((head, extra, data, bytes(-len(data) % 8), _FOOTER.pack(0, write_index)))
    except struct.error as error:
        raise LocalProtocolError(f"the packet cannot be encoded: {error}") from error


def peek_length(header: bytes) -> int:
    """Return the length of the packet, footer included, from its first 16 bytes."""
    if len(header) < DESCRIPTOR_BYTES:
        raise RemoteProtocolError(f"a packet descriptor of {len(header)} bytes")
    kind, offset8, len8, flags, _ = _DESCRIPTOR.unpack_from(header)
    if kind not in _KNOWN:
        raise RemoteProtocolError(f"unknown packet type {kind}")
    if offset8 * 8 < DESCRIPTOR_BYTES or len8 < offset8:
        raise RemoteProtocolError(f"a packet's body cannot lie at {offset8 * 8}..{len8 * 8}")
    if flags & ~FLAG_COMPLETION_REQUESTED:
        raise RemoteProtocolError(f"unknown packet flags {flags:#x}")
    return int(len8) * 8 + FOOTER_BYTES


def decode(data: bytes) -> Packet:
    """Return the packet that `data` is, footer included; RemoteProtocolError if it is anything else."""
    length = peek_length(data)
    if length != len(data):
        raise RemoteProtocolError(f"a packet says {length} bytes, {len(data)} are there")
    kind, offset8, _, flags, trans_id = _DESCRIPTOR.unpack_from(data)
    body = data[offset8 * 8 : length - FOOTER_BYTES]
    return Packet(kind, flags, trans_id, body, data[DESCRIPTOR_BYTES : offset8 * 8])
