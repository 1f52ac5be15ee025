"""A channel on the guest's side, and the events of the guest's end of VMBus.

A channel is made by an offer. `open` makes the rings in the guest's pages and tells the host where they are;
from then on the pages are the host's to write until it has let go of them, which `Closed` or `Failed` says.

Source: Linux drivers/hv/channel.c.
"""

import enum
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.vmbus import ring
from dynmem.vmbus.memory import GpadlMemory, GuestMemory
from dynmem.wire import vmbus as wire
from dynmem.wire.packet import Packet, PacketType
from dynmem.wire.versions import VERSION_4_1, VERSION_5_3

CHANNEL_PAGES_MAX: Final = (0xFFFF - 8) // 8  # page numbers that a GPADL header's 16-bit length can say


class GuestChannelState(enum.Enum):
    """Where a channel stands, seen from the guest."""

    CLOSED = "closed"
    CREATING_GPADL = "creating gpadl"
    OPENING = "opening"
    OPEN = "open"
    TEARING_DOWN = "tearing down"
    RESCINDED = "rescinded"


class Connected(msgspec.Struct, frozen=True):
    """The host has agreed to a version; the offers are asked for."""

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
    """The host has let go of everything."""


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
        """Queue the messages of a GPADL; returns its id."""
        ...

    def ring_doorbell(self, channel: "GuestChannel") -> None:
        """Signal the host."""
        ...


class GuestChannel:
    """A channel the host has offered.

    Attributes:
        offer: The host's offer.
        state: Where it stands.

    """

    __slots__ = (
        "_client",
        "_downstream",
        "_gpadl",
        "_moving",
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
        """Make both rings in the guest pages ``pfns`` and ask the host to open the channel over them.

        The ring to the host takes the first `downstream_page` pages, the ring from it the rest, two at least
        each. `Opened` or `Failed` follows; the pages are the host's until `Closed` or `Failed`. Interrupts go
        to `target_vp`, `TARGET_VP_NONE` for none.
        """
        if self.state is not GuestChannelState.CLOSED:
            raise LocalProtocolError(f"{self} cannot be opened")
        if not 2 <= downstream_page <= len(pfns) - 2:
            raise LocalProtocolError(
                f"{len(pfns)} pages are not two rings with {downstream_page} in the first"
            )
        memory = GpadlMemory(self._client.memory, pfns)
        ring.initialize(memory, 0)
        ring.initialize(memory, downstream_page)
        self._rings = (  # made before the host knows the pages, so that it cannot choose our own indices
            ring.RingWriter(memory, 0, downstream_page),
            ring.RingReader(memory, downstream_page, memory.pages - downstream_page),
        )
        self._downstream, self._target_vp = downstream_page, target_vp
        self._gpadl = self._client.post_gpadl(self.relid, pfns)
        self._refusal = None
        self.state = GuestChannelState.CREATING_GPADL

    def modify(self, target_vp: int) -> None:
        """Move the open channel's interrupts to another virtual processor (from 4.1 on).

        `Modified` follows from 5.3 on, one move at a time; older hosts do not answer and the old processor
        has to look out for the channel's flag as well.
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
        """Close the open channel; `Closed` follows when the host has let go of the pages."""
        if self.state is not GuestChannelState.OPEN:
            raise LocalProtocolError(f"{self} is not open")
        self._client.post(wire.CloseChannel(self.relid))
        self.tear_down()

    def tear_down(self) -> None:
        """Ask for the pages back."""
        self._reader = self._writer = None
        self._moving = False
        self._client.post(wire.GpadlTeardown(self.relid, self._gpadl))
        self.state = GuestChannelState.TEARING_DOWN

    def receive(self) -> Packet | None:
        """The next packet from the host, None if there is none or the channel is not open.

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

    # what the client's messages do to it

    def on_gpadl_created(self, message: wire.GpadlCreated) -> ClientEvent | None:
        """The host has taken the GPADL, or not."""
        if self.state is not GuestChannelState.CREATING_GPADL or message.gpadl != self._gpadl:
            raise RemoteProtocolError(f"GPADL_CREATED for {self}")
        if message.creation_status:
            self.state = GuestChannelState.CLOSED
            return Failed(f"the host refused the GPADL with status {message.creation_status:#x}", self)
        # ids of opens need only differ between a channel's own attempts: the GPADL's id does
        request = wire.OpenChannel(self.relid, self._gpadl, self._gpadl, self._target_vp, self._downstream)
        self._client.post(request)
        self.state = GuestChannelState.OPENING
        return None

    def on_open_result(self, message: wire.OpenChannelResult) -> ClientEvent | None:
        """The host has opened the channel, or not (then the pages are asked back first)."""
        if self.state is not GuestChannelState.OPENING or message.openid != self._gpadl:
            raise RemoteProtocolError(f"OPENCHANNEL_RESULT for {self}")
        assert self._rings is not None
        if message.status:
            self._refusal = f"the host refused to open the channel with status {message.status:#x}"
            self.tear_down()
            return None
        self._writer, self._reader = self._rings
        self.state = GuestChannelState.OPEN
        return Opened(self)

    def on_modified(self, status: int) -> ClientEvent | None:
        """The host has moved the interrupts, or not; None when the channel was closed meanwhile."""
        if self.state is not GuestChannelState.OPEN:
            return None
        if not self._moving:
            raise RemoteProtocolError(f"MODIFYCHANNEL_RESPONSE for {self}")
        self._moving = False
        return Modified(self, status == wire.STATUS_SUCCESS)

    def on_torndown(self, gpadl: int) -> ClientEvent | None:
        """The host has let go of the pages; None if they are another channel's."""
        if self.state is not GuestChannelState.TEARING_DOWN or gpadl != self._gpadl:
            return None
        self._rings = None
        self.state = GuestChannelState.CLOSED
        return Closed(self) if self._refusal is None else Failed(self._refusal, self)

    def on_rescinded(self) -> list[ClientEvent]:
        """The host has unplugged the device, and has let go of its pages before it said so."""
        events: list[ClientEvent] = [] if self.state is GuestChannelState.CLOSED else [Closed(self)]
        self._reader = self._writer = self._rings = None
        self.state = GuestChannelState.RESCINDED
        return [*events, Rescinded(self)]

    def on_unloaded(self) -> list[ClientEvent]:
        """The bus is gone and with it the host's hold on the pages."""
        events: list[ClientEvent] = [] if self.state is GuestChannelState.CLOSED else [Closed(self)]
        self._reader = self._writer = self._rings = None
        self.state = GuestChannelState.RESCINDED
        return events
