"""Decodes a capture's lines to named messages with named fields, following what the two ends agreed on.

The negotiated version separates fields from padding, and the offers show which channels speak the Dynamic
Memory Protocol. A capture that begins in the middle is read as balloon traffic of the newest version.
"""

import uuid
from typing import Final

import msgspec

from dynmem import trace_events
from dynmem.direction import Direction
from dynmem.errors import RemoteProtocolError
from dynmem.limits import VMBUS_CHANNELS_MAX
from dynmem.trace.lines import EventLine, Line, MessageLine, PacketLine
from dynmem.wire import dm, vmbus
from dynmem.wire.layout import NEWEST
from dynmem.wire.packet import PacketType

_PAGE_RANGES: Final = ("ranges", "range", "region")  # of the Dynamic Memory Protocol
_START_MASK: Final = (1 << 40) - 1
_WORD: Final = 8

#: The value of a field: page ranges are pairs of first page and count, other bytes hex digits.
Value = int | str | bool | None | list[tuple[int, int]]


class Entry(msgspec.Struct, frozen=True):
    """One message, packet or event.

    Attributes:
        time_ns: Since the capture began, or what the log counts from; None if unknown.
        direction: The sender and the receiver; None if unknown.
        layer: ``vmbus`` (control messages), ``ring`` (packets that carry no Dynamic Memory message), ``dm``
            or ``trace``.
        name: The name of the message or event.
        fields: Its values by name.

    """

    time_ns: int | None
    direction: Direction | None
    layer: str
    name: str
    fields: dict[str, Value]


class Decoder:
    """Decodes the lines of one capture in order."""

    def __init__(self) -> None:
        self._asked = self._version = NEWEST
        self._interfaces: dict[int, uuid.UUID] = {}

    def decode(self, line: Line) -> Entry:
        """Return the entry of a line. Raises RemoteProtocolError for bytes that are not a message."""
        if isinstance(line, EventLine):
            values: dict[str, Value] = dict(line.values)
            event = trace_events.BY_NAME.get(line.name)
            direction = event.direction if event is not None else None
            return Entry(line.time_ns, direction, "trace", line.name, values)
        if isinstance(line, MessageLine):
            return self._message(line)
        return self._packet(line)

    def _message(self, line: MessageLine) -> Entry:
        asked = self._version if self._version != NEWEST else self._asked
        message = vmbus.decode(line.payload, asked)
        if isinstance(message, vmbus.InitiateContact):
            self._asked, self._version = message.version, NEWEST
            self._interfaces.clear()
        elif isinstance(message, vmbus.VersionResponse) and message.version_supported:
            self._version = self._asked
        elif isinstance(message, vmbus.OfferChannel) and len(self._interfaces) < VMBUS_CHANNELS_MAX:
            self._interfaces[message.child_relid] = message.interface
        name = vmbus.TABLE.of(message).name
        return Entry(line.time_ns, line.direction, "vmbus", name, _fields(message, ()))

    def _packet(self, line: PacketLine) -> Entry:
        packet = line.packet
        interface = self._interfaces.get(line.channel or 0, dm.BALLOON_DEVICE_TYPE)
        if packet.type == PacketType.INBAND and interface == dm.BALLOON_DEVICE_TYPE:
            message = dm.decode(packet.data)
            layout = dm.TABLE.of(message)
            return Entry(
                line.time_ns,
                line.direction or layout.direction,
                "dm",
                layout.name,
                _fields(message, _PAGE_RANGES),
            )
        try:
            name = PacketType(packet.type).name
        except ValueError:
            raise RemoteProtocolError(f"unknown packet type {packet.type}") from None
        fields: dict[str, Value] = {
            "channel": line.channel,
            "flags": packet.flags,
            "trans_id": packet.trans_id,
            "data": packet.data.hex(),
        }
        return Entry(line.time_ns, line.direction, "ring", name, fields)


def _fields(message: msgspec.Struct, page_ranges: tuple[str, ...]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if name in page_ranges and value is not None:
            values[name] = _ranges(value if isinstance(value, bytes) else value.to_bytes(_WORD, "little"))
        elif isinstance(value, bytes):
            values[name] = value.hex()
        else:
            values[name] = str(value) if isinstance(value, uuid.UUID) else value
    return values


def _ranges(words: bytes) -> list[tuple[int, int]]:
    numbers = memoryview(words).cast("Q")  # x86-64 only: little-endian
    return [(number & _START_MASK, number >> 40) for number in numbers]
