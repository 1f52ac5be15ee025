"""The guest's end of VMBus: contact, offers, opening channels over GPADLs, closing, unloading.

Sans I/O: the driver passes in messages from its message slot and event flags, and takes posts (HvPostMessage,
in order), doorbells (HvSignalEvent) and events. The host is not trusted: a message that is malformed or out
of order raises RemoteProtocolError and changes nothing.

The table `RULES` says which message is taken in which state. Versions are tried in Linux's order, newest
first.

Source: Linux drivers/hv/connection.c, channel_mgmt.c, channel.c.
"""

import enum
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import VMBUS_CHANNELS_MAX, VMBUS_EVENTS_MAX
from dynmem.units import PAGE_SIZE
from dynmem.vmbus.guest_channel import (
    ClientEvent,
    Connected,
    Failed,
    GuestChannel,
    GuestChannelSnapshot,
    Offered,
    OffersDelivered,
    Unloaded,
)
from dynmem.vmbus.memory import GuestMemory
from dynmem.wire import vmbus as wire
from dynmem.wire.synic import (
    EVENT_CONNECTION_ID,
    MESSAGE_CONNECTION_ID,
    MESSAGE_CONNECTION_ID_4,
    VMBUS_SINT,
    HvStatus,
)
from dynmem.wire.versions import (
    VERSION_4_1,
    VERSION_5_0,
    VERSION_5_1,
    VERSION_5_2,
    VERSION_5_3,
    VERSION_WIN8,
    VERSION_WIN8_1,
    VERSION_WIN10,
    VERSION_WS2008,
)

#: The versions that Linux tries, in its order (vmbus_versions in drivers/hv/connection.c).
LINUX_VERSIONS: Final = (
    VERSION_5_3,
    VERSION_5_2,
    VERSION_5_1,
    VERSION_5_0,
    VERSION_4_1,
    VERSION_WIN10,
    VERSION_WIN8_1,
    VERSION_WIN8,
)
# where Linux begins to count
FIRST_GPADL_ID: Final = 0xE1E10
_RANGE: Final = struct.Struct("<II")


class ClientState(enum.Enum):
    """How far the client has got."""

    DISCONNECTED = "disconnected"
    CONTACTING = "contacting"
    CONNECTED = "connected"
    UNLOADING = "unloading"


class Post(msgspec.Struct, frozen=True):
    """A message to post by hypercall; all posts of a client go out in order.

    Attributes:
        connection_id: Where to: what HvPostMessage is called with.
        payload: At most 240 bytes.

    """

    connection_id: int
    payload: bytes


class ClientSnapshot(NamedTuple):
    """What can change of a client, including posts and doorbells that were not taken."""

    state: ClientState
    version: int | None
    trying: int
    connection_id: int
    next_gpadl: int
    posts: tuple[Post, ...]
    doorbells: tuple[int, ...]
    channels: tuple[GuestChannelSnapshot, ...]


class Client:
    """A guest's VMBus driver.

    Args:
        memory: The guest's own memory.
        monitor_pages: Guest physical addresses of two pages for the host's monitor, or zeros for none.
        interrupt_page: Guest physical address of a page for versions before 2.4, or zero.
        target_vp: The virtual processor that gets the host's messages; before 3.0 it is always the first.
        versions: What to try, in this order.

    Attributes:
        channels: The offered channels by relid.
        version: The negotiated version, None before.

    """

    def __init__(
        self,
        memory: GuestMemory,
        *,
        monitor_pages: tuple[int, int] = (0, 0),
        interrupt_page: int = 0,
        target_vp: int = 0,
        versions: Sequence[int] = LINUX_VERSIONS,
    ) -> None:
        self.memory = memory
        self.channels: dict[int, GuestChannel] = {}
        self.state: ClientState = ClientState.DISCONNECTED
        self.version: int | None = None
        self._monitor_pages = monitor_pages
        self._interrupt_page = interrupt_page
        self._target_vp = target_vp
        self._versions = tuple(versions)
        self._trying = 0
        self._connection_id = MESSAGE_CONNECTION_ID
        self._next_gpadl = FIRST_GPADL_ID
        self._posts: list[Post] = []
        self._doorbells: dict[int, None] = {}
        self._events: list[ClientEvent] = []

    def connect(self) -> None:
        """Contact the host with the first version; `Connected` or `Failed` follows."""
        if self.state is not ClientState.DISCONNECTED:
            raise LocalProtocolError(f"a client that is {self.state.value} cannot connect")
        self._trying = 0
        self._contact()

    def unload(self) -> None:
        """Leave the bus; `Closed` for each channel in use and `Unloaded` follow."""
        if self.state is not ClientState.CONNECTED or self.version is None:
            raise LocalProtocolError(f"a client that is {self.state.value} cannot unload")
        self.state = ClientState.UNLOADING
        if self.version >= VERSION_WIN8_1:
            self.post(wire.Unload())
        else:  # older hosts do not reply
            self._on_unload_response(wire.UnloadResponse())

    def receive_message(self, payload: bytes) -> None:
        """Take a message from the slot of SINT 2; RemoteProtocolError if it is malformed or out of order."""
        message = wire.decode(payload, self._reading_version())
        if self.state is ClientState.UNLOADING and not isinstance(message, wire.UnloadResponse):
            return  # the host sent it before it knew
        handler, states = RULES.get(type(message), (None, frozenset()))
        if handler is None or self.state not in states:
            name = wire.TABLE.of(message).name
            raise RemoteProtocolError(f"{name} from the host while {self.state.value}")
        if len(self._events) >= VMBUS_EVENTS_MAX + len(self.channels):
            raise RemoteProtocolError("the host sends more than the driver takes")
        handler(self, message)

    def receive_event(self, relid: int) -> list[GuestChannel]:
        """Return the channels that an event flag stands for (flag 0, of hosts before 2.4: all of them)."""
        if relid == 0:
            return list(self.channels.values())
        channel = self.channels.get(relid)
        return [] if channel is None else [channel]

    def post_refused(self, status: HvStatus) -> None:
        """Record that the hypervisor refused the last post permanently (not for want of buffers).

        A host that does not know connection id 4 refuses a contact that way: the next version is tried.
        """
        if self.state is ClientState.CONTACTING and status is HvStatus.INVALID_CONNECTION_ID:
            self._try_next()
        else:
            self._events.append(Failed(f"the hypervisor refused a message with {status.name}"))

    def take_posts(self) -> list[Post]:
        """Return the messages to post since the last call, in order."""
        posts, self._posts = self._posts, []
        return posts

    def take_doorbells(self) -> list[int]:
        """Return the connection ids to signal since the last call, each once."""
        doorbells = list(self._doorbells)
        self._doorbells.clear()
        return doorbells

    def take_events(self) -> list[ClientEvent]:
        """Return what happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    # for model checkers

    def snapshot(self) -> ClientSnapshot:
        """Return what can change of the client. Its events must have been taken."""
        if self._events:
            raise LocalProtocolError("take the events of the client before its snapshot: they are not in it")
        return ClientSnapshot(
            self.state,
            self.version,
            self._trying,
            self._connection_id,
            self._next_gpadl,
            tuple(self._posts),
            tuple(self._doorbells),
            tuple(channel.snapshot() for channel in self.channels.values()),
        )

    def restore(self, snapshot: ClientSnapshot) -> None:
        """Make this client, which was set up alike, what that one was when its snapshot was taken.

        Guest memory is not part of it: the caller puts that back. Channels are new objects.
        """
        self.state = snapshot.state
        self.version = snapshot.version
        self._trying = snapshot.trying
        self._connection_id = snapshot.connection_id
        self._next_gpadl = snapshot.next_gpadl
        self._posts = list(snapshot.posts)
        self._doorbells = dict.fromkeys(snapshot.doorbells)
        self._events = []
        self.channels.clear()
        for of_channel in snapshot.channels:
            channel = GuestChannel.restored(self, of_channel)
            self.channels[channel.relid] = channel

    # used by its channels

    def post(self, message: wire.Message) -> None:
        """Queue a message."""
        self._posts.append(Post(self._connection_id, wire.encode(message, self._reading_version())))

    def post_gpadl(self, relid: int, pfns: Sequence[int]) -> int:
        """Queue the header and bodies of a GPADL over `pfns`; return its id."""
        gpadl = self._next_gpadl
        self._next_gpadl += 1
        words = struct.pack(f"<{len(pfns)}Q", *pfns)
        first, step = 8 * wire.GPADL_HEADER_PFNS_MAX, 8 * wire.GPADL_BODY_PFNS_MAX
        ranges = _RANGE.pack(len(pfns) * PAGE_SIZE, 0) + words[:first]
        self.post(wire.GpadlHeader(relid, gpadl, _RANGE.size + len(words), 1, ranges))
        for number, start in enumerate(range(first, len(words), step), start=1):
            self.post(wire.GpadlBody(number, gpadl, words[start : start + step]))
        return gpadl

    def ring_doorbell(self, channel: GuestChannel) -> None:
        """Signal the host; before 2.4 the channel's bit in the interrupt page's second half goes with it."""
        assert self.version is not None
        if self.version < VERSION_WIN8 and self._interrupt_page:
            word = self._interrupt_page + PAGE_SIZE // 2 + channel.relid // 32 * 4
            self.memory.store32(word, self.memory.load32(word) | 1 << channel.relid % 32)
        old = self.version == VERSION_WS2008
        self._doorbells[EVENT_CONNECTION_ID if old else channel.offer.connection_id] = None

    # inside

    def _reading_version(self) -> int:
        return self._versions[self._trying] if self.version is None else self.version

    def _contact(self) -> None:
        version = self._versions[self._trying]
        modern = version >= VERSION_5_0
        self._connection_id = MESSAGE_CONNECTION_ID_4 if modern else MESSAGE_CONNECTION_ID
        target = wire.contact_target(VMBUS_SINT) if modern else self._interrupt_page
        self.state = ClientState.CONTACTING
        self.post(wire.InitiateContact(version, self._target_vp, target, *self._monitor_pages))

    def _try_next(self) -> None:
        self._trying += 1
        if self._trying < len(self._versions):
            self._contact()
            return
        self.state, self._trying = ClientState.DISCONNECTED, 0
        self._events.append(Failed("the host agreed to none of our versions"))

    def _on_version_response(self, message: wire.VersionResponse) -> None:
        if not message.version_supported:
            self._try_next()
        elif message.connection_state:
            self.state = ClientState.DISCONNECTED
            self._events.append(Failed(f"the host refused the contact with state {message.connection_state}"))
        else:
            self.version = self._versions[self._trying]
            if self.version >= VERSION_5_0 and message.version_or_connection_id:
                self._connection_id = message.version_or_connection_id
            self.state = ClientState.CONNECTED
            self._events.append(Connected(self.version))
            self.post(wire.RequestOffers())

    def _on_offer(self, message: wire.OfferChannel) -> None:
        relid = message.child_relid
        if not 0 < relid <= VMBUS_CHANNELS_MAX or relid in self.channels:
            raise RemoteProtocolError(f"the host offers relid {relid} twice or out of range")
        channel = self.channels[relid] = GuestChannel(self, message)
        self._events.append(Offered(channel))

    def _on_all_offers_delivered(self, message: wire.AllOffersDelivered) -> None:
        self._events.append(OffersDelivered())

    def _on_rescind(self, message: wire.RescindChannelOffer) -> None:
        channel = self.channels.pop(message.child_relid, None)
        if channel is None:
            raise RemoteProtocolError(
                f"the host rescinds relid {message.child_relid}, which it never offered"
            )
        self._events.extend(channel.on_rescinded())
        self.post(wire.RelidReleased(channel.relid))

    def _on_gpadl_created(self, message: wire.GpadlCreated) -> None:
        channel = self.channels.get(message.child_relid)
        if channel is not None:
            self._add(channel.on_gpadl_created(message))

    def _on_open_result(self, message: wire.OpenChannelResult) -> None:
        channel = self.channels.get(message.child_relid)
        if channel is not None:
            self._add(channel.on_open_result(message))

    def _on_modify_response(self, message: wire.ModifyChannelResponse) -> None:
        channel = self.channels.get(message.child_relid)
        if channel is not None:
            self._add(channel.on_modified(message.status))

    def _on_gpadl_torndown(self, message: wire.GpadlTorndown) -> None:
        """Find the channel whose pages they are, which the message does not say; a rescinded one is gone."""
        for channel in self.channels.values():
            self._add(channel.on_torndown(message.gpadl))

    def _on_unload_response(self, message: wire.UnloadResponse) -> None:
        for channel in self.channels.values():
            self._events.extend(channel.on_unloaded())
        self.channels.clear()
        self._doorbells.clear()
        self.state, self.version, self._trying = ClientState.DISCONNECTED, None, 0
        self._events.append(Unloaded())

    def _add(self, event: ClientEvent | None) -> None:
        if event is not None:
            self._events.append(event)


_CONTACTING: Final = frozenset({ClientState.CONTACTING})
_CONNECTED: Final = frozenset({ClientState.CONNECTED})
_UNLOADING: Final = frozenset({ClientState.UNLOADING})

RULES: Final[dict[type, tuple[Callable[[Client, Any], None], frozenset[ClientState]]]] = {
    wire.VersionResponse: (Client._on_version_response, _CONTACTING),
    wire.OfferChannel: (Client._on_offer, _CONNECTED),
    wire.AllOffersDelivered: (Client._on_all_offers_delivered, _CONNECTED),
    wire.RescindChannelOffer: (Client._on_rescind, _CONNECTED),
    wire.GpadlCreated: (Client._on_gpadl_created, _CONNECTED),
    wire.OpenChannelResult: (Client._on_open_result, _CONNECTED),
    wire.ModifyChannelResponse: (Client._on_modify_response, _CONNECTED),
    wire.GpadlTorndown: (Client._on_gpadl_torndown, _CONNECTED),
    wire.UnloadResponse: (Client._on_unload_response, _UNLOADING),
}
