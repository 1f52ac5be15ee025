"""A channel on the guest's side: an offer, its state, its two rings while in use, and the events about it.

The state machine is the table `TRANSITIONS`. `open` makes the rings in the guest's pages and sends the host
their page numbers. From then on the host may write to the pages until it has released them, which `Closed` or
`Failed` says.

Source: Linux drivers/hv/channel.c.
"""

import enum
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, Self

import msgspec

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.vmbus import ring
from dynmem.vmbus.memory import GpadlMemory, GuestMemory
from dynmem.wire import vmbus as wire
from dynmem.wire.packet import Packet, PacketType
from dynmem.wire.status import STATUS_SUCCESS
from dynmem.wire.versions import VERSION_4_1, VERSION_5_3


class GuestChannelState(enum.Enum):
    """The state of a channel, as the guest sees it."""

    CLOSED = "closed"
    CREATING_GPADL = "creating gpadl"
    OPENING = "opening"
    OPEN = "open"
    TEARING_DOWN = "tearing down"
    RESCINDED = "rescinded"


class GuestChannelEvent(enum.Enum):
    """What moves a channel from one state to another.

    Attributes:
        REFUSE_GPADL: The host refused the GPADL, and with it the pages.
        TEAR_DOWN: The guest asks for its pages: it closes the channel, or the host refused to open it.
        RELEASE: The host has released the pages.
        RESCIND: The host has unplugged the device, or the bus is gone.

    """

    OPEN = enum.auto()
    CREATE_GPADL = enum.auto()
    REFUSE_GPADL = enum.auto()
    OPENED = enum.auto()
    TEAR_DOWN = enum.auto()
    RELEASE = enum.auto()
    RESCIND = enum.auto()


_S, _E = GuestChannelState, GuestChannelEvent

TRANSITIONS: Final[dict[tuple[GuestChannelState, GuestChannelEvent], GuestChannelState]] = {
    (_S.CLOSED, _E.OPEN): _S.CREATING_GPADL,
    (_S.CLOSED, _E.RESCIND): _S.RESCINDED,
    (_S.CREATING_GPADL, _E.CREATE_GPADL): _S.OPENING,
    (_S.CREATING_GPADL, _E.REFUSE_GPADL): _S.CLOSED,
    (_S.CREATING_GPADL, _E.RESCIND): _S.RESCINDED,
    (_S.OPENING, _E.OPENED): _S.OPEN,
    (_S.OPENING, _E.TEAR_DOWN): _S.TEARING_DOWN,
    (_S.OPENING, _E.RESCIND): _S.RESCINDED,
    (_S.OPEN, _E.TEAR_DOWN): _S.TEARING_DOWN,
    (_S.OPEN, _E.RESCIND): _S.RESCINDED,
    (_S.TEARING_DOWN, _E.RELEASE): _S.CLOSED,
    (_S.TEARING_DOWN, _E.RESCIND): _S.RESCINDED,
}


class Connected(msgspec.Struct, frozen=True):
    """The host has agreed to a version; the offers follow."""

    version: int


class Offered(msgspec.Struct, frozen=True):
    """A channel that can be opened."""

    channel: "GuestChannel"


class OffersDelivered(msgspec.Struct, frozen=True):
    """All offers have come."""


class Opened(msgspec.Struct, frozen=True):
    """Packets can flow."""

    channel: "GuestChannel"


class Modified(msgspec.Struct, frozen=True):
    """The host has moved the channel's interrupts, or refused to."""

    channel: "GuestChannel"
    moved: bool


class Closed(msgspec.Struct, frozen=True):
    """The channel's pages are the guest's own again."""

    channel: "GuestChannel"


class Rescinded(msgspec.Struct, frozen=True):
    """The device is gone; after `Closed` if the channel was in use."""

    channel: "GuestChannel"


class Failed(msgspec.Struct, frozen=True):
    """Contact (no channel) or an open failed; the channel's pages are the guest's own again."""

    reason: str
    channel: "GuestChannel | None" = None


class Unloaded(msgspec.Struct, frozen=True):
    """The host has released everything."""


#: What `Client.take_events` returns.
ClientEvent = (
    Connected | Offered | OffersDelivered | Opened | Modified | Closed | Rescinded | Failed | Unloaded
)


class Driver(Protocol):
    """What a channel needs of its client."""

    memory: GuestMemory
    version: int | None

    def post(self, message: wire.Message) -> None:
        """Queue a message."""
        ...

    def post_gpadl(self, relid: int, pfns: Sequence[int]) -> int:
        """Queue the messages of a GPADL; return its id."""
        ...

    def ring_doorbell(self, channel: "GuestChannel") -> None:
        """Signal the host."""
        ...


class GuestRingsSnapshot(NamedTuple):
    """The two rings of a channel that is in use; the ring from the host begins at `downstream_page`."""

    pfns: tuple[int, ...]
    downstream_page: int
    writer: ring.WriterSnapshot
    reader: ring.ReaderSnapshot


class GuestChannelSnapshot(NamedTuple):
    """All of a channel."""

    offer: wire.OfferChannel
    state: GuestChannelState
    gpadl: int
    target_vp: int
    is_moving: bool
    refusal: str | None
    rings: GuestRingsSnapshot | None


class GuestChannel:
    """A channel that the host has offered.

    Attributes:
        offer: The host's offer.
        state: Its state.

    """

    __slots__ = (
        "_client",
        "_downstream",
        "_gpadl",
        "_moving",
        "_pfns",
        "_reader",
        "_refusal",
        "_rings",
        "_target_vp",
        "_writer",
        "offer",
        "state",
    )

    def __init__(self, client: Driver, offer: wire.OfferChannel) -> None:
        self.offer: Final = offer
        self.state: GuestChannelState = GuestChannelState.CLOSED
        self._client = client
        self._gpadl = 0
        self._pfns: tuple[int, ...] = ()
        self._downstream = 0
        self._target_vp = 0
        self._moving = False
        self._refusal: str | None = None
        self._rings: tuple[ring.RingWriter, ring.RingReader] | None = None
        self._reader: ring.RingReader | None = None
        self._writer: ring.RingWriter | None = None

    def __repr__(self) -> str:
        return f"<GuestChannel {self.relid} {self.state.value}>"

    @property
    def relid(self) -> int:
        """The channel's number and event flag."""
        return self.offer.child_relid

    def open(self, pfns: Sequence[int], downstream_page: int, *, target_vp: int = 0) -> None:
        """Make both rings in the guest pages `pfns` and ask the host to open the channel over them.

        The ring to the host takes the first `downstream_page` pages, the ring from it the rest, two at least
        each. `Opened` or `Failed` follows; the host has the pages until `Closed` or `Failed`. Interrupts go
        to `target_vp`, `TARGET_VP_NONE` for none.
        """
        if not self._can(GuestChannelEvent.OPEN):
            raise LocalProtocolError(f"{self} cannot be opened")
        if not 2 <= downstream_page <= len(pfns) - 2:
            raise LocalProtocolError(
                f"{len(pfns)} pages are not two rings with {downstream_page} in the first"
            )
        memory = GpadlMemory(self._client.memory, pfns)
        ring.initialize(memory, 0)
        ring.initialize(memory, downstream_page)
        # made before the host knows the pages, so that it cannot choose our own indices
        self._rings = (
            ring.RingWriter(memory, 0, downstream_page),
            ring.RingReader(memory, downstream_page, memory.pages - downstream_page),
        )
        self._pfns = tuple(pfns)
        self._downstream = downstream_page
        self._target_vp = target_vp
        self._gpadl = self._client.post_gpadl(self.relid, pfns)
        self._refusal = None
        self._move(GuestChannelEvent.OPEN)

    def modify(self, target_vp: int) -> None:
        """Move the open channel's interrupts to another virtual processor (from 4.1 on).

        `Modified` follows from 5.3 on, one move at a time. Older hosts do not answer, so the old processor
        has to watch the channel's flag as well.
        """
        version = self._client.version
        if (
            self.state is not GuestChannelState.OPEN
            or version is None
            or version < VERSION_4_1
            or self._moving
        ):
            raise LocalProtocolError(f"the interrupts of {self} cannot be moved")
        self._client.post(wire.ModifyChannel(self.relid, target_vp))
        self._moving = version >= VERSION_5_3

    def close(self) -> None:
        """Close the open channel; `Closed` follows when the host has released the pages."""
        if self.state is not GuestChannelState.OPEN:
            raise LocalProtocolError(f"{self} is not open")
        self._client.post(wire.CloseChannel(self.relid))
        self._tear_down()

    def _tear_down(self) -> None:
        """Ask the host to release the pages."""
        self._client.post(wire.GpadlTeardown(self.relid, self._gpadl))
        self._move(GuestChannelEvent.TEAR_DOWN)

    def _can(self, event: GuestChannelEvent) -> bool:
        return (self.state, event) in TRANSITIONS

    def _move(self, event: GuestChannelEvent) -> None:
        """Follow the table; the rings are for use while OPEN, and the guest's own again once it is over."""
        self.state = TRANSITIONS[self.state, event]
        if self.state is GuestChannelState.OPEN:
            assert self._rings is not None
            self._writer, self._reader = self._rings
            return
        self._writer = None
        self._reader = None
        self._moving = False
        if self.state in (GuestChannelState.CLOSED, GuestChannelState.RESCINDED):
            self._pfns = ()
            self._downstream = 0
            self._rings = None

    def receive(self) -> Packet | None:
        """Return the next packet from the host, None if there is none or the channel is not open.

        Raises RemoteProtocolError when the host has broken the ring: then the driver should close it.
        """
        if self._reader is None:
            return None
        packet = self._reader.read()
        if self._reader.take_signal():
            self._client.ring_doorbell(self)
        return packet

    def send(self, data: bytes, trans_id: int = 0) -> bool:
        """Put `data` into the ring as an in-band packet; False if there is no room or it is not open.

        When there was no room the host signals as soon as there is. Raises RemoteProtocolError as `receive`.
        """
        if self._writer is None:
            return False
        sent = self._writer.write(Packet(PacketType.INBAND, 0, trans_id, data))
        if self._writer.take_signal():
            self._client.ring_doorbell(self)
        return sent

    def snapshot(self) -> GuestChannelSnapshot:
        """Return all of it."""
        rings = None
        if self._rings is not None:
            writer, reader = self._rings
            rings = GuestRingsSnapshot(self._pfns, self._downstream, writer.snapshot(), reader.snapshot())
        return GuestChannelSnapshot(
            self.offer, self.state, self._gpadl, self._target_vp, self._moving, self._refusal, rings
        )

    @classmethod
    def restored(cls, client: Driver, snapshot: GuestChannelSnapshot) -> Self:
        """Make a channel that is what the other was when the snapshot was taken."""
        channel = cls(client, snapshot.offer)
        _, channel.state, channel._gpadl, channel._target_vp, channel._moving, channel._refusal, _ = snapshot
        if snapshot.rings is not None:
            pfns, page, writer, reader = snapshot.rings
            memory = GpadlMemory(client.memory, pfns)
            channel._pfns = pfns
            channel._downstream = page
            channel._rings = (
                ring.RingWriter(memory, 0, page, writer),
                ring.RingReader(memory, page, memory.pages - page, reader),
            )
            if channel.state is GuestChannelState.OPEN:
                channel._writer, channel._reader = channel._rings
        return channel

    # what the client's messages do to it

    def on_gpadl_created(self, message: wire.GpadlCreated) -> ClientEvent | None:
        """Go on to open the channel if the host has taken the GPADL."""
        if not self._can(GuestChannelEvent.CREATE_GPADL) or message.gpadl != self._gpadl:
            raise RemoteProtocolError(f"GPADL_CREATED for {self}")
        if message.creation_status:
            self._move(GuestChannelEvent.REFUSE_GPADL)
            return Failed(f"the host refused the GPADL with status {message.creation_status:#x}", self)
        # ids of opens need only differ between a channel's own attempts: the GPADL's id does
        request = wire.OpenChannel(self.relid, self._gpadl, self._gpadl, self._target_vp, self._downstream)
        self._client.post(request)
        self._move(GuestChannelEvent.CREATE_GPADL)
        return None

    def on_open_result(self, message: wire.OpenChannelResult) -> ClientEvent | None:
        """Use the channel if the host has opened it; otherwise ask for the pages first."""
        if not self._can(GuestChannelEvent.OPENED) or message.openid != self._gpadl:
            raise RemoteProtocolError(f"OPENCHANNEL_RESULT for {self}")
        if message.status:
            self._refusal = f"the host refused to open the channel with status {message.status:#x}"
            self._tear_down()
            return None
        self._move(GuestChannelEvent.OPENED)
        return Opened(self)

    def on_modified(self, status: int) -> ClientEvent | None:
        """Report whether the host has moved the interrupts; None when the channel was closed meanwhile."""
        if self.state is not GuestChannelState.OPEN:
            return None
        if not self._moving:
            raise RemoteProtocolError(f"MODIFYCHANNEL_RESPONSE for {self}")
        self._moving = False
        return Modified(self, status == STATUS_SUCCESS)

    def on_torndown(self, gpadl: int) -> ClientEvent | None:
        """Take the pages back, which the host has released; None if they are another channel's."""
        if not self._can(GuestChannelEvent.RELEASE) or gpadl != self._gpadl:
            return None
        self._move(GuestChannelEvent.RELEASE)
        return Closed(self) if self._refusal is None else Failed(self._refusal, self)

    def on_rescinded(self) -> list[ClientEvent]:
        """Take the pages back: the host has unplugged the device, after it had released them."""
        events: list[ClientEvent] = [] if self.state is GuestChannelState.CLOSED else [Closed(self)]
        self._move(GuestChannelEvent.RESCIND)
        return [*events, Rescinded(self)]

    def on_unloaded(self) -> list[ClientEvent]:
        """Take the pages back: the bus is gone."""
        events: list[ClientEvent] = [] if self.state is GuestChannelState.CLOSED else [Closed(self)]
        self._move(GuestChannelEvent.RESCIND)
        return events
