"""The algebra of page ranges, against plain sets of pages."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pages.test_ranges import SPANS, covered
from tests.rigs.pages import packed, spans_of

from dynmem.errors import RemoteProtocolError
from dynmem.pages import page_count
from dynmem.pages.algebra import Ranges, cut, joined, within, without

Spans = list[tuple[int, int]]


def pages_in(ranges: Ranges) -> set[int]:
    """The pages, after a check that the ranges are ascending, disjoint and not empty."""
    pairs = list(zip(ranges.starts.tolist(), ranges.ends.tolist(), strict=True))
    assert all(start < end for start, end in pairs)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(pairs))
    return {page for start, end in pairs for page in range(start, end)}


@given(SPANS)
def test_joined_ranges_hold_the_pages_of_the_batch_and_no_two_of_them_touch(spans: Spans) -> None:
    ranges = joined(packed(*spans))
    assert pages_in(ranges) == covered(spans)
    assert (ranges.starts[1:] > ranges.ends[:-1]).all()


@given(SPANS, SPANS)
def test_the_pieces_of_a_cut_are_the_pages_of_both_and_each_lies_in_the_region_it_names(
    spans: Spans, others: Spans
) -> None:
    regions = joined(packed(*others))
    index, pieces = cut(joined(packed(*spans)), regions)
    assert pages_in(pieces) == covered(spans) & covered(others)
    assert (regions.starts[index] <= pieces.starts).all()
    assert (pieces.ends <= regions.ends[index]).all()


@given(SPANS, SPANS)
def test_within_and_without_part_ranges_into_what_others_have_and_what_they_have_not(
    spans: Spans, others: Spans
) -> None:
    ranges, regions = joined(packed(*spans)), joined(packed(*others))
    assert pages_in(within(ranges, regions)) == covered(spans) & covered(others)
    assert pages_in(without(ranges, regions)) == covered(spans) - covered(others)


@given(SPANS, st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_ranges_are_cut_at_regions_that_touch_each_other(spans: Spans, sizes: list[int]) -> None:
    borders = [100]
    for size in sizes:
        borders.append(borders[-1] + size)
    regions = Ranges(np.array(borders[:-1], np.uint64), np.array(borders[1:], np.uint64))
    index, pieces = cut(joined(packed(*spans)), regions)
    assert pages_in(pieces) == covered(spans) & set(range(100, borders[-1]))
    assert pages_in(without(joined(packed(*spans)), regions)) == covered(spans) - set(range(100, borders[-1]))
    assert (pieces.ends <= regions.ends[index]).all()


@given(SPANS)
def test_ranges_count_pack_and_move_their_pages(spans: Spans) -> None:
    ranges = joined(packed(*spans))
    assert ranges.page_count == page_count(ranges.packed()) == len(covered(spans))
    assert ranges.is_empty == (not covered(spans))
    further = joined(packed(*((start + 77, count) for start, count in spans)))
    assert pages_in(further.relative_to(77)) == covered(spans)


def test_the_examples_in_the_docstrings_hold() -> None:
    ranges = joined(packed((0, 4), (6, 14)))
    index, pieces = cut(ranges, joined(packed((2, 6), (9, 3))))
    assert index.tolist() == [0, 0, 1]
    assert spans_of(pieces.packed()) == [(2, 2), (6, 2), (9, 3)]
    assert spans_of(without(ranges, joined(packed((0, 2), (8, 1)))).packed()) == [(2, 2), (6, 2), (9, 11)]
    assert spans_of(joined(packed((6, 4), (0, 4), (9, 0), (2, 3))).packed()) == [(0, 5), (6, 4)]


def test_half_a_range_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="12 bytes"):
        joined(bytes(12))
