"""Rings: wrapping, filling up, signals, and whatever a hostile peer writes into the shared pages."""

import contextlib
import random
import struct
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.units import PAGE_SIZE
from dynmem.vmbus import ring
from dynmem.vmbus.memory import FlatMemory, GpadlMemory
from dynmem.wire import packet as wire_packet
from dynmem.wire.packet import Packet, PacketType

PAGES = [3, 1, 2]  # a control page and two pages of data, scattered
DATA_BYTES = 2 * PAGE_SIZE


class Shared:
    """One ring and both of its ends."""

    def __init__(self, memory: FlatMemory | None = None) -> None:
        self.flat = memory or FlatMemory(memoryview(bytearray(4 * PAGE_SIZE)))
        self.pages = GpadlMemory(self.flat, PAGES)
        ring.initialize(self.pages, 0)
        self.writer = ring.RingWriter(self.pages, 0, len(PAGES))
        self.reader = ring.RingReader(self.pages, 0, len(PAGES))


def inband(data: bytes, trans_id: int = 0) -> Packet:
    return Packet(PacketType.INBAND, 0, trans_id, data)


@given(st.lists(st.one_of(st.none(), st.integers(0, 3000)), max_size=80), st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_packets_come_out_as_they_went_in_around_every_corner(steps: list[int | None], seed: int) -> None:
    shared, model = Shared(), deque[Packet]()
    octets = random.Random(seed).randbytes(3000)
    for number, step in enumerate(steps):
        if step is None:
            assert shared.reader.read() == (model.popleft() if model else None)
        elif shared.writer.write(inband(octets[:step], number)):
            model.append(inband(octets[:step] + bytes(-step % 8), number))
    while model:
        assert shared.reader.read() == model.popleft()
    assert shared.reader.read() is None


def test_a_ring_never_fills_completely() -> None:
    shared = Shared()
    sent = 0
    while shared.writer.write(inband(bytes(40))):  # 64 bytes with descriptor and footer
        sent += 1
    assert sent == DATA_BYTES // 64 - 1
    assert shared.writer.waiting_for_room
    assert shared.pages.load32(ring.PENDING_SEND_SIZE) == 64


def test_a_packet_that_finds_no_room_is_announced_and_the_reader_signals_when_there_is_room() -> None:
    shared = Shared()
    while shared.writer.write(inband(bytes(1000))):
        shared.writer.take_signal()
    large = inband(bytes(4000), 7)
    assert not shared.writer.write(large)
    reads = 0
    while shared.writer.waiting_for_room:
        assert not shared.reader.take_signal()
        assert shared.reader.read() is not None
        reads += 1
    assert reads > 1
    assert shared.reader.take_signal()
    assert not shared.reader.take_signal()
    assert shared.writer.write(large)
    assert shared.pages.load32(ring.PENDING_SEND_SIZE) == 0
    while (packet := shared.reader.read()) is not None:
        last = packet
    assert last == large
    assert not shared.reader.take_signal()


class InterleavingMemory(FlatMemory):
    """Memory in which something happens while a packet is being copied out."""

    meanwhile: Callable[[], None] | None = None

    def read(self, gpa: int, length: int) -> bytes:
        happens, self.meanwhile = self.meanwhile, None
        if happens is not None:
            happens()
        return super().read(gpa, length)


def test_a_writer_that_fills_the_ring_while_a_packet_is_read_is_still_signalled() -> None:
    memory = InterleavingMemory(memoryview(bytearray(4 * PAGE_SIZE)))
    shared = Shared(memory)

    def fill() -> None:
        while shared.writer.write(inband(bytes(1000))):
            pass

    assert shared.writer.write(inband(bytes(1000)))
    memory.meanwhile = fill
    assert shared.reader.read() is not None
    assert not shared.writer.waiting_for_room
    assert shared.reader.take_signal()


def test_only_a_packet_into_an_empty_ring_is_signalled() -> None:
    shared = Shared()
    assert shared.writer.write(inband(b""))
    assert shared.writer.take_signal()
    assert shared.writer.write(inband(b""))
    assert not shared.writer.take_signal()
    assert shared.reader.read() is not None
    assert shared.writer.write(inband(b""))
    assert not shared.writer.take_signal()
    while shared.reader.read() is not None:
        pass
    assert shared.writer.write(inband(b""))
    assert shared.writer.take_signal()


def test_a_masked_reader_is_not_signalled() -> None:
    shared = Shared()
    shared.reader.mask_interrupts(True)
    assert shared.writer.write(inband(b""))
    assert not shared.writer.take_signal()
    shared.reader.mask_interrupts(False)
    assert shared.reader.read() is not None  # the reader looks again itself
    assert shared.writer.write(inband(b""))
    assert shared.writer.take_signal()


def test_a_packet_larger_than_the_ring_is_our_own_error() -> None:
    shared = Shared()
    with pytest.raises(LocalProtocolError, match="never fits"):
        shared.writer.write(inband(bytes(DATA_BYTES - 24)))
    assert shared.writer.write(inband(bytes(DATA_BYTES - 32)))


def test_a_ring_of_one_page_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        ring.RingReader(Shared().pages, 0, 1)


HOSTILE_INDICES = [1, 4, DATA_BYTES, DATA_BYTES + 8, DATA_BYTES - 4, 0xFFFF_FFFF, 0x8000_0000]


@pytest.mark.parametrize("index", HOSTILE_INDICES)
def test_a_hostile_index_is_refused_by_both_ends(index: int) -> None:
    shared = Shared()
    shared.pages.store32(ring.WRITE_INDEX, index)
    with pytest.raises(RemoteProtocolError, match="index"):
        shared.reader.read()
    shared.pages.store32(ring.READ_INDEX, index)
    with pytest.raises(RemoteProtocolError, match="index"):
        shared.writer.write(inband(b""))
    with pytest.raises(RemoteProtocolError):
        ring.RingReader(shared.pages, 0, len(PAGES))
    with pytest.raises(RemoteProtocolError):
        ring.RingWriter(shared.pages, 0, len(PAGES))


def test_each_end_believes_only_its_own_copy_of_its_own_index() -> None:
    shared = Shared()
    assert shared.writer.write(inband(b"first..."))
    shared.pages.store32(ring.READ_INDEX, 32)  # a peer moves the reader's index
    assert shared.reader.read() == inband(b"first...")
    shared.pages.store32(ring.WRITE_INDEX, 0)  # and the writer's
    assert shared.writer.write(inband(b"second.."))
    assert shared.reader.read() == inband(b"second..")


@pytest.mark.parametrize("index", [8, 16, 24])
def test_an_index_in_front_of_a_whole_packet_is_refused(index: int) -> None:
    shared = Shared()
    assert shared.writer.write(inband(bytes(64)))
    shared.pages.store32(ring.WRITE_INDEX, index)
    with pytest.raises(RemoteProtocolError):
        shared.reader.read()
    shared.pages.store32(ring.WRITE_INDEX, 88)  # nothing was consumed by the attempts
    assert shared.reader.read() == inband(bytes(64))


@given(st.binary(min_size=16, max_size=16), st.integers(0, 0xFFFF_FFFF), st.integers(0, 0xFFFF_FFFF))
@settings(max_examples=400, deadline=None)
def test_whatever_lies_in_the_ring_only_remote_protocol_error_comes_out(
    head: bytes, write_index: int, pending: int
) -> None:
    shared = Shared()
    shared.pages.write(PAGE_SIZE, head)
    shared.pages.store32(ring.WRITE_INDEX, write_index if write_index & 1 else write_index % DATA_BYTES & ~7)
    shared.pages.store32(ring.PENDING_SEND_SIZE, pending)
    with contextlib.suppress(RemoteProtocolError):
        packet = shared.reader.read()
        assert packet is None or len(packet.data) < DATA_BYTES


class ChangingMemory(FlatMemory):
    """Memory whose bytes change as soon as they have been read, as a concurrent peer's would."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(4 * PAGE_SIZE))
        super().__init__(self.view)
        self.read_counts = bytearray(len(self.view))
        self.armed = False

    def read(self, gpa: int, length: int) -> bytes:
        octets = super().read(gpa, length)
        if self.armed:
            for position in range(gpa, gpa + length):
                self.read_counts[position] += 1
            super().write(gpa, bytes(0xFF ^ octet for octet in octets))
        return octets


@given(st.integers(0, 500), st.integers(0, 500))
@settings(max_examples=30, deadline=None)
def test_no_byte_of_a_packet_is_read_twice(words_before: int, words: int) -> None:
    memory = ChangingMemory()
    shared = Shared(memory)
    assert shared.writer.write(inband(bytes(8 * words_before)))
    assert shared.reader.read() is not None
    sent = inband(random.Random(words).randbytes(8 * words), 3)
    assert shared.writer.write(sent)
    memory.armed = True
    assert shared.reader.read() == sent
    assert max(memory.read_counts) == 1
    assert sum(memory.read_counts) == 8 * words + 24


def test_a_packet_lies_in_the_ring_as_other_implementations_write_it() -> None:
    shared = Shared()
    assert shared.writer.write(inband(b"12345678", 4))
    octets = shared.pages.read(PAGE_SIZE, 32)
    assert octets == struct.pack("<HHHHQ8sII", 6, 2, 3, 0, 4, b"12345678", 0, 0)
    assert shared.pages.load32(ring.WRITE_INDEX) == 32
    assert shared.pages.load32(ring.FEATURE_BITS) == 1
    assert shared.writer.write(inband(b"", 5))
    assert shared.pages.read(PAGE_SIZE + 48, 8) == struct.pack("<II", 0, 32)
    assert wire_packet.decode(octets) == inband(b"12345678", 4)
