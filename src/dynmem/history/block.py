"""A block: the figures and texts of one VM, or of the host, over some rows of time, as compressed columns.

Columns are known by their number, which is never given to another: a reader leaves out those that are unknown
to it, and those that a block does not have are not known. A column in which nothing is known takes no bytes.
"""

import zlib
from collections.abc import Container, Mapping, Sequence
from typing import Final

import msgspec

from dynmem.history.columns import (
    Column,
    MalformedError,
    Reader,
    pack,
    pack_texts,
    skip,
    skip_texts,
    unpack,
    unpack_texts,
    varint,
)
from dynmem.limits import HISTORY_BLOCK_BYTES_MAX, HISTORY_BLOCK_ROWS_MAX
from dynmem.manager.step.sample import HostSample, VmSample

_VERSION: Final = 1
_LEVEL: Final = 6

#: What is kept of a VM's size over a time: of these, the seconds known, the sum over them, least and most.
VM_SERIES: Final = ("demand", "actual", "resident", "pressure", "short")
HOST_SERIES: Final = ("available", "free", "claimed", "shortage", "swapped", "stalled")
#: What is kept of each: tenths of a second in which it is known, its sum over these, its least and its most.
PARTS: Final = ("ds", "sum", "low", "high")

#: When each row was, in milliseconds since the epoch, and for how long it stands.
AT: Final = "at_ms"
FOR: Final = "for_ds"
IS_SWEEP: Final = "is_sweep"

_TEXTS: Final = frozenset(
    field.name
    for kind in (VmSample, HostSample)
    for field in msgspec.structs.fields(kind)
    if field.type is str
)
#: The texts and figures of a sample, in the order of its fields; a VM's name is the block's.
VM_TEXTS: Final = tuple(each for each in VmSample.__struct_fields__ if each in _TEXTS and each != "name")
VM_FIGURES: Final = tuple(each for each in VmSample.__struct_fields__ if each not in _TEXTS)
HOST_TEXTS: Final = tuple(each for each in HostSample.__struct_fields__ if each in _TEXTS)
HOST_FIGURES: Final = tuple(each for each in HostSample.__struct_fields__ if each not in _TEXTS)

# The numbers of the columns: one is only ever added at the end of its list, and none is taken out.
_NUMBERS: Final[Mapping[str, int]] = {
    name: base + at
    for base, names in (
        (1, (AT, FOR, IS_SWEEP)),
        (16, VM_TEXTS),
        (48, VM_FIGURES),
        (112, HOST_TEXTS),
        (128, HOST_FIGURES),
        (192, [f"{series}.{part}" for series in VM_SERIES for part in PARTS]),
        (256, [f"host {series}.{part}" for series in HOST_SERIES for part in PARTS]),
    )
    for at, name in enumerate(names)
}
_NAMES: Final = {number: name for name, number in _NUMBERS.items()}


class Block(msgspec.Struct):
    """Columns by their names; all have *rows* rows."""

    rows: int
    figures: dict[str, Column]
    texts: dict[str, Sequence[str]]

    def figure(self, name: str) -> Column:
        """Return a column of numbers; one that the block does not have is not known."""
        return self.figures.get(name) or [None] * self.rows

    def text(self, name: str) -> Sequence[str]:
        """Return a column of texts; those that the block does not have are empty."""
        return self.texts.get(name) or [""] * self.rows


def encode(block: Block) -> bytes:
    """Return a block as bytes; `decode` returns the same."""
    parts = [bytes((_VERSION,)), varint(block.rows)]
    for name, texts in block.texts.items():
        if any(texts):
            parts += [varint(_NUMBERS[name] << 1 | 1), pack_texts(texts)]
    for name, figures in block.figures.items():
        packed = pack(figures)
        if packed != b"\0":
            parts += [varint(_NUMBERS[name] << 1), packed]
    return zlib.compress(b"".join(parts), _LEVEL)


def decode(data: bytes, only: Container[str] | None = None) -> Block:
    """Return the block that these bytes are, or only some of its columns. MalformedError if they are none."""
    unzip = zlib.decompressobj()
    try:
        plain = unzip.decompress(data, HISTORY_BLOCK_BYTES_MAX)
    except zlib.error as error:
        raise MalformedError(f"a block of the history cannot be decompressed ({error})") from error
    if not unzip.eof or unzip.unused_data:
        raise MalformedError("a block of the history has no end, or more behind it")
    reader = Reader(plain)
    if (version := reader.take(1)[0]) != _VERSION:
        raise MalformedError(f"a block of the history has version {version}")
    rows = reader.varint()
    if not 0 < rows <= HISTORY_BLOCK_ROWS_MAX:
        raise MalformedError(f"a block of the history has {rows} rows")
    block = Block(rows, {}, {})
    while not reader.is_at_end:
        key = reader.varint()
        name = _NAMES.get(key >> 1)
        if name is None or (only is not None and name not in only):
            (skip_texts if key & 1 else skip)(reader, rows)
        elif key & 1:
            block.texts[name] = unpack_texts(reader, rows)
        else:
            block.figures[name] = unpack(reader, rows)
    return block
