"""The two ends of a VMBus with the device and the driver that use them, whose state is a tuple each.

They are the product's own `Bus` and `Client`, small enough to be walked: pages are of 128 bytes, so that a
ring of two has 128 bytes of data and the whole shared memory is four pages. A state is taken out of an end
(`save`) and put back (`load`); `fields_left_out` names what of the machines' fields is not in it.
"""

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any, Final
from unittest import mock

from dynmem import vmbus
from dynmem.vmbus import gpadl, guest, memory, ring
from dynmem.vmbus.channel import ChannelState
from dynmem.vmbus.gpadl import Gpadl
from dynmem.vmbus.guest_channel import GuestChannel
from dynmem.vmbus.memory import FlatMemory, GpadlMemory
from dynmem.vmbus.ring import RingReader, RingWriter, initialize
from dynmem.wire.packet import Packet
from dynmem.wire.synic import VMBUS_MESSAGE_TYPE, HvStatus
from dynmem.wire.versions import VERSION_5_3

PAGE_BYTES: Final = 128
PFNS: Final = range(4)  # control page and data of the ring to the host, and of the ring from it
DOWNSTREAM: Final = 2
BODY_BYTES: Final = 24  # of a message: a packet of 48 bytes, two of which fit a ring
OFFER: Final = vmbus.Offer(uuid.UUID(int=1), uuid.UUID(int=2), "device")

# what a host refuses of a guest that could not know yet of the rescind
CROSSED: Final = {
    "a GPADL of an unknown channel",
    "closing a channel that is not open, or not so",
    "opening a channel that is not there or not closed",
    "teardown of an unknown GPADL",
}

State = tuple[Any, ...]

# what of each machine is saved, and what need not be: it never changes, or is empty between two steps
SAVED: Final[dict[type, set[str]]] = {
    vmbus.Bus: {"state", "version", "_queue", "_gpadls", "_channels"},
    vmbus.Channel: {"state", "fault", "target_vp", "gpadl_id", "_reader", "_writer"},
    vmbus.Client: {"state", "version", "_trying", "_connection_id", "_next_gpadl", "_posts", "channels"},
    GuestChannel: {"state", "_gpadl", "_refusal", "_rings", "_reader", "_writer"},
    RingReader: {"_read"},
    RingWriter: {"_write", "_pending"},
    Gpadl: {"relid", "gpadl_id", "pages", "_parts", "_have"},
}
SAME: Final[dict[type, set[str]]] = {
    vmbus.Bus: {"_memory", "_vp_count", "_max_version", "_trace", "channels", "rejected", "monitor_pages"}
    | {"_vp", "_interrupt_page", "_signals", "_events"},
    vmbus.Channel: {"offer", "relid", "_notify", "_on_fault", "reserved"},
    vmbus.Client: {"memory", "_monitor_pages", "_interrupt_page", "_versions", "_doorbells", "_events"},
    GuestChannel: {"offer", "_client", "_downstream", "_target_vp", "_moving"},
    RingReader: {"_control", "_data", "_memory", "_signal", "size"},
    RingWriter: {"_control", "_data", "_memory", "_signal", "size"},
    Gpadl: set(),
}


def fields_left_out() -> set[str]:
    """Fields of the machines that neither table above knows."""
    shared = FlatMemory(memoryview(bytearray(len(PFNS) * PAGE_BYTES)))
    with small_pages():
        bus, client = vmbus.Bus(shared, [OFFER]), vmbus.Client(shared)
        pages = GpadlMemory(shared, PFNS)
        there = bus.channels[1]
        here = GuestChannel(client, there.offer_message())
        objects = [bus, there, client, here, RingReader(pages, 0, 2), RingWriter(pages, 0, 2), Gpadl(1, 2, 3)]
    left_out = set()
    for thing in objects:
        slots = {name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())}
        for name in slots | set(getattr(thing, "__dict__", ())):
            if name not in SAVED[type(thing)] | SAME[type(thing)]:
                left_out.add(f"{type(thing).__name__}.{name}")
    return left_out


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

    def save_user(self) -> State:
        return self.looking, self.blocked, self.sent, self.got

    def load_user(self, state: State) -> None:
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


def _ring_state(reader: RingReader | None, writer: RingWriter | None) -> State:
    if reader is None or writer is None:
        return ()
    must(not reader.take_signal() and not writer.take_signal(), "a signal was kept back")
    return reader._read, writer._write, writer._pending


class HostEnd(_User):
    """Bus and device."""

    def __init__(self, shared: FlatMemory, messages: int, rescinds: int) -> None:
        super().__init__(messages)
        self.bus = vmbus.Bus(shared, [OFFER])
        self.channel = self.bus.channels[1]
        self.rescinds = rescinds
        pages = GpadlMemory(shared, PFNS)
        initialize(pages, 0)
        initialize(pages, DOWNSTREAM)
        self._rings = RingReader(pages, 0, DOWNSTREAM), RingWriter(pages, DOWNSTREAM, DOWNSTREAM)

    def save(self) -> State:
        """Everything that can differ."""
        bus, channel = self.bus, self.channel
        gpadls = [(g.relid, g.gpadl_id, g.pages, b"".join(g._parts)) for g in bus._gpadls._gpadls.values()]
        return (
            (bus.state, bus.version, tuple(bus._queue), tuple(gpadls), 1 in bus.channels, self.rescinds),
            (channel.state, channel.fault, channel.target_vp, channel.gpadl_id),
            _ring_state(channel._reader, channel._writer),
            self.save_user(),
        )

    def load(self, state: State) -> None:
        """Be as when `state` was saved."""
        bus, channel = self.bus, self.channel
        (bus.state, bus.version, queue, gpadls, present, self.rescinds), of_channel, rings, user = state
        bus._queue.clear()
        bus._queue.extend(queue)
        bus._gpadls.clear()
        for relid, gpadl_id, pages, words in gpadls:
            made = bus._gpadls._gpadls[gpadl_id] = Gpadl(relid, gpadl_id, pages)
            made.add(words)
            bus._gpadls._pages += pages
        bus._channels.clear()
        if present:
            bus._channels[1] = channel
        channel.state, channel.fault, channel.target_vp, channel.gpadl_id = of_channel
        channel._reader = channel._writer = None
        if rings:
            reader, writer = channel._reader, channel._writer = self._rings
            reader._read, writer._write, writer._pending = rings
        self.load_user(user)

    def settle(self) -> bool:
        """Do what the device does at once after any step; whether the guest is to be interrupted."""
        rescinded = self.channel.state in (ChannelState.RESCINDED, ChannelState.GONE)
        refused = self.bus.rejected
        must(set(refused) <= (CROSSED if rescinded else set()), f"the host refuses {refused}")
        refused.clear()
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
        if self.channel.send(self.body()):
            self.sent += 1
        else:
            self.blocked = True

    def look(self) -> None:
        """Wake up for the doorbell."""
        self.looking = self.channel.is_open
        self.blocked = False

    def read(self) -> None:
        """Take one packet."""
        self.took(self.channel.receive())


class GuestEnd(_User):
    """Client and driver, which opens the channel whenever it can and may."""

    def __init__(self, shared: FlatMemory, messages: int, opens: int, closes: int) -> None:
        super().__init__(messages)
        self.opens, self.closes = opens, closes
        self.client = vmbus.Client(shared, versions=(VERSION_5_3,))
        self._offer = vmbus.Bus(shared, [OFFER]).channels[1].offer_message()
        pages = GpadlMemory(shared, PFNS)
        initialize(pages, 0)
        initialize(pages, DOWNSTREAM)
        self._rings = RingWriter(pages, 0, DOWNSTREAM), RingReader(pages, DOWNSTREAM, DOWNSTREAM)

    @property
    def channel(self) -> GuestChannel | None:
        """The channel, while the client knows one."""
        return self.client.channels.get(1)

    def reset(self) -> None:
        """The machine was reset: a new client connects; what the driver has sent and got is remembered."""
        self.client = vmbus.Client(self.client.memory, versions=(VERSION_5_3,))
        self.client.connect()
        self.looking = self.blocked = False

    def save(self) -> State:
        """Everything that can differ."""
        client, channel = self.client, self.channel
        of_channel: State = ()
        if channel is not None:
            rings = () if channel._rings is None else _ring_state(channel._rings[1], channel._rings[0])
            active = channel._reader is not None
            of_channel = channel.state, channel._gpadl, channel._refusal, rings, active
        return (
            (client.state, client.version, client._trying, client._connection_id, client._next_gpadl),
            tuple(client._posts),
            of_channel,
            (self.opens, self.closes),
            self.save_user(),
        )

    def load(self, state: State) -> None:
        """Be as when `state` was saved."""
        client = self.client
        of_client, posts, of_channel, (self.opens, self.closes), user = state
        client.state, client.version, client._trying, client._connection_id, client._next_gpadl = of_client
        client._posts = list(posts)
        client.channels.clear()
        if of_channel:
            channel = client.channels[1] = GuestChannel(client, self._offer)
            channel._downstream = DOWNSTREAM
            channel.state, channel._gpadl, channel._refusal, rings, active = of_channel
            if rings:
                writer, reader = channel._rings = self._rings
                reader._read, writer._write, writer._pending = rings
                if active:
                    channel._writer, channel._reader = writer, reader
        self.load_user(user)

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

    def next_post(self) -> vmbus.Post:
        """The first message that waits to be posted, which is taken."""
        return self.client._posts.pop(0)

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
