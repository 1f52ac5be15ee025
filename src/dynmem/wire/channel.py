"""VMBus control messages 1..29: what guest and host post to each other to offer, open and close channels.

Every message begins with type (u32) and padding (u32) and is at most 240 bytes. It has no length of its own
and posts are rounded up, so that bytes behind a message are accepted; `decode` takes the negotiated version
to tell padding from fields that only later versions have. The table's ``since`` is the first version that
knows a message (0: also known before any contact).

Source: Linux include/linux/hyperv.h; QEMU include/hw/hyperv/vmbus-proto.h; OpenVMM vmbus_core protocol.rs.
"""

import enum
import functools
import struct
import uuid
from typing import Final

import msgspec

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import VMBUS_MESSAGE_BYTES_MAX
from dynmem.wire.layout import (
    NEWEST,
    Direction,
    Flag,
    Guid,
    Layout,
    Octets,
    Reserved,
    Table,
    Tail,
    bits,
    optional,
    u8,
    u16,
    u32,
    u64,
)

HEADER_BYTES: Final = 8
USER_DATA_BYTES: Final = 120
NO_USER_DATA: Final = bytes(USER_DATA_BYTES)
GPADL_HEADER_PFNS_MAX: Final = 26  # page numbers that fit behind a GPADL_HEADER with one range
GPADL_BODY_PFNS_MAX: Final = 28

VERSION_WS2008: Final = 0 << 16 | 13
VERSION_WIN7: Final = 1 << 16 | 1
VERSION_WIN8: Final = 2 << 16 | 4
VERSION_WIN8_1: Final = 3 << 16 | 0
VERSION_WIN10: Final = 4 << 16 | 0
VERSION_4_1: Final = 4 << 16 | 1
VERSION_5_0: Final = 5 << 16 | 0
VERSION_5_1: Final = 5 << 16 | 1
VERSION_5_2: Final = 5 << 16 | 2
VERSION_5_3: Final = 5 << 16 | 3
VERSION_6_0: Final = 6 << 16 | 0  # codec only

TARGET_VP_NONE: Final = 0xFFFF_FFFF  # a channel opened with it gets no interrupts
STATUS_SUCCESS: Final = 0
STATUS_UNSUCCESSFUL: Final = 0x8000_FFFF
STATUS_CONNECTION_REFUSED: Final = 0xC000_0236


def format_version(version: int) -> str:
    """A VMBus version as people write it: ``5.3``."""
    return f"{version >> 16}.{version & 0xFFFF}"


class ConnectionState(enum.IntEnum):
    """Why a contact succeeded or failed (`VersionResponse.connection_state`)."""

    SUCCESSFUL = 0
    FAILED_LOW_RESOURCES = 1
    FAILED_UNKNOWN_FAILURE = 2


class OfferChannel(msgspec.Struct, frozen=True, gc=False):
    """The host offers a channel of a device."""

    interface: uuid.UUID
    instance: uuid.UUID
    channel_flags: int
    mmio_megabytes: int
    user_defined: bytes
    sub_channel_index: int
    mmio_megabytes_optional: int
    child_relid: int
    monitor_id: int
    monitor_allocated: bool
    is_dedicated_interrupt: bool
    connection_id: int


class RescindChannelOffer(msgspec.Struct, frozen=True, gc=False):
    """The host takes an offer back: the device is unplugged."""

    child_relid: int


class RequestOffers(msgspec.Struct, frozen=True, gc=False):
    """The guest asks for all offers."""


class AllOffersDelivered(msgspec.Struct, frozen=True, gc=False):
    """The host has sent all offers."""


class OpenChannel(msgspec.Struct, frozen=True, gc=False):
    """The guest opens a channel over a GPADL that holds both rings."""

    child_relid: int
    openid: int
    ringbuffer_gpadl: int
    target_vp: int
    downstream_page_offset: int
    user_data: bytes = NO_USER_DATA
    connection_id: int | None = None
    event_flag: int | None = None
    flags: int | None = None


class OpenChannelResult(msgspec.Struct, frozen=True, gc=False):
    """The host's answer to OpenChannel."""

    child_relid: int
    openid: int
    status: int


class CloseChannel(msgspec.Struct, frozen=True, gc=False):
    """The guest closes a channel; there is no answer."""

    child_relid: int


class GpadlHeader(msgspec.Struct, frozen=True, gc=False):
    """The beginning of a list of guest pages: ``ranges`` is {byte_count u32, byte_offset u32, pfn u64...}."""

    child_relid: int
    gpadl: int
    range_buflen: int
    range_count: int
    ranges: bytes


class GpadlBody(msgspec.Struct, frozen=True, gc=False):
    """More page numbers (packed u64 words) of a GPADL."""

    message_number: int
    gpadl: int
    pfns: bytes


class GpadlCreated(msgspec.Struct, frozen=True, gc=False):
    """The host's answer when a GPADL is whole, or wrong."""

    child_relid: int
    gpadl: int
    creation_status: int


class GpadlTeardown(msgspec.Struct, frozen=True, gc=False):
    """The guest wants its pages back."""

    child_relid: int
    gpadl: int


class GpadlTorndown(msgspec.Struct, frozen=True, gc=False):
    """The host no longer uses the pages."""

    gpadl: int


class RelidReleased(msgspec.Struct, frozen=True, gc=False):
    """The guest has forgotten a rescinded channel."""

    child_relid: int


class InitiateContact(msgspec.Struct, frozen=True, gc=False):
    """The guest asks for a version; from 5.0 on ``interrupt_page`` holds SINT, VTL and feature flags."""

    version: int
    target_vcpu: int
    interrupt_page: int
    monitor_page1: int
    monitor_page2: int
    client_id: uuid.UUID | None = None

    @property
    def message_sint(self) -> int:
        """The SINT for the host's messages (5.0 and later)."""
        return self.interrupt_page & 0xFF

    @property
    def message_vtl(self) -> int:
        """The virtual trust level of the guest's driver (5.0 and later)."""
        return self.interrupt_page >> 8 & 0xFF

    @property
    def feature_flags(self) -> int:
        """The features the guest knows (6.0 and later)."""
        return self.interrupt_page >> 32


def contact_target(sint: int, vtl: int = 0, feature_flags: int = 0) -> int:
    """What stands in place of the interrupt page in a contact of version 5.0 or later."""
    return sint | vtl << 8 | feature_flags << 32


class VersionResponse(msgspec.Struct, frozen=True, gc=False):
    """The host takes the version or not, and names the connection id for further messages (5.0 on)."""

    version_supported: bool
    connection_state: int
    message_connection_id: int | None = None
    supported_features: int | None = None
    parent_to_child_page: int | None = None
    child_to_parent_page: int | None = None


class Unload(msgspec.Struct, frozen=True, gc=False):
    """The guest leaves the bus."""


class UnloadResponse(msgspec.Struct, frozen=True, gc=False):
    """The host has let go of everything."""


class OpenReservedChannel(msgspec.Struct, frozen=True, gc=False):
    """The guest opens a channel that needs no offer."""

    channel: int
    target_vp: int
    target_sint: int
    ringbuffer_gpadl: int
    downstream_page_offset: int


class CloseReservedChannel(msgspec.Struct, frozen=True, gc=False):
    """The guest closes a reserved channel."""

    channel: int
    target_vp: int
    target_sint: int


class CloseReservedChannelResponse(msgspec.Struct, frozen=True, gc=False):
    """The reserved channel is closed."""

    channel: int


class TlConnectRequest(msgspec.Struct, frozen=True, gc=False):
    """The guest asks for a socket-like channel to a service of the host."""

    endpoint: uuid.UUID
    service: uuid.UUID
    silo: uuid.UUID | None = None


class ModifyChannel(msgspec.Struct, frozen=True, gc=False):
    """The guest moves a channel's interrupts to another virtual processor."""

    child_relid: int
    target_vp: int


class TlConnectResult(msgspec.Struct, frozen=True, gc=False):
    """The host's answer to TlConnectRequest."""

    endpoint: uuid.UUID
    service: uuid.UUID
    status: int


class ModifyChannelResponse(msgspec.Struct, frozen=True, gc=False):
    """The interrupts have moved (from 5.3 on)."""

    child_relid: int
    status: int


class ModifyConnection(msgspec.Struct, frozen=True, gc=False):
    """The guest changes its monitor pages."""

    parent_to_child_page: int
    child_to_parent_page: int


class ModifyConnectionResponse(msgspec.Struct, frozen=True, gc=False):
    """The monitor pages have changed, or not."""

    connection_state: int


class Pause(msgspec.Struct, frozen=True, gc=False):
    """The guest asks for no further messages."""


class PauseResponse(msgspec.Struct, frozen=True, gc=False):
    """The last message before the pause."""


class Resume(msgspec.Struct, frozen=True, gc=False):
    """The guest takes messages again."""


Message = (
    OfferChannel
    | RescindChannelOffer
    | RequestOffers
    | AllOffersDelivered
    | OpenChannel
    | OpenChannelResult
    | CloseChannel
    | GpadlHeader
    | GpadlBody
    | GpadlCreated
    | GpadlTeardown
    | GpadlTorndown
    | RelidReleased
    | InitiateContact
    | VersionResponse
    | Unload
    | UnloadResponse
    | OpenReservedChannel
    | CloseReservedChannel
    | CloseReservedChannelResponse
    | TlConnectRequest
    | ModifyChannel
    | TlConnectResult
    | ModifyChannelResponse
    | ModifyConnection
    | ModifyConnectionResponse
    | Pause
    | PauseResponse
    | Resume
)

_message = functools.partial(Layout, offset=HEADER_BYTES)
_UP: Final = Direction.GUEST_TO_HOST
_DOWN: Final = Direction.HOST_TO_GUEST
_RELID: Final = u32("child_relid")
_GPADL: Final = u32("gpadl")

TABLE: Final = Table(
    _message(
        1,
        "OFFERCHANNEL",
        OfferChannel,
        _DOWN,
        Guid("interface"),
        Guid("instance"),
        Reserved(16),
        u16("channel_flags"),
        u16("mmio_megabytes"),
        Octets("user_defined", USER_DATA_BYTES),
        u16("sub_channel_index"),
        u16("mmio_megabytes_optional"),
        _RELID,
        u8("monitor_id"),
        bits(1, Flag("monitor_allocated", 0)),
        bits(2, Flag("is_dedicated_interrupt", 0)),
        u32("connection_id"),
        since=VERSION_WS2008,
    ),
    _message(2, "RESCIND_CHANNELOFFER", RescindChannelOffer, _DOWN, _RELID, since=VERSION_WS2008),
    _message(3, "REQUESTOFFERS", RequestOffers, _UP, since=VERSION_WS2008),
    _message(4, "ALLOFFERS_DELIVERED", AllOffersDelivered, _DOWN, since=VERSION_WS2008),
    _message(
        5,
        "OPENCHANNEL",
        OpenChannel,
        _UP,
        _RELID,
        u32("openid"),
        u32("ringbuffer_gpadl"),
        u32("target_vp"),
        u32("downstream_page_offset"),
        Octets("user_data", USER_DATA_BYTES),
        optional(u32("connection_id"), u16("event_flag"), u16("flags"), since=VERSION_6_0),
        since=VERSION_WS2008,
    ),
    _message(
        6,
        "OPENCHANNEL_RESULT",
        OpenChannelResult,
        _DOWN,
        _RELID,
        u32("openid"),
        u32("status"),
        since=VERSION_WS2008,
    ),
    _message(7, "CLOSECHANNEL", CloseChannel, _UP, _RELID, since=VERSION_WS2008),
    _message(
        8,
        "GPADL_HEADER",
        GpadlHeader,
        _UP,
        _RELID,
        _GPADL,
        u16("range_buflen"),
        u16("range_count"),
        Tail("ranges", limit="range_buflen"),
        since=VERSION_WS2008,
    ),
    _message(
        9, "GPADL_BODY", GpadlBody, _UP, u32("message_number"), _GPADL, Tail("pfns"), since=VERSION_WS2008
    ),
    _message(
        10, "GPADL_CREATED", GpadlCreated, _DOWN, _RELID, _GPADL, u32("creation_status"), since=VERSION_WS2008
    ),
    _message(11, "GPADL_TEARDOWN", GpadlTeardown, _UP, _RELID, _GPADL, since=VERSION_WS2008),
    _message(12, "GPADL_TORNDOWN", GpadlTorndown, _DOWN, _GPADL, since=VERSION_WS2008),
    _message(13, "RELID_RELEASED", RelidReleased, _UP, _RELID, since=VERSION_WS2008),
    _message(
        14,
        "INITIATE_CONTACT",
        InitiateContact,
        _UP,
        u32("version"),
        u32("target_vcpu"),
        u64("interrupt_page"),
        u64("monitor_page1"),
        u64("monitor_page2"),
        optional(Guid("client_id"), since=VERSION_6_0),
    ),
    _message(
        15,
        "VERSION_RESPONSE",
        VersionResponse,
        _DOWN,
        bits(1, Flag("version_supported", 0)),
        u8("connection_state"),
        optional(Reserved(2), u32("message_connection_id"), since=VERSION_5_0),
        optional(u32("supported_features"), since=VERSION_6_0),
        optional(Reserved(4), u64("parent_to_child_page"), u64("child_to_parent_page"), since=VERSION_6_0),
    ),
    _message(16, "UNLOAD", Unload, _UP, since=VERSION_WS2008),
    _message(17, "UNLOAD_RESPONSE", UnloadResponse, _DOWN, since=VERSION_WIN7),
    _message(
        18,
        "OPEN_RESERVED_CHANNEL",
        OpenReservedChannel,
        _UP,
        u32("channel"),
        u32("target_vp"),
        u32("target_sint"),
        u32("ringbuffer_gpadl"),
        u32("downstream_page_offset"),
        since=VERSION_WIN10,
    ),
    _message(
        19,
        "CLOSE_RESERVED_CHANNEL",
        CloseReservedChannel,
        _UP,
        u32("channel"),
        u32("target_vp"),
        u32("target_sint"),
    ),
    _message(
        20,
        "CLOSE_RESERVED_RESPONSE",
        CloseReservedChannelResponse,
        _DOWN,
        u32("channel"),
        since=VERSION_WIN10,
    ),
    _message(
        21,
        "TL_CONNECT_REQUEST",
        TlConnectRequest,
        _UP,
        Guid("endpoint"),
        Guid("service"),
        optional(Guid("silo"), since=VERSION_5_2),
        since=VERSION_WIN10,
    ),
    _message(22, "MODIFYCHANNEL", ModifyChannel, _UP, _RELID, u32("target_vp"), since=VERSION_4_1),
    _message(
        23,
        "TL_CONNECT_RESULT",
        TlConnectResult,
        _DOWN,
        Guid("endpoint"),
        Guid("service"),
        u32("status"),
        since=VERSION_4_1,
    ),
    _message(
        24, "MODIFYCHANNEL_RESPONSE", ModifyChannelResponse, _DOWN, _RELID, u32("status"), since=VERSION_5_3
    ),
    _message(
        25,
        "MODIFY_CONNECTION",
        ModifyConnection,
        _UP,
        u64("parent_to_child_page"),
        u64("child_to_parent_page"),
        since=VERSION_6_0,
    ),
    _message(
        26,
        "MODIFY_CONNECTION_RESPONSE",
        ModifyConnectionResponse,
        _DOWN,
        u8("connection_state"),
        since=VERSION_6_0,
    ),
    _message(27, "PAUSE", Pause, _UP, since=VERSION_6_0),
    _message(28, "PAUSE_RESPONSE", PauseResponse, _DOWN, since=VERSION_6_0),
    _message(29, "RESUME", Resume, _UP, since=VERSION_6_0),
)

_HEAD: Final = struct.Struct("<II")


def encode(message: Message) -> bytes:
    """The bytes of `message`, unpadded; LocalProtocolError if a field does not fit or it passes 240 bytes."""
    layout = TABLE.of(message)
    body = layout.encode(message)
    if len(body) > VMBUS_MESSAGE_BYTES_MAX - _HEAD.size:
        raise LocalProtocolError(f"{layout.name} is longer than a message's {VMBUS_MESSAGE_BYTES_MAX} bytes")
    return _HEAD.pack(layout.number, 0) + body


def decode(data: bytes, version: int = NEWEST) -> Message:
    """The message in `data`, as `version` knows it; bytes behind it are padding.

    Raises:
        RemoteProtocolError: too short, too long, or not a message that `version` knows.

    """
    length = len(data)
    if not HEADER_BYTES <= length <= VMBUS_MESSAGE_BYTES_MAX:
        raise RemoteProtocolError(f"a VMBus message has 8 to {VMBUS_MESSAGE_BYTES_MAX} bytes, not {length}")
    number = _HEAD.unpack_from(data)[0]
    layout = TABLE.by_number.get(number)
    if layout is None or version < layout.since:
        raise RemoteProtocolError(f"unknown VMBus message {number}")
    message: Message = layout.decode(data, length, version)
    return message
