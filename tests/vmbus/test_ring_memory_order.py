"""In no order that x86-64 allows is a signal lost, or are other bytes used than those that were checked.

Each rule of the rings is also taken away, and then something is lost.
"""

import copy
from collections.abc import Hashable, Iterator

import pytest
from tests.vmbus.x86_memory import Code, ReplayedMemory, outcomes
from tests.walk.ends import PAGE_BYTES, small_pages

from dynmem.errors import RemoteProtocolError
from dynmem.vmbus import ring
from dynmem.vmbus.memory import FlatMemory, GpadlMemory
from dynmem.wire import packet as wire_packet
from dynmem.wire.packet import DESCRIPTOR_BYTES, Packet

PAGES = 2


@pytest.fixture(autouse=True)
def pages_are_small() -> Iterator[None]:
    with small_pages():
        yield


def test_the_model_lets_loads_overtake_stores_and_nothing_else() -> None:
    def each(mine: int, other: int, *, fenced: bool) -> Code:
        def code(memory: ReplayedMemory) -> Hashable:
            memory.store32(mine, 1)
            if fenced:
                memory.fence()
            return memory.load32(other)

        return code

    every = {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert outcomes(bytes(8), each(0, 4, fenced=False), each(4, 0, fenced=False)) == every
    assert outcomes(bytes(8), each(0, 4, fenced=True), each(4, 0, fenced=False)) == every
    assert outcomes(bytes(8), each(0, 4, fenced=True), each(4, 0, fenced=True)) == every - {(0, 0)}

    def tell(memory: ReplayedMemory) -> Hashable:
        memory.store32(0, 1)
        memory.store32(4, 1)
        return None

    def hear(memory: ReplayedMemory) -> Hashable:
        return memory.load32(4), memory.load32(0)

    assert (None, (1, 0)) not in outcomes(bytes(8), tell, hear)


def inband(octets: int, number: int = 0) -> Packet:
    return Packet(6, 0, number, bytes([number]) * octets)


class Prepared:
    """A ring with some packets in it, and its two ends."""

    def __init__(self, *octets: int) -> None:
        self.raw = bytearray(PAGES * PAGE_BYTES)
        memory = GpadlMemory(FlatMemory(memoryview(self.raw)), range(PAGES))
        ring.initialize(memory, 0)
        self.writer = ring.RingWriter(memory, 0, PAGES)
        self.reader = ring.RingReader(memory, 0, PAGES)
        for number, size in enumerate(octets):
            assert self.writer.write(inband(size, number))
        self.writer.take_signal()


def drains(prepared: Prepared) -> Code:
    """Read until the ring is empty: how many packets, and whether the writer is to be signalled."""

    def code(memory: ReplayedMemory) -> Hashable:
        reader = copy.copy(prepared.reader)
        reader._memory = memory
        packets = 0
        while reader.read() is not None:
            packets += 1
        return packets, reader.take_signal()

    return code


def writes(prepared: Prepared, octets: int) -> Code:
    """Write a packet: whether there was room, and whether the reader is to be signalled."""

    def code(memory: ReplayedMemory) -> Hashable:
        writer = copy.copy(prepared.writer)
        writer._memory = memory
        return writer.write(inband(octets, 9)), writer.take_signal()

    return code


def test_a_reader_falls_asleep_over_no_packet_that_is_not_signalled() -> None:
    prepared = Prepared(8)
    codes = drains(prepared), writes(prepared, 8)
    lost = ((1, False), (True, False))
    every = outcomes(bytes(prepared.raw), *codes)
    assert every == {((2, False), (True, False)), ((2, False), (True, True)), ((1, False), (True, True))}
    assert outcomes(bytes(prepared.raw), *codes, fences=False) == every | {lost}


def test_a_writer_falls_asleep_over_no_room_that_is_not_signalled() -> None:
    prepared = Prepared(24, 24)
    codes = drains(prepared), writes(prepared, 24)
    lost = ((2, False), (False, False))
    every = outcomes(bytes(prepared.raw), *codes)
    assert ((2, True), (False, False)) in every
    assert lost not in every
    assert lost in outcomes(bytes(prepared.raw), *codes, fences=False)


def hostile(start: int) -> Code:
    """Change the length of the packet at `start` again and again."""

    def code(memory: ReplayedMemory) -> Hashable:
        for len8 in (15, 3, 15):
            memory.write(PAGE_BYTES + start + 4, len8.to_bytes(2, "little"))
        return None

    return code


def bytes_read(reader: ring.RingReader) -> int | None:
    """How much the packet brings that a reader takes for good; None if it is refused."""
    try:
        packet = reader.read()
    except RemoteProtocolError:
        return None
    assert packet is not None
    return len(packet.data)


class ReadsTheHeaderAgain(ring.RingReader):
    """Checks one copy of the header and uses another."""

    __slots__ = ()

    def read(self) -> Packet | None:
        header = self._copy(self._read, DESCRIPTOR_BYTES)
        if wire_packet.peek_length(header) > (self._load_index(ring.WRITE_INDEX) - self._read) % self.size:
            raise RemoteProtocolError("a packet longer than what the ring holds")
        length = wire_packet.peek_length(self._copy(self._read, DESCRIPTOR_BYTES))
        return wire_packet.decode(self._copy(self._read, length))


@pytest.mark.parametrize(
    ("kind", "sizes"), [(ring.RingReader, {8, None}), (ReadsTheHeaderAgain, {8, None, 104})]
)
def test_what_was_checked_is_what_is_used(kind: type[ring.RingReader], sizes: set[int | None]) -> None:
    prepared = Prepared(8)

    def reads(memory: ReplayedMemory) -> Hashable:
        reader = copy.copy(prepared.reader)
        reader.__class__ = kind
        reader._memory = memory
        return bytes_read(reader)

    assert {size for size, _ in outcomes(bytes(prepared.raw), reads, hostile(0))} == sizes
