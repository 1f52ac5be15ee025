"""The arithmetic of how many more fit, beside counting span by span, and what must be true of any count."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.fit.counting import MORE_MAX, count, late_share, mean, missing, most, quantile

SIZES = st.integers(0, 300)
SPANS = st.lists(st.tuples(SIZES, SIZES, SIZES, st.integers(0, 5)), min_size=1, max_size=12)
RISKS = st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 0.9])
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def arrays(spans: list[tuple[int, int, int, int]]) -> Arrays:
    """Return capacity, needs, what one more needs, and weights."""
    capacity, needed, each, weights = (
        np.array(column, dtype=np.int64) for column in zip(*spans, strict=True)
    )
    return capacity, needed, each, weights


def fits_in(spans: list[tuple[int, int, int, int]], risk: float) -> int:
    return int(most(count(*arrays(spans)[:3]), arrays(spans)[3], risk))


@settings(max_examples=60, deadline=None)
@given(SPANS, RISKS)
def test_it_is_what_counting_span_by_span_gives(spans: list[tuple[int, int, int, int]], risk: float) -> None:
    total = sum(weight for *_, weight in spans)

    def late(more: int) -> float:
        missed = [weight for capacity, needed, each, weight in spans if needed + more * each > capacity]
        return sum(missed) / total if total else len(missed) / len(spans)

    capacity, needed, each, weights = arrays(spans)
    counts = count(capacity, needed, each)
    expected = -1
    while expected < MORE_MAX and late(expected + 1) <= risk:
        expected += 1
    assert int(most(counts, weights, risk)) == expected
    for more in (0, 1, max(0, expected), expected + 1):
        if more <= MORE_MAX:
            assert late_share(counts, weights, more) == late(more)
        assert missing(capacity, needed, each, more) == max(0, *(n + more * e - c for c, n, e, _ in spans))


@settings(max_examples=60, deadline=None)
@given(SPANS, RISKS, SIZES, st.data())
def test_more_memory_never_fits_fewer_and_one_vm_more_never_fits_more(
    spans: list[tuple[int, int, int, int]], risk: float, more: int, data: st.DataObject
) -> None:
    now = fits_in(spans, risk)
    needs = data.draw(st.lists(SIZES, min_size=len(spans), max_size=len(spans)))
    larger = [(capacity + more, needed, each, weight) for capacity, needed, each, weight in spans]
    fuller = [
        (c, needed + need, each, weight) for (c, needed, each, weight), need in zip(spans, needs, strict=True)
    ]
    assert fits_in(larger, risk) >= now >= fits_in(fuller, risk)
    assert fits_in(spans, min(0.99, risk + 0.2)) >= now


@settings(max_examples=30, deadline=None)
@given(st.lists(SPANS, min_size=2, max_size=5), RISKS)
def test_many_hosts_at_once_are_what_each_is_alone(
    hosts: list[list[tuple[int, int, int, int]]], risk: float
) -> None:
    length = min(map(len, hosts))
    rows = [arrays(host[:length]) for host in hosts]
    capacity, needed, each, weights = (np.stack(column) for column in zip(*rows, strict=True))
    together = most(count(capacity, needed, each), weights, risk)
    alone = [int(most(count(c, n, e), w, risk)) for c, n, e, w in rows]
    assert together.tolist() == alone


def test_the_example_of_the_module() -> None:
    capacity, needed = np.array([90, 90, 90, 80]), np.array([30, 70, 30, 30])
    counts = count(capacity, needed, np.array([10, 10, 30, 10]))
    assert counts.tolist() == [6, 2, 2, 5]
    weights = np.ones(4, dtype=np.int64)
    assert [int(most(counts, weights, risk)) for risk in (0.0, 0.25, 0.5, 0.75)] == [2, 2, 5, 6]
    assert late_share(counts, weights, 5) == 0.5


def test_a_quantile_is_the_least_that_was_not_exceeded_in_a_part_of_the_time() -> None:
    sizes, weights = np.array([5, 1, 3]), np.array([1, 98, 1])
    assert [quantile(sizes, weights, part) for part in (0.5, 0.98, 0.99, 1.0)] == [1, 1, 3, 5]
    assert mean(sizes, weights) == 106 // 100
    nothing = np.array([], dtype=np.int64)
    assert (quantile(nothing, nothing), mean(nothing, nothing)) == (0, 0)
