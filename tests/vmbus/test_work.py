"""What a guest's small message costs its host: work and memory in proportion to its bytes."""

import struct
import tracemalloc

import pytest
from tests.rigs.bus import BusEnds

from dynmem import vmbus
from dynmem.units import PAGE_SIZE
from dynmem.vmbus.memory import PageRuns
from dynmem.wire import vmbus as wire
from dynmem.wire.status import STATUS_SUCCESS, STATUS_UNSUCCESSFUL
from dynmem.wire.versions import VERSION_WIN10

PAGES = 8190  # as many as a header's length can say
IN_HEADER, IN_BODY = 26, 28
CONTACT = wire.InitiateContact(VERSION_WIN10, 0, 0, 0, 0)


@pytest.fixture
def machine() -> BusEnds:
    ends = BusEnds()
    for message in (CONTACT, wire.RequestOffers()):
        post(ends.bus, message)
    return ends


def post(bus: vmbus.Bus, message: wire.Message) -> None:
    bus.post_message(4, 1, wire.encode(message))
    while bus.next_message() is not None:
        bus.message_delivered()
    bus.take_events()


def reply(bus: vmbus.Bus, message: wire.Message) -> wire.Message:
    bus.post_message(4, 1, wire.encode(message))
    answer = bus.next_message()
    assert answer is not None
    bus.message_delivered()
    return wire.decode(answer.payload, VERSION_WIN10)


def scattered(count: int, first: int) -> bytes:
    """Page numbers of which no two are neighbours."""
    return struct.pack(f"<{count}Q", *range(2 * first, 2 * (first + count), 2))


def begin_gpadl(bus: vmbus.Bus, gpadl: int, pages: int = PAGES) -> None:
    words = struct.pack("<II", pages * PAGE_SIZE, 0) + scattered(IN_HEADER, 0)
    post(bus, wire.GpadlHeader(1, gpadl, 8 + 8 * pages, 1, words))


def test_an_open_that_is_refused_again_and_again_looks_at_no_page_of_its_gpadl(
    machine: BusEnds, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = 0
    extend = PageRuns.extend

    def counted(runs: PageRuns, pfns: tuple[int, ...]) -> None:
        nonlocal looked_at
        pfns = tuple(pfns)
        looked_at += len(pfns)
        extend(runs, pfns)

    monkeypatch.setattr(PageRuns, "extend", counted)
    begin_gpadl(machine.bus, 7)
    for first in range(IN_HEADER, PAGES, IN_BODY):
        post(machine.bus, wire.GpadlBody(first, 7, scattered(min(IN_BODY, PAGES - first), first)))
    assert looked_at == PAGES
    for _ in range(100):  # the ring to the guest begins where no page is left for it
        answer = reply(machine.bus, wire.OpenChannel(1, 1, 7, 0, PAGES - 1))
        assert answer == wire.OpenChannelResult(1, 1, STATUS_UNSUCCESSFUL)
    assert reply(machine.bus, wire.OpenChannel(1, 1, 7, 0, 1000)) == wire.OpenChannelResult(
        1, 1, STATUS_SUCCESS
    )
    assert looked_at == PAGES


def test_bodies_without_pages_take_no_memory(machine: BusEnds) -> None:
    begin_gpadl(machine.bus, 7)
    body = wire.GpadlBody(1, 7, b"")
    post(machine.bus, body)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(5000):
        post(machine.bus, body)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 5000


def test_a_page_of_a_gpadl_takes_two_words_wherever_it_lies() -> None:
    tracemalloc.start()
    runs = PageRuns(range(0, 2 * PAGES, 2))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 20 * PAGES
    assert runs.words() == scattered(PAGES, 0)
    assert PageRuns(range(5, 9)).words() == struct.pack("<4Q", *range(5, 9))
