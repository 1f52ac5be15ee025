"""Guests that break the rings of their channel."""

import contextlib
import struct

from tests.hostile.guests.cast import member
from tests.hostile.guests.kernel import GPADL, PAGES_MAX, RING_PAGES, RINGS_FROM, Kernel

from dynmem import vmbus
from dynmem.errors import RemoteProtocolError
from dynmem.vmbus.ring import RingWriter
from dynmem.wire import vmbus as bus
from dynmem.wire.packet import Packet, PacketType

WRITE_INDEX, READ_INDEX = RINGS_FROM << 12, (RINGS_FROM << 12) + 4
TO_GUEST = RINGS_FROM + RING_PAGES << 12
DATA = RINGS_FROM + 1 << 12
STATUS = struct.pack("<HHI", 8, 24, 1) + bytes(16)


@member("it writes an index far outside of its ring, and opens the channel again")
def wild_index(guest: Kernel) -> None:
    guest.writer()
    while True:
        guest.memory.store32(WRITE_INDEX, guest.random.getrandbits(32))
        guest.hardware.signal(17)
        guest.settle()
        guest.open_again()


@member("it moves its write index to and fro while the host reads")
def flipping_index(guest: Kernel) -> None:
    guest.writer()

    def flip() -> None:
        while True:
            for index in (0, 24, 512, 8, 100_000, 600_000):
                guest.memory.store32(WRITE_INDEX, index)

    guest.fork(flip)
    while True:
        for _ in range(20):
            guest.memory.write(DATA, status_packet(guest))
            guest.hardware.signal(17)
        guest.open_again()


def status_packet(guest: Kernel) -> bytes:
    return struct.pack("<HHHHQ", 6, 2, guest.random.randrange(2, 64), 0, 1) + STATUS


@member("it says that its ring is full of packets, and all of it is zeros")
def full_of_nothing(guest: Kernel) -> None:
    guest.writer()
    while True:
        read = guest.memory.load32(READ_INDEX)
        guest.memory.store32(WRITE_INDEX, (read - 8) % (RING_PAGES - 1 << 12))
        guest.hardware.signal(17)
        guest.open_again()


@member("it sends packets of 65,532 ranges of no bytes")
def empty_ranges(guest: Kernel) -> None:
    words = struct.pack("<II", 0, 65_532) + bytes(8 * 65_530)
    guest.ring_out(lambda: Packet(PacketType.GPA_DIRECT, 0, 1, b"", words))


@member("it sends packets as long as a packet can be")
def longest_packets(guest: Kernel) -> None:
    data = STATUS + bytes(524_000)
    guest.ring_out(lambda: Packet(PacketType.INBAND, 0, 1, data))


@member("it fills its ring with the shortest packets there are")
def shortest_packets(guest: Kernel) -> None:
    guest.ring_out(lambda: Packet(PacketType.INBAND, 0, 1, b""))


@member("it sends packets of every type but the one that the device knows")
def other_types(guest: Kernel) -> None:
    kinds = [kind for kind in PacketType if kind is not PacketType.INBAND]
    guest.ring_out(lambda: Packet(guest.random.choice(kinds), 1, 1, bytes(64), bytes(16)))


@member("it lays the two rings of its channel over each other and over its message page")
def rings_over_each_other(guest: Kernel) -> None:
    guest.offered()
    while True:
        pages = [16, 16, 17, 16, 17, 16]
        memory = vmbus.GpadlMemory(guest.memory, pages)
        vmbus.ring.initialize(memory, 0)
        guest.make_gpadl(GPADL, pages)
        guest.say(bus.OpenChannel(1, 1, GPADL, 0, 3))
        guest.memory.store32(16 << 12, 64)
        guest.hardware.signal(17)
        guest.say(bus.CloseChannel(1))
        guest.say(bus.GpadlTeardown(1, GPADL))


@member("it takes nothing out of its ring, masks its interrupts and says that it waits for room")
def full_for_ever(guest: Kernel) -> None:
    guest.writer()
    while True:
        guest.memory.store32(TO_GUEST + 8, 1)
        guest.memory.store32(TO_GUEST + 12, 0xFFFF_FFFF)
        guest.memory.store32(TO_GUEST + 4, guest.memory.load32(TO_GUEST) + 8 & 0xFFF)
        guest.hardware.signal(17)
        guest.drain()


@member("it says that it has read more than the host has written")
def reads_ahead(guest: Kernel) -> None:
    guest.writer()
    while True:
        for index in (8, 4088, 0, 8184, 4, 1 << 31):
            guest.memory.store32(TO_GUEST + 4, index)
            guest.hardware.signal(17)
        guest.open_again()


@member("it makes its rings of 8190 pages in no order, and writes packets over all of them")
def scattered_rings(guest: Kernel) -> None:
    guest.offered()
    pfns = list(range(2048, 2048 + PAGES_MAX))
    guest.random.shuffle(pfns)
    memory = vmbus.GpadlMemory(guest.memory, pfns)
    for first in (0, PAGES_MAX - 4):
        vmbus.ring.initialize(memory, first)
    guest.make_gpadl(GPADL, pfns)
    guest.settle()
    guest.say(bus.OpenChannel(1, 1, GPADL, 0, PAGES_MAX - 4))
    guest.settle()
    writer = RingWriter(memory, 0, PAGES_MAX - 4)
    while True:
        while writer.write(Packet(PacketType.XFER_PAGES, 0, 1, bytes(400_000))):
            pass
        guest.hardware.signal(17)
        guest.drain()


@member("two of its processes write one ring at once")
def two_writers(guest: Kernel) -> None:
    writer = guest.writer()

    def write(packet: Packet) -> None:
        with contextlib.suppress(RemoteProtocolError):  # the other one has moved its index
            while writer.write(packet):
                pass
        guest.hardware.signal(17)

    def other() -> None:
        while True:
            write(Packet(PacketType.INBAND, 0, 1, STATUS))

    guest.fork(other)
    while True:
        for _ in range(20):
            write(Packet(PacketType.INBAND, 0, 1, STATUS * 10))
        writer = guest.open_again()
