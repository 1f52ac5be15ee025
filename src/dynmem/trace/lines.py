"""Parses the lines of captures and logs; `decode` gives their bytes a meaning.

Each line is one of four kinds; a file may mix them:

* our captures and plain hex: ``SECONDS G>H|H>G msg HEX`` for a VMBus message, ``SECONDS G>H|H>G pkt [type N]
  [flags N] [channel N] [id N] [words HEX] HEX`` for a ring packet without its 16-byte descriptor (`words` is
  what some types have between descriptor and body);
* QEMU's trace log: ``[PID@SECONDS.MICROS:]EVENT TEXT``, and as QEMU after 10.0 writes it with ``-msg
  timestamp=on``: ``[DATE ][[[GUEST] ]PROGRAM[(THREAD)]: ]EVENT TEXT``, where DATE is ISO 8601;
* rings found in a dump of guest memory: ``0xADDRESS NAME vmbus_tid N dm_tid N desc HEX body HEX``;
* ``# ...``: a remark; ``# dynmem capture N of NAME since DATE`` heads our captures, N being the version of
  their format.

Anything else raises RemoteProtocolError.
"""

import re
from typing import Final

import msgspec

from dynmem.dates import ISO_8601, parse_date
from dynmem.direction import Direction
from dynmem.errors import RemoteProtocolError
from dynmem.trace_events import BY_NAME
from dynmem.units import NS_PER_S
from dynmem.wire.packet import DESCRIPTOR_BYTES, FOOTER_BYTES, Packet, PacketType, peek_length
from dynmem.wire.packet import decode as decode_packet

CAPTURE_VERSION: Final = 1
CAPTURE_HEAD: Final = "# dynmem capture"
_SHOWN: Final = 40  # characters of a malformed line that an error quotes

_HEX: Final = re.compile(
    r"(\d{1,12})(?:\.(\d{1,9}))? (G>H|H>G) (msg|pkt)((?: (?:type|flags|channel|id) \d{1,20}){0,4})"
    r"(?: words ([0-9a-f]+))?(?: ([0-9a-f]*))?"
)
_LOG: Final = re.compile(
    rf"(?:\d{{1,10}}@(\d{{1,12}})\.(\d{{6}}):|({ISO_8601.pattern}) )?"
    # whose message it is: "[web] qemu-system-x86_64(4711:main): "
    r"(?:(?:\[[^\]]{1,255}\] |\S{1,255} )?[\w.+-]{0,50}(?:qemu|kvm)[\w.+-]{0,50}"
    r"(?:(?:: )?\(\d{1,10}:[^()]{1,99}\))?: )?"
    r"([a-z][a-z0-9_]{0,99})(?: (.*))?"
)
_DUMP: Final = re.compile(
    r"0x[0-9a-f]{1,16} [A-Z_]{1,40} vmbus_tid \d{1,20} dm_tid \d{1,10} desc ([0-9a-f]+) body ([0-9a-f]*)"
)
_OURS: Final = ("vmbus_", "hv_balloon_")
_U64: Final = 1 << 64


class MessageLine(msgspec.Struct, frozen=True):
    """A VMBus control message.

    Attributes:
        time_ns: Since the capture began.
        direction: The sender and the receiver.
        payload: The message, header included.

    """

    time_ns: int
    direction: Direction
    payload: bytes


class PacketLine(msgspec.Struct, frozen=True):
    """A ring packet.

    Attributes:
        time_ns: Since the capture began; None if the line does not say.
        direction: The sender and the receiver; None if the line does not say.
        channel: The relid of its channel; None if the line does not say.
        packet: The packet.

    """

    time_ns: int | None
    direction: Direction | None
    channel: int | None
    packet: Packet


class EventLine(msgspec.Struct, frozen=True):
    """A trace event.

    Attributes:
        time_ns: Since the epoch, as QEMU logs it; None if the line does not say.
        name: QEMU's name of it.
        values: Its values by parameter; the whole text as ``text`` if dynmem does not know the event.

    """

    time_ns: int | None
    name: str
    values: dict[str, int | str]


#: What `parse` returns for a line that is not a comment.
Line = MessageLine | PacketLine | EventLine


def parse(text: str) -> Line | None:
    """Return the parsed line; None for an empty line or a remark."""
    text = text.strip(" \t\r\n")
    if not text:
        return None
    if text.startswith("#"):
        _check_head(text)
        return None
    if not text.isprintable():  # they could reach a terminal
        raise RemoteProtocolError("control characters in the line")
    if (found := _HEX.fullmatch(text)) is not None:
        return _hex_line(found)
    if (found := _DUMP.fullmatch(text)) is not None:
        return _dump_line(found)
    if (found := _LOG.fullmatch(text)) is not None:
        return _event_line(found)
    raise RemoteProtocolError(f"not a line of a capture or trace log: {text[:_SHOWN]!a}")


def _check_head(text: str) -> None:
    if text.startswith(CAPTURE_HEAD) and not text.startswith(f"{CAPTURE_HEAD} {CAPTURE_VERSION} "):
        raise RemoteProtocolError(
            f"a capture whose version is not {CAPTURE_VERSION}: its lines may be misread: {text[:_SHOWN]!a}"
        )


def _nanoseconds(seconds: str, fraction: str | None) -> int:
    return int(seconds) * NS_PER_S + int((fraction or "").ljust(9, "0"))


def _date(text: str) -> int:
    try:
        return parse_date(text)
    except ValueError as error:
        raise RemoteProtocolError(f"not a date: {text} ({error})") from None


def _octets(digits: str | None) -> bytes:
    if len(digits or "") % 2:
        raise RemoteProtocolError("the line is cut off: half a byte at its end")
    return bytes.fromhex(digits or "")


def _hex_line(found: re.Match[str]) -> MessageLine | PacketLine:
    seconds, fraction, arrow, kind, keys, words, digits = found.groups()
    time_ns, direction = _nanoseconds(seconds, fraction), Direction(arrow)
    data = _octets(digits)
    pairs = keys.split()
    numbers = dict(zip(pairs[::2], map(int, pairs[1::2]), strict=True))
    if kind == "msg":
        if numbers or words:
            raise RemoteProtocolError("a message does not have a packet's numbers")
        return MessageLine(time_ns, direction, data)
    if len(numbers) * 2 != len(pairs) or any(number >= _U64 for number in numbers.values()):
        raise RemoteProtocolError("a packet's number is given twice, or above 64 bits")
    packet = Packet(
        numbers.get("type", PacketType.INBAND),
        numbers.get("flags", 0),
        numbers.get("id", 0),
        data,
        _octets(words),
    )
    return PacketLine(time_ns, direction, numbers.get("channel"), packet)


def _dump_line(found: re.Match[str]) -> PacketLine:
    descriptor, body = _octets(found[1]), _octets(found[2])
    if len(descriptor) != DESCRIPTOR_BYTES:
        raise RemoteProtocolError(f"a descriptor has {DESCRIPTOR_BYTES} bytes, not {len(descriptor)}")
    whole = peek_length(descriptor) - DESCRIPTOR_BYTES - FOOTER_BYTES
    if len(body) != whole:
        raise RemoteProtocolError(f"the packet is cut off after {len(body)} of its {whole} bytes")
    return PacketLine(None, None, None, decode_packet(descriptor + body + bytes(FOOTER_BYTES)))


def _event_line(found: re.Match[str]) -> EventLine:
    seconds, micros, date, name, text = found.groups()
    time_ns = _date(date) if date else None if seconds is None else _nanoseconds(seconds, micros)
    event = BY_NAME.get(name)
    if event is None:
        if time_ns is None or name.startswith(_OURS):
            raise RemoteProtocolError(f"unknown event {name[:_SHOWN]}")
        return EventLine(time_ns, name, {"text": text or ""})
    values = event.parse(text or "")
    if values is None:
        raise RemoteProtocolError(f"not the values of {name}, or cut off: {(text or '')[:_SHOWN]!a}")
    return EventLine(time_ns, name, values)
