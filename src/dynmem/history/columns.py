"""Columns of whole numbers as few bytes: most figures of a VM are the same from one sweep to the next.

    column      tag, then:
                0  nothing: no value is known
                1  one number: all are the same
                2  numbers in words: differences from one to the next, divided by what divides them all,
                   in the narrowest of 1, 2, 4 and 8 bytes, first all lowest bytes, then all second ones, ...
                3  numbers in decimal, for those that are too large for that
                + 8: a bitmap of the values that are known comes first

Numbers before the words are varints (7 bits a byte, the lowest first), signed ones zigzag.
"""

import math
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Final

from dynmem.errors import RemoteProtocolError

Column = Sequence[int | None]

_NOTHING: Final = 0
_SAME: Final = 1
_WORDS: Final = 2
_DECIMAL: Final = 3
_GAPS: Final = 8
_WIDTHS: Final = (("b", 1, 1 << 7), ("h", 2, 1 << 15), ("i", 4, 1 << 31), ("q", 8, 1 << 63))
# A varint of more bytes is none of ours.
_VARINT_BYTES_MAX: Final = 20


class MalformedError(RemoteProtocolError):
    """The bytes are no block of a history."""


def varint(number: int) -> bytes:
    """Return a whole number that is not negative."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def signed(number: int) -> bytes:
    """Return a whole number."""
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


class Reader:
    """Bytes, and how far they were read. MalformedError where they end too soon."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        """Whether all of it was read."""
        return self._at >= len(self._data)

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        end = self._at + count
        if end > len(self._data):
            raise MalformedError("a block of the history ends too soon")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def varint(self) -> int:
        """Return the next whole number that is not negative."""
        data, at, number, shift = self._data, self._at, 0, 0
        for byte in data[at : at + _VARINT_BYTES_MAX]:
            at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                self._at = at
                return number
            shift += 7
        raise MalformedError("a number in a block of the history has no end")

    def pass_over(self, count: int) -> None:
        """Leave out the next bytes."""
        self._at += count
        if self._at > len(self._data):
            raise MalformedError("a block of the history ends too soon")

    def signed(self) -> int:
        """Return the next whole number."""
        number = self.varint()
        return -((number + 1) >> 1) if number & 1 else number >> 1


def pack(column: Column) -> bytes:
    """Return a column as bytes; `unpack` returns the same."""
    first = column[0]
    if column.count(first) == len(column):
        return bytes((_NOTHING,)) if first is None else bytes((_SAME,)) + signed(first)
    known = [number for number in column if number is not None]
    if len(known) == len(column):
        return _packed(known, 0, b"")
    bits = sum(1 << at for at, number in enumerate(column) if number is not None)
    return _packed(known, _GAPS, bits.to_bytes(-(-len(column) // 8), "little"))


def _packed(known: Sequence[int], gaps: int, bitmap: bytes) -> bytes:
    unit = math.gcd(*known) or 1
    steps = [(after - before) // unit for before, after in pairwise(known)]
    most = max(map(abs, steps), default=0)
    for code, width, limit in _WIDTHS:
        if most < limit:
            raw = array(code, steps).tobytes()
            planes = b"".join([raw[at::width] for at in range(width)])
            head = bytes((_WORDS | gaps, width)) + bitmap
            return head + varint(unit) + signed(known[0] // unit) + planes
    text = ",".join(map(str, known)).encode()
    return bytes((_DECIMAL | gaps,)) + bitmap + varint(len(text)) + text


def unpack(reader: Reader, rows: int) -> list[int | None]:
    """Return the next column, of so many rows."""
    tag = reader.take(1)[0]
    if tag == _NOTHING:
        return [None] * rows
    if tag == _SAME:
        return [reader.signed()] * rows
    kind, width = tag & ~_GAPS, reader.take(1)[0] if tag & ~_GAPS == _WORDS else 0
    places = range(rows)
    if tag & _GAPS:
        bits = int.from_bytes(reader.take(-(-rows // 8)), "little")
        places_known: Sequence[int] = [at for at in places if bits >> at & 1]
    else:
        places_known = places
    if kind == _WORDS:
        known = _from_words(reader, width, len(places_known))
    elif kind == _DECIMAL:
        known = _from_text(reader.take(reader.varint()))
    else:
        raise MalformedError(f"a block of the history has a column of kind {tag}")
    if len(known) != len(places_known):
        raise MalformedError("a block of the history has too many or too few numbers")
    if len(known) == rows:
        return list(known)
    column: list[int | None] = [None] * rows
    for at, number in zip(places_known, known, strict=True):
        column[at] = number
    return column


def skip(reader: Reader, rows: int) -> None:
    """Pass over the next column."""
    tag = reader.take(1)[0]
    kind = tag & ~_GAPS
    if tag == _SAME:
        reader.varint()
    elif kind == _WORDS:
        width = reader.take(1)[0]
        count = rows
        if tag & _GAPS:
            count = int.from_bytes(reader.take(-(-rows // 8)), "little").bit_count()
        reader.varint()
        reader.varint()
        reader.pass_over(max(0, count - 1) * width)
    elif kind == _DECIMAL:
        if tag & _GAPS:
            reader.pass_over(-(-rows // 8))
        reader.pass_over(reader.varint())
    elif tag != _NOTHING:
        raise MalformedError(f"a block of the history has a column of kind {tag}")


def skip_texts(reader: Reader, rows: int) -> None:
    """Pass over the next texts."""
    count = reader.varint()
    if not 0 < count <= rows:
        raise MalformedError(f"a block of the history has {count} texts in {rows} rows")
    for _ in range(count):
        reader.pass_over(reader.varint())
    skip(reader, rows)


def _from_words(reader: Reader, width: int, count: int) -> list[int]:
    code = next((code for code, bytes_, _ in _WIDTHS if bytes_ == width), "")
    if not code or not count:
        raise MalformedError(f"a block of the history has {count} numbers of {width} bytes")
    unit, first = reader.varint(), reader.signed()
    raw = bytearray((count - 1) * width)
    for at in range(width):
        raw[at::width] = reader.take(count - 1)
    steps = array(code)
    steps.frombytes(bytes(raw))
    return [number * unit for number in accumulate(steps, initial=first)]


def _from_text(text: bytes) -> list[int]:
    try:
        return [int(number) for number in text.decode("ascii").split(",")]
    except ValueError as error:
        raise MalformedError("a block of the history has a number that is none") from error


def pack_texts(texts: Sequence[str]) -> bytes:
    """Return texts as bytes, each different one once."""
    places = {text: at for at, text in enumerate(dict.fromkeys(texts))}
    parts = [varint(len(places))]
    for text in places:
        raw = text.encode("utf-8", "surrogatepass")
        parts += [varint(len(raw)), raw]
    parts.append(pack([places[text] for text in texts]))
    return b"".join(parts)


def unpack_texts(reader: Reader, rows: int) -> list[str]:
    """Return the next texts, of so many rows."""
    count = reader.varint()
    if not 0 < count <= rows:
        raise MalformedError(f"a block of the history has {count} texts in {rows} rows")
    try:
        texts = [reader.take(reader.varint()).decode("utf-8", "surrogatepass") for _ in range(count)]
    except UnicodeDecodeError as error:
        raise MalformedError("a block of the history has a text that is none") from error
    return [texts[at] for at in _within(unpack(reader, rows), count)]


def _within(places: Iterable[int | None], count: int) -> Iterable[int]:
    for at in places:
        if at is None or not 0 <= at < count:
            raise MalformedError("a block of the history names a text that it has not")
        yield at
