"""Round trips and garbage for every message of the three tables, from strategies made of the tables."""

import contextlib
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.errors import RemoteProtocolError
from dynmem.wire import dm, hardware, packet, synic, vmbus
from dynmem.wire.layout import Bits, Flag, Guid, Int, Layout, Octets, Optional, Reserved, Tail

TABLES: dict[str, Any] = {"dm": dm, "vmbus": vmbus, "hardware": hardware}
LAYOUTS = [(name, layout) for name, module in TABLES.items() for layout in module.TABLE.layouts]


def field_values(layout: Layout) -> st.SearchStrategy[list[Any]]:
    """Values for the message's fields, in order; optional groups are there up to some point."""
    optional_groups = [field for field in layout.fields if isinstance(field, Optional)]

    def values(present: int) -> st.SearchStrategy[list[Any]]:
        parts: list[st.SearchStrategy[Any]] = []
        group_number = 0
        for field in layout.fields:
            if isinstance(field, Optional):
                parts.extend(one(inner) if group_number < present else st.none() for inner in named(field))
                group_number += 1
            elif isinstance(field, Bits):
                parts.extend(st.booleans() for part in field.parts if isinstance(part, Flag))
            elif not isinstance(field, Reserved):
                parts.append(one(field))
        return st.tuples(*parts).map(list)

    return st.integers(0, len(optional_groups)).flatmap(values)


def named(group: Optional) -> list[Int | Guid]:
    return [field for field in group.fields if not isinstance(field, Reserved)]


def one(field: Int | Guid | Octets | Tail | Optional | Bits | Reserved) -> st.SearchStrategy[Any]:
    if isinstance(field, Int):
        return st.integers(0, (1 << 8 * field.size) - 1)
    if isinstance(field, Guid):
        return st.uuids().map(lambda value: uuid.UUID(int=value.int))
    if isinstance(field, Octets):
        return st.binary(min_size=field.size, max_size=field.size)
    return st.integers(0, 20).flatmap(lambda words: st.binary(min_size=8 * words, max_size=8 * words))


@pytest.mark.parametrize(("table", "layout"), LAYOUTS, ids=[f"{name}-{item.name}" for name, item in LAYOUTS])
def test_what_is_encoded_is_what_is_decoded(table: str, layout: Layout) -> None:
    codec = TABLES[table]

    @settings(max_examples=15, deadline=None)
    @given(field_values(layout))
    def round_trip(values: list[Any]) -> None:
        if layout.message is vmbus.GpadlHeader:
            values[2] = len(values[-1])  # the declared length of a GPADL's ranges, else padding is cut off
        message = layout.message(*values)
        octets = codec.encode(message)
        assert codec.decode(octets) == message
        assert codec.encode(codec.decode(octets)) == octets

    round_trip()


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "dm": dm.decode,
    "vmbus": vmbus.decode,
    "hardware": hardware.decode,
    "packet": packet.decode,
    "packet length": packet.peek_length,
    "post": synic.decode_post,
    "signal": synic.decode_signal,
    "slot": synic.decode_slot,
}


def plausible(number_bytes: int) -> st.SearchStrategy[bytes]:
    """Bytes whose first word is often a known number and whose other words are often extreme."""
    word = st.sampled_from([0, 1, 2, 7, 8, 9, 16, 20, 24, 0x7FFF, 0xFFFF]).map(
        lambda value: value.to_bytes(2, "little")
    )
    head = st.integers(0, 30).map(lambda value: value.to_bytes(number_bytes, "little"))
    return st.builds(lambda first, rest: first + b"".join(rest), head, st.lists(word, max_size=140))


@pytest.mark.parametrize("name", DECODERS)
def test_garbage_raises_nothing_but_remote_protocol_error(name: str) -> None:
    decode = DECODERS[name]

    @settings(max_examples=300, deadline=None)
    @given(st.one_of(st.binary(max_size=300), plausible(2), plausible(4)))
    def survives(octets: bytes) -> None:
        with contextlib.suppress(RemoteProtocolError):
            assert decode(octets) is not None

    survives()
