"""The Dynamic Memory Protocol on the wire: its fifteen messages, versions and capability bits.

Every message begins with type (u16), size (u16, header included) and transaction id (u32). `decode` goes by
`size`, not by the length of the packet, because packets are padded to eight bytes; `size` may be larger than
the message's fields. Page ranges stay packed: ``ranges`` is an array of little-endian u64 words, each with
start_page in bits 0..39 and page_cnt in bits 40..63. Note the opposite orders of the two words that precede
the ranges in DM_BALLOON_RESPONSE and DM_UNBALLOON_REQUEST.

Source: QEMU include/hw/hyperv/dynmem-proto.h; Linux drivers/hv/hv_balloon.c (hot add with region).
"""

import enum
import functools
import struct
import uuid
from typing import Final

import msgspec

from dynmem.direction import Direction
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import DM_MESSAGE_BYTES_MAX
from dynmem.units import MIB
from dynmem.wire.layout import (
    NEWEST,
    Count,
    Flag,
    Layout,
    Reserved,
    Table,
    Tail,
    bits,
    optional,
    u32,
    u64,
)

BALLOON_DEVICE_TYPE: Final = uuid.UUID("525074dc-8985-46e2-8057-a307dc18a502")
HEADER_BYTES: Final = 8


def make_version(major: int, minor: int) -> int:
    """Return a protocol version: major in the high 16 bits, minor in the low 16."""
    return (major << 16 | minor) & 0xFFFF_FFFF


def major_version(version: int) -> int:
    """Return the major part of a version."""
    return (version & 0xFFFF_FFFF) >> 16


def minor_version(version: int) -> int:
    """Return the minor part of a version: its low eight bits only, although the field has sixteen."""
    return version & 0xFF


VERSION_WIN7: Final = make_version(0, 3)
VERSION_WIN8: Final = make_version(1, 0)
VERSION_WIN10: Final = make_version(2, 0)

CAP_BALLOON: Final = 1 << 0
CAP_HOT_ADD: Final = 1 << 1
CAP_HOT_REMOVE: Final = 1 << 6
HOT_ADD_ALIGNMENT_SHIFT: Final = 2
HOT_ADD_ALIGNMENT_MASK: Final = 0xF

REMOVE_QOS_LARGE: Final = 1 << 0
REMOVE_QOS_LOCAL: Final = 1 << 1
REMOVE_QOS_MASK: Final = 0x3

INFO_TYPE_MAX_PAGE_CNT: Final = 0


def hot_add_alignment_bytes(caps: int) -> int:
    """Return the guest's hot-add alignment: bits 2..5 of `caps` are n of 2^n MiB (1 MiB to 32 GiB)."""
    return MIB << (caps >> HOT_ADD_ALIGNMENT_SHIFT & HOT_ADD_ALIGNMENT_MASK)


class MessageType(enum.IntEnum):
    """Message numbers under their names in the protocol's header file."""

    DM_ERROR = 0
    DM_VERSION_REQUEST = 1
    DM_VERSION_RESPONSE = 2
    DM_CAPABILITIES_REPORT = 3
    DM_CAPABILITIES_RESPONSE = 4
    DM_STATUS_REPORT = 5
    DM_BALLOON_REQUEST = 6
    DM_BALLOON_RESPONSE = 7
    DM_UNBALLOON_REQUEST = 8
    DM_UNBALLOON_RESPONSE = 9
    DM_MEM_HOT_ADD_REQUEST = 10
    DM_MEM_HOT_ADD_RESPONSE = 11
    DM_INFO_MESSAGE = 12
    DM_MEM_HOT_REMOVE_REQUEST = 13
    DM_MEM_HOT_REMOVE_RESPONSE = 14


class DmError(msgspec.Struct, frozen=True, gc=False):
    """An error; the protocol gives it no body of its own."""

    trans_id: int
    data: bytes = b""


class VersionRequest(msgspec.Struct, frozen=True, gc=False):
    """The guest asks for a protocol version."""

    trans_id: int
    version: int
    is_last_attempt: bool


class VersionResponse(msgspec.Struct, frozen=True, gc=False):
    """The host accepts the version or not."""

    trans_id: int
    is_accepted: bool


class CapabilitiesReport(msgspec.Struct, frozen=True, gc=False):
    """What the guest can do: capability bits, the least pages it needs, the last page number it can use."""

    trans_id: int
    caps: int
    min_page_cnt: int
    max_page_number: int


class CapabilitiesResponse(msgspec.Struct, frozen=True, gc=False):
    """The host accepts the capabilities or not; if not, the guest stops the service."""

    trans_id: int
    is_accepted: bool
    hot_remove: bool
    suppress_pressure_reports: bool


class StatusReport(msgspec.Struct, frozen=True, gc=False):
    """The guest's memory pressure, in pages; there is no reply."""

    trans_id: int
    num_avail: int
    num_committed: int
    page_file_size: int
    zero_free: int
    page_file_writes: int
    io_diff: int


class BalloonRequest(msgspec.Struct, frozen=True, gc=False):
    """The host asks the guest to give up pages."""

    trans_id: int
    num_pages: int


class BalloonResponse(msgspec.Struct, frozen=True, gc=False):
    """Pages that the guest gave up; `more_pages` while another message of the transaction follows."""

    trans_id: int
    more_pages: bool
    ranges: bytes


class UnballoonRequest(msgspec.Struct, frozen=True, gc=False):
    """Pages that the host returns; `more_pages` while another message of the transaction follows."""

    trans_id: int
    more_pages: bool
    ranges: bytes


class UnballoonResponse(msgspec.Struct, frozen=True, gc=False):
    """The guest has taken all pages of an unballoon transaction."""

    trans_id: int


class HotAddRequest(msgspec.Struct, frozen=True, gc=False):
    """A page range of new memory, and the region it lies in (the longer form), as packed range words."""

    trans_id: int
    range: int
    region: int | None = None


class HotAddResponse(msgspec.Struct, frozen=True, gc=False):
    """How many pages were added; `result` 1 is success, 0 failure."""

    trans_id: int
    page_count: int
    result: int


class InfoMessage(msgspec.Struct, frozen=True, gc=False):
    """Information for the guest; type 0 is the largest page count that it will ever have (u64)."""

    trans_id: int
    info_type: int
    data: bytes


class HotRemoveRequest(msgspec.Struct, frozen=True, gc=False):
    """The host asks for pages of one virtual NUMA node permanently."""

    trans_id: int
    virtual_node: int
    page_count: int
    qos_flags: int


class HotRemoveResponse(msgspec.Struct, frozen=True, gc=False):
    """Pages that the guest gave up permanently."""

    trans_id: int
    result: int
    more_pages: bool
    ranges: bytes


Message = (
    DmError
    | VersionRequest
    | VersionResponse
    | CapabilitiesReport
    | CapabilitiesResponse
    | StatusReport
    | BalloonRequest
    | BalloonResponse
    | UnballoonRequest
    | UnballoonResponse
    | HotAddRequest
    | HotAddResponse
    | InfoMessage
    | HotRemoveRequest
    | HotRemoveResponse
)

# behind type and size; the transaction id is a field of each message
_OFFSET: Final = 4
_up = functools.partial(Layout, direction=Direction.GUEST_TO_HOST, offset=_OFFSET)
_down = functools.partial(Layout, direction=Direction.HOST_TO_GUEST, offset=_OFFSET)
_ID: Final = u32("trans_id")

TABLE: Final = Table(
    _up(0, "DM_ERROR", DmError, _ID, Tail("data"), since=VERSION_WIN7),
    _up(
        1,
        "DM_VERSION_REQUEST",
        VersionRequest,
        _ID,
        u32("version"),
        bits(4, Flag("is_last_attempt", 0)),
        since=VERSION_WIN7,
    ),
    _down(
        2, "DM_VERSION_RESPONSE", VersionResponse, _ID, bits(8, Flag("is_accepted", 0)), since=VERSION_WIN7
    ),
    _up(
        3,
        "DM_CAPABILITIES_REPORT",
        CapabilitiesReport,
        _ID,
        u64("caps"),
        u64("min_page_cnt"),
        u64("max_page_number"),
        since=VERSION_WIN7,
    ),
    _down(
        4,
        "DM_CAPABILITIES_RESPONSE",
        CapabilitiesResponse,
        _ID,
        bits(8, Flag("is_accepted", 0), Flag("hot_remove", 1), Flag("suppress_pressure_reports", 2)),
        since=VERSION_WIN7,
    ),
    _up(
        5,
        "DM_STATUS_REPORT",
        StatusReport,
        _ID,
        u64("num_avail"),
        u64("num_committed"),
        u64("page_file_size"),
        u64("zero_free"),
        u32("page_file_writes"),
        u32("io_diff"),
        since=VERSION_WIN7,
    ),
    _down(6, "DM_BALLOON_REQUEST", BalloonRequest, _ID, u32("num_pages"), Reserved(4), since=VERSION_WIN7),
    _up(
        7,
        "DM_BALLOON_RESPONSE",
        BalloonResponse,
        _ID,
        Reserved(4),  # here the reserved word comes first ...
        bits(4, Flag("more_pages", 0), Count(shift=1, width=31, unit=8)),
        Tail("ranges"),
        since=VERSION_WIN7,
    ),
    _down(
        8,
        "DM_UNBALLOON_REQUEST",
        UnballoonRequest,
        _ID,
        bits(4, Flag("more_pages", 0)),  # ... and here the flag
        bits(4, Count(shift=0, width=32, unit=8)),
        Tail("ranges"),
        since=VERSION_WIN7,
    ),
    _up(9, "DM_UNBALLOON_RESPONSE", UnballoonResponse, _ID, since=VERSION_WIN7),
    _down(
        10,
        "DM_MEM_HOT_ADD_REQUEST",
        HotAddRequest,
        _ID,
        u64("range"),
        optional(u64("region")),  # guests distinguish the two forms by the size in the header
        since=VERSION_WIN7,
    ),
    _up(
        11,
        "DM_MEM_HOT_ADD_RESPONSE",
        HotAddResponse,
        _ID,
        u32("page_count"),
        u32("result"),
        since=VERSION_WIN7,
    ),
    _down(
        12,
        "DM_INFO_MESSAGE",
        InfoMessage,
        _ID,
        Reserved(4),
        bits(4, Count(shift=0, width=32, unit=1, extra=8)),  # info_size: with the two words that follow
        u32("info_type"),
        bits(4, Count(shift=0, width=32, unit=1)),  # data_size
        Tail("data"),
        since=VERSION_WIN8,
    ),
    _down(
        13,
        "DM_MEM_HOT_REMOVE_REQUEST",
        HotRemoveRequest,
        _ID,
        u32("virtual_node"),
        u32("page_count"),
        u32("qos_flags"),
        Reserved(4),
        since=VERSION_WIN10,
    ),
    _up(
        14,
        "DM_MEM_HOT_REMOVE_RESPONSE",
        HotRemoveResponse,
        _ID,
        u32("result"),
        bits(4, Count(shift=0, width=32, unit=8)),
        bits(8, Flag("more_pages", 0)),
        Tail("ranges"),
        since=VERSION_WIN10,
    ),
)

_HEAD: Final = struct.Struct("<HH")


def encode(message: Message, most_bytes: int = DM_MESSAGE_BYTES_MAX) -> bytes:
    """Return the bytes of `message`; LocalProtocolError if a field does not fit or all of it is too long."""
    layout = TABLE.of(message)
    body = layout.encode(message)
    size = len(body) + _HEAD.size
    if size > most_bytes:
        raise LocalProtocolError(f"{layout.name} of {size} bytes is above {most_bytes}")
    return _HEAD.pack(layout.number, size) + body


def known_in(version: int) -> frozenset[MessageType]:
    """Return the messages that a protocol version knows: up to 11 in 0.3, up to 12 in 1.0, all in 2.0."""
    return frozenset(MessageType(layout.number) for layout in TABLE.layouts if layout.since <= version)


def decode(data: bytes, version: int = NEWEST) -> Message:
    """Return the message in `data` (one packet's body; padding behind the message is accepted).

    Raises:
        RemoteProtocolError: It is shorter than its header or its fields say, or not a message that `version`
            knows; or it is a host's and longer than a page, which no guest reads. A guest's may be as long as
            a ring packet.

    """
    length = len(data)
    if length < HEADER_BYTES:
        raise RemoteProtocolError(f"a dynamic memory message of {length} bytes has no complete header")
    number, size = _HEAD.unpack_from(data)
    if size > length:
        raise RemoteProtocolError(f"dynamic memory message {number} says {size} bytes, {length} are there")
    layout = TABLE.by_number.get(number)
    if layout is None or version < layout.since:
        raise RemoteProtocolError(f"unknown dynamic memory message {number}")
    if size > DM_MESSAGE_BYTES_MAX and layout.direction is Direction.HOST_TO_GUEST:
        raise RemoteProtocolError(f"{layout.name} of {size} bytes is above {DM_MESSAGE_BYTES_MAX}")
    message: Message = layout.decode(data, size, version)
    return message
