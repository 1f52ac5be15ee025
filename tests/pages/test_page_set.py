"""The set of given-up pages, against a plain model: one Python integer with a bit per page."""

import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.errors import RemoteProtocolError
from dynmem.limits import DM_RANGES_PER_MESSAGE, PAGE_RANGE_PAGES_MAX
from dynmem.pages import ranges
from dynmem.pages.page_set import CHUNK_PAGES, Added, PageSet
from dynmem.units import GIB, MIB, PAGE_SIZE, TIB

Span = tuple[int, int]
# ends and word edges of several chunks, the last of them cut
TOTALS = st.sampled_from([1, 64, 1000, CHUNK_PAGES, CHUNK_PAGES + 1, 4 * CHUNK_PAGES, 6 * CHUNK_PAGES + 77])
EDGES = st.builds(
    lambda chunk, step: max(0, chunk * CHUNK_PAGES + step), st.integers(0, 7), st.integers(-130, 130)
)
STARTS = EDGES | st.integers(0, 7 * CHUNK_PAGES)
COUNTS = (
    st.integers(0, 3)
    | st.integers(60, 70)
    | st.integers(0, 2 * CHUNK_PAGES)
    | st.sampled_from([CHUNK_PAGES - 1, CHUNK_PAGES, CHUNK_PAGES + 1, PAGE_RANGE_PAGES_MAX])
)
BATCHES = st.lists(st.tuples(STARTS, COUNTS), max_size=12) | st.builds(
    lambda start, step, number, count: [(start + i * step, count) for i in range(number)],
    STARTS,
    st.integers(1, 200),
    st.integers(1, DM_RANGES_PER_MESSAGE),
    st.integers(1, 80),
)
TAKES = st.tuples(
    st.sampled_from([1, 7, 64, 5000, CHUNK_PAGES, 10**6]), st.sampled_from([1, 2, 9, DM_RANGES_PER_MESSAGE])
)


def packed(spans: list[Span]) -> bytes:
    return b"".join((start | count << 40).to_bytes(8, "little") for start, count in spans)


def spans_of(batch: bytes) -> list[Span]:
    starts, counts = ranges.unpack(batch)
    return list(zip(starts.tolist(), counts.tolist(), strict=True))


def bits(span: Span) -> int:
    return ((1 << span[1]) - 1) << span[0]


class Model:
    """What a page set must do, in the plainest way there is."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.pages = 0

    def add(self, spans: list[Span]) -> tuple[int, int, int]:
        new = duplicates = rejected = 0
        for span in spans:
            if span[1] == 0 or sum(span) > self.total:
                rejected += span[1]
                continue
            fresh = (bits(span) & ~self.pages).bit_count()
            new += fresh
            duplicates += span[1] - fresh
            self.pages |= bits(span)
        return new, duplicates, rejected

    def remove(self, spans: list[Span]) -> bool:
        left = self.pages
        for span in spans:
            if span[1] == 0 or bits(span) & left != bits(span):
                return False
            left &= ~bits(span)
        self.pages = left
        return True

    def lowest(self) -> int:
        return (self.pages & -self.pages).bit_length() - 1


def check_taken(model: Model, batch: bytes, max_pages: int, max_ranges: int) -> None:
    """What was taken is in bounds, was in the set, is lowest first; and is gone from the model."""
    spans = spans_of(batch)
    assert len(spans) <= max_ranges
    assert sum(count for _, count in spans) <= max_pages
    assert bool(spans) == bool(model.pages)
    for span in spans:
        assert span[0] == model.lowest()
        assert bits(span) & model.pages == bits(span)
        model.pages &= ~bits(span)


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_a_page_set_does_what_a_plain_set_of_pages_does(data: st.DataObject) -> None:
    total = data.draw(TOTALS)
    pages, model = PageSet(total), Model(total)
    for _ in range(data.draw(st.integers(1, 10))):
        match data.draw(st.sampled_from(["add", "add", "take", "remove", "clear"])):
            case "add":
                spans = data.draw(BATCHES)
                added = pages.add(packed(spans))
                assert added[:3] == model.add(spans)
                accepted = 0
                for span in spans:
                    accepted |= bits(span) if sum(span) <= total else 0
                assert sum(bits(span) for span in spans_of(added.coalesced)) == accepted
            case "take":
                limits = data.draw(TAKES)
                check_taken(model, pages.take(*limits), *limits)
            case "remove":
                spans = data.draw(BATCHES) if data.draw(st.booleans()) else model_spans(model, data)
                assert pages.remove(packed(spans)) == model.remove(spans)
            case "clear":
                pages.clear()
                model.pages = 0
        assert len(pages) == model.pages.bit_count()
        page = data.draw(st.integers(-1, total))
        assert pages.contains(page) == bool(page >= 0 and model.pages >> page & 1)
    while len(pages):
        check_taken(model, pages.take(10**9, DM_RANGES_PER_MESSAGE), 10**9, DM_RANGES_PER_MESSAGE)
    assert model.pages == 0


def model_spans(model: Model, data: st.DataObject) -> list[Span]:
    """Some ranges of pages that are in the set."""
    spans = []
    left = model.pages
    for _ in range(data.draw(st.integers(0, 4))):
        left &= ~((1 << data.draw(STARTS)) - 1)
        if not left:
            break
        start = (left & -left).bit_length() - 1
        run = left >> start
        length = (~run & run + 1).bit_length() - 1
        count = min(length, data.draw(st.integers(1, 2 * CHUNK_PAGES)))
        spans.append((start, count))
        left &= ~bits(spans[-1])
    return spans


def test_a_page_given_up_twice_is_counted_once() -> None:
    pages = PageSet(1000)
    assert pages.add(packed([(10, 5), (12, 5)])) == Added(7, 3, 0, packed([(10, 7)]))
    assert pages.add(packed([(0, 20)])) == Added(13, 7, 0, packed([(0, 20)]))
    assert len(pages) == 20


def test_a_range_that_is_not_wholly_inside_is_refused_whole() -> None:
    pages = PageSet(1000)
    assert pages.add(packed([(999, 2), (5, 0), (998, 2), ((1 << 40) - 1, 1)])) == Added(
        2, 0, 3, packed([(998, 2)])
    )


def test_taking_back_pages_that_lack_one_changes_nothing() -> None:
    pages = PageSet(4 * CHUNK_PAGES)
    pages.add(packed([(0, 2 * CHUNK_PAGES), (2 * CHUNK_PAGES + 1, 10)]))
    before = len(pages)
    assert not pages.remove(packed([(5, 10), (2 * CHUNK_PAGES, 2)]))
    assert not pages.remove(packed([(5, 10), (9, 1)]))
    assert len(pages) == before
    assert pages.remove(packed([(2 * CHUNK_PAGES + 1, 10), (CHUNK_PAGES - 5, 10)]))
    assert len(pages) == before - 20


def test_half_a_range_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        PageSet(1000).add(bytes(9))


def test_runs_over_chunk_borders_come_back_as_one_range() -> None:
    pages = PageSet(8 * CHUNK_PAGES)
    pages.add(packed([(CHUNK_PAGES - 3, 3 * CHUNK_PAGES)]))
    assert pages.take(10**9, 10) == packed([(CHUNK_PAGES - 3, 3 * CHUNK_PAGES)])


def test_a_terabyte_in_one_message_of_overlapping_ranges_is_taken_back_whole() -> None:
    total = TIB // PAGE_SIZE
    starts = [i * (total - PAGE_RANGE_PAGES_MAX) // 509 for i in range(510)]
    pages = PageSet(total)
    added = pages.add(packed([(start, PAGE_RANGE_PAGES_MAX) for start in starts]))
    assert added.new == len(pages) == total
    assert added.new + added.duplicates == 510 * PAGE_RANGE_PAGES_MAX
    back = pages.take(10**12, DM_RANGES_PER_MESSAGE)
    assert ranges.page_count(back) == total
    assert len(spans_of(back)) <= total // CHUNK_PAGES // 511 + 1
    assert len(pages) == 0


def test_a_set_that_alternates_over_64_gib_takes_no_more_than_the_bitmap() -> None:
    total = 64 * GIB // PAGE_SIZE
    pages = PageSet(total)
    before = resident_bytes()
    for base in range(0, total, 2 * 65536):
        every_second = np.arange(base, base + 2 * 65536, 2, dtype=np.uint64)
        pages.add(ranges.pack(every_second, np.ones_like(every_second)))
    assert len(pages) == total // 2
    assert resident_bytes() - before < 64 * GIB // 32768 + 16 * MIB


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
