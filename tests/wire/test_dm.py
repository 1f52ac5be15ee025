"""The Dynamic Memory Protocol's bytes: vectors from captures of stock Linux, and its own corners."""

import struct
from typing import Any

import pytest

from dynmem.direction import Direction
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import DM_MESSAGE_BYTES_MAX, DM_RANGES_PER_MESSAGE
from dynmem.units import GIB, MIB
from dynmem.wire import dm

# a stock Linux 6.12 guest against a host in Python, and Linux 6.1 against QEMU
CAPTURED = [
    ("01001000010000000000020000000000", dm.VersionRequest(1, dm.VERSION_WIN10, False)),
    ("02001000010000000100000000000000", dm.VersionResponse(1, True)),
    (
        "03002000020000001f000000000000000000000000000000ffffffffffffffff",
        dm.CapabilitiesReport(2, 0x1F, 0, 0xFFFF_FFFF_FFFF_FFFF),
    ),
    ("04001000020000000100000000000000", dm.CapabilitiesResponse(2, True, False, False)),
    (
        "050030000300000048bd0000000000007c60000000000000000000000000000000000000000000000000000000000000",
        dm.StatusReport(3, 48456, 24700, 0, 0, 0, 0),
    ),
    (
        "050030000400000091c2000000000000b561000000000000000000000000000000000000000000000000000000000000",
        dm.StatusReport(4, 49809, 25013, 0, 0, 0, 0),
    ),
    ("06001000010000000040000000000000", dm.BalloonRequest(1, 16384)),
    ("060010000400000000d4010000000000", dm.BalloonRequest(4, 119808)),
    ("0900080006000000", dm.UnballoonResponse(6)),
    ("0a001000030000000000100000000001", dm.HotAddRequest(3, 1 << 40 + 16 | 0x100000)),
    ("0b001000080000000000010001000000", dm.HotAddResponse(8, 65536, 1)),
]
# 32 blocks of 2 MiB from a real balloon response, and the real unballoon request that gave them back
RANGES = bytes.fromhex(
    "0054000000000200005600000000020000b400000000020000b600000000020000b000000000020000b200000000020000ac0000"
    "0000020000ae00000000020000a800000000020000aa00000000020000a400000000020000a600000000020000a0000000000200"
    "00a2000000000200009c000000000200009e0000000002000098000000000200009a000000000200009400000000020000960000"
    "0000020000900000000002000092000000000200008c000000000200008e0000000002000088000000000200008a000000000200"
    "0084000000000200008600000000020000800000000002000082000000000200007c000000000200007e000000000200"
)
CAPTURED += [
    ("07001001050000000000000040000000" + RANGES.hex(), dm.BalloonResponse(5, False, RANGES)),
    ("08001001020000000000000020000000" + RANGES.hex(), dm.UnballoonRequest(2, False, RANGES)),
]
ONE_RANGE = struct.pack("<Q", 0x1234 | 5 << 40)
# by hand, from the header file: what no capture holds
BY_HAND = [
    ("0000080007000000", dm.DmError(7)),
    ("00000c00070000000badf00d", dm.DmError(7, bytes.fromhex("0badf00d"))),
    ("01001000020000000300000001000000", dm.VersionRequest(2, dm.VERSION_WIN7, True)),
    ("02001000020000000000000000000000", dm.VersionResponse(2, False)),
    ("04001000020000000700000000000000", dm.CapabilitiesResponse(2, True, True, True)),
    ("04001000020000000400000000000000", dm.CapabilitiesResponse(2, False, False, True)),
    (
        "050030000100000002000000000000000300000000000000040000000000000005000000000000000600000007000000",
        dm.StatusReport(1, 2, 3, 4, 5, 6, 7),
    ),
    # the reserved word comes first in one, the flag in the other
    ("07001800090000000000000003000000" + ONE_RANGE.hex(), dm.BalloonResponse(9, True, ONE_RANGE)),
    ("08001800090000000100000001000000" + ONE_RANGE.hex(), dm.UnballoonRequest(9, True, ONE_RANGE)),
    ("07001000090000000000000000000000", dm.BalloonResponse(9, False, b"")),
    ("0a001800030000000100000000000002" + "0000000000000008", dm.HotAddRequest(3, 1 | 2 << 56, 8 << 56)),
    ("0c00200004000000000000001000000000000000080000000000100000000000",
     dm.InfoMessage(4, dm.INFO_TYPE_MAX_PAGE_CNT, struct.pack("<Q", 0x100000))),
    ("0d0018000400000001000000000200000300000000000000", dm.HotRemoveRequest(4, 1, 512, 3)),
    ("0e00200004000000010000000100000001000000000000" + "00" + ONE_RANGE.hex(),
     dm.HotRemoveResponse(4, 1, True, ONE_RANGE)),
]  # fmt: skip


@pytest.mark.parametrize(("octets", "message"), CAPTURED + BY_HAND)
def test_known_bytes_and_messages_are_each_others_encoding(octets: str, message: dm.Message) -> None:
    assert dm.decode(bytes.fromhex(octets)) == message
    assert dm.encode(message).hex() == octets


def test_every_message_number_has_a_vector() -> None:
    numbers = {struct.unpack_from("<H", bytes.fromhex(octets))[0] for octets, _ in CAPTURED + BY_HAND}
    assert numbers == set(dm.MessageType) == set(dm.TABLE.by_number)


def test_the_table_names_messages_as_the_header_file_does() -> None:
    assert {layout.number: layout.name for layout in dm.TABLE.layouts} == {
        int(kind): kind.name for kind in dm.MessageType
    }


def test_each_version_knows_its_messages() -> None:
    known = {
        version: max(layout.number for layout in dm.TABLE.layouts if layout.since <= version)
        for version in (dm.VERSION_WIN7, dm.VERSION_WIN8, dm.VERSION_WIN10)
    }
    assert known == {dm.VERSION_WIN7: 11, dm.VERSION_WIN8: 12, dm.VERSION_WIN10: 14}
    for version, last in known.items():
        assert dm.known_in(version) == {kind for kind in dm.MessageType if kind <= last}


def test_a_version_refuses_messages_that_only_later_ones_know() -> None:
    remove = dm.encode(dm.HotRemoveRequest(1, 0, 512, dm.REMOVE_QOS_LARGE))
    assert dm.decode(remove, dm.VERSION_WIN10) == dm.decode(remove)
    for version in (dm.VERSION_WIN7, dm.VERSION_WIN8):
        with pytest.raises(RemoteProtocolError, match="unknown dynamic memory message 13"):
            dm.decode(remove, version)


def test_guest_and_host_each_send_their_own_messages() -> None:
    up = {layout.number for layout in dm.TABLE.layouts if layout.direction is Direction.GUEST_TO_HOST}
    assert up - {0} == {1, 3, 5, 7, 9, 11, 14}


def test_the_minor_version_keeps_eight_of_its_sixteen_bits() -> None:
    version = dm.make_version(2, 0x1234)
    assert (version, dm.major_version(version), dm.minor_version(version)) == (0x0002_1234, 2, 0x34)
    assert (dm.VERSION_WIN7, dm.VERSION_WIN8, dm.VERSION_WIN10) == (3, 0x10000, 0x20000)


def test_hot_add_alignment_is_a_power_of_two_of_mebibytes() -> None:
    assert dm.hot_add_alignment_bytes(dm.CAP_BALLOON | dm.CAP_HOT_ADD | dm.CAP_HOT_REMOVE) == MIB
    assert dm.hot_add_alignment_bytes(0x1F) == 128 * MIB
    assert dm.hot_add_alignment_bytes(0xFFFF_FFFF) == 32 * GIB


@pytest.mark.parametrize(("octets", "message"), CAPTURED + BY_HAND)
def test_padding_behind_a_message_is_ignored(octets: str, message: dm.Message) -> None:
    assert dm.decode(bytes.fromhex(octets) + b"\xff" * 8) == message


@pytest.mark.parametrize(("octets", "message"), CAPTURED + BY_HAND)
def test_a_message_cut_anywhere_is_refused(octets: str, message: dm.Message) -> None:
    whole = bytes.fromhex(octets)
    for length in range(len(whole)):
        with pytest.raises(RemoteProtocolError):
            dm.decode(whole[:length])


@pytest.mark.parametrize(("octets", "message"), CAPTURED + BY_HAND)
def test_a_size_that_says_less_never_reads_beyond_it(octets: str, message: dm.Message) -> None:
    whole = bytearray.fromhex(octets)
    for size in range(len(whole)):
        struct.pack_into("<H", whole, 2, size)
        try:
            decoded: Any = dm.decode(bytes(whole))
        except RemoteProtocolError:
            continue
        assert isinstance(decoded, dm.DmError | dm.HotAddRequest)  # the two that have a shorter form
        assert len(dm.encode(decoded)) <= size


@pytest.mark.parametrize("number", [7, 8, 14])
def test_a_range_count_beyond_the_message_is_refused(number: int) -> None:
    fixed = {7: "<II", 8: "<II", 14: "<IIQ"}[number]
    counts = {7: (0, 2 << 1), 8: (0, 2), 14: (0, 2, 0)}[number]
    body = struct.pack(fixed, *counts) + ONE_RANGE
    with pytest.raises(RemoteProtocolError, match="2 x 8 bytes"):
        dm.decode(struct.pack("<HHI", number, 8 + len(body), 1) + body)
    huge = struct.pack(fixed, *(0xFFFF_FFFF if count else 0 for count in counts)) + ONE_RANGE
    with pytest.raises(RemoteProtocolError):
        dm.decode(struct.pack("<HHI", number, 8 + len(huge), 1) + huge)


def test_an_information_message_with_two_lengths_is_refused() -> None:
    for info_size, data_size in ((15, 8), (16, 9), (7, 0), (0, 0), (0xFFFF_FFFF, 8)):
        body = struct.pack("<IIII", 0, info_size, 0, data_size) + bytes(8)
        with pytest.raises(RemoteProtocolError):
            dm.decode(struct.pack("<HHI", 12, 8 + len(body), 1) + body)


def test_a_message_of_510_ranges_fills_a_page_and_511_do_not_fit() -> None:
    full = dm.encode(dm.BalloonResponse(1, True, bytes(8 * DM_RANGES_PER_MESSAGE)))
    assert len(full) == DM_MESSAGE_BYTES_MAX
    assert dm.decode(full) == dm.BalloonResponse(1, True, bytes(8 * DM_RANGES_PER_MESSAGE))
    with pytest.raises(LocalProtocolError):
        dm.encode(dm.BalloonResponse(1, True, bytes(8 * (DM_RANGES_PER_MESSAGE + 1))))


def test_a_guests_message_may_be_as_long_as_its_size_can_say_and_a_hosts_as_long_as_a_page() -> None:
    most = (0xFFFF - 16) // 8
    for count in (600, 1144, most):  # Windows may return 585,728 pages in 1144 ranges of 2 MiB
        ranges = bytes(range(8)) * count
        body = struct.pack("<II", 0, count << 1) + ranges
        message = dm.BalloonResponse(1, more_pages=False, ranges=ranges)
        assert dm.decode(struct.pack("<HHI", 7, 8 + len(body), 1) + body) == message
        with pytest.raises(LocalProtocolError, match="above 4096"):
            dm.encode(message)
    body = struct.pack("<II", 0, 600) + bytes(8 * 600)
    with pytest.raises(RemoteProtocolError, match="above 4096"):
        dm.decode(struct.pack("<HHI", 8, 8 + len(body), 1) + body)


def test_an_unknown_number_is_refused() -> None:
    for number in (15, 16, 0xFFFF):
        with pytest.raises(RemoteProtocolError, match="unknown"):
            dm.decode(struct.pack("<HHI", number, 8, 1))


@pytest.mark.parametrize(
    "message",
    [
        dm.BalloonRequest(1, -1),
        dm.BalloonRequest(1, 1 << 32),
        dm.VersionRequest(1 << 32, 0, False),
        dm.UnballoonRequest(1, False, b"1234567"),
        dm.HotAddRequest(1, 1 << 64),
        dm.DmError(1, bytes(5000)),
        dm.InfoMessage(1, -1, b""),
        dm.StatusReport(1, 0, 0, 0, 0, 0, 1 << 32),
    ],
)
def test_a_value_that_does_not_fit_is_our_own_error(message: dm.Message) -> None:
    with pytest.raises(LocalProtocolError):
        dm.encode(message)
