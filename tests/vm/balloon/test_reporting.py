"""Free page reporting beside the balloon: what is discarded, what stays, and when a report is over."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rigs.balloon_device import SIZE, Discards, Rig
from tests.rigs.pages import packed, pages_of
from tests.rigs.scenes import at_once, plays

from dynmem.memory.backend import MemfdBackend
from dynmem.memory.discard import DiscardError
from dynmem.units import PAGE_SIZE
from dynmem.vm.balloon.accounts import GuestPages, Memory
from dynmem.vm.balloon.reporting import OUTSIDE, FreePageReporting
from dynmem.vm.faults import Faults
from dynmem.wire import dm
from dynmem.wire.heat_hint import Span

LOW, HIGH = (0, 40), (60, 30)  # guest pages of boot memory, round a hole
DIMM = (200, 16)
PAGES = [*range(40), *range(60, 90), *range(200, 216)]


class Reports:
    """The accounts of a guest with two memories, one of them in two pieces, and what is discarded."""

    def __init__(self) -> None:
        self.pages = GuestPages(lambda: 0)
        self.boot, self.dimm = Memory([LOW, HIGH]), Memory([DIMM])
        for memory in (self.boot, self.dimm):
            self.pages.plug(memory)
        self.faults = Faults(lambda: 0)
        self.discarded: list[int] = []  # in guest pages
        self.reporting = FreePageReporting(self.pages, self.discard, self.faults)

    async def discard(self, memory: Memory, ranges: bytes) -> int:
        pages = pages_of(memory.pieces.guest_pages(memory.pieces.part(ranges, 1 << 20)[0]))
        self.discarded += pages
        return len(pages) * PAGE_SIZE

    def report(self, *spans: tuple[int, int]) -> list[int]:
        """Report spans; return the pages that were discarded."""
        self.discarded = []
        at_once(self.reporting.report([Span(*span) for span in spans]))
        return self.discarded


def test_a_report_discards_each_page_that_the_guest_has_once() -> None:
    reports = Reports()
    assert reports.report((210, 3), (38, 1), (36, 4), (62, 2), (210, 1)) == [
        36,
        37,
        38,
        39,
        62,
        63,
        210,
        211,
        212,
    ]
    assert reports.faults.counts == {}
    assert reports.reporting.figures() == {"calls": 1, "ranges": 5, "discarded": 9 * PAGE_SIZE}


def test_pages_that_the_guest_gave_up_are_skipped_until_they_go_back() -> None:
    reports = Reports()
    reports.pages.add_given(packed((10, 4), (61, 1)))
    assert reports.report((8, 8), (60, 3)) == [8, 9, 14, 15, 60, 62]
    assert reports.report((10, 4)) == []
    assert reports.pages.removed_pages == 5
    assert pages_of(reports.pages.remove_for_guest(10, 10)) == [10, 11, 12, 13, 61]
    assert reports.report((10, 4)) == [10, 11, 12, 13]


@pytest.mark.parametrize(
    ("spans", "inside", "outside"),
    [
        ([(30, 40)], [*range(30, 40), *range(60, 70)], 20),
        ([(0, 1 << 20)], PAGES, (1 << 20) - len(PAGES)),
        ([(0, 1 << 31), (1, 1 << 31)], PAGES, (1 << 31) + 1 - len(PAGES)),
        ([(216, 1), (199, 1)], [], 2),
        ([((1 << 52) - 1, 2048)], [], 2048),
        ([(1 << 40, 1)], [], 1),  # more than a packed range can say: it is not page 0
    ],
)
def test_pages_outside_the_guests_memory_are_counted_and_nothing_of_them_is_discarded(
    spans: list[tuple[int, int]], inside: list[int], outside: int, caplog: pytest.LogCaptureFixture
) -> None:
    reports = Reports()
    assert reports.report(*spans) == inside
    assert reports.faults.counts == {OUTSIDE: 1}
    assert f"{outside} of" in caplog.text


def test_memory_that_was_set_aside_is_left_alone() -> None:
    reports = Reports()
    reports.pages.plug(Memory([(300, 8)], is_kept=True))
    assert reports.report((300, 8), (0, 1)) == [0]
    assert reports.faults.counts == {}


@pytest.mark.parametrize("prealloc", [False, True])
def test_memory_that_was_allocated_in_advance_was_set_aside(prealloc: bool) -> None:
    backend = MemfdBackend(16 * PAGE_SIZE, prealloc=prealloc)
    assert Memory.of([(0, backend.size)], backend).is_kept == prealloc
    backend.close()


def test_a_report_of_nothing_does_nothing() -> None:
    assert Reports().report() == []


_MOVES = st.lists(
    st.tuples(
        st.sampled_from(("give", "return", "report")),
        st.lists(st.tuples(st.integers(0, 220), st.integers(1, 40)), min_size=1, max_size=4),
    ),
    max_size=12,
)


@given(_MOVES)
def test_whatever_is_given_returned_and_reported_a_report_discards_what_the_guest_has_and_no_more(
    moves: Sequence[tuple[str, list[tuple[int, int]]]],
) -> None:
    reports = Reports()
    given_up: set[int] = set()
    for move, spans in moves:
        named = {page for first, pages in spans for page in range(first, first + pages)}
        if move == "give":
            reports.pages.add_given(packed(*spans))
            given_up |= named & set(PAGES)
        elif move == "return":
            given_up -= set(pages_of(reports.pages.remove_for_guest(spans[0][0], 4)))
        else:
            assert reports.report(*spans) == sorted(named & set(PAGES) - given_up)
        assert reports.pages.removed_pages == len(given_up)


# -- on the device --


@plays
async def test_a_report_is_over_when_its_pages_are_discarded_and_not_before() -> None:
    discards = Discards()
    rig = Rig(discards)
    assert rig.device.reporting is not None
    task = asyncio.create_task(rig.device.reporting.report([Span(1000, 8)]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert [ranges for _, ranges, _ in discards.open] == [packed((1000, 8))]
    assert not task.done()
    discards.finish()
    await task


@plays
async def test_pages_that_wait_to_be_discarded_for_the_balloon_are_not_discarded_for_a_report() -> None:
    discards = Discards()
    rig = Rig(discards)
    rig.ask(SIZE - 8 * PAGE_SIZE)
    rig.give((1000, 8))
    assert rig.device.reporting is not None
    task = asyncio.create_task(rig.device.reporting.report([Span(996, 16)]))
    await asyncio.sleep(0)
    assert discards.finish() == packed((996, 4), (1008, 4))
    await task
    rig.turn()
    assert discards.finish() == packed((1000, 8))
    assert rig.ask(SIZE) == [dm.UnballoonRequest(1, more_pages=False, ranges=packed((1000, 8)))]


@plays
async def test_a_refused_discard_is_counted_and_the_guest_keeps_its_pages() -> None:
    discards = Discards()
    rig = Rig(discards)
    assert rig.device.reporting is not None
    task = asyncio.create_task(rig.device.reporting.report([Span(1000, 8)]))
    await asyncio.sleep(0)
    _, _, future = discards.open.pop()
    future.set_exception(DiscardError("no", 1, 3 * PAGE_SIZE))
    await task
    assert rig.faults.counts == {"discard failed": 1}
    assert rig.device.reporting.figures()["discarded"] == 3 * PAGE_SIZE
    assert rig.device.actual_bytes == SIZE
