"""Our codecs against a second decoder that shares nothing with them, over random values of every message."""

import itertools
import random
import struct
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from tests.wire import second_decoder

from dynmem.direction import Direction
from dynmem.wire import dm, monitor_page, packet, synic, vmbus
from dynmem.wire.layout import Bits, Count, Field, Flag, Guid, Int, Layout, Octets, Optional, Reserved, Tail

ROUNDS = 40
LAYOUTS = [("dm", item) for item in dm.TABLE.layouts] + [("channel", item) for item in vmbus.TABLE.layouts]
# what a guest sends may be as long as a packet
LONG = [item for item in dm.TABLE.layouts if item.direction is Direction.GUEST_TO_HOST]
IDS = [f"{room}-{item.name}" for room, item in LAYOUTS]


def number(chance: random.Random, size: int) -> int:
    return chance.choice(
        [0, 1, (1 << 8 * size) - 1, chance.getrandbits(8 * size), chance.getrandbits(8 * size)]
    )


def one(chance: random.Random, field: Field) -> Any:
    if isinstance(field, Int):
        return number(chance, field.size)
    if isinstance(field, Guid):
        return uuid.UUID(int=chance.getrandbits(128))
    if isinstance(field, Octets):
        return chance.randbytes(field.size)
    return chance.randbytes(8 * chance.randrange(20))


def random_values(layout: Layout, chance: random.Random) -> dict[str, Any]:
    """Values for all fields of a message; optional groups are there up to some point."""
    values: dict[str, Any] = {}
    present = chance.randrange(1 + sum(isinstance(field, Optional) for field in layout.fields))
    for field in layout.fields:
        if isinstance(field, Optional):
            for inner in field.fields:
                if not isinstance(inner, Reserved):
                    values[inner.name] = one(chance, inner) if present > 0 else None
            present -= 1
        elif isinstance(field, Bits):
            values.update(
                {part.name: chance.random() < 0.5 for part in field.parts if isinstance(part, Flag)}
            )
        elif isinstance(field, Tail) and layout in LONG:
            values[field.name] = chance.randbytes(8 * chance.choice([0, 1, 19, 511, 1144, 8188]))
        elif not isinstance(field, Reserved):
            values[field.name] = one(chance, field)
    if "range_buflen" in values:
        values["range_buflen"] = len(values["ranges"])
    return values


def encoded(room: str, layout: Layout, values: dict[str, Any]) -> bytes:
    body = layout.encode(layout.message(**values))
    if room == "dm":
        return struct.pack("<HH", layout.number, len(body) + 4) + body
    return struct.pack("<II", layout.number, 0) + body


def agrees(room: str, layout: Layout, values: dict[str, Any]) -> bool:
    """Whether the second decoder reads back what `layout` encodes of `values`."""
    octets = encoded(room, layout, values)
    wanted = {name: value for name, value in values.items() if value is not None}
    try:
        if room == "dm":
            return second_decoder.read_dm(octets) == (layout.number, len(octets), wanted)
        return second_decoder.read_channel(octets) == (layout.number, wanted)
    except (EOFError, KeyError, ValueError):
        return False


@pytest.mark.parametrize(("room", "layout"), LAYOUTS, ids=IDS)
def test_the_second_decoder_reads_what_we_encode(room: str, layout: Layout) -> None:
    chance = random.Random(layout.number)
    for _ in range(ROUNDS):
        assert agrees(room, layout, random_values(layout, chance))


@pytest.mark.parametrize(("room", "layout"), LAYOUTS, ids=IDS)
def test_we_read_what_the_second_encoder_writes_whatever_its_reserved_bits_hold(
    room: str, layout: Layout
) -> None:
    chance = random.Random(layout.number)
    codec: Any = dm if room == "dm" else vmbus
    structures = second_decoder.dm if room == "dm" else second_decoder.channel
    for _ in range(ROUNDS):
        values = random_values(layout, chance)
        octets = encoded(room, layout, values)
        names = [name for name in structures.typedefs if name.split("_")[0] == f"m{layout.number}"]
        fitting = [
            name for name in names if len(names) == 1 or structure_size(structures, name) == len(octets)
        ]
        parsed = getattr(structures, fitting[0])(octets)
        for name in type(parsed).fields:
            if name.startswith(("r0", "r1", "r2", "r3")):
                bits = type(parsed).fields[name].bits or 8 * type(parsed).fields[name].type.size
                setattr(parsed, name, chance.getrandbits(bits))
        assert codec.decode(parsed.dumps()) == layout.message(**values)


def structure_size(structures: Any, name: str) -> int:
    return len(getattr(structures, name))


def swapped(layout: Layout) -> Iterator[Layout]:
    """The layout with two of its fields, or two flags of one word, exchanged: every such mistake."""
    fixed = [at for at, field in enumerate(layout.fields) if not isinstance(field, Optional | Tail)]
    for first, second in itertools.combinations(fixed, 2):
        if layout.fields[first] != layout.fields[second]:
            fields = list(layout.fields)
            fields[first], fields[second] = fields[second], fields[first]
            yield rebuilt(layout, fields)
    for at, field in enumerate(layout.fields):
        if isinstance(field, Bits):
            flags = [part for part in field.parts if isinstance(part, Flag)]
            for one_flag, other in itertools.combinations(flags, 2):
                exchange: dict[Flag | Count, Flag] = {
                    one_flag: Flag(other.name, one_flag.bit),
                    other: Flag(one_flag.name, other.bit),
                }
                parts = tuple(exchange.get(part, part) for part in field.parts)
                yield rebuilt(
                    layout, [*layout.fields[:at], Bits(field.size, parts), *layout.fields[at + 1 :]]
                )
        elif isinstance(field, Optional):
            for first, second in itertools.combinations(range(len(field.fields)), 2):
                inner = list(field.fields)
                inner[first], inner[second] = inner[second], inner[first]
                group = Optional(tuple(inner), field.since)
                yield rebuilt(layout, [*layout.fields[:at], group, *layout.fields[at + 1 :]])


def names_of(fields: list[Field]) -> Iterator[str]:
    for field in fields:
        if isinstance(field, Bits):
            yield from (part.name for part in field.parts if isinstance(part, Flag))
        elif isinstance(field, Optional):
            yield from (inner.name for inner in field.fields if not isinstance(inner, Reserved))
        elif not isinstance(field, Reserved):
            yield field.name


def rebuilt(layout: Layout, fields: list[Field]) -> Layout:
    message = msgspec.defstruct("Swapped", [(name, Any) for name in names_of(fields)], frozen=True)
    return Layout(
        layout.number,
        layout.name,
        message,
        *fields,
        direction=layout.direction,
        offset=layout.offset,
        since=layout.since,
    )


def test_two_fields_exchanged_anywhere_in_our_tables_are_noticed() -> None:
    mistakes = [(room, wrong) for room, layout in LAYOUTS for wrong in swapped(layout)]
    assert len(mistakes) > 200
    for room, wrong in mistakes:
        chance = random.Random(wrong.number)
        samples = [random_values(wrong, chance) for _ in range(ROUNDS)]
        assert not all(agrees(room, wrong, values) for values in samples), (wrong.name, wrong.fields)


@pytest.mark.parametrize("kind", list(packet.PacketType))
def test_ring_packets_of_every_type_are_read_alike(kind: packet.PacketType) -> None:
    chance = random.Random(int(kind))
    for _ in range(ROUNDS):
        ranges: tuple[packet.GpaRange, ...] = ()
        words = b""
        if kind is packet.PacketType.GPA_DIRECT:
            ranges = tuple(random_range(chance) for _ in range(chance.randrange(1, 5)))
            words = packet.encode_gpa_ranges(ranges)
        else:
            words = chance.randbytes(8 * chance.randrange(4))
        data = chance.randbytes(8 * chance.randrange(30))
        sent = packet.Packet(kind, chance.randrange(2), number(chance, 8), data, words)
        octets = packet.encode(sent, index := number(chance, 4))
        shape = "gpa_direct" if ranges else "with_words"
        other = getattr(second_decoder.pages, shape)(octets)
        assert len(other.dumps()) == len(octets)
        assert (other.type, other.flags, other.trans_id, bytes(other.data)) == (
            sent.type,
            sent.flags,
            sent.trans_id,
            data,
        )
        assert other.f.write_index == index
        if ranges:
            found = tuple(
                packet.GpaRange(item.byte_count, item.byte_offset, second_decoder.plain("pfns", item.pfns))
                for item in other.ranges
            )
            assert found == ranges
        else:
            assert bytes(other.words) == words


def random_range(chance: random.Random) -> packet.GpaRange:
    count, offset = chance.randrange(20_000), chance.randrange(8192)
    return packet.GpaRange(count, offset, chance.randbytes(8 * ((count + offset + 4095) // 4096)))


def test_posts_signals_and_slots_are_read_alike() -> None:
    chance = random.Random(1)
    for _ in range(ROUNDS):
        payload = chance.randbytes(chance.randrange(241))
        post = synic.PostMessageInput(number(chance, 4), number(chance, 4), payload)
        other = second_decoder.pages.post(synic.encode_post(post))
        assert (other.connection_id, other.message_type) == (post.connection_id, post.message_type)
        assert bytes(other.payload)[: other.n_payload] == payload
        signal = synic.SignalEventInput(number(chance, 4), number(chance, 2))
        other = second_decoder.pages.signal(synic.encode_signal(signal))
        assert (other.connection_id, other.flag) == (signal.connection_id, signal.flag)


def test_a_message_page_is_read_alike() -> None:
    chance = random.Random(2)
    slots = tuple(
        synic.MessageSlot(
            number(chance, 4),
            chance.randbytes(chance.randrange(241)),
            chance.random() < 0.5,
            number(chance, 8),
        )
        for _ in range(synic.SINT_COUNT)
    )
    page = b"".join(map(synic.encode_slot, slots))
    assert synic.decode_message_page(page) == slots
    for slot, other in zip(slots, second_decoder.pages.message_page(page).slots, strict=True):
        assert (other.message_type, bool(other.pending), other.sender) == (
            slot.message_type,
            slot.pending,
            slot.sender,
        )
        assert bytes(other.payload)[: other.n_payload] == slot.payload


def test_an_event_page_is_read_alike() -> None:
    chance = random.Random(3)
    flags = tuple(
        tuple(sorted(chance.sample(range(synic.EVENT_FLAG_COUNT), chance.randrange(40))))
        for _ in range(synic.SINT_COUNT)
    )
    page = b"".join(map(synic.encode_event_flags, flags))
    assert synic.decode_event_page(page) == flags
    words = second_decoder.pages.event_page(page).flags
    assert flags == tuple(
        tuple(at for at in range(synic.EVENT_FLAG_COUNT) if sint[at // 32] >> at % 32 & 1) for sint in words
    )


def test_a_monitor_page_is_read_alike() -> None:
    chance = random.Random(4)
    many: Callable[[int, int], tuple[int, ...]] = lambda count, size: tuple(  # noqa: E731
        number(chance, size) for _ in range(count)
    )
    times = tuple(chance.choice([-(1 << 31), -1, 0, (1 << 31) - 1]) for _ in range(monitor_page.MONITORS))
    page = monitor_page.MonitorPage(
        7, many(4, 4), many(4, 4), times, many(128, 2), many(128, 4), many(128, 2)
    )
    octets = monitor_page.encode(page)
    assert monitor_page.decode(octets) == page
    other = second_decoder.pages.monitor_page(octets)
    flat: Callable[[Any], list[Any]] = lambda rows: [item for row in rows for item in row]  # noqa: E731
    assert other.trigger_state == 7
    assert tuple(group.pending for group in other.groups) == page.pending
    assert tuple(group.armed for group in other.groups) == page.armed
    assert tuple(flat(other.next_check_times)) == page.next_check_times
    assert tuple(flat(other.latencies)) == page.latencies
    assert tuple(item.connection_id for item in flat(other.parameters)) == page.connection_ids
    assert tuple(item.flag_number for item in flat(other.parameters)) == page.flag_numbers
