"""How fast a guest grows, and what it uses by now, by its reports and by what the host measures."""

import pytest

from dynmem.manager.step.growth import Growth, Slope
from dynmem.manager.step.ready import Ready, refilled
from dynmem.units import MIB, NS_PER_MS, NS_PER_S, PAGE_SIZE

PAGES = MIB // PAGE_SIZE


def seen(*points: tuple[int, int]) -> Slope:
    """A slope of (ms, MiB)."""
    slope = Slope()
    for at_ms, mib in points:
        slope.see(at_ms * NS_PER_MS, mib * PAGES)
    return slope


def test_a_slope_is_measured_from_the_lowest_point_of_the_last_second_and_a_half() -> None:
    assert seen((0, 100), (200, 140)).pages_per_s == 200 * PAGES
    assert seen((0, 180), (500, 100), (1000, 140)).pages_per_s == 80 * PAGES
    assert seen((0, 100), (2000, 300)).pages_per_s == 0  # too long ago to say how fast


@pytest.mark.parametrize("points", [((0, 100), (200, 110)), ((0, 100), (200, 60)), ((0, 100),)])
def test_noise_a_fall_and_a_single_point_are_no_slope(points: tuple[tuple[int, int], ...]) -> None:
    assert seen(*points).pages_per_s == 0


def test_points_that_are_too_close_are_one() -> None:
    slope = seen((0, 100), (10, 200))
    assert slope.pages_per_s == 0
    assert len(slope.points) == 1


def test_nobody_is_expected_to_grow_by_more_than_three_times_what_it_grew_by() -> None:
    growth = Growth()
    growth.see(0, 100 * PAGES, None)
    growth.see(100 * NS_PER_MS, 120 * PAGES, None)
    assert growth.pages_per_s == 200 * PAGES
    assert growth.expected == 60 * PAGES


def test_what_the_host_sees_touched_since_a_report_is_used_by_now() -> None:
    growth = Growth()
    growth.see(NS_PER_S, 100 * PAGES, (NS_PER_S, 80 * PAGES))
    growth.see(NS_PER_S + 300 * NS_PER_MS, 140 * PAGES, (NS_PER_S, 80 * PAGES))
    assert growth.since_report(NS_PER_S + 300 * NS_PER_MS) == 40 * PAGES


def test_what_a_guest_held_at_its_report_is_not_guessed() -> None:
    growth = Growth()
    growth.see(NS_PER_S, None, (NS_PER_S, 80 * PAGES))
    growth.see(2 * NS_PER_S, 400 * PAGES, (NS_PER_S, 80 * PAGES))
    assert growth.since_report(2 * NS_PER_S) == 0


def test_where_the_host_sees_nothing_the_slope_of_the_reports_goes_on_for_a_second() -> None:
    growth = Growth()
    growth.see(0, None, (0, 80 * PAGES))
    growth.see(NS_PER_S, None, (NS_PER_S, 180 * PAGES))
    assert growth.since_report(NS_PER_S) == 0
    assert growth.since_report(NS_PER_S * 3 // 2) == 50 * PAGES
    assert growth.since_report(NS_PER_S * 9) == 100 * PAGES


def test_a_reset_ends_what_was_seen() -> None:
    growth = Growth()
    growth.see(0, 100 * PAGES, (0, 80 * PAGES))
    growth.see(NS_PER_S // 2, 200 * PAGES, (NS_PER_S // 2, 180 * PAGES))
    assert growth.expected > 0
    growth.forget()
    assert (growth.expected, growth.since_report(NS_PER_S)) == (0, 0)


def test_what_is_kept_ready_follows_the_growth_within_its_bounds_and_fades_in_halves() -> None:
    ready, room = Ready(), 10_000 * PAGES
    calm = ready.pages(room, None, 0)
    assert room // 32 - 2 * PAGES <= calm <= room // 8
    ready.see(400 * PAGES, NS_PER_S)
    assert ready.pages(room, None, NS_PER_S) == 600 * PAGES
    ready.see(8000 * PAGES, 2 * NS_PER_S)
    assert ready.pages(room, None, 2 * NS_PER_S) <= room // 8
    minutes = 60 * NS_PER_S
    assert ready.pages(room, None, 9 * minutes) == ready.pages(room, None, 2 * NS_PER_S)
    assert ready.pages(room, None, 120 * minutes) == calm


def test_the_operator_sets_what_is_kept_ready_also_nothing() -> None:
    ready = Ready()
    ready.see(8000 * PAGES, 0)
    assert ready.pages(1000 * PAGES, 300 * PAGES, 0) == 300 * PAGES
    assert ready.pages(1000 * PAGES, 0, 0) == 0
    assert ready.pages(100 * PAGES, 300 * PAGES, 0) == 100 * PAGES


def test_a_little_that_is_missing_is_not_refilled() -> None:
    assert refilled(100, 80) == 0
    assert refilled(100, 70) == 100
    assert refilled(100, -300) == 100
