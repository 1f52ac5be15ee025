"""The embedded guest's hardware: the messages of a guest process and its VM on one SOCK_SEQPACKET socket.

One message is one datagram, type u32 first, never padded. Three of the host's carry exactly one descriptor
(SCM_RIGHTS): `MapSlot` the memory to map, `BindSint` the interrupt line of a SINT, `BindDoorbell` the line
that the guest raises instead of calling HvSignalEvent for that connection id. A line is the guest's end of a
pair of stream sockets: a byte raises it, and the side that it is raised for reads all that is there. Neither
side waits for the other to do so: a line with no room for another byte is raised already.

Order: the host sends MapSlot for RAM (slot 0, and whatever else is RAM at boot) and the bindings, then
`Start`. After that the guest makes calls; each gets a `Reply` with the same sequence number. Memory comes and
goes while the guest runs:

- a later `MapSlot` is acknowledged with `SlotMapped`, `UnmapSlot` with `SlotUnmapped`. A slot may be unmapped
  only when the guest uses nothing of it, and its number used again only after the acknowledgement;
- memory in a later slot is used when it is hot-added by the Dynamic Memory Protocol, or after `PlugMemory`,
  which says that the whole slot is a DIMM and has no reply;
- `UnplugMemory` asks the guest to release a DIMM, and `UnplugAnswered` says whether it has.

A reset has no message: the process of the guest ends, and a new one starts with a new socket.
"""

import functools
import struct
from typing import Final

import msgspec

from dynmem.direction import Direction
from dynmem.errors import RemoteProtocolError
from dynmem.limits import HARDWARE_DATAGRAM_BYTES_MAX
from dynmem.wire.layout import NEWEST, Flag, Layout, Table, bits, u32, u64


class MapSlot(msgspec.Struct, frozen=True, gc=False):
    """Map `size` bytes of the descriptor from `offset` on as guest memory at `gpa`."""

    slot: int
    gpa: int
    size: int
    offset: int


class BindSint(msgspec.Struct, frozen=True, gc=False):
    """The descriptor is the interrupt line of a SINT."""

    sint: int


class BindDoorbell(msgspec.Struct, frozen=True, gc=False):
    """The descriptor is the doorbell of a connection id."""

    connection_id: int


class Start(msgspec.Struct, frozen=True, gc=False):
    """The hardware is complete: run."""


class Reply(msgspec.Struct, frozen=True, gc=False):
    """The result of the call with this sequence number: an HvStatus."""

    sequence: int
    status: int


class Hypercall(msgspec.Struct, frozen=True, gc=False):
    """A hypercall: control word, then input address (or the first parameter of a fast call) and a second."""

    sequence: int
    control: int
    input_gpa: int
    parameter2: int = 0


class WriteMsr(msgspec.Struct, frozen=True, gc=False):
    """A write of a synthetic MSR."""

    sequence: int
    msr: int
    value: int


class SlotMapped(msgspec.Struct, frozen=True, gc=False):
    """The guest has mapped a slot."""

    slot: int


class UnmapSlot(msgspec.Struct, frozen=True, gc=False):
    """Take a slot out of guest memory."""

    slot: int


class SlotUnmapped(msgspec.Struct, frozen=True, gc=False):
    """The guest has unmapped a slot."""

    slot: int


class PlugMemory(msgspec.Struct, frozen=True, gc=False):
    """Use a slot that is mapped: it is a DIMM."""

    slot: int


class UnplugMemory(msgspec.Struct, frozen=True, gc=False):
    """Release a DIMM, if that can be done."""

    slot: int


class UnplugAnswered(msgspec.Struct, frozen=True, gc=False):
    """Whether the guest has released a DIMM; if not, it uses all of it as before."""

    slot: int
    is_done: bool


Message = (
    MapSlot
    | BindSint
    | BindDoorbell
    | Start
    | Reply
    | Hypercall
    | WriteMsr
    | SlotMapped
    | UnmapSlot
    | SlotUnmapped
    | PlugMemory
    | UnplugMemory
    | UnplugAnswered
)

WITH_DESCRIPTOR: Final = (MapSlot, BindSint, BindDoorbell)

_HEAD: Final = struct.Struct("<I")
_up = functools.partial(Layout, direction=Direction.GUEST_TO_HOST, offset=_HEAD.size)
_down = functools.partial(Layout, direction=Direction.HOST_TO_GUEST, offset=_HEAD.size)

TABLE: Final = Table(
    _down(1, "MAP_SLOT", MapSlot, u32("slot"), u64("gpa"), u64("size"), u64("offset")),
    _down(2, "BIND_SINT", BindSint, u32("sint")),
    _down(3, "BIND_DOORBELL", BindDoorbell, u32("connection_id")),
    _down(4, "START", Start),
    _down(5, "UNMAP_SLOT", UnmapSlot, u32("slot")),
    _down(6, "REPLY", Reply, u32("sequence"), u32("status")),
    _up(7, "HYPERCALL", Hypercall, u32("sequence"), u64("control"), u64("input_gpa"), u64("parameter2")),
    _up(8, "WRITE_MSR", WriteMsr, u32("sequence"), u32("msr"), u64("value")),
    _up(9, "SLOT_MAPPED", SlotMapped, u32("slot")),
    _up(10, "SLOT_UNMAPPED", SlotUnmapped, u32("slot")),
    _down(11, "PLUG_MEMORY", PlugMemory, u32("slot")),
    _down(12, "UNPLUG_MEMORY", UnplugMemory, u32("slot")),
    _up(13, "UNPLUG_ANSWERED", UnplugAnswered, u32("slot"), bits(4, Flag("is_done", 0))),
)


def encode(message: Message) -> bytes:
    """Return the datagram of `message`; LocalProtocolError if a field does not fit."""
    layout = TABLE.of(message)
    return _HEAD.pack(layout.number) + layout.encode(message)


def decode(data: bytes) -> Message:
    """Return the message that the datagram `data` is; RemoteProtocolError if it is anything else."""
    if not _HEAD.size <= len(data) <= HARDWARE_DATAGRAM_BYTES_MAX:
        raise RemoteProtocolError(f"a hardware message of {len(data)} bytes")
    layout = TABLE.by_number.get(_HEAD.unpack_from(data)[0])
    if layout is None or len(data) != layout.size:
        raise RemoteProtocolError(f"an unknown hardware message of {len(data)} bytes")
    message: Message = layout.decode(data, len(data), NEWEST)
    return message
