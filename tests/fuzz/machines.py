"""The machines of both ends as targets: whatever the other side says, they stay whole and say no worse than
RemoteProtocolError.

Each burst of wrong messages begins in a state that right messages have led to, since mutants alone hardly
ever get past the first step. After a burst a machine that is reset does its work as if nothing had been.
"""

import contextlib
import uuid
from collections.abc import Callable

from tests.fuzz.engine import Target
from tests.fuzz.parsers import CHANNEL_SEEDS, DM_SEEDS, PACKETS
from tests.rigs.pages import packed
from tests.rigs.stores import PlainBlocks, PlainSource, SetStore

from dynmem import vmbus
from dynmem.dm import DynamicMemoryHost, GivenUp, GuestOptions, HostOptions
from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.habits import LINUX
from dynmem.dm.windows import Release, windows
from dynmem.errors import RemoteProtocolError
from dynmem.limits import DM_RANGES_PER_MESSAGE, VMBUS_QUEUE_MAX
from dynmem.pages import ranges
from dynmem.pages.page_set import PageSet
from dynmem.units import NS_PER_S, PAGE_SIZE
from dynmem.vm.faults import Faults
from dynmem.vm.hyperv.general_protection import GeneralProtectionError
from dynmem.vm.hyperv.hypercalls import Hypercalls
from dynmem.vm.hyperv.synic import Synic
from dynmem.vmbus import ring
from dynmem.vmbus.channel import ChannelEvent
from dynmem.vmbus.memory import FlatMemory, GpadlMemory
from dynmem.vmbus.reoffers import Reoffers
from dynmem.wire import dm, hardware, synic
from dynmem.wire import vmbus as wire
from dynmem.wire.packet import Packet
from dynmem.wire.synic import (
    MSR_SCONTROL,
    MSR_SIEFP,
    MSR_SIMP,
    MSR_SINT0,
    VMBUS_MESSAGE_TYPE,
    VMBUS_SINT,
    HypercallInput,
    MessageSlot,
)
from dynmem.wire.versions import VERSION_5_3

BURST = 24
MEMORY_PAGES = 64
GUEST_PAGES = 32_768  # 128 MiB: enough to be above Linux's floor
ADDED_PAGES = 1024  # beyond boot memory
BLOCK_PAGES = 256
INPUT_AT = 3 * PAGE_SIZE  # of hypercalls
DATAGRAM_BYTES = 32  # of a hypercall; other messages are shorter
REMOTE = (RemoteProtocolError,)
OWN_POSTS_MAX = 8  # of a host between two drains: rescinds and offers


def ring_pages(first: int = 16, count: int = 10) -> bytes:
    """The range of a GPADL over `count` pages from `first` on."""
    words = b"".join(page.to_bytes(8, "little") for page in range(first, first + count))
    return (count * PAGE_SIZE).to_bytes(8, "little") + words


SESSION = tuple(
    wire.encode(message)
    for message in (
        wire.InitiateContact(VERSION_5_3, 0, wire.contact_target(2), 0, 0),
        wire.RequestOffers(),
        wire.GpadlHeader(1, 7, 88, 1, ring_pages()),
        wire.OpenChannel(1, 7, 7, 0, 5),
    )
)
OTHERS = tuple(
    wire.encode(message)
    for message in (
        wire.GpadlHeader(2, 8, 8 + 8 * 30, 1, (30 * PAGE_SIZE).to_bytes(8, "little") + bytes(8 * 26)),
        wire.GpadlBody(1, 8, bytes(8 * 4)),
        wire.OpenChannel(2, 8, 8, 0, 2),
        wire.CloseChannel(1),
        wire.GpadlTeardown(1, 7),
        wire.ModifyChannel(1, 0),
        wire.RelidReleased(1),
        wire.Unload(),
    )
)


class BusRig:
    """A bus with two devices over a little memory, and what a guest posts to it."""

    def __init__(self) -> None:
        self.memory = FlatMemory(memoryview(bytearray(MEMORY_PAGES * PAGE_SIZE)))
        self.offers = [
            vmbus.Offer(dm.BALLOON_DEVICE_TYPE, uuid.UUID(int=number), f"dev{number}") for number in (1, 2)
        ]
        self.bus = vmbus.Bus(self.memory, self.offers)
        self.reoffers = Reoffers(self.bus)
        self.count = 0

    def drain(self) -> None:
        while self.bus.next_message() is not None:
            self.bus.message_delivered()
        self.bus.take_signals()
        self.take_events()

    def take_events(self) -> None:
        """Replace broken channels, as a machine does; a second passes with each input."""
        for event in self.bus.take_events():
            if isinstance(event, vmbus.ChannelFaulted):
                self.reoffers.faulted(event.channel, self.count * NS_PER_S)
        self.reoffers.tick(self.count * NS_PER_S)
        self.bus.take_events()

    def plug_or_unplug(self) -> None:
        """Have the second device come or go, whatever its channel is in the middle of."""
        channel = self.bus.channels.get(2)
        if channel is not None and not channel.can(ChannelEvent.OFFER_AGAIN):
            self.bus.rescind(channel)
        else:
            self.bus.offer(self.offers[1])

    def restart(self) -> None:
        """Whatever was, a guest that starts anew is served."""
        self.bus.reset()
        if 2 not in self.bus.channels:
            self.bus.offer(self.offers[1])
        for page in (16, 21):  # the control pages, as a driver makes them
            ring.initialize(GpadlMemory(self.memory, range(page, page + 2)), 0)
        for message in SESSION:
            self.bus.post_message(4, VMBUS_MESSAGE_TYPE, message)
            self.drain()
        assert self.bus.channels[1].is_open

    def feed(self, data: bytes) -> None:
        if self.count % BURST == 0:
            self.restart()
        self.count += 1
        connection, kind = (1, 4, 4, 4)[len(data) % 4], VMBUS_MESSAGE_TYPE
        self.bus.post_message(connection, kind, data)
        self.bus.signal_event(sum(data[-3:]), data[0] & 1 if data else 0)
        if self.count % 7 == 0:
            self.plug_or_unplug()
        if self.count % 5 == 0:
            self.take_events()
            assert len(self.bus.snapshot().queue) <= VMBUS_QUEUE_MAX + OWN_POSTS_MAX
            self.drain()
        for channel in self.bus.channels.values():
            channel.receive()
            channel.send(data[:16])


def buses() -> Callable[[bytes], None]:
    """The host's bus, against any guest."""
    return BusRig().feed


class HardwareRig(BusRig):
    """Hypercalls and synthetic MSRs, as the embedded guest's datagrams bring them, over the same bus.

    Behind the datagram lies what the guest has put where its hypercalls' input is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = Hypercalls(self.memory, self.bus)
        self.interrupts: list[int] = []
        self.refused: set[int] = set()  # the interrupt sources on which contacts were refused
        self.synic = Synic(self.memory, self.interrupts.append, Faults(lambda: 0))

    def feed(self, data: bytes) -> None:
        if self.count % BURST == 0:
            self.restart()
            for msr, value in (
                (MSR_SCONTROL, 1),
                (MSR_SIMP, 0x1001),
                (MSR_SIEFP, 0x2001),
                (MSR_SINT0 + 2, 0xF3),
            ):
                self.synic.write_msr(msr, value)
            self.memory.write(PAGE_SIZE, bytes(2 * PAGE_SIZE))
        self.count += 1
        if self.count % 4 == 0:  # the guest empties its message slots
            self.memory.write(PAGE_SIZE, bytes(PAGE_SIZE))
        self.memory.write(INPUT_AT, data[DATAGRAM_BYTES : DATAGRAM_BYTES + 256])
        message = hardware.decode(data[:DATAGRAM_BYTES])
        if isinstance(message, hardware.Hypercall):
            self.calls.call(HypercallInput(message.control, message.input_gpa))
        elif isinstance(message, hardware.WriteMsr):
            with contextlib.suppress(GeneralProtectionError):
                self.synic.write_msr(message.msr, message.value)
        out = self.bus.next_message()
        if out is not None:
            if out.sint != VMBUS_SINT:  # a contact for another interrupt source is refused on that one
                response = wire.decode(out.payload)
                assert isinstance(response, wire.VersionResponse), response
                assert not response.version_supported
                self.refused.add(out.sint)
            if self.synic.deliver(out.sint, MessageSlot(1, out.payload)):
                self.bus.message_delivered()
        for signal in self.bus.take_signals():
            self.synic.signal(signal.sint, signal.flag)
        self.bus.take_events()
        assert set(self.interrupts) <= {VMBUS_SINT} | self.refused
        self.interrupts.clear()


def hardware_of_a_vm() -> Callable[[bytes], None]:
    """What a VM does for its guest's datagrams."""
    return HardwareRig().feed


class RingRig:
    """Both ends of a ring whose other end writes what it likes into the shared pages."""

    def __init__(self) -> None:
        self.raw = bytearray(3 * PAGE_SIZE)
        self.pages = GpadlMemory(FlatMemory(memoryview(self.raw)), range(3))

    def feed(self, data: bytes) -> None:
        """The first 16 bytes are the control words, the rest packets, from a place that may wrap around."""
        raw, size = self.raw, 2 * PAGE_SIZE
        start = (size - 64, 0, 8)[len(data) % 3]
        body = data[16:]
        head = min(len(body), size - start)
        raw[PAGE_SIZE + start : PAGE_SIZE + start + head] = body[:head]
        raw[PAGE_SIZE : PAGE_SIZE + len(body) - head] = body[head:]
        raw[0:16] = bytes(16)
        self.pages.store32(ring.READ_INDEX, start)
        self.pages.store32(ring.WRITE_INDEX, start)
        reader, writer = ring.RingReader(self.pages, 0, 3), ring.RingWriter(self.pages, 0, 3)
        raw[8:16] = data[8:16].ljust(8, b"\0")
        if data[:1] < b"\x10":  # a word that is no index of this ring, or another place in it
            raw[0:8] = data[:8].ljust(8, b"\0")
            writer.write(Packet(6, 0, 1, body[:64]))
        published = start
        for step in range(1 + len(body) // 8):
            published = start + (step * 8 if data[:1] > b"\x80" else len(body) & ~7)
            self.pages.store32(ring.WRITE_INDEX, published % size)
            for _ in range(1 + len(body) // 24):
                if reader.read() is None:
                    break
            reader.take_signal()


def rings() -> Callable[[bytes], None]:
    """Readers and writers of a ring in hostile memory: whole packets at once, or eight bytes at a time."""
    return RingRig().feed


class ClientRig:
    """A guest's client, and what a host sends to it."""

    def __init__(self) -> None:
        self.memory = FlatMemory(memoryview(bytearray(MEMORY_PAGES * PAGE_SIZE)))
        self.count = 0
        self.restart()

    def restart(self) -> None:
        self.client = client = vmbus.Client(self.memory)
        client.connect()
        way = self.count // BURST % 4
        if way > 0:
            client.receive_message(wire.encode(wire.VersionResponse(True, 0, 4)))
            client.receive_message(OFFER)
            client.receive_message(wire.encode(wire.AllOffersDelivered()))
        if way > 1:
            client.channels[1].open(range(16, 26), 5)
            gpadl = wire.decode(client.take_posts()[-1].payload, VERSION_5_3)
            assert isinstance(gpadl, wire.GpadlHeader)
            client.receive_message(wire.encode(wire.GpadlCreated(1, gpadl.gpadl, 0)))
            client.receive_message(wire.encode(wire.OpenChannelResult(1, gpadl.gpadl, 0)))
        if way > 2:
            client.unload()

    def feed(self, data: bytes) -> None:
        if self.count % BURST == 0:
            self.restart()
        self.count += 1
        try:
            self.client.receive_message(data)
            for channel in self.client.receive_event(sum(data[-2:])):
                channel.receive()
                channel.send(data[:16])
        finally:
            posts = self.client.take_posts()
            assert all(len(post.payload) <= 240 for post in posts)
            assert len(posts) <= VMBUS_QUEUE_MAX
            self.client.take_doorbells()
            self.client.take_events()


OFFER = next(octets for octets in CHANNEL_SEEDS if octets[0] == 1)


def clients() -> Callable[[bytes], None]:
    """The guest's client, against any host."""
    return ClientRig().feed


class Source(PlainSource):
    """Memory to add that looks at no page of ranges outside it, however long they are."""

    def remove(self, batch: bytes) -> GivenUp:
        starts, counts = ranges.unpack(batch)
        inside = (starts >= GUEST_PAGES) & (starts + counts <= GUEST_PAGES + ADDED_PAGES)
        outside = int(counts[~inside].sum())
        back = super().remove(ranges.pack(starts[inside], counts[inside]))
        return GivenUp(back.new, back.duplicates, back.rejected + outside)


class HostRig:
    """The host's end of the protocol, led into one of its states, then told anything."""

    def __init__(self) -> None:
        self.store = SetStore(GUEST_PAGES + ADDED_PAGES)
        self.source = Source(GUEST_PAGES, ADDED_PAGES)
        self.end = DynamicMemoryHost(
            store=self.store,
            boot_pages=GUEST_PAGES,
            hot_add=self.source,
            options=HostOptions(status_report=True, post_init_wait_ns=0),
        )
        self.count = self.now = 0

    def send(self) -> None:
        for _ in range(8):
            if (message := self.end.next_message()) is None:
                return
            assert len(message) <= 4096
            self.end.message_sent(self.now)
        raise AssertionError("the host has ever more to say to a guest that says nothing")

    def restart(self) -> None:
        self.store.pages.clear()
        self.source.free = set(range(GUEST_PAGES, GUEST_PAGES + ADDED_PAGES))
        self.source.reserved, self.source.given = [], set()
        self.end.reset(self.now)
        self.end.channel_opened(self.now)
        self.end.set_target(GUEST_PAGES, self.now)
        way = self.count // BURST % 7
        if way > 0:
            self.end.receive(dm.encode(dm.VersionRequest(1, dm.VERSION_WIN10, False)), self.now)
            self.send()
        if way > 1:
            self.end.receive(dm.encode(dm.CapabilitiesReport(2, 0x43, 100, 1 << 40)), self.now)
            self.send()
            self.end.tick(self.now)
        if way > 4:
            self.end.set_target(GUEST_PAGES + 2 * BLOCK_PAGES, self.now)
            self.send()
        elif way > 2:
            self.end.set_target(GUEST_PAGES // 2, self.now)
            self.send()
        if way == 6:
            self.end.receive(dm.encode(dm.HotAddResponse(3, 2 * BLOCK_PAGES, 1)), self.now)
            self.end.hot_remove(BLOCK_PAGES, self.now)
            self.send()
        if way == 4:
            self.end.receive(
                dm.encode(dm.BalloonResponse(3, False, packed((2048, 8000), (20_000, 8384)))), self.now
            )
            self.end.set_target(GUEST_PAGES, self.now)
            self.send()
        self.end.take_events()

    def feed(self, data: bytes) -> None:
        if self.count % BURST == 0:
            self.restart()
        self.count += 1
        self.now += 1 << 28
        if len(data) % 16 == 8:
            self.now += 1 << 38  # minutes: a guest that has said nothing for so long
        if len(data) % 8 == 0:
            self.end.tick(self.now)
        try:
            self.end.receive(data, self.now)
        finally:
            assert 0 <= self.end.actual_pages <= GUEST_PAGES + ADDED_PAGES
            self.send()
            self.end.take_events()


def hosts() -> Callable[[bytes], None]:
    """The host's end, against any guest."""
    return HostRig().feed


class Pages:
    """A guest's allocator as a page set: what is free is what the balloon has not."""

    committed_pages = GUEST_PAGES // 4

    def __init__(self) -> None:
        self.free = PageSet(GUEST_PAGES)
        self.free.add(packed((0, GUEST_PAGES)))

    @property
    def available_pages(self) -> int:
        return len(self.free)

    def allocate_for_balloon(self, pages: int) -> bytes:
        return self.free.take(min(pages, 600), DM_RANGES_PER_MESSAGE)

    def free_from_balloon(self, batch: bytes) -> None:
        added = self.free.add(batch)
        assert not added.duplicates, "pages were freed that were not allocated"
        assert not added.rejected


# of the releases of Windows, one whose guests take a request at once
KINDS = (LINUX, windows(Release.SERVER_2016))


class GuestRig:
    """The guest's end of the protocol, led into one of its states, then told anything."""

    def __init__(self) -> None:
        self.count = self.now = 0
        self.restart()

    def send(self) -> None:
        for _ in range(8):
            if (message := self.end.next_message()) is None:
                return
            assert len(message) <= self.habits.most_bytes
            self.end.message_sent(self.now)

    def restart(self) -> None:
        self.pages = Pages()
        self.habits = KINDS[self.count // (4 * BURST) % len(KINDS)]
        self.end = DynamicMemoryGuest(
            pages=self.pages,
            total_pages=GUEST_PAGES,
            blocks=PlainBlocks(BLOCK_PAGES, GUEST_PAGES + ADDED_PAGES - BLOCK_PAGES),
            options=GuestOptions(page_limit=GUEST_PAGES + ADDED_PAGES, habits=self.habits),
        )
        self.end.channel_opened(self.now)
        self.send()
        way = self.count // BURST % 4
        if way > 0:
            self.end.receive(dm.encode(dm.VersionResponse(1, True)), self.now)
            self.send()
        if way > 1:
            self.end.receive(dm.encode(dm.CapabilitiesResponse(2, True, True, False)), self.now)
            self.send()
        if way > 2:
            self.end.receive(dm.encode(dm.BalloonRequest(3, 1000)), self.now)
            self.send()

    def feed(self, data: bytes) -> None:
        if self.count % BURST == 0:
            self.restart()
        self.count += 1
        self.now += 1 << 27
        if len(data) % 8 == 0:
            self.end.tick(self.now)
        try:
            self.end.receive(data, self.now)
        finally:
            if len(data) % 3:
                self.send()
            assert len(self.pages.free) + self.end.ballooned_pages <= GUEST_PAGES
            self.end.take_events()


def guests() -> Callable[[bytes], None]:
    """The guest's end, against any host."""
    return GuestRig().feed


TO_GUEST = tuple(
    dm.encode(message)
    for message in (
        dm.VersionResponse(1, True),
        dm.VersionResponse(1, False),
        dm.CapabilitiesResponse(2, True, False, True),
        dm.BalloonRequest(3, 100),
        dm.UnballoonRequest(4, True, packed((0, 600))),
        dm.UnballoonRequest(4, False, packed((0, 100), (200, 7))),
        dm.HotAddRequest(5, GUEST_PAGES | 512 << 40),
        dm.HotAddRequest(5, GUEST_PAGES | 512 << 40, GUEST_PAGES | 1024 << 40),
        dm.InfoMessage(6, 0, bytes(8)),
        dm.HotRemoveRequest(7, 0, 512, 3),
    )
)
TO_HOST = (
    *(octets for octets in DM_SEEDS if octets[0] in (0, 1, 3, 5, 9, 11, 14)),
    dm.encode(dm.BalloonResponse(9, True, packed((5, 100), (300, 200), (90, 20)))),
    dm.encode(dm.BalloonResponse(9, False, b"")),
    dm.encode(dm.StatusReport(1, 100, 3000, 0, 0, 0, 0)),
    dm.encode(dm.HotAddResponse(1, 2 * BLOCK_PAGES, 1)),
    dm.encode(dm.HotAddResponse(1, 0, 0)),
    dm.encode(dm.HotRemoveResponse(1, 1, True, packed((GUEST_PAGES, 100), (5, 7)))),
)
RINGS = tuple(
    len(octets).to_bytes(4, "little") + bytes(12) + octets
    for octets in (*PACKETS, PACKETS[0] + PACKETS[2] + PACKETS[3])
)

CALLS = (
    *(
        hardware.encode(hardware.Hypercall(1, 0x5C, INPUT_AT))
        + synic.encode_post(synic.PostMessageInput(4, 1, octets))
        for octets in (*SESSION, *OTHERS)
    ),
    hardware.encode(hardware.Hypercall(2, 0x5D | 1 << 16, 17)),
    hardware.encode(hardware.Hypercall(3, 0x5D, INPUT_AT))
    + synic.encode_signal(synic.SignalEventInput(17, 0)),
    # exactly one datagram each: shorter messages have nothing behind them
    hardware.encode(hardware.WriteMsr(4, MSR_SIMP, 0x3001)),
    hardware.encode(hardware.WriteMsr(5, synic.MSR_EOM, 0)),
)

MACHINES = (
    Target("ring", rings, (*RINGS, *(b"\x90" + octets[1:] for octets in RINGS)), REMOTE),
    Target("bus", buses, (*SESSION, *OTHERS)),
    Target("hypercalls", hardware_of_a_vm, CALLS, REMOTE),
    Target(
        "client",
        clients,
        tuple(octets for octets in CHANNEL_SEEDS if octets[0] in (1, 2, 4, 6, 10, 12, 15, 17)),
        REMOTE,
    ),
    Target("dm-host", hosts, TO_HOST, REMOTE),
    Target("dm-guest", guests, TO_GUEST, REMOTE),
)
