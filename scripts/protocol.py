"""Write docs/protocol.md, the message tables of dynmem.wire: ``python -m scripts.protocol [--print]``."""

import inspect
from collections.abc import Iterator

from scripts.page import finish

from dynmem.direction import Direction
from dynmem.wire import dm, hardware, packet, vmbus
from dynmem.wire.layout import (
    Bits,
    Count,
    Field,
    Flag,
    Guid,
    Layout,
    Octets,
    Optional,
    Reserved,
    Tail,
)
from dynmem.wire.versions import VERSION_6_0, VERSIONS, Feature, format_version

INTRO = """# Messages on the wire

Written by `scripts/protocol.py` from the tables that drive our encoders and decoders (`src/dynmem/wire`); a
test holds the two equal. All integers are little-endian, nothing is aligned. *Offset* counts from the
beginning of the message, header included. Reserved bytes and bits are sent as zero and ignored when
received.
"""

DM_INTRO = """## Dynamic memory

Bodies of in-band packets on the channel of device type `{device}`. Each begins with type (u16), size (u16,
this header included) and transaction id (u32, each side counts its own). Receivers believe `size`, not the
packet's length, which is padded to 8 bytes. A host's is of at most 4096 bytes, so of at
most 510 page ranges. So are all that dynmem sends, but a guest's may be as long as a ring packet.

A **page range** is one u64: first page in bits 0..39, number of pages in bits 40..63. Note the opposite
orders of the two words that precede the ranges in DM_BALLOON_RESPONSE and DM_UNBALLOON_REQUEST.

Versions: {versions}. A message is known from its version on.

Capability bits: 0 balloon, 1 hot add, 2..5 hot-add alignment n (2^n MiB), 6 hot remove.
"""

CHANNEL_INTRO = """## VMBus control messages

Posted through the SynIC, at most 240 bytes. Each begins with type (u32) and padding (u32). A message has no
length of its own and posts are rounded up, so bytes behind it are padding; fields that only later versions
have are read only when the negotiated version has them.

Versions: {versions}. 6.0 is decoded and encoded, but not spoken. Its features: {features}.
"""

PACKET_INTRO = """## Ring packets

A descriptor of 16 bytes, for some types further words, the body padded to 8 bytes, and a footer of 8 bytes.

| offset | bytes | field |
|---:|---:|---|
| 0 | 2 | type |
| 2 | 2 | where the body begins, in units of 8 bytes |
| 4 | 2 | where it ends, in units of 8 bytes; the footer lies behind |
| 6 | 2 | flags: bit 0 completion requested |
| 8 | 8 | transaction id |

Types: {types}. The descriptor of a GPA-direct packet goes on with reserved (u32), number of ranges (u32)
and for each range byte count (u32), byte offset (u32) and as many page numbers (u64) as the two touch. The
footer is reserved (u32) and the packet's offset in the ring (u32); receivers ignore it.
"""

HARDWARE_INTRO = """## The embedded guest's hardware

Datagrams of the SOCK_SEQPACKET socket between `dynmem vm` and its embedded guest. Each begins with type
(u32). MAP_SLOT, BIND_SINT and BIND_DOORBELL carry one descriptor; those of the last two are the guest's ends
of stream sockets, on which a byte is an interrupt or a ring. This protocol is our own and may change with any
version.
"""


def _bits(word: Bits) -> str:
    parts, used = [], 0
    for part in word.parts:
        if isinstance(part, Flag):
            parts.append(f"bit {part.bit} `{part.name}`")
            used |= 1 << part.bit
        else:
            parts.append(_count(part, 8 * word.size))
            used |= ((1 << part.width) - 1) << part.shift
    if used != (1 << 8 * word.size) - 1:
        parts.append("others reserved")
    return ", ".join(parts)


def _count(count: Count, width: int) -> str:
    where = "" if count.width == width else f"bits {count.shift}..{count.shift + count.width - 1} "
    what = "bytes" if count.unit == 1 else "page ranges"
    return f"{where}number of {what} that follow" + (f", plus {count.extra}" if count.extra else "")


def _size(field: Field) -> int:
    return 16 if isinstance(field, Guid) else field.size  # type: ignore[union-attr]


def _what(field: Field) -> str:
    if isinstance(field, Bits):
        return _bits(field)
    if isinstance(field, Reserved):
        return "reserved"
    if isinstance(field, Guid):
        return f"`{field.name}` (GUID)"
    if isinstance(field, Octets):
        return f"`{field.name}` (bytes)"
    return f"`{field.name}`"  # type: ignore[union-attr]


def _rows(layout: Layout) -> Iterator[str]:
    offset = layout.offset
    for field in layout.fields:
        if isinstance(field, Tail):
            limit = f", `{field.limit}` bytes" if field.limit else ""
            yield f"| {offset} | n | `{field.name}`{limit} |"
        elif isinstance(field, Optional):
            since = f"optional, from {format_version(field.since)}" if field.since else "optional"
            for inner in field.fields:
                yield f"| {offset} | {_size(inner)} | {_what(inner)} ({since}) |"
                offset += _size(inner)
        else:
            yield f"| {offset} | {_size(field)} | {_what(field)} |"
            offset += _size(field)


def _message(layout: Layout, since: str) -> Iterator[str]:
    way = "guest to host" if layout.direction is Direction.GUEST_TO_HOST else "host to guest"
    more = " or more" if any(isinstance(field, Tail | Optional) for field in layout.fields) else ""
    facts = ", ".join(filter(None, (way, f"{layout.size} bytes{more}", since)))
    yield f"### {layout.number} {layout.name}"
    yield ""
    yield f"`{layout.message.__name__}`: {facts}. {inspect.cleandoc(layout.message.__doc__ or '')}"
    yield ""
    if layout.fields:
        yield "| offset | bytes | field |"
        yield "|---:|---:|---|"
        yield from _rows(layout)
        yield ""


def _dotted(version: int) -> str:
    return f"{dm.major_version(version)}.{dm.minor_version(version)}"


def _dm_since(layout: Layout) -> str:
    return f"from {_dotted(layout.since)}"


def _channel_since(layout: Layout) -> str:
    return f"from {format_version(layout.since)}" if layout.since else "in every version"


def render() -> str:
    """The whole document."""
    versions = ", ".join(
        f"{_dotted(version)} (up to message {max(dm.known_in(version))})"
        for version in (dm.VERSION_WIN7, dm.VERSION_WIN8, dm.VERSION_WIN10)
    )
    lines = [INTRO, DM_INTRO.format(device=dm.BALLOON_DEVICE_TYPE, versions=versions)]
    for layout in dm.TABLE.layouts:
        lines.extend(_message(layout, _dm_since(layout)))
    versions = ", ".join(format_version(version) for version in (*VERSIONS, VERSION_6_0))
    features = ", ".join(f"{flag:#x} {flag.name}" for flag in Feature)
    lines.append(CHANNEL_INTRO.format(versions=versions, features=features))
    for layout in vmbus.TABLE.layouts:
        lines.extend(_message(layout, _channel_since(layout)))
    types = ", ".join(f"{int(kind)} {kind.name}" for kind in packet.PacketType)
    lines.append(PACKET_INTRO.format(types=types))
    lines.append(HARDWARE_INTRO)
    for layout in hardware.TABLE.layouts:
        lines.extend(_message(layout, ""))
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    finish("protocol.md", render)
