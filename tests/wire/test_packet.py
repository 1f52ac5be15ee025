"""Ring packets: vectors from a dump of guest memory, padding, GPA ranges, lengths that lie."""

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.wire import packet
from dynmem.wire.packet import GpaRange, Packet, PacketType

# descriptors and bodies as a Linux guest and QEMU wrote them into their rings
DUMPED = [
    ("06000200040000000400000000000000", "060010000400000000d4010000000000", 4),
    ("06000200040000000000000000000000", "01001000010000000000020000000000", 0),
    (
        "06000200060000000000000000000000",
        "03002000020000001f000000000000000000000000000000ffffffffffffffff",
        0,
    ),
]


@pytest.mark.parametrize(("descriptor", "body", "trans_id"), DUMPED)
def test_dumped_packets_decode_and_encode(descriptor: str, body: str, trans_id: int) -> None:
    whole = bytes.fromhex(descriptor + body) + struct.pack("<II", 0, 0x1E8)
    assert packet.peek_length(whole[:16]) == len(whole)
    decoded = packet.decode(whole)
    assert decoded == Packet(PacketType.INBAND, 0, trans_id, bytes.fromhex(body))
    assert packet.encode(decoded, 0x1E8) == whole


def test_the_footer_is_not_looked_at() -> None:
    whole = packet.encode(Packet(PacketType.INBAND, 0, 1, bytes(8)), 64)
    assert packet.decode(whole[:-8] + b"\xff" * 8) == packet.decode(whole)


@given(st.binary(max_size=200), st.integers(0, 2**64 - 1), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_body_comes_back_padded_to_eight_bytes(data: bytes, trans_id: int, completion: bool) -> None:
    whole = packet.encode(Packet(PacketType.INBAND, int(completion), trans_id, data), 0)
    decoded = packet.decode(whole)
    assert decoded.data == data + bytes(-len(data) % 8)
    assert (decoded.trans_id, decoded.flags) == (trans_id, int(completion))


@given(st.lists(st.tuples(st.integers(0, 20000), st.integers(0, 8191)), min_size=1, max_size=5), st.binary())
@settings(max_examples=100, deadline=None)
def test_gpa_ranges_travel_with_their_pages(shapes: list[tuple[int, int]], data: bytes) -> None:
    ranges = tuple(
        GpaRange(count, offset, bytes(8 * ((offset + count + 4095) // 4096))) for count, offset in shapes
    )
    words = packet.encode_gpa_ranges(ranges)
    sent = Packet(PacketType.GPA_DIRECT, 1, 5, data + bytes(-len(data) % 8), words)
    whole = packet.encode(sent, 0)
    assert packet.decode(whole) == sent
    assert packet.decode_gpa_ranges(words) == ranges
    for cut in range(16, len(whole), 8):
        with pytest.raises(RemoteProtocolError):
            packet.decode(whole[:cut])
    for cut in range(len(words)):
        with pytest.raises(RemoteProtocolError):
            packet.decode_gpa_ranges(words[:cut])


def test_a_packet_is_decoded_without_a_look_at_its_ranges() -> None:
    """Whoever sends it says how many there are: an object for each would be work that nobody asked for."""
    words = struct.pack("<II", 0, 65_532) + bytes(8 * 65_532)
    whole = packet.encode(Packet(PacketType.GPA_DIRECT, 0, 1, b"", words), 0)
    tracemalloc.start()
    decoded = packet.decode(whole)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert decoded.descriptor == words
    assert most < 2 * len(whole)


@pytest.mark.parametrize("kind", list(PacketType))
def test_every_type_keeps_its_own_descriptor_words(kind: PacketType) -> None:
    sent = Packet(kind, 0, 9, b"12345678", b"descript")
    assert packet.decode(packet.encode(sent, 0)) == sent


def descriptor(kind: int = 6, offset8: int = 2, len8: int = 3, flags: int = 0) -> bytes:
    return struct.pack("<HHHHQ", kind, offset8, len8, flags, 1)


@pytest.mark.parametrize(
    "head",
    [
        descriptor(kind=0),
        descriptor(kind=14),
        descriptor(offset8=1),
        descriptor(offset8=4),
        descriptor(offset8=0xFFFF),
        descriptor(len8=0),
        descriptor(flags=2),
        descriptor()[:15],
        b"",
    ],
)
def test_a_wrong_descriptor_is_refused_before_its_body_is_read(head: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        packet.peek_length(head)


@pytest.mark.parametrize(
    "words",
    [
        b"",
        struct.pack("<II", 0, 0),
        struct.pack("<II", 0, 1),
        struct.pack("<II", 0, 0xFFFF_FFFF),
        struct.pack("<IIII", 0, 1, 4097, 0) + bytes(8),
        struct.pack("<IIII", 0, 1, 0xFFFF_FFFF, 0xFFFF_FFFF) + bytes(8),
        struct.pack("<IIII", 0, 2, 0, 0),
        struct.pack("<IIIIQ", 0, 2, 4096, 0, 7),
    ],
)
def test_gpa_ranges_that_lie_about_their_pages_are_refused(words: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        packet.decode_gpa_ranges(words)


@pytest.mark.parametrize(
    "wrong",
    [
        Packet(6, 0, 0, bytes(0x80000)),
        Packet(6, 0, -1, b""),
        Packet(6, 0x10000, 0, b""),
        Packet(6, 0, 0, b"", b"odd"),
        Packet(9, 0, 0, b"", b"odd"),
    ],
)
def test_a_packet_that_cannot_be_is_our_own_error(wrong: Packet) -> None:
    with pytest.raises(LocalProtocolError):
        packet.encode(wrong, 0)


def test_a_range_without_its_pages_is_our_own_error() -> None:
    with pytest.raises(LocalProtocolError):
        packet.encode_gpa_ranges([GpaRange(4097, 0, bytes(8))])
