"""What a guest has committed, with drivers that count the whole balloon or their own part of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.dm.commitment import Commitment

MOST = 1 << 20
WRAP = 1 << 32


@given(
    needs=st.lists(st.integers(1, MOST // 4), min_size=1, max_size=8),
    moves=st.lists(st.integers(-(MOST // 4), MOST // 4), min_size=8, max_size=8),
)
def test_a_driver_that_is_loaded_again_needs_what_it_needs_whatever_comes_and_goes(
    needs: list[int], moves: list[int]
) -> None:
    """It gave nothing itself at first; when it gets back more than it gave, its count wraps."""
    commitment = Commitment()
    commitment.driver_came(0)
    removed = before = MOST // 2
    assert commitment.reported(needs[0] + removed, removed, MOST) == needs[0] + removed
    commitment.driver_came(removed)
    for need, move in zip([needs[0], *needs], [0, *moves], strict=False):
        removed = min(max(0, removed + move), MOST)
        said = need + (removed - before) % WRAP
        assert commitment.reported(said, removed, MOST) == need + removed


@given(st.lists(st.tuples(st.integers(1, MOST), st.integers(0, MOST)), min_size=2, max_size=8))
def test_a_driver_that_knows_its_balloon_is_believed_over_a_reopened_channel(
    turns: list[tuple[int, int]],
) -> None:
    commitment = Commitment()
    for number, (need, removed) in enumerate(turns):
        if number == 1:
            commitment.reported(need + removed, removed, MOST)
            commitment.driver_came(removed)
        assert commitment.reported(need + removed, removed, MOST) == need + removed


def test_less_than_there_is_in_the_balloon_is_proof_at_any_time() -> None:
    commitment = Commitment()
    commitment.driver_came(1000)
    assert commitment.reported(1500, 1000, MOST) == 1500  # 500 and the balloon, or 1500 without
    assert commitment.reported(999, 1000, MOST) == 1999
    assert commitment.reported(1500, 1000, MOST) == 2500
    commitment.driver_came(1000)
    assert commitment.reported(2500, 1000, MOST) == 2500


@pytest.mark.parametrize("said", [MOST + 101, WRAP - 1, WRAP + MOST + 101, (1 << 40) - 1])
def test_no_more_is_believed_than_the_guest_can_be_given(said: int) -> None:
    assert Commitment().reported(said, 100, MOST) == MOST + 100
