"""Load curves and how they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.errors import ConfigError
from dynmem.guest.curve import SHAPES, TOLD, Amount, Load, parse_load
from dynmem.units import MIB, NS_PER_S

USABLE = 100_000


def wanted(text: str, *seconds: float) -> list[int]:
    load = parse_load(text)
    return [load.wanted_pages(int(second * NS_PER_S), USABLE) for second in seconds]


@given(st.sampled_from(sorted(set(SHAPES) - {TOLD})), st.integers(0, 10**13), st.floats(0, 1))
def test_every_curve_stays_between_5_and_80_percent_unless_told_otherwise(
    name: str, now: int, phase: float
) -> None:
    assert 5_000 <= Load(name=name, phase=phase).wanted_pages(now, USABLE) <= 80_000


def test_a_sine_rises_and_falls_once_in_a_period() -> None:
    assert wanted("sine,period=10s", 0, 2.5, 5, 7.5, 10) == [5_000, 42_500, 80_000, 42_500, 5_000]
    assert wanted("sine,period=10s,phase=0.5", 0, 5) == [80_000, 5_000]


def test_steps_are_low_for_half_a_period_then_high() -> None:
    assert wanted("steps,period=4s", 0, 1.9, 2, 3.9, 4) == [5_000, 5_000, 80_000, 80_000, 5_000]


def test_a_burst_is_the_last_fifth_of_a_period() -> None:
    assert wanted("burst,period=5s", 0, 3.9, 4.1, 5.1) == [5_000, 5_000, 80_000, 5_000]


def test_a_pulse_comes_once() -> None:
    assert wanted("pulse,from=2s,to=3s", 1.9, 2, 2.9, 3, 33) == [5_000, 80_000, 80_000, 5_000, 5_000]


def test_low_and_high_are_shares_or_sizes() -> None:
    assert wanted("steps,low=64MiB,high=12.5%,period=2s", 0, 1) == [16384, 12_500]
    assert wanted("steady,high=2GiB", 0) == [524_288]  # whatever there is
    assert parse_load("idle,rate=8").rate_bytes == parse_load("idle,rate=8MiB/s").rate_bytes == 8 * MIB
    assert Amount(size=MIB).pages(USABLE) == 256


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cosine", "workload 'cosine' is not one of steady, idle, sine"),
        ("sine,speed=3", "workload setting 'speed=3' is not KEY=VALUE with KEY one of low, high"),
        ("sine,period", "workload setting 'period' is not KEY=VALUE"),
        ("sine,period=fast", "workload period: 'fast' is not a duration"),
        ("sine,period=1ms", "below the minimum of 100ms"),
        ("sine,phase=2", "phase of 2.0 is not between 0 and 1"),
        ("sine,phase=x", "workload phase: 'x' is not a number"),
        ("sine,phase=nan", "not between 0 and 1"),
        ("sine,low=5x", "workload low: '5x' is not a size"),
        ("sine,high=101%", "workload high: 101% is above 100%"),
        ("sine,rate=0", "rate of 0 bytes per second is below the minimum of 1MiB"),
        ("pulse,from=3s,to=3s", "to must be later than its from"),
        ("", "workload '' is not one of"),
        ("told", "and it needs one: told,path=FILE"),
        ("sine,path=/tmp/wish", "and it needs one: told,path=FILE"),
    ],
)
def test_a_wrong_workload_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace("(", r"\(")):
        parse_load(text)
