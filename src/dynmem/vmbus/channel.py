"""A channel on the host's side: an offer, its state, and its two rings while it is open.

The state machine is the table `TRANSITIONS`. A guest that breaks its rings faults its own channel: nothing
more is read or written until the guest closes it (and may open it again), or until the host rescinds it, and
may offer it again. The bus and its other channels go on.
"""

import enum
import struct
import uuid
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.vmbus.memory import GpadlMemory
from dynmem.vmbus.ring import ReaderSnapshot, RingReader, RingWriter, WriterSnapshot
from dynmem.wire.packet import FLAG_COMPLETION_REQUESTED, Packet, PacketType
from dynmem.wire.synic import CHANNEL_CONNECTION_ID_BASE
from dynmem.wire.vmbus import NO_USER_DATA, TARGET_VP_NONE, OfferChannel

_MODE: Final = struct.Struct("<I")
_WORD_MAX: Final = 0xFFFF

# in an offer's channel_flags: the channel is a pipe
NAMED_PIPE: Final = 0x10


class PipeMode(enum.IntEnum):
    """What a pipe carries: the first word of its offer's user-defined bytes (vmpipe's pipe_type)."""

    BYTES = 0
    MESSAGES = 4


class Offer(msgspec.Struct, frozen=True):
    """What the host offers: a device type, an instance of it, its mode, and which of its channels.

    A channel carries bare packets unless it is a pipe, whose packets begin with vmpipe's own header: that is
    between the device and its driver.

    Attributes:
        interface: The type of the device; drivers look for it.
        instance: This device; the same for as long as it is plugged in.
        name: For logs.
        sub_channel_index: 0 for the first channel of a device.
        user_defined: 120 bytes for the driver. The mode of a pipe takes the first four.
        pipe: The mode of a pipe; None: the channel is not a pipe.
        flags: Further flags of the channel (16 bits). That of a pipe goes with `pipe`.
        mmio_megabytes: How much address space for its registers the device needs.

    """

    interface: uuid.UUID
    instance: uuid.UUID
    name: str
    sub_channel_index: int = 0
    user_defined: bytes = NO_USER_DATA
    pipe: PipeMode | None = None
    flags: int = 0
    mmio_megabytes: int = 0

    @property
    def identity(self) -> tuple[uuid.UUID, uuid.UUID, int]:
        """What no other offer of a bus has in common with this one."""
        return self.interface, self.instance, self.sub_channel_index

    def __post_init__(self) -> None:
        for name in ("flags", "mmio_megabytes", "sub_channel_index"):
            if not 0 <= getattr(self, name) <= _WORD_MAX:
                raise LocalProtocolError(f"{name} of an offer is a number of 16 bits")
        if self.flags & NAMED_PIPE:
            raise LocalProtocolError(f"the flag {NAMED_PIPE:#x} of an offer goes with the mode of its pipe")
        if self.pipe is not None and any(self.user_defined[: _MODE.size]):
            raise LocalProtocolError(
                "the mode of a pipe takes the first four of its offer's user-defined bytes"
            )


class ChannelState(enum.Enum):
    """The state of a channel.

    Attributes:
        UNOFFERED: The guest has not asked for offers on this connection, or has released the closed channel.
        RESCINDED: The guest has not released it yet.
        REOFFERED: Rescinded, and to be offered again as soon as the guest has released it.

    """

    UNOFFERED = "unoffered"
    CLOSED = "closed"
    OPEN = "open"
    FAULTED = "faulted"
    RESCINDED = "rescinded"
    REOFFERED = "reoffered"
    GONE = "gone"


class ChannelEvent(enum.Enum):
    """What moves a channel from one state to another.

    Attributes:
        OFFER_AGAIN: The host has the device again whose channel it rescinded.
        RELEASE: The guest has forgotten the channel.
        FORGET: A reset, an unload or a new contact.

    """

    OFFER = enum.auto()
    OPEN = enum.auto()
    CLOSE = enum.auto()
    FAULT = enum.auto()
    RESCIND = enum.auto()
    OFFER_AGAIN = enum.auto()
    RELEASE = enum.auto()
    FORGET = enum.auto()


_S, _E = ChannelState, ChannelEvent

TRANSITIONS: Final[dict[tuple[ChannelState, ChannelEvent], ChannelState]] = {
    (_S.UNOFFERED, _E.OFFER): _S.CLOSED,
    (_S.UNOFFERED, _E.RESCIND): _S.GONE,
    (_S.UNOFFERED, _E.FORGET): _S.UNOFFERED,
    (_S.CLOSED, _E.OPEN): _S.OPEN,
    (_S.CLOSED, _E.RESCIND): _S.RESCINDED,
    (_S.CLOSED, _E.RELEASE): _S.UNOFFERED,
    (_S.CLOSED, _E.FORGET): _S.UNOFFERED,
    (_S.OPEN, _E.CLOSE): _S.CLOSED,
    (_S.OPEN, _E.FAULT): _S.FAULTED,
    (_S.OPEN, _E.RESCIND): _S.RESCINDED,
    (_S.OPEN, _E.FORGET): _S.UNOFFERED,
    (_S.FAULTED, _E.CLOSE): _S.CLOSED,
    (_S.FAULTED, _E.RESCIND): _S.RESCINDED,
    (_S.FAULTED, _E.FORGET): _S.UNOFFERED,
    (_S.RESCINDED, _E.OFFER_AGAIN): _S.REOFFERED,
    (_S.RESCINDED, _E.RELEASE): _S.GONE,
    (_S.RESCINDED, _E.FORGET): _S.GONE,
    (_S.REOFFERED, _E.RESCIND): _S.RESCINDED,
    (_S.REOFFERED, _E.RELEASE): _S.CLOSED,
    (_S.REOFFERED, _E.FORGET): _S.UNOFFERED,
}


class RingsSnapshot(NamedTuple):
    """The two rings of an open channel; the ring to the guest begins at `downstream_page`."""

    downstream_page: int
    reader: ReaderSnapshot
    writer: WriterSnapshot


class ChannelSnapshot(NamedTuple):
    """All of a channel."""

    offer: Offer
    relid: int
    state: ChannelState
    fault: str | None
    target_vp: int
    gpadl_id: int | None
    reserved: bool
    rings: RingsSnapshot | None


class Channel:
    """One channel of a bus; made by `dynmem.vmbus.host.Bus`, used by the device that was offered.

    Attributes:
        offer: What was offered.
        relid: The channel's number, which is also its event flag.
        state: Its state.
        fault: Why it is faulted, in a sentence; None otherwise.
        target_vp: The virtual processor that gets its interrupts, while open.
        gpadl_id: The GPADL its rings lie in, while open or faulted.
        reserved: Whether it was opened as a reserved channel: no interrupts, and closed as such.

    """

    __slots__ = (
        "_downstream_page",
        "_notify",
        "_on_fault",
        "_reader",
        "_writer",
        "fault",
        "gpadl_id",
        "offer",
        "relid",
        "reserved",
        "state",
        "target_vp",
    )

    def __init__(
        self,
        offer: Offer,
        relid: int,
        *,
        notify: Callable[["Channel"], None],
        on_fault: Callable[["Channel", str], None],
    ) -> None:
        self.offer: Final = offer
        self.relid: Final = relid
        self.state: ChannelState = ChannelState.UNOFFERED
        self.fault: str | None = None
        self.target_vp: int = TARGET_VP_NONE
        self.gpadl_id: int | None = None
        self.reserved: bool = False
        self._notify, self._on_fault = notify, on_fault
        self._downstream_page = 0
        self._reader: RingReader | None = None
        self._writer: RingWriter | None = None

    def __repr__(self) -> str:
        return f"<Channel {self.relid} {self.offer.name} {self.state.value}>"

    @property
    def connection_id(self) -> int:
        """What the guest signals when it has written to the ring, or made room in it."""
        return CHANNEL_CONNECTION_ID_BASE + self.relid

    @property
    def is_open(self) -> bool:
        """Whether packets can flow."""
        return self.state is ChannelState.OPEN

    @property
    def has_interrupts(self) -> bool:
        """Whether it is open and a virtual processor gets interrupts from it."""
        return self.is_open and self.target_vp != TARGET_VP_NONE

    @property
    def is_rescinded(self) -> bool:
        """Whether the guest is to release it, and what it posts about it may have crossed the rescind."""
        return self.state in (ChannelState.RESCINDED, ChannelState.REOFFERED)

    def can(self, event: ChannelEvent) -> bool:
        """Return whether the table has a row for `event` in this state."""
        return (self.state, event) in TRANSITIONS

    def move(self, event: ChannelEvent) -> None:
        """Follow the table; the rings are released on every way out of OPEN."""
        self.state = TRANSITIONS[self.state, event]
        if self.state is not ChannelState.OPEN:
            self._release_rings()
        if self.state is not ChannelState.FAULTED:
            self.fault = None
        if self.state not in (ChannelState.OPEN, ChannelState.FAULTED):
            self.gpadl_id = None
            self.target_vp = TARGET_VP_NONE
            self.reserved = False

    def _release_rings(self) -> None:
        self._downstream_page = 0
        self._reader = None
        self._writer = None

    def open(self, memory: GpadlMemory, gpadl_id: int, downstream_page: int, target_vp: int) -> None:
        """Open over rings at page 0 (from the guest) and `downstream_page` (to it).

        Raises RemoteProtocolError, and stays closed, when the pages cannot be two rings.
        """
        reader = RingReader(memory, 0, downstream_page)
        writer = RingWriter(memory, downstream_page, memory.pages - downstream_page)
        self.move(ChannelEvent.OPEN)
        self._reader = reader
        self._writer = writer
        self._downstream_page = downstream_page
        self.gpadl_id = gpadl_id
        self.target_vp = target_vp

    def break_off(self, reason: str) -> None:
        """Fault the open channel; the bus reports that once."""
        self.move(ChannelEvent.FAULT)
        self.fault = reason
        self._on_fault(self, reason)

    def receive(self) -> Packet | None:
        """Return the next packet from the guest, None if there is none or the channel is not open.

        A malformed packet, index or page faults the channel and returns None.
        """
        reader = self._reader
        if reader is None:
            return None
        try:
            packet = reader.read()
        except RemoteProtocolError as error:
            self.break_off(str(error))
            return None
        if reader.take_signal():
            self._notify(self)
        return packet

    def send(self, data: bytes, *, trans_id: int = 0, completion: bool = False) -> bool:
        """Put `data` into the ring as an in-band packet; see `send_packet`."""
        flags = FLAG_COMPLETION_REQUESTED if completion else 0
        return self.send_packet(Packet(PacketType.INBAND, flags, trans_id, data))

    def send_packet(self, packet: Packet) -> bool:
        """Put `packet` into the ring; False when there is no room (the guest will signal) or it is not open.

        Raises LocalProtocolError for a packet that never fits the ring.
        """
        writer = self._writer
        if writer is None:
            return False
        try:
            sent = writer.write(packet)
        except RemoteProtocolError as error:
            self.break_off(str(error))
            return False
        if writer.take_signal():
            self._notify(self)
        return sent

    @property
    def writable(self) -> bool:
        """Whether the channel is open and has room for what last found none in the ring."""
        if self._writer is None:
            return False
        try:
            return not self._writer.waiting_for_room
        except RemoteProtocolError as error:
            self.break_off(str(error))
            return False

    def snapshot(self) -> ChannelSnapshot:
        """Return all of it."""
        rings = None
        if self._reader is not None and self._writer is not None:
            rings = RingsSnapshot(self._downstream_page, self._reader.snapshot(), self._writer.snapshot())
        return ChannelSnapshot(
            self.offer,
            self.relid,
            self.state,
            self.fault,
            self.target_vp,
            self.gpadl_id,
            self.reserved,
            rings,
        )

    def restore(self, snapshot: ChannelSnapshot, memory: GpadlMemory | None) -> None:
        """Make it what it was when the snapshot was taken; `memory` is that of its rings, if it has any."""
        assert (snapshot.offer, snapshot.relid) == (self.offer, self.relid)
        _, _, self.state, self.fault, self.target_vp, self.gpadl_id, self.reserved, rings = snapshot
        self._release_rings()
        if rings is not None:
            assert memory is not None
            page, reader, writer = rings
            self._downstream_page = page
            self._reader = RingReader(memory, 0, page, reader)
            self._writer = RingWriter(memory, page, memory.pages - page, writer)

    def offer_message(self) -> OfferChannel:
        """Return the message that offers this channel."""
        user_defined, pipe = self.offer.user_defined, self.offer.pipe
        if pipe is not None:
            user_defined = _MODE.pack(pipe) + user_defined[_MODE.size :]
        return OfferChannel(
            interface=self.offer.interface,
            instance=self.offer.instance,
            channel_flags=self.offer.flags | (0 if pipe is None else NAMED_PIPE),
            mmio_megabytes=self.offer.mmio_megabytes,
            user_defined=user_defined,
            sub_channel_index=self.offer.sub_channel_index,
            mmio_megabytes_optional=0,
            child_relid=self.relid,
            monitor_id=0,
            monitor_allocated=False,
            is_dedicated_interrupt=True,
            connection_id=self.connection_id,
        )
