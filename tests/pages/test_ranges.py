"""Packed page ranges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rigs.pages import packed, spans_of

from dynmem.errors import RemoteProtocolError
from dynmem.limits import GUEST_PAGE_MAX, PAGE_RANGE_PAGES_MAX
from dynmem.pages import ranges

SPANS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 90)), max_size=60)


def covered(spans: list[tuple[int, int]]) -> set[int]:
    return {page for start, count in spans for page in range(start, start + count)}


def test_a_range_has_40_bits_of_start_and_24_bits_of_count() -> None:
    wire = bytes.fromhex("ffffffffff 010000") + bytes.fromhex("0000000000 ffffff")
    assert spans_of(wire) == [(GUEST_PAGE_MAX, 1), (0, PAGE_RANGE_PAGES_MAX)]
    starts, counts = ranges.unpack(wire)
    assert ranges.pack(starts, counts) == wire


def test_half_a_range_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="12 bytes"):
        ranges.unpack(bytes(12))


def test_a_range_too_long_for_24_bits_is_split() -> None:
    whole = 2 * PAGE_RANGE_PAGES_MAX + 5
    batch = ranges.pack(np.array([7, 9], np.uint64), np.array([whole, 1], np.uint64))
    limit = PAGE_RANGE_PAGES_MAX
    assert spans_of(batch) == [(7, limit), (7 + limit, limit), (7 + 2 * limit, 5), (9, 1)]


def test_a_range_of_exactly_the_largest_count_is_not_split() -> None:
    batch = ranges.pack(np.array([0], np.uint64), np.array([PAGE_RANGE_PAGES_MAX], np.uint64))
    assert spans_of(batch) == [(0, PAGE_RANGE_PAGES_MAX)]


@given(SPANS)
def test_merging_keeps_the_pages_and_leaves_ascending_ranges_with_gaps(spans: list[tuple[int, int]]) -> None:
    merged = spans_of(ranges.merge(packed(*spans)))
    assert covered(merged) == covered(spans)
    assert all(count > 0 for _, count in merged)
    ends = [start + count for start, count in merged]
    assert all(start > end for (start, _), end in zip(merged[1:], ends, strict=False))


@given(st.lists(st.integers(0, 500), max_size=200))
def test_single_pages_are_packed_into_the_fewest_ranges(pages: list[int]) -> None:
    batch = ranges.from_pages(np.array(pages, np.int64))
    assert covered(spans_of(batch)) == set(pages)
    assert len(spans_of(batch)) == len({page for page in pages if page - 1 not in pages})
    assert ranges.page_count(batch) == len(set(pages))


def test_the_page_count_of_a_hostile_message_does_not_wrap() -> None:
    assert ranges.page_count(packed(*([(0, PAGE_RANGE_PAGES_MAX)] * 510))) == 510 * PAGE_RANGE_PAGES_MAX
