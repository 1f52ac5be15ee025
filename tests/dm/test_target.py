"""The target arithmetic and the guest's floor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.dm.habits import balloon_floor
from dynmem.dm.target import Difference, difference
from dynmem.units import MIB, PAGE_SIZE

MIB_PAGES = MIB // PAGE_SIZE
PAGES = st.integers(0, 1 << 30)


@pytest.mark.parametrize(
    ("total_mib", "floor_mib"),
    # the table in the comment of Linux's function, and the formula at both sides of each border
    [
        (16, 16),
        (64, 40),
        (127, 71.5),
        (128, 72),
        (511, 167.75),
        (512, 168),
        (2047, 359.875),
        (2048, 360),
        (8191, 743.9375),
        (8192, 744),
        (65536, 2536),
    ],
)
def test_the_floor_is_what_linux_keeps(total_mib: int, floor_mib: float) -> None:
    assert balloon_floor(total_mib * MIB_PAGES) == int(floor_mib * MIB_PAGES)


def plan(target: int, ram: int, removed: int, *, can_balloon: bool = True, least: int = 0) -> Difference:
    return difference(
        target_pages=target, ram_pages=ram, removed_pages=removed, can_balloon=can_balloon, least_pages=least
    )


@pytest.mark.parametrize(
    ("target", "removed", "expected"),
    [
        (1000, 0, Difference(0, 0)),
        (400, 0, Difference(600, 0)),
        (400, 100, Difference(500, 0)),
        (400, 600, Difference(0, 0)),
        (500, 600, Difference(0, 100)),
        (5000, 600, Difference(0, 600)),
        (5000, 0, Difference(0, 0)),
    ],
)
def test_the_way_to_a_target_is_ballooned_or_unballooned(
    target: int, removed: int, expected: Difference
) -> None:
    assert plan(target, 1000, removed) == expected


@pytest.mark.parametrize(
    ("target", "removed", "expected"),
    [
        (1000, 0, Difference(0, 0, 0)),
        (1300, 0, Difference(0, 0, 300)),
        (1300, 200, Difference(0, 200, 300)),
        (900, 200, Difference(0, 100, 0)),
        (400, 0, Difference(600, 0, 0)),
    ],
)
def test_what_unballooning_cannot_give_is_hot_added(target: int, removed: int, expected: Difference) -> None:
    wanted = difference(
        target_pages=target, ram_pages=1000, removed_pages=removed, can_balloon=True, can_hot_add=True
    )
    assert wanted == expected


def test_a_guest_that_cannot_balloon_is_not_asked_to() -> None:
    assert plan(10, 1000, 0, can_balloon=False) == Difference(0, 0)
    assert plan(900, 1000, 300, can_balloon=False) == Difference(0, 200)


def test_a_guest_is_not_asked_below_what_it_says_it_needs() -> None:
    assert plan(10, 1000, 0, least=300) == Difference(700, 0)
    assert plan(10, 1000, 800, least=300) == Difference(0, 0)


@given(PAGES, PAGES, PAGES)
def test_a_difference_goes_one_way_and_never_past_the_target_nor_past_what_there_is(
    target: int, ram: int, removed: int
) -> None:
    balloon, unballoon, hot_add = plan(target, ram, removed)
    assert hot_add == 0
    size = ram - min(removed, ram)
    assert balloon >= 0
    assert unballoon >= 0
    assert balloon == 0 or unballoon == 0
    assert unballoon <= removed
    after = size - balloon + unballoon
    assert 0 <= after <= ram
    assert after == min(max(target, 0), ram)
