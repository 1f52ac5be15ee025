"""Thinning keeps totals and extremes exactly, one sweep of each span whole, and no more rows than time."""

from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from dynmem.history.block import AT, FOR, Block
from dynmem.history.thinning import TIERS, joined, series_of, spans, thinned

SIZES = st.one_of(st.none(), st.integers(0, 1 << 20).map(lambda pages: pages * 4096))
ROWS = st.lists(st.tuples(st.integers(0, 40), SIZES, SIZES), min_size=1, max_size=80)
Rows = list[tuple[int, int | None, int | None]]


def made(rows: Rows) -> tuple[Block, Block, list[int]]:
    """Return the host's and a VM's block of these rows, and for how long each stands."""
    for_ds = [row[0] for row in rows]
    at_ms = [100 * end for end in accumulate(for_ds)]
    host = Block(len(rows), {AT: at_ms, FOR: for_ds}, {})
    vm = Block(
        len(rows), {"demand_bytes": [row[1] for row in rows], "actual_bytes": [row[2] for row in rows]}, {}
    )
    return host, vm, for_ds


@given(ROWS)
def test_totals_and_extremes_are_kept_through_every_tier(rows: Rows) -> None:
    host, vm, for_ds = made(rows)
    known = [(length, -(-size // 4096)) for length, size, _ in rows if size is not None]
    for tier in TIERS[1:]:
        parts = spans([each or 0 for each in host.figure(AT)], for_ds, 0, tier.step_ds)
        vm = thinned(vm, for_ds, parts, is_host=False)
        host = thinned(host, for_ds, parts, is_host=True)
        for_ds = [each or 0 for each in host.figure(FOR)]
        assert sum(for_ds) == sum(row[0] for row in rows)
        series = series_of(vm, "demand", for_ds)
        if not known:
            assert series is None
            continue
        assert series is not None
        assert sum(series.ds) == sum(length for length, _ in known)
        assert sum(series.sums) == sum(length * pages for length, pages in known)
        assert min(each for each in series.low if each is not None) == min(pages for _, pages in known)
        assert max(each for each in series.high if each is not None) == max(pages for _, pages in known)


@given(ROWS)
def test_there_are_no_more_rows_than_the_time_has_spans(rows: Rows) -> None:
    host, _, for_ds = made(rows)
    at_ms = [each or 0 for each in host.figure(AT)]
    for tier in TIERS[1:]:
        assert len(spans(at_ms, for_ds, 0, tier.step_ds)) <= sum(for_ds) // tier.step_ds + 2


@given(ROWS)
def test_each_thin_row_is_one_of_the_rows_whole(rows: Rows) -> None:
    host, vm, for_ds = made(rows)
    parts = spans([each or 0 for each in host.figure(AT)], for_ds, 0, 100)
    thin = thinned(vm, for_ds, parts, is_host=False)
    kept = [rows[end - 1][1:] for _, end in parts]
    assert list(zip(thin.figure("demand_bytes"), thin.figure("actual_bytes"), strict=True)) == kept


def test_rows_on_both_sides_of_a_gap_are_not_joined() -> None:
    at_ms = [0, 1000, 2000, 3_600_000, 3_601_000]
    assert spans(at_ms, [10] * 5, 0, 100) == [(0, 3), (3, 5)]


def test_a_clock_that_goes_back_ends_a_span_and_loses_no_row() -> None:
    at_ms = [0, 1000, 2000, 500, 1500]
    assert spans(at_ms, [10] * 5, 0, 100) == [(0, 3), (3, 5)]


def test_blocks_are_joined_in_order_and_a_vm_that_was_away_is_not_known_then() -> None:
    there = Block(2, {"actual_bytes": [1, 2]}, {"reason": ["a", "b"]})
    whole = joined([there, None, there], [2, 3, 2])
    assert whole.figure("actual_bytes") == [1, 2, None, None, None, 1, 2]
    assert whole.text("reason") == ["a", "b", "", "", "", "a", "b"]


def test_the_tiers_are_each_longer_and_coarser_than_the_one_before() -> None:
    for before, after in pairwise(TIERS):
        assert after.step_ds > before.step_ds
        assert after.keep_ds > before.keep_ds
        assert not before.step_ds or after.step_ds % before.step_ds == 0


def test_what_a_thin_row_does_not_have_of_a_series_is_not_made_up_from_the_sweep_that_it_keeps() -> None:
    """As in a history that was thinned before there was such a series."""
    thin = Block(1, {"demand_bytes": [4096], "actual.ds": [600], "actual.sum": [600], "actual.low": [1]}, {})
    assert series_of(thin, "demand", [600]) is None
    whole = Block(1, {"demand_bytes": [4096]}, {})
    assert series_of(whole, "demand", [600]) is not None
