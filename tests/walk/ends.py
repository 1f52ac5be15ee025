"""The two ends of a VMBus with the device and the driver that use them, whose state is a tuple each.

They are the product's own `Bus` and `Client`, small enough to be walked: pages are of 128 bytes, so that a
ring of two has 128 bytes of data and the whole shared memory is four pages. A state is taken out of an end
(`save`) and put back (`load`): the machine's own snapshot, and what the device or the driver remembers.
"""

import contextlib
import uuid
from collections.abc import Iterator
from typing import Final, NamedTuple
from unittest import mock

from dynmem import vmbus
from dynmem.vmbus import gpadl, guest, memory, ring
from dynmem.vmbus.guest_channel import GuestChannel
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire.packet import Packet
from dynmem.wire.synic import VMBUS_MESSAGE_TYPE, HvStatus
from dynmem.wire.versions import VERSION_5_3

PAGE_BYTES: Final = 128
PFNS: Final = range(4)  # control page and data of the ring to the host, and of the ring from it
DOWNSTREAM: Final = 2
BODY_BYTES: Final = 24  # of a message: a packet of 48 bytes, two of which fit a ring
OFFER: Final = vmbus.Offer(uuid.UUID(int=1), uuid.UUID(int=2), "device")

UserState = tuple[bool, bool, int, int]


@contextlib.contextmanager
def small_pages() -> Iterator[None]:
    """Within it the pages of the rooms that know any are of 128 bytes."""
    with contextlib.ExitStack() as patches:
        for room in (memory, ring, gpadl, guest):
            for name, value in (("PAGE_SIZE", PAGE_BYTES), ("PAGE_SHIFT", PAGE_BYTES.bit_length() - 1)):
                if hasattr(room, name):
                    patches.enter_context(mock.patch.object(room, name, value))
        yield


class BrokenInvariantError(AssertionError):
    """What the walk looks for."""


def must(holds: bool, text: str) -> None:
    """One invariant."""
    if not holds:
        raise BrokenInvariantError(text)


class _User:
    """Device or driver: sends numbered messages, takes the other side's, and sleeps until it is signalled."""

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.looking = self.blocked = False
        self.sent = self.got = 0

    def save_user(self) -> UserState:
        return self.looking, self.blocked, self.sent, self.got

    def load_user(self, state: UserState) -> None:
        self.looking, self.blocked, self.sent, self.got = state

    def may_send(self) -> bool:
        return not self.blocked and self.sent < self.messages

    def body(self) -> bytes:
        return bytes([self.sent + 1]) * BODY_BYTES

    def took(self, packet: Packet | None) -> None:
        """Messages come whole and in order; those of a ring that was closed may be lost."""
        if packet is None:
            self.looking = False
            return
        number = packet.data[0]
        must(packet.data == bytes([number]) * BODY_BYTES, f"message {number} has come to harm")
        must(number > self.got, f"message {number} after {self.got}")
        must(number <= self.messages, f"message {number} was never sent")
        self.got = number


class HostState(NamedTuple):
    """All of the host's end."""

    bus: vmbus.BusSnapshot
    rescinds: int
    reoffers: int
    user: UserState


class GuestState(NamedTuple):
    """All of the guest's end."""

    client: vmbus.ClientSnapshot
    posts: tuple[vmbus.Post, ...]
    opens: int
    closes: int
    user: UserState


class HostEnd(_User):
    """Bus and device."""

    def __init__(self, shared: FlatMemory, messages: int, rescinds: int, reoffers: int) -> None:
        super().__init__(messages)
        self.bus = vmbus.Bus(shared, [OFFER])
        self.rescinds, self.reoffers = rescinds, reoffers

    @property
    def channel(self) -> vmbus.Channel | None:
        """The channel, until the guest has released it after a rescind."""
        return self.bus.channels.get(1)

    @property
    def is_open(self) -> bool:
        """Whether packets can flow."""
        return self.channel is not None and self.channel.is_open

    @property
    def is_rescinded(self) -> bool:
        """Whether the offer was taken back."""
        return self.channel is None or self.channel.is_rescinded

    def save(self) -> HostState:
        """Everything that can differ."""
        return HostState(self.bus.snapshot(), self.rescinds, self.reoffers, self.save_user())

    def load(self, state: HostState) -> None:
        """Be as when `state` was saved."""
        self.bus.restore(state.bus)
        self.rescinds, self.reoffers = state.rescinds, state.reoffers
        self.load_user(state.user)

    def settle(self) -> bool:
        """Do what the device does at once after any step; whether the guest is to be interrupted."""
        must(not self.bus.rejected, f"the host refuses {self.bus.rejected}")
        for event in self.bus.take_events():
            must(not isinstance(event, vmbus.ChannelFaulted), f"{event}")
            if isinstance(event, vmbus.ChannelOpened):
                self.looking, self.blocked = True, False
            elif isinstance(event, vmbus.ChannelClosed):
                self.looking = self.blocked = False
        return bool(self.bus.take_signals())

    def post(self, post: vmbus.Post) -> None:
        """A hypercall of the guest's."""
        status = self.bus.post_message(post.connection_id, VMBUS_MESSAGE_TYPE, post.payload)
        must(status is HvStatus.SUCCESS, f"a post was answered with {status.name}")

    def send(self) -> None:
        """Send the next message, or find no room."""
        assert self.channel is not None
        if self.channel.send(self.body()):
            self.sent += 1
        else:
            self.blocked = True

    def look(self) -> None:
        """Wake up for the doorbell."""
        self.looking = self.is_open
        self.blocked = False

    def read(self) -> None:
        """Take one packet."""
        assert self.channel is not None
        self.took(self.channel.receive())

    def rescind(self) -> None:
        """Rescind the offer, and offer it again if the bound allows that."""
        assert self.channel is not None
        self.rescinds -= 1
        self.bus.rescind(self.channel)
        if self.reoffers:
            self.reoffers -= 1
            self.bus.offer(OFFER)


class GuestEnd(_User):
    """Client and driver, which opens the channel whenever it can and may."""

    def __init__(self, shared: FlatMemory, messages: int, opens: int, closes: int) -> None:
        super().__init__(messages)
        self.opens, self.closes = opens, closes
        self.posts: list[vmbus.Post] = []
        self.client = vmbus.Client(shared, versions=(VERSION_5_3,))

    @property
    def channel(self) -> GuestChannel | None:
        """The channel, while the client knows one."""
        return self.client.channels.get(1)

    def reset(self) -> None:
        """The machine was reset: a new client connects; what the driver has sent and got is remembered."""
        self.client = vmbus.Client(self.client.memory, versions=(VERSION_5_3,))
        self.client.connect()
        self.posts = []
        self.looking = self.blocked = False

    def save(self) -> GuestState:
        """Everything that can differ."""
        self.posts += self.client.take_posts()
        return GuestState(
            self.client.snapshot(), tuple(self.posts), self.opens, self.closes, self.save_user()
        )

    def load(self, state: GuestState) -> None:
        """Be as when `state` was saved."""
        self.client.restore(state.client)
        self.posts = list(state.posts)
        self.opens = state.opens
        self.closes = state.closes
        self.load_user(state.user)

    def settle(self) -> bool:
        """Do what the driver does at once after any step; whether the host is to be signalled."""
        for event in self.client.take_events():
            if isinstance(event, vmbus.Opened):
                self.looking, self.blocked = True, False
            elif isinstance(event, vmbus.Closed | vmbus.Rescinded):
                self.looking = self.blocked = False
            elif isinstance(event, vmbus.Failed):
                raise BrokenInvariantError(event.reason)
        channel = self.channel
        if channel is not None and channel.state is vmbus.GuestChannelState.CLOSED and self.opens:
            self.opens -= 1
            channel.open(PFNS, DOWNSTREAM)
        return bool(self.client.take_doorbells())

    def post(self) -> vmbus.Post:
        """Post the first message that waits."""
        return self.posts.pop(0)

    def message(self, payload: bytes) -> None:
        """Something was in the slot."""
        self.client.receive_message(payload)

    def send(self) -> None:
        """Send the next message, or find no room."""
        assert self.channel is not None
        if self.channel.send(self.body()):
            self.sent += 1
        else:
            self.blocked = True

    def look(self) -> None:
        """Wake up for the event flag."""
        self.looking = self.is_open
        self.blocked = False

    def read(self) -> None:
        """Take one packet."""
        assert self.channel is not None
        self.took(self.channel.receive())

    def close(self) -> None:
        """Close the channel, now."""
        assert self.channel is not None
        self.closes -= 1
        self.looking = self.blocked = False
        self.channel.close()

    @property
    def is_open(self) -> bool:
        """Whether packets can flow."""
        return self.channel is not None and self.channel.state is vmbus.GuestChannelState.OPEN
