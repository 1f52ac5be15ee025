"""The rules of others, held to what is published of them, on figures made by hand."""

from collections.abc import Mapping

import pytest

from dynmem.rivals.fixed import shares
from dynmem.rivals.host import Host, Sharer
from dynmem.rivals.mom import Averages, grown, shrunk
from dynmem.rivals.proxmox import one_round, orders
from dynmem.units import GIB, MIB

MB = 1000 * 1000
GB = 1000 * MB


def sharers(*rows: tuple[int, int, int, int]) -> dict[str, Sharer]:
    """Guests of at most 2 GB: size, minimum and free memory in MB, and shares."""
    return {
        f"{100 + number}": Sharer(size * MB, minimum * MB, 2 * GB, free * MB, shares)
        for number, (size, minimum, free, shares) in enumerate(rows)
    }


TWO_AT_MINIMUM = sharers((1000, 1000, 0, 2000), (1000, 1000, 0, 1000))
ONE_FULL = sharers((2000, 2000, 0, 2000), (1000, 1000, 0, 1000))
ONE_WELL_OFF = sharers((2000, 2000, 0, 2000), (1007, 1000, 0, 1000), (1000, 1000, 512, 1000))


@pytest.mark.parametrize(
    ("guests", "goal", "expected"),
    [
        (TWO_AT_MINIMUM, 90, {"100": 1060, "101": 1030}),
        (TWO_AT_MINIMUM, 150, {"100": 1100, "101": 1050}),
        (TWO_AT_MINIMUM, 270, {"100": 1100, "101": 1090}),
        (ONE_FULL, 18, {"101": 1018}),
        (ONE_FULL, 500, {"101": 1100}),
        (ONE_WELL_OFF, 11, {"101": 1018}),
        (ONE_WELL_OFF, 80, {"101": 1087}),
        (ONE_WELL_OFF, 200, {"101": 1107}),
    ],
)
def test_proxmox_divides_a_goal_as_the_test_of_its_package_expects(
    guests: Mapping[str, Sharer], goal: int, expected: dict[str, int]
) -> None:
    sizes = one_round(guests, goal * MB, 100 * MB)
    assert {name: size // MB for name, size in sizes.items()} == expected


def test_proxmox_takes_from_guests_with_free_memory_first() -> None:
    guests = sharers((1300, 1000, 0, 1000), (1300, 1000, 600, 1000))
    assert {name: size // MB for name, size in one_round(guests, -200 * MB, 100 * MB).items()} == {
        "101": 1200
    }


def test_proxmox_takes_from_everybody_when_nobody_has_free_memory() -> None:
    guests = sharers((1300, 1000, 0, 1000), (1300, 1000, 0, 1000))
    assert {name: size // MB for name, size in one_round(guests, -100 * MB, 100 * MB).items()} == {
        "100": 1250,
        "101": 1250,
    }


@pytest.mark.parametrize(
    ("size", "used", "host_free", "expected"),
    [
        (1000, 100, 0.10, 950),  # much free: 5 % at a time
        (1000, 870, 0.10, 970),  # not below what it uses and half of a fifth
        (1000, 990, 0.03, 970),  # critical: what it uses less 2 %
    ],
)
def test_mom_shrinks_slowly_and_not_below_a_share_of_free_memory(
    size: float, used: float, host_free: float, expected: float
) -> None:
    assert shrunk(size, used, host_free) == pytest.approx(expected)


def test_mom_grows_by_a_twentieth_or_at_once_to_what_is_used_and_a_fifth_of_the_maximum() -> None:
    assert grown(1000, 100, 2000) == pytest.approx(1050)
    assert grown(1000, 900, 2000) == pytest.approx(1300)
    assert grown(1990, 100, 2000) == pytest.approx(2000)


def test_mom_grows_nobody_before_it_has_read_a_figure_and_forgets_guests_that_are_gone() -> None:
    averages, guests = Averages(), {"a": Sharer(400 * MIB, 100 * MIB, GIB, 200 * MIB)}
    assert averages.orders(guests) == {}
    averages.sample(Host(GIB, GIB // 2), guests)
    assert averages.orders(guests) == {"a": 420 * MIB}
    averages.sample(Host(GIB, GIB // 2), {})
    assert averages.orders(guests) == {}


def test_proxmox_aims_at_four_fifths_of_the_host() -> None:
    guests = {"a": Sharer(400 * MIB, 100 * MIB, GIB, 0)}
    assert orders(Host(1000 * MIB, 760 * MIB), guests) == {"a": 440 * MIB}
    assert orders(Host(1000 * MIB, 791 * MIB), guests) == {}  # within ten MiB


def test_fixed_sizes_are_shares_of_the_budget_by_maximum_and_no_more_than_that() -> None:
    assert shares(900 * MIB, {"a": 1200 * MIB, "b": 600 * MIB}) == {"a": 600 * MIB, "b": 300 * MIB}
    assert shares(9 * GIB, {"a": GIB}) == {"a": GIB}
    assert shares(GIB, {}) == {}
