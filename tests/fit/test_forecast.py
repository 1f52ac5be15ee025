"""The estimator, day by day: which days it looks at, what it does where some are missing, what is lost."""

import numpy as np
import pytest
from bench.fit_traces import trace

from dynmem.cli.fit_text import rendered
from dynmem.fit.answer import answer_of
from dynmem.fit.counting import AWAY, Sizes
from dynmem.fit.forecast import ENOUGH_DAYS, answer
from dynmem.fit.held_out import held_out
from dynmem.fit.trace import Model, Trace

MODEL = Model(1, 100)


def level(days: int) -> Trace:
    """Return a host with 1000 pages for three VMs that need 100 each, at all times."""
    host = trace("office", 5, days=days, vms=3)
    host.need[:], host.capacity[:] = 100, 1000
    return host._replace(fixed=np.full(3, 200), fixed_capacity=1000)


def day(host: Trace, number: int) -> slice:
    return slice(number * host.per_day, (number + 1) * host.per_day)


def forget(host: Trace, number: int) -> None:
    """Take a day out, as if no manager had run."""
    host.weights[day(host, number)] = host.capacity[day(host, number)] = 0
    host.need[:, day(host, number)] = AWAY


def days_of(host: Trace) -> list[int]:
    """Return which days were held out."""
    day_ms = host.per_day * host.span_ms
    return [host.days - (host.end_ms - time.since_ms) // day_ms for time in held_out(host, MODEL, 0.01, 1)]


def needs_of(days: list[int], per_day: int) -> Sizes:
    return np.repeat(np.array(days, dtype=np.int64), per_day)


def test_the_coming_day_is_the_mean_of_the_last_two_of_its_weekday() -> None:
    host = level(15)
    host.need[0, day(host, 8)] = 400  # 4 fit
    host.need[0, day(host, 1)] = 100  # 7 fit
    assert answer(host, MODEL, 0.01, 1) == 5
    forget(host, 8)
    assert answer(host, MODEL, 0.01, 1) == 7
    host.need[0, day(host, 1)] = 300
    assert answer(host, MODEL, 0.01, 1) == 5
    forget(host, 1)  # no such day: all recorded time
    assert answer(host, MODEL, 0.01, 1) == answer(host, MODEL, 0.01, 7) == 7


def test_the_coming_week_is_all_of_the_recorded_time_but_for_the_risk() -> None:
    host = level(14)
    host.need[0, :20] = 500
    assert answer(host, MODEL, 0.01, 7) == 7  # 20 of 2016 spans
    host.need[0, :21] = 500
    assert answer(host, MODEL, 0.01, 7) == 3


def test_what_is_lost_each_week_is_taken_off_only_where_nearly_each_day_loses() -> None:
    host = level(14)._replace(capacity=np.full(14 * 144, 1040))
    growing = [100 + 10 * number for number in range(14)]
    host.need[0] = needs_of(growing, host.per_day)
    found = answer_of(host, MODEL)
    assert found.loss_bytes == 70 * 4096
    assert found.fits == (1040 - 70 - 430) // 100 == 5
    assert answer_of(host.until(13), MODEL).loss_bytes == 0  # two weeks are not known yet
    host.need[0] = needs_of([*growing[:13], 100], host.per_day)
    assert answer_of(host, MODEL).loss_bytes > 0
    host.need[0] = needs_of([*growing[:12], 100, 100], host.per_day)
    assert answer_of(host, MODEL).loss_bytes == 0


def test_a_day_that_is_not_recorded_loses_nothing() -> None:
    host = level(14)
    host.need[0] = needs_of([100] * 7 + [150] * 5 + [100, 100], host.per_day)
    assert answer_of(host, MODEL).loss_bytes == 0  # five of seven
    forget(host, 13)
    assert answer_of(host, MODEL).loss_bytes == 0


def test_a_day_is_held_out_only_with_a_whole_week_before_it_in_which_the_model_was_there() -> None:
    host = level(16)
    assert days_of(host) == list(range(ENOUGH_DAYS, 16))
    forget(host, 2)
    assert days_of(host) == list(range(ENOUGH_DAYS + 1, 16))
    forget(host, 12)
    assert days_of(host) == [8, 9, 10, 11, 13, 14, 15]
    host = level(16)
    host.need[1, : 10 * host.per_day] = AWAY
    assert days_of(host) == list(range(11, 16))


def test_where_not_even_those_that_run_fit_the_time_that_was_short_is_theirs() -> None:
    host = level(9)
    host.capacity[:] = 250
    (first, _) = held_out(host, MODEL, 0.01, 1)
    assert (first.answer, first.fitted, first.error, first.late_share) == (-1, -1, 0, 1.0)


def test_what_was_not_recorded_limits_nothing_and_is_missing_nowhere() -> None:
    host = level(10)
    noon = np.arange(host.weights.size) % host.per_day // 6 == 12
    host.need[0, noon] = 400
    forget(host, 4)
    found = answer_of(host, MODEL, vms=5)
    assert [(each.hour, each.days) for each in found.bottleneck.hours] == [(12, 9)]
    assert found.asked is not None
    assert (found.asked.worst_bytes, found.asked.late_share) == (100 * 4096, 1 / 24)
    host = level(10)
    forget(host, 4)
    assert answer_of(host, MODEL, vms=999).bottleneck.share == 1.0
    host.need[1] = 0  # any number of these fits
    found = answer_of(host, MODEL)
    assert (found.fits, found.bottleneck.hours) == (999, ())
    assert "999 or more fit in the coming week" in rendered(found, None)


def test_fixed_sizes_are_those_of_vms_that_run_at_the_end() -> None:
    host = level(8)
    assert answer_of(host, Model(1, 200)).fits_static == 2
    host.need[2, -1] = AWAY
    assert answer_of(host, Model(1, 200)).fits_static == 3


@pytest.mark.parametrize("ahead", [1, 7])
def test_a_risk_of_nothing_is_the_worst_span(ahead: int) -> None:
    host = level(14)
    host.need[0, day(host, 7).start] = host.need[0, 0] = 800
    assert answer(host, MODEL, 0.0, ahead) == 0
