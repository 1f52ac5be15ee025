"""Message layouts as data: a list of fields becomes an encoder and a decoder.

A table entry names a message class (a frozen ``msgspec.Struct``) and its fields in wire order. Everything is
little-endian and packed. The class's fields are the table's named fields, in the same order; `Reserved` bytes
and `Count` bits have no field of their own. Layouts of plain integers decode at the speed of ``struct`` plus
one constructor call; bit words, tails and optional groups take a loop over the fields, never over the data.

Decoders raise RemoteProtocolError and nothing else; encoders raise LocalProtocolError for a value that the
wire cannot carry.
"""

import struct
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from dynmem.direction import Direction
from dynmem.errors import LocalProtocolError, RemoteProtocolError

# a decoder given this version reads every optional group that is there
NEWEST: Final = 0xFFFF_FFFF


class Int(NamedTuple):
    """An unsigned integer of 1, 2, 4 or 8 bytes."""

    name: str
    size: int


def u8(name: str) -> Int:
    """Return an integer of one byte."""
    return Int(name, 1)


def u16(name: str) -> Int:
    """Return an integer of two bytes."""
    return Int(name, 2)


def u32(name: str) -> Int:
    """Return an integer of four bytes."""
    return Int(name, 4)


def u64(name: str) -> Int:
    """Return an integer of eight bytes."""
    return Int(name, 8)


class Reserved(NamedTuple):
    """Bytes sent as zero and ignored when received (old guests leave garbage in them)."""

    size: int


class Guid(NamedTuple):
    """A GUID in Microsoft's mixed-endian order, as ``uuid.UUID``."""

    name: str


class Octets(NamedTuple):
    """Exactly `size` bytes."""

    name: str
    size: int


class Flag(NamedTuple):
    """One bit of a word, as bool."""

    name: str
    bit: int


class Count(NamedTuple):
    """Bits of a word that say the length of the tail: ``len(tail) // unit + extra``."""

    shift: int
    width: int
    unit: int
    extra: int = 0


class Bits(NamedTuple):
    """A word of 2, 4 or 8 bytes made of flags and counts; its other bits are reserved."""

    size: int
    parts: tuple[Flag | Count, ...]


def bits(size: int, *parts: Flag | Count) -> Bits:
    """Return a word of flags and counts."""
    return Bits(size, parts)


class Optional(NamedTuple):
    """Fields that are there together or not at all; `since` is the first version that knows them."""

    fields: tuple[Int | Guid | Reserved, ...]
    since: int


def optional(*fields: Int | Guid | Reserved, since: int = 0) -> Optional:
    """Return a group of fields at the end of a message that may be missing (then they are None)."""
    return Optional(fields, since)


class Tail(NamedTuple):
    """The bytes behind the fixed part: as many as a `Count` or the field `limit` says, or all."""

    name: str
    limit: str | None = None


Field = Int | Reserved | Guid | Octets | Bits | Optional | Tail

_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}


def _format(fields: Sequence[Field]) -> struct.Struct:
    """Return the struct of the fixed part of `fields`."""
    codes = "<"
    for field in fields:
        if isinstance(field, Int | Bits):
            codes += _CODES[field.size]
        elif isinstance(field, Reserved):
            codes += f"{field.size}x"
        elif isinstance(field, Guid):
            codes += "16s"
        elif isinstance(field, Octets):
            codes += f"{field.size}s"
    return struct.Struct(codes)


def _names(fields: Sequence[Field]) -> Iterator[str]:
    """Yield the named fields, in wire order."""
    for field in fields:
        if isinstance(field, Bits):
            yield from (part.name for part in field.parts if isinstance(part, Flag))
        elif isinstance(field, Optional):
            yield from _names(field.fields)
        elif not isinstance(field, Reserved):
            yield field.name


class Layout:
    """One message: number, name, direction, first version and fields, with the codec built from them.

    ``decode(data, end, version)`` reads ``data[offset:end]``; ``encode(message)`` returns those bytes.
    `offset` is where the table's own header ends, which the codec module reads. `size` is the least `end`.
    """

    __slots__ = (
        "_groups",
        "_steps",
        "_struct",
        "_tail",
        "_tail_limit",
        "decode",
        "direction",
        "encode",
        "fields",
        "message",
        "name",
        "number",
        "offset",
        "since",
        "size",
    )

    def __init__(
        self,
        number: int,
        name: str,
        message: type[msgspec.Struct],
        *fields: Field,
        direction: Direction,
        offset: int,
        since: int = 0,
    ) -> None:
        assert message.__struct_fields__ == tuple(_names(fields)), name
        self.number: Final = number
        self.name: Final = name
        self.message: Final = message
        self.direction: Final = direction
        self.since: Final = since
        self.fields: Final = fields
        self.offset: Final = offset
        fixed = [field for field in fields if not isinstance(field, Optional | Tail)]
        self._struct = _format(fixed)
        self._steps = tuple(field for field in fixed if not isinstance(field, Reserved))
        self._groups = tuple(field for field in fields if isinstance(field, Optional))
        self._tail = next((field for field in fields if isinstance(field, Tail)), None)
        assert not (self._groups and self._tail), name
        limit = self._tail.limit if self._tail else None
        self._tail_limit = None if limit is None else message.__struct_fields__.index(limit)
        self.size: Final = offset + self._struct.size
        plain = all(isinstance(step, Int) for step in self._steps) and not self._groups and not self._tail
        self.decode: Callable[[bytes, int, int], Any] = self._plain_decoder() if plain else self._decode
        self.encode: Callable[[msgspec.Struct], bytes] = self._plain_encoder() if plain else self._encode

    def known_from(self, message: msgspec.Struct) -> int:
        """Return the first version that knows the message and all the optional fields that are in it."""
        groups = (
            group.since
            for group in self._groups
            if any(getattr(message, name) is not None for name in _names(group.fields))
        )
        return max((self.since, *groups))

    def _plain_decoder(self) -> Callable[[bytes, int, int], Any]:
        """Return the decoder of a message of integers only: one unpack, one constructor call."""
        unpack, offset, size, make = self._struct.unpack_from, self.offset, self.size, self.message

        def decode(data: bytes, end: int, version: int) -> Any:  # noqa: ANN401 - one shape for all
            if end < size:
                raise self._too_short(end)
            return make(*unpack(data, offset))

        return decode

    def _plain_encoder(self) -> Callable[[msgspec.Struct], bytes]:
        """Return the encoder of a message of integers only."""
        pack, astuple = self._struct.pack, msgspec.structs.astuple

        def encode(message: msgspec.Struct) -> bytes:
            try:
                return pack(*astuple(message))
            except struct.error as error:
                raise LocalProtocolError(f"{self.name} cannot carry {message}: {error}") from error

        return encode

    def _too_short(self, end: int) -> RemoteProtocolError:
        return RemoteProtocolError(f"{self.name} has {end} bytes, it needs at least {self.size}")

    def _decode(self, data: bytes, end: int, version: int) -> Any:  # noqa: ANN401 - the class is the table's
        """Decode a message with bit words, byte fields, optional groups or a tail."""
        if end < self.size:
            raise self._too_short(end)
        values: list[object] = []
        tail_end: int | None = None
        for step, value in zip(self._steps, self._struct.unpack_from(data, self.offset), strict=True):
            if isinstance(step, Bits):
                for part in step.parts:
                    if isinstance(part, Flag):
                        values.append(bool(value >> part.bit & 1))
                    else:
                        tail_end = self._counted_end(part, value, tail_end, end)
            else:
                values.append(uuid.UUID(bytes_le=value) if isinstance(step, Guid) else value)
        if self._groups:
            self._decode_groups(data, end, version, values)
        elif self._tail is not None:
            if tail_end is None:
                tail_end = end
                if self._tail_limit is not None:
                    tail_end = min(end, self.size + int(values[self._tail_limit]))  # type: ignore[call-overload]
            values.append(data[self.size : tail_end])
        return self.message(*values)

    def _counted_end(self, count: Count, word: int, before: int | None, end: int) -> int:
        """Return where the tail ends by `count`; an earlier count of the tail may say more but never less."""
        number = (word >> count.shift & (1 << count.width) - 1) - count.extra
        tail_end = self.size + number * count.unit
        if number < 0 or tail_end > end:
            raise RemoteProtocolError(f"{self.name} says {number} x {count.unit} bytes follow in {end} bytes")
        if before is not None and before < tail_end:
            raise RemoteProtocolError(f"{self.name} says two lengths of its data: {before} and {tail_end}")
        return tail_end

    def _decode_groups(self, data: bytes, end: int, version: int, values: list[object]) -> None:
        """Append the optional groups: values where bytes are there and the version knows them, else None."""
        position = self.size
        for group in self._groups:
            layout = _format(group.fields)
            named = [field for field in group.fields if not isinstance(field, Reserved)]
            if end < position + layout.size or version < group.since:
                values.extend(None for _ in named)
                end = 0  # a later group cannot be there without this one
                continue
            for field, value in zip(named, layout.unpack_from(data, position), strict=True):
                values.append(uuid.UUID(bytes_le=value) if isinstance(field, Guid) else value)
            position += layout.size

    def _encode(self, message: msgspec.Struct) -> bytes:
        """Encode what `_decode` decodes."""
        values = iter(msgspec.structs.astuple(message))
        tail: bytes = getattr(message, self._tail.name) if self._tail else b""
        try:
            packed = [self._packed(step, values, tail) for step in self._steps]
            fixed = self._struct.pack(*packed)
            return fixed + tail if self._tail else fixed + self._encode_groups(values)
        except (struct.error, AttributeError, TypeError) as error:
            raise LocalProtocolError(f"{self.name} cannot carry {message}: {error}") from error

    def _packed(self, step: Field, values: Iterator[Any], tail: bytes) -> int | bytes:
        """Return the value of one field of the fixed part, as ``struct`` packs it."""
        if isinstance(step, Bits):
            word = 0
            for part in step.parts:
                if isinstance(part, Flag):
                    word |= bool(next(values)) << part.bit
                else:
                    number, rest = divmod(len(tail), part.unit)
                    if rest or number + part.extra >> part.width:
                        raise LocalProtocolError(f"{self.name} cannot carry a tail of {len(tail)} bytes")
                    word |= number + part.extra << part.shift
            return word
        value: int | bytes = next(values)
        if isinstance(step, Guid):
            return value.bytes_le  # type: ignore[union-attr, no-any-return]
        if isinstance(step, Octets) and len(value) != step.size:  # type: ignore[arg-type]
            raise LocalProtocolError(f"{self.name}.{step.name} is exactly {step.size} bytes")
        return value

    def _encode_groups(self, values: Iterator[Any]) -> bytes:
        """Encode the optional groups up to the first that is missing."""
        encoded, missing = b"", False
        for group in self._groups:
            named = [field for field in group.fields if not isinstance(field, Reserved)]
            group_values = [next(values) for _ in named]
            absent = [value is None for value in group_values]
            if any(absent) != all(absent) or (missing and not all(absent)):
                raise LocalProtocolError(f"{self.name}: an optional field is there without those before it")
            missing = all(absent)
            if not missing:
                raw = [value.bytes_le if isinstance(value, uuid.UUID) else value for value in group_values]
                encoded += _format(group.fields).pack(*raw)
        return encoded


class Table:
    """The messages of one protocol, by number and by class."""

    __slots__ = ("by_class", "by_number", "layouts")

    def __init__(self, *layouts: Layout) -> None:
        self.layouts: Final = layouts
        self.by_number: dict[int, Layout] = {layout.number: layout for layout in layouts}
        self.by_class: dict[type[msgspec.Struct], Layout] = {layout.message: layout for layout in layouts}
        assert len(self.by_number) == len(layouts)

    def of(self, message: msgspec.Struct) -> Layout:
        """Return the layout of `message`; LocalProtocolError if it belongs to another protocol."""
        layout = self.by_class.get(type(message))
        if layout is None:
            raise LocalProtocolError(f"{type(message).__name__} is not a message of this protocol")
        return layout
