"""The set of given-up pages, against a plain model: one Python integer with a bit per page."""

import itertools
import random
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rigs.pages import packed, spans_of

from dynmem.errors import RemoteProtocolError
from dynmem.limits import DM_RANGES_PER_MESSAGE, PAGE_RANGE_PAGES_MAX
from dynmem.pages import ranges
from dynmem.pages.chunks import CHUNK_PAGES
from dynmem.pages.page_set import Added, PageSet
from dynmem.units import GIB, MIB, PAGE_SIZE, TIB

Span = tuple[int, int]
# one word, one chunk, several; whole and cut
TOTALS = (1, 1000, CHUNK_PAGES, CHUNK_PAGES + 1, 3 * CHUNK_PAGES, 6 * CHUNK_PAGES + 77)


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


def check_ascending_and_apart(spans: list[Span]) -> None:
    assert all(sum(before) < after[0] for before, after in itertools.pairwise(spans))


class Story:
    """A page set and its model, and one random thing after another done to both."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.total = self.random.choice(TOTALS)
        self.set = PageSet(self.total)
        self.model = Model(self.total)

    def page(self) -> int:
        """Any page, often near a border of chunks or words, now and then outside."""
        border = self.random.randrange(8) * CHUNK_PAGES + self.random.randint(-130, 130)
        anywhere = self.random.randrange(self.total + 3)
        return max(0, min(self.random.choice([border, anywhere, anywhere & ~63]), self.total + 2))

    def count(self) -> int:
        lengths = (0, 1, 2, 64, 90, 5000, CHUNK_PAGES - 1, CHUNK_PAGES, 2 * CHUNK_PAGES + 5)
        return self.random.randint(0, self.random.choice(lengths))

    def batch(self) -> list[Span]:
        """Ranges as a guest may choose them: anyhow, whole chunks, or every so many pages."""
        match self.random.randrange(4):
            case 0:
                first = self.page() & ~(CHUNK_PAGES - 1)
                return [(first, CHUNK_PAGES), (first, self.random.choice([1, CHUNK_PAGES, 3 * CHUNK_PAGES]))]
            case 1:
                start, step, length = self.page(), self.random.randint(1, 200), self.random.randint(1, 80)
                return [(start + i * step, length) for i in range(self.random.randrange(510))]
            case _:
                return [(self.page(), self.count()) for _ in range(self.random.randrange(12))]

    def held(self) -> list[Span]:
        """Ranges of pages that are in the set, as the host would give them back."""
        spans = []
        left = self.model.pages
        for _ in range(self.random.randint(1, 5)):
            left &= ~((1 << self.page()) - 1)
            if not left:
                break
            start = (left & -left).bit_length() - 1
            run = left >> start
            length = (~run & (run + 1)).bit_length() - 1
            spans.append((start, self.random.choice([length, self.random.randint(1, length)])))
            left &= ~bits(spans[-1])
        return spans

    def add(self) -> None:
        spans = self.batch()
        added = self.set.add(packed(*spans))
        assert added[:3] == self.model.add(spans)
        accepted = 0
        for span in spans:
            accepted |= bits(span) if sum(span) <= self.total else 0
        assert sum(bits(span) for span in spans_of(added.coalesced)) == accepted

    def take(self) -> None:
        max_pages = self.random.choice([1, 7, 64, 5000, CHUNK_PAGES, 10**6])
        max_ranges = self.random.choice([1, 2, 9, DM_RANGES_PER_MESSAGE])
        check_taken(self.model, self.set.take(max_pages, max_ranges), max_pages, max_ranges)

    def remove(self) -> None:
        spans = self.held() if self.random.random() < 0.8 else self.batch()
        assert self.set.remove(packed(*spans)) == self.model.remove(spans)

    def drop(self) -> None:
        spans = [*self.batch(), *self.held()]
        named = 0
        for span in spans:
            named |= bits(span) if span[1] else 0
        assert self.set.drop(packed(*spans)) == (named & self.model.pages).bit_count()
        self.model.pages &= ~named

    def compare_overlap(self) -> None:
        spans = self.batch() if self.random.random() < 0.5 else self.held()
        spans = spans[: self.random.randint(1, 3)]
        named = 0
        for span in spans:
            named |= bits(span) if span[1] else 0
        assert self.set.overlaps(packed(*spans)) == bool(named & self.model.pages)

    def compare_parts(self) -> None:
        spans = [*self.batch(), *self.held()]
        named = 0
        for span in spans:
            named |= bits(span) if span[1] else 0
        parts = spans_of(self.set.intersect(packed(*spans)))
        assert sum(bits(part) for part in parts) == named & self.model.pages
        check_ascending_and_apart(parts)
        self.compare_whole(spans, self.random.choice([64, 512, CHUNK_PAGES, 2 * CHUNK_PAGES]))

    def compare_whole(self, spans: list[Span], block: int) -> None:
        touched = {
            at
            for start, count in spans
            if count
            for at in range(start // block, (start + count - 1) // block + 1)
        }
        expected = 0
        for at in touched:
            mask = bits((at * block, block))
            expected |= mask if self.model.pages & mask == mask else 0
        blocks = spans_of(self.set.whole(packed(*spans), block))
        assert sum(bits(span) for span in blocks) == expected
        check_ascending_and_apart(blocks)

    def clear(self) -> None:
        self.set.clear()
        self.model.pages = 0

    def go_on(self) -> None:
        """Do one thing, and compare."""
        things = [self.add, self.add, self.add, self.take, self.remove, self.remove, self.drop]
        self.random.choice([*things, *things, self.clear])()
        assert len(self.set) == self.model.pages.bit_count()
        self.compare_overlap()
        self.compare_parts()
        for page in (self.page(), -1, self.total):
            assert self.set.contains(page) == bool(page >= 0 and self.model.pages >> page & 1)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32))
def test_a_page_set_does_what_a_plain_set_of_pages_does(seed: int) -> None:
    story = Story(seed)
    for _ in range(story.random.randint(1, 25)):
        story.go_on()
    while len(story.set):
        check_taken(story.model, story.set.take(10**9, 510), 10**9, 510)
    assert story.model.pages == 0


def test_a_page_given_up_twice_is_counted_once() -> None:
    pages = PageSet(1000)
    assert pages.add(packed((10, 5), (12, 5))) == Added(7, 3, 0, packed((10, 7)))
    assert pages.add(packed((0, 20))) == Added(13, 7, 0, packed((0, 20)))
    assert len(pages) == 20


def test_a_range_that_is_not_wholly_inside_is_refused_whole() -> None:
    pages = PageSet(1000)
    assert pages.add(packed((999, 2), (5, 0), (998, 2), ((1 << 40) - 1, 1))) == Added(
        2, 0, 3, packed((998, 2))
    )


def test_taking_back_pages_that_lack_one_changes_nothing() -> None:
    pages = PageSet(4 * CHUNK_PAGES)
    pages.add(packed((0, 2 * CHUNK_PAGES), (2 * CHUNK_PAGES + 1, 10)))
    before = len(pages)
    assert not pages.remove(packed((5, 10), (2 * CHUNK_PAGES, 2)))
    assert not pages.remove(packed((5, 10), (9, 1)))
    assert len(pages) == before
    assert pages.remove(packed((2 * CHUNK_PAGES + 1, 10), (CHUNK_PAGES - 5, 10)))
    assert len(pages) == before - 20


@pytest.mark.parametrize("emptied", ["taken", "removed", "removed in halves", "cleared"])
def test_a_chunk_that_was_filled_piece_by_piece_and_emptied_is_empty(emptied: str) -> None:
    pages = PageSet(3 * CHUNK_PAGES)
    halves = [packed(*((page, 1) for page in range(CHUNK_PAGES + odd, 2 * CHUNK_PAGES, 2))) for odd in (0, 1)]
    for half in halves:
        pages.add(half)
    whole = packed((CHUNK_PAGES, CHUNK_PAGES))
    assert pages.add(whole).new == 0
    match emptied:
        case "taken":
            assert pages.take(10**9, 510) == whole
        case "removed":
            assert pages.remove(whole)
        case "removed in halves":
            assert pages.remove(halves[1])
            assert pages.remove(halves[0])
        case _:
            pages.clear()
    assert len(pages) == 0
    assert not pages.contains(CHUNK_PAGES + 7)
    assert pages.take(10**9, 510) == b""
    assert pages.add(halves[0]).new == CHUNK_PAGES // 2


def test_the_whole_blocks_are_those_that_the_ranges_touch_and_the_set_has_completely() -> None:
    pages = PageSet(4 * 512 + 100)
    pages.add(packed((0, 1023), (1024, 1024 + 100)))
    assert pages.whole(packed((0, 4 * 512 + 100)), 512) == packed((0, 512), (1024, 1024))
    assert pages.whole(packed((1500, 1), (1300, 5)), 512) == packed((1024, 512))
    assert pages.whole(packed((600, 10), (2048, 100), (1 << 39, 5), (7, 0)), 512) == b""
    assert pages.whole(b"", 512) == b""


@pytest.mark.parametrize("pages", [0, 1, 32, 96, 1000])
def test_a_block_that_is_no_power_of_two_of_words_is_refused(pages: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        PageSet(1000).whole(b"", pages)


def test_the_parts_that_the_set_has_come_out_ascending_and_joined() -> None:
    pages = PageSet(4 * CHUNK_PAGES)
    pages.add(packed((100, 50), (CHUNK_PAGES, CHUNK_PAGES), (2 * CHUNK_PAGES, 3)))
    everything = packed((2 * CHUNK_PAGES, 1 << 20), (0, 140), (130, 2 * CHUNK_PAGES))
    assert pages.intersect(everything) == packed((100, 50), (CHUNK_PAGES, CHUNK_PAGES + 3))
    assert pages.intersect(packed((90, 10), (150, 5), (1 << 39, 1))) == b""
    assert len(pages) == CHUNK_PAGES + 53


def test_dropping_takes_out_what_there_is_and_leaves_the_rest() -> None:
    pages = PageSet(4 * CHUNK_PAGES)
    pages.add(packed((100, 50), (CHUNK_PAGES, CHUNK_PAGES), (2 * CHUNK_PAGES, 3)))
    assert pages.drop(packed((120, 5), (122, 5), (0, 0), (1 << 39, 9))) == 7
    assert pages.drop(packed((CHUNK_PAGES + 64, 64))) == 64
    assert pages.drop(packed((CHUNK_PAGES, 3 * CHUNK_PAGES), (0, 110))) == CHUNK_PAGES - 64 + 3 + 10
    assert pages.take(10**9, 510) == packed((110, 10), (127, 23))
    assert pages.drop(packed((0, 1000))) == 0


def test_half_a_range_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        PageSet(1000).add(bytes(9))


def test_runs_over_chunk_borders_come_back_as_one_range() -> None:
    pages = PageSet(8 * CHUNK_PAGES)
    pages.add(packed((CHUNK_PAGES - 3, 3 * CHUNK_PAGES)))
    assert pages.take(10**9, 10) == packed((CHUNK_PAGES - 3, 3 * CHUNK_PAGES))


def test_runs_of_chunks_that_are_not_neighbours_are_not_joined() -> None:
    pages = PageSet(5 * CHUNK_PAGES)
    spans = packed((CHUNK_PAGES - 1, 1), (2 * CHUNK_PAGES, 1), (4 * CHUNK_PAGES - 2, 3))
    pages.add(spans)
    assert pages.take(10**9, 510) == spans


@pytest.mark.parametrize("end", range(CHUNK_PAGES - 66, CHUNK_PAGES + 3))
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 130])
def test_runs_around_word_and_chunk_borders_come_back_as_they_were_given(end: int, count: int) -> None:
    pages = PageSet(2 * CHUNK_PAGES)
    spans = packed((5, 1), (end - count, count), (end + 1, 1), (end + 64, 3))
    pages.add(spans)
    assert pages.take(10**9, 510) == spans


def test_a_terabyte_in_one_message_of_overlapping_ranges_is_taken_back_whole() -> None:
    total = TIB // PAGE_SIZE
    starts = [i * (total - PAGE_RANGE_PAGES_MAX) // 509 for i in range(510)]
    pages = PageSet(total)
    added = pages.add(packed(*((start, PAGE_RANGE_PAGES_MAX) for start in starts)))
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
