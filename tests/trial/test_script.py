"""The scripts of the trial: whatever the seed, a perfect manager could serve every burst."""

import itertools

import pytest
from bench.trial.runner import events
from bench.trial.script import (
    GUESTS_MAX,
    GUESTS_MIN,
    MAXIMUM_BYTES,
    MINIMUM_BYTES,
    OWN_BYTES,
    SLUSH_BYTES,
    SPARE_BYTES,
    Burst,
    Script,
    write,
    write_steady,
)
from hypothesis import given
from hypothesis import strategies as st

from dynmem.units import MIB

SCRIPTS = st.builds(
    write,
    st.integers(0, 10_000),
    rate_bytes=st.sampled_from([64 * MIB, 128 * MIB, 256 * MIB]),
    guests=st.integers(GUESTS_MIN, GUESTS_MAX),
    short=st.booleans(),
    page_cache=st.booleans(),
)


def turning_points(script: Script) -> list[float]:
    """Return the moments between which every use changes steadily: the sums are largest at one of them."""
    moments = {0.0, script.duration_s}
    for burst in script.bursts:
        moments |= {burst.begins_s, burst.full_s, burst.falls_s, burst.ends_s}
    return sorted(moments)


@given(SCRIPTS)
def test_what_all_guests_use_stays_below_the_budget_by_the_slush_and_a_spare_for_each(script: Script) -> None:
    spare = SLUSH_BYTES + script.guests * SPARE_BYTES
    for at_s in turning_points(script):
        used = sum(script.use_bytes(guest, at_s) for guest in range(script.guests))
        assert used + spare <= script.budget_bytes, at_s


@given(SCRIPTS)
def test_the_minimums_of_the_others_leave_each_guest_what_it_uses(script: Script) -> None:
    for at_s in turning_points(script):
        uses = [script.use_bytes(guest, at_s) + SPARE_BYTES for guest in range(script.guests)]
        kept = sum(max(use, script.minimum_bytes) for use in uses)
        assert kept + SLUSH_BYTES <= script.budget_bytes, at_s


@given(SCRIPTS)
def test_each_guest_stays_below_its_maximum_and_rests_below_its_minimum(script: Script) -> None:
    for guest, at_s in itertools.product(range(script.guests), turning_points(script)):
        assert script.use_bytes(guest, at_s) + SPARE_BYTES <= MAXIMUM_BYTES
    assert OWN_BYTES + script.base_bytes + SPARE_BYTES <= MINIMUM_BYTES


@given(SCRIPTS)
def test_the_maximums_are_twice_the_budget(script: Script) -> None:
    assert script.guests * script.maximum_bytes == 2 * script.budget_bytes


@given(st.integers(0, 10_000), st.sampled_from([64, 128, 256]))
def test_a_whole_script_has_each_kind_of_burst_and_a_restart_in_the_middle(seed: int, rate: int) -> None:
    script = write(seed, rate_bytes=rate * MIB)
    kinds = sorted(burst.kind for burst in script.bursts)
    assert kinds == ["alone", "alone", "alone", "cache", "leak", "pair", "pair"]
    pair = [burst for burst in script.bursts if burst.kind == "pair"]
    assert pair[0].begins_s == pair[1].begins_s
    assert pair[0].guest != pair[1].guest
    (restart,) = script.restarts
    assert script.bursts[0].ends_s < restart.at_s < script.bursts[-1].begins_s


@given(SCRIPTS)
def test_a_guest_is_restarted_only_while_its_load_rests(script: Script) -> None:
    for restart in script.restarts:
        assert script.use_bytes(restart.guest, restart.at_s) == OWN_BYTES + script.base_bytes
        beside = [b for b in script.bursts if b.begins_s > restart.at_s]
        assert min(beside, key=lambda b: b.begins_s).guest != restart.guest


@given(SCRIPTS)
def test_whoever_grows_next_is_somebody_else_than_who_grew_last(script: Script) -> None:
    for before, after in itertools.pairwise(script.bursts):
        if before.begins_s != after.begins_s:
            assert before.guest != after.guest


def test_a_seed_is_one_script_and_another_seed_is_another() -> None:
    assert write(1, rate_bytes=64 * MIB) == write(1, rate_bytes=64 * MIB)
    assert write(1, rate_bytes=64 * MIB) != write(2, rate_bytes=64 * MIB)


def test_a_seed_has_the_same_bursts_at_every_rate() -> None:
    slow, fast = write(5, rate_bytes=64 * MIB), write(5, rate_bytes=256 * MIB)
    assert [(b.guest, b.kind, b.size_bytes) for b in slow.bursts] == [
        (b.guest, b.kind, b.size_bytes) for b in fast.bursts
    ]


def test_a_short_script_has_three_bursts_and_takes_less_than_half_a_minute() -> None:
    script = write(3, rate_bytes=64 * MIB, short=True)
    assert [burst.kind for burst in script.bursts] == ["alone", "pair", "pair"]
    assert script.duration_s < 30


@given(SCRIPTS)
def test_every_load_is_back_at_its_base_when_all_orders_have_been_carried_out(script: Script) -> None:
    last = {}
    for event in events(script):
        if event.wanted is not None:
            last[event.guest] = event.wanted.load_bytes
    assert set(last.values()) == {script.base_bytes}


def test_a_steady_script_changes_every_load_by_a_few_percent_and_bursts_never() -> None:
    script = write_steady(1, seconds=20, rate_bytes=64 * MIB)
    assert script.bursts == ()
    use = OWN_BYTES + script.base_bytes
    assert len(script.wobbles) == 20 * script.guests
    assert all(abs(w.load_bytes - script.base_bytes) <= 0.03 * use for w in script.wobbles)
    assert len({w.load_bytes for w in script.wobbles}) > 5
    assert script.guests * int(use * 1.03 + SPARE_BYTES) + SLUSH_BYTES <= script.budget_bytes
    assert [event.at_s for event in events(script)] == [w.at_s for w in script.wobbles]


@pytest.mark.parametrize(("at_s", "size"), [(0.9, 0), (1.5, 32), (3.0, 64), (5.5, 32), (6.1, 0)])
def test_a_burst_rises_holds_and_falls(at_s: float, size: int) -> None:
    burst = Burst(0, "alone", 1.0, 64 * MIB, 64 * MIB, 3.0, 64 * MIB)
    assert burst.load_bytes(at_s) == size * MIB
