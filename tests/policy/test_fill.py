"""Weighted max-min in whole pages."""

from hypothesis import given
from hypothesis import strategies as st

from dynmem.policy import fill

PARTS = st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 10_000)), min_size=1, max_size=12)


@given(PARTS, st.integers(-10, 500_000))
def test_all_that_is_there_is_given_and_nobody_gets_more_than_it_needs(
    parts: list[tuple[int, int]], capacity: int
) -> None:
    needs, weights = [n for n, _ in parts], [w for _, w in parts]
    shares = fill(needs, weights, capacity)
    assert sum(shares) == max(0, min(capacity, sum(needs)))
    assert all(0 <= share <= need for share, need in zip(shares, needs, strict=True))


@given(PARTS, st.integers(0, 500_000))
def test_whoever_is_not_full_has_as_much_per_weight_as_anybody(
    parts: list[tuple[int, int]], capacity: int
) -> None:
    needs, weights = [n for n, _ in parts], [w for _, w in parts]
    shares = fill(needs, weights, capacity)
    for i, share in enumerate(shares):
        if share < needs[i]:
            # (share + 1) / weight is where the next page would bring it: nobody else may be a page beyond.
            assert all(
                (shares[j] - 1) * weights[i] <= (share + 1) * weights[j]
                for j in range(len(shares))
                if shares[j]
            )


@given(PARTS, st.integers(0, 500_000), st.data())
def test_a_larger_need_gives_its_owner_no_less_and_nobody_else_more(
    parts: list[tuple[int, int]], capacity: int, data: st.DataObject
) -> None:
    needs, weights = [n for n, _ in parts], [w for _, w in parts]
    index = data.draw(st.integers(0, len(parts) - 1))
    before = fill(needs, weights, capacity)
    needs[index] += data.draw(st.integers(1, 50_000))
    after = fill(needs, weights, capacity)
    assert after[index] >= before[index]
    assert all(after[i] <= before[i] for i in range(len(parts)) if i != index)


def test_pages_left_over_go_one_each_in_order() -> None:
    assert fill([10, 10, 10], [1, 1, 1], 11) == [4, 4, 3]


def test_weights_decide_how_fast_everybody_rises() -> None:
    assert fill([1000, 1000], [3000, 1000], 400) == [300, 100]
