"""VMBus control messages 1..29: what guest and host post to each other to offer, open and close channels.

Every message begins with type (u32) and padding (u32) and is at most 240 bytes. It has no length of its own
and posts are rounded up, so that bytes behind a message are accepted; `decode` takes the negotiated version
to tell padding from fields that only later versions have. The table's ``since`` is the first version that
knows a message (0: also known before any contact).

Source: Linux include/linux/hyperv.h; QEMU include/hw/hyperv/vmbus-proto.h; OpenVMM vmbus_core protocol.rs.
"""

import functools
import struct
import uuid
from typing import Final

import msgspec

from dynmem.direction import Direction
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import VMBUS_MESSAGE_BYTES_MAX
from dynmem.wire.layout import (
    NEWEST,
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
from dynmem.wire.versions import (
    VERSION_4_1,
    VERSION_5_2,
    VERSION_5_3,
    VERSION_6_0,
    VERSION_WIN7,
    VERSION_WIN10,
    VERSION_WS2008,
    format_version,
)

HEADER_BYTES: Final = 8
USER_DATA_BYTES: Final = 120
NO_USER_DATA: Final = bytes(USER_DATA_BYTES)
# page numbers that fit behind a GPADL_HEADER with one range, and behind a GPADL_BODY
GPADL_HEADER_PFNS_MAX: Final = 26
GPADL_BODY_PFNS_MAX: Final = 28
# a channel that is opened with this gets no interrupts
TARGET_VP_NONE: Final = 0xFFFF_FFFF


class OfferChannel(msgspec.Struct, frozen=True, gc=False):
    """The host offers a channel of a device, also at any time after ALLOFFERS_DELIVERED.

    Bit 4 of the flags says that the channel is a pipe; then the first u32 of `user_defined` is its mode: 0
    for bytes, 4 for messages. A device that was rescinded is offered again only when the guest has released
    the channel.
    """

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
    """The host rescinds an offer: the device is unplugged, or its channel broke.

    What the guest posts before it reads this gets its reply: GPADLs are created, opens fail.
    """

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
    """The host's reply to OpenChannel."""

    child_relid: int
    openid: int
    status: int


class CloseChannel(msgspec.Struct, frozen=True, gc=False):
    """The guest closes a channel; there is no reply."""

    child_relid: int


class GpadlHeader(msgspec.Struct, frozen=True, gc=False):
    """The beginning of a list of guest pages: `ranges` is {byte_count u32, byte_offset u32, pfn u64...}."""

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
    """The host's reply when a GPADL is complete, or wrong."""

    child_relid: int
    gpadl: int
    creation_status: int


class GpadlTeardown(msgspec.Struct, frozen=True, gc=False):
    """The guest asks the host to release the pages."""

    child_relid: int
    gpadl: int


class GpadlTorndown(msgspec.Struct, frozen=True, gc=False):
    """The host no longer uses the pages."""

    gpadl: int


class RelidReleased(msgspec.Struct, frozen=True, gc=False):
    """The guest has forgotten a channel that was rescinded, or any that is closed."""

    child_relid: int


class InitiateContact(msgspec.Struct, frozen=True, gc=False):
    """The guest asks for a version; from 5.0 on `interrupt_page` holds SINT, VTL and feature flags.

    Before 3.0 `target_vcpu` may be garbage: all messages go to processor 0. The interrupt page is used before
    2.4 only, though guests name one up to 4.1. The SINT (in bits 0..7) has a meaning only in contacts on
    connection 4, and so has the VTL (bits 8..15), from 5.1 on; on connection 1 the SINT is 2. The features
    (bits 32..63) have one from 6.0 on.
    """

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
        """The features that the guest knows (6.0 and later)."""
        return self.interrupt_page >> 32


def contact_target(sint: int, vtl: int = 0, feature_flags: int = 0) -> int:
    """Return what a contact of version 5.0 or later has in place of the interrupt page."""
    return sint | vtl << 8 | feature_flags << 32


class VersionResponse(msgspec.Struct, frozen=True, gc=False):
    """The host accepts the version or not. Its last word before 6.0 has two meanings.

    From 5.0 on it is the connection id for further messages; before, it is the version agreed on. It is 0
    when the version is not supported. QEMU leaves it out.
    """

    version_supported: bool
    connection_state: int
    version_or_connection_id: int | None = None
    supported_features: int | None = None
    parent_to_child_page: int | None = None
    child_to_parent_page: int | None = None


class Unload(msgspec.Struct, frozen=True, gc=False):
    """The guest leaves the bus."""


class UnloadResponse(msgspec.Struct, frozen=True, gc=False):
    """The host has released everything."""


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
    """The guest moves a channel's interrupts to another processor; it can neither begin nor end them."""

    child_relid: int
    target_vp: int


class TlConnectResult(msgspec.Struct, frozen=True, gc=False):
    """The host's reply to TlConnectRequest."""

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

_layout = functools.partial(Layout, offset=HEADER_BYTES, since=VERSION_WS2008)
_up = functools.partial(_layout, direction=Direction.GUEST_TO_HOST)
_down = functools.partial(_layout, direction=Direction.HOST_TO_GUEST)
_RELID: Final = u32("child_relid")
_GPADL: Final = u32("gpadl")

TABLE: Final = Table(
    _down(
        1,
        "OFFERCHANNEL",
        OfferChannel,
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
    ),
    _down(2, "RESCIND_CHANNELOFFER", RescindChannelOffer, _RELID),
    _up(3, "REQUESTOFFERS", RequestOffers),
    _down(4, "ALLOFFERS_DELIVERED", AllOffersDelivered),
    _up(
        5,
        "OPENCHANNEL",
        OpenChannel,
        _RELID,
        u32("openid"),
        u32("ringbuffer_gpadl"),
        u32("target_vp"),
        u32("downstream_page_offset"),
        Octets("user_data", USER_DATA_BYTES),
        optional(u32("connection_id"), u16("event_flag"), u16("flags"), since=VERSION_6_0),
    ),
    _down(6, "OPENCHANNEL_RESULT", OpenChannelResult, _RELID, u32("openid"), u32("status")),
    _up(7, "CLOSECHANNEL", CloseChannel, _RELID),
    _up(
        8,
        "GPADL_HEADER",
        GpadlHeader,
        _RELID,
        _GPADL,
        u16("range_buflen"),
        u16("range_count"),
        Tail("ranges", limit="range_buflen"),
    ),
    _up(9, "GPADL_BODY", GpadlBody, u32("message_number"), _GPADL, Tail("pfns")),
    _down(10, "GPADL_CREATED", GpadlCreated, _RELID, _GPADL, u32("creation_status")),
    _up(11, "GPADL_TEARDOWN", GpadlTeardown, _RELID, _GPADL),
    _down(12, "GPADL_TORNDOWN", GpadlTorndown, _GPADL),
    _up(13, "RELID_RELEASED", RelidReleased, _RELID),
    _up(
        14,
        "INITIATE_CONTACT",
        InitiateContact,
        u32("version"),
        u32("target_vcpu"),
        u64("interrupt_page"),
        u64("monitor_page1"),
        u64("monitor_page2"),
        optional(Guid("client_id"), since=VERSION_6_0),
        since=0,
    ),
    _down(
        15,
        "VERSION_RESPONSE",
        VersionResponse,
        bits(1, Flag("version_supported", 0)),
        u8("connection_state"),
        optional(Reserved(2), u32("version_or_connection_id")),
        optional(u32("supported_features"), since=VERSION_6_0),
        optional(Reserved(4), u64("parent_to_child_page"), u64("child_to_parent_page"), since=VERSION_6_0),
        since=0,
    ),
    _up(16, "UNLOAD", Unload),
    _down(17, "UNLOAD_RESPONSE", UnloadResponse, since=VERSION_WIN7),
    _up(
        18,
        "OPEN_RESERVED_CHANNEL",
        OpenReservedChannel,
        u32("channel"),
        u32("target_vp"),
        u32("target_sint"),
        u32("ringbuffer_gpadl"),
        u32("downstream_page_offset"),
        since=VERSION_WIN10,
    ),
    _up(
        19,
        "CLOSE_RESERVED_CHANNEL",
        CloseReservedChannel,
        u32("channel"),
        u32("target_vp"),
        u32("target_sint"),
        since=0,
    ),
    _down(20, "CLOSE_RESERVED_RESPONSE", CloseReservedChannelResponse, u32("channel"), since=VERSION_WIN10),
    _up(
        21,
        "TL_CONNECT_REQUEST",
        TlConnectRequest,
        Guid("endpoint"),
        Guid("service"),
        optional(Guid("silo"), since=VERSION_5_2),
        since=VERSION_WIN10,
    ),
    _up(22, "MODIFYCHANNEL", ModifyChannel, _RELID, u32("target_vp"), since=VERSION_4_1),
    _down(
        23,
        "TL_CONNECT_RESULT",
        TlConnectResult,
        Guid("endpoint"),
        Guid("service"),
        u32("status"),
        since=VERSION_4_1,
    ),
    _down(24, "MODIFYCHANNEL_RESPONSE", ModifyChannelResponse, _RELID, u32("status"), since=VERSION_5_3),
    _up(
        25,
        "MODIFY_CONNECTION",
        ModifyConnection,
        u64("parent_to_child_page"),
        u64("child_to_parent_page"),
        since=VERSION_6_0,
    ),
    _down(
        26, "MODIFY_CONNECTION_RESPONSE", ModifyConnectionResponse, u8("connection_state"), since=VERSION_6_0
    ),
    _up(27, "PAUSE", Pause, since=VERSION_6_0),
    _down(28, "PAUSE_RESPONSE", PauseResponse, since=VERSION_6_0),
    _up(29, "RESUME", Resume, since=VERSION_6_0),
)

_HEAD: Final = struct.Struct("<II")


def encode(message: Message, version: int = NEWEST) -> bytes:
    """Return the bytes of `message`, unpadded, for a peer of `version` (0 before any contact).

    Raises LocalProtocolError if a field or the whole does not fit, or if `version` does not know it.
    """
    layout = TABLE.of(message)
    known_from = layout.known_from(message)
    if version < known_from:
        agreed = f"the peer speaks {format_version(version)}" if version else "no version is agreed on yet"
        raise LocalProtocolError(f"{layout.name} in this form needs {format_version(known_from)}, {agreed}")
    body = layout.encode(message)
    if len(body) > VMBUS_MESSAGE_BYTES_MAX - _HEAD.size:
        raise LocalProtocolError(f"{layout.name} is longer than a message's {VMBUS_MESSAGE_BYTES_MAX} bytes")
    return _HEAD.pack(layout.number, 0) + body


def decode(data: bytes, version: int = NEWEST) -> Message:
    """Return the message in `data`, as `version` knows it; bytes behind it are padding.

    Raises:
        RemoteProtocolError: It is too short, too long, or not a message that `version` knows.

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
