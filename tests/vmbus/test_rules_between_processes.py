"""What two real processes lose without the fence and without the single copy, and never with them.

How often is up to the processor and to whoever else uses it, so that the careless ones go on until they have
lost once, and the careful ones as long. That nothing at all can be lost, test_ring_memory_order.py shows.
"""

import contextlib
import mmap
import multiprocessing
import os
from collections.abc import Iterator

import pytest

from dynmem.errors import RemoteProtocolError
from dynmem.units import PAGE_SIZE
from dynmem.vmbus import ring
from dynmem.vmbus.memory import FlatMemory, GpadlMemory
from dynmem.wire import packet as wire_packet
from dynmem.wire.packet import DESCRIPTOR_BYTES, Packet

PAGES = 16
ROUNDS = 1000
ATTEMPTS_MAX = 20
DATA = bytes(2 * PAGE_SIZE)  # of what is written before an index: it takes long to reach the other processor
MEETING, INDEX, RESULTS, PACKETS = 0, 2, 4, 8  # first pages of what each of the two has one or two pages of
READS_MAX = 500_000
LEN8 = PAGE_SIZE + 4  # where the first packet of a ring says its length

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="two processes that never run at the same time lose nothing"
)


@contextlib.contextmanager
def shared_memory() -> Iterator[FlatMemory]:
    """Some pages that a process started from here shares."""
    with mmap.mmap(-1, PAGES * PAGE_SIZE) as view:
        memory = FlatMemory(memoryview(view))
        yield memory
        memory.release()


@contextlib.contextmanager
def beside(memory: FlatMemory, target: object, *arguments: object) -> Iterator[None]:
    """Another process runs `target` over the same memory."""
    other = multiprocessing.get_context("fork").Process(target=target, args=(memory, *arguments))  # type: ignore[arg-type]
    other.start()
    try:
        yield
    finally:
        other.kill()
        other.join()


def take_part(memory: FlatMemory, me: int, fenced: bool) -> None:
    """One side of every round: meet, write data, publish an index, look at what the other has published.

    The words are stored and loaded as `FlatMemory` does, but without its calls between the two.
    """
    octets, words = memory._bytes, memory._words
    other, page = 1 - me, PAGE_SIZE // 4
    data, theirs = (
        slice((PACKETS + 2 * n) * PAGE_SIZE, (PACKETS + 2 * n + 2) * PAGE_SIZE) for n in (me, other)
    )
    my_meeting, their_meeting = (MEETING + me) * page, (MEETING + other) * page
    my_index, their_index = (INDEX + me) * page, (INDEX + other) * page
    result = (RESULTS + me) * page
    for number in range(1, ROUNDS + 1):
        words[my_meeting] = number
        while words[their_meeting] < number:
            pass
        octets[data] = DATA
        words[my_index] = number
        if fenced:
            memory.fence()
        missed = words[their_index] < number
        octets[theirs].tobytes()
        words[result] = 1 + missed
        result += 1


def rounds_both_missed(*, fenced: bool) -> int:
    """In how many rounds each of two processes missed what the other had published.

    After such a round a writer has not signalled, and a reader sleeps over a packet.
    """
    with shared_memory() as memory, beside(memory, take_part, 1, fenced):
        take_part(memory, 0, fenced)
        both = 0
        for number in range(ROUNDS):
            while not (theirs := memory.load32((RESULTS + 1) * PAGE_SIZE + 4 * number)):
                pass
            both += theirs == 2 and memory.load32(RESULTS * PAGE_SIZE + 4 * number) == 2
        return both


def test_without_the_fence_two_processes_miss_each_other_and_with_it_never() -> None:
    attempts = next((n for n in range(1, ATTEMPTS_MAX + 1) if rounds_both_missed(fenced=False)), None)
    if attempts is None:
        pytest.skip("this processor kept all stores in order for once")
    for _ in range(attempts):
        assert rounds_both_missed(fenced=True) == 0


class ReadsTheHeaderAgain(ring.RingReader):
    """Checks one copy of the header and uses another."""

    def read(self) -> Packet | None:
        header = self._copy(self._read, DESCRIPTOR_BYTES)
        if wire_packet.peek_length(header) > (self._load_index(ring.WRITE_INDEX) - self._read) % self.size:
            raise RemoteProtocolError("a packet longer than what the ring holds")
        length = wire_packet.peek_length(self._copy(self._read, DESCRIPTOR_BYTES))
        return wire_packet.decode(self._copy(self._read, length))


def change_the_length(memory: FlatMemory) -> None:
    """Make the first packet longer than the ring holds and right again, for ever."""
    while True:
        memory.write(LEN8, b"\x0f\0")
        memory.write(LEN8, b"\x03\0")


def reads_until_deceived(kind: type[ring.RingReader], most: int) -> int | None:
    """How many reads of one packet it takes until more comes than the ring holds; None if it never does."""
    with shared_memory() as memory:
        pages = GpadlMemory(memory, range(PAGES))
        ring.initialize(pages, 0)
        assert ring.RingWriter(pages, 0, PAGES).write(Packet(6, 0, 1, bytes(8)))
        with beside(memory, change_the_length):
            for number in range(1, most + 1):
                with contextlib.suppress(RemoteProtocolError):
                    packet = kind(pages, 0, PAGES).read()
                    if packet is None or len(packet.data) != 8:
                        return number
                memory.store32(ring.READ_INDEX, 0)
    return None


def test_a_header_that_is_read_twice_deceives_the_reader_and_one_read_once_never() -> None:
    reads = reads_until_deceived(ReadsTheHeaderAgain, READS_MAX)
    if reads is None:
        pytest.skip("the other process was never quick enough")
    assert reads_until_deceived(ring.RingReader, max(reads, 20_000)) is None
