"""The error on held-out days: computed again by hand, from nothing but the days before each."""

import numpy as np
import pytest
from bench.fit_traces import KINDS, middle, trace

from dynmem.fit.answer import answer_of, model_of
from dynmem.fit.counting import AWAY
from dynmem.fit.forecast import ENOUGH_DAYS, answer
from dynmem.fit.held_out import HeldOut, errors_of, held_out
from dynmem.fit.trace import Model, Trace, as_it_is


def plain_fitted(host: Trace, model: int, days: range, risk: float) -> int:
    """Count what really would have fitted, with plain numbers: the VMs that were known before these days."""
    first, end = days.start * host.per_day, days.stop * host.per_day
    known = [vm for vm in range(len(host.names)) if max(host.need[vm, :first]) >= 0]
    seen = sorted(size for size in host.need[model, :end].tolist() if size >= 0)
    usual = next(size for at, size in enumerate(seen, 1) if at >= 0.99 * len(seen))
    more = 0
    while True:
        late = 0
        for at in range(first, end):
            needed = sum(max(0, int(host.need[vm, at])) for vm in known)
            each = int(host.need[model, at]) if host.need[model, at] >= 0 else usual
            late += needed + more * each > host.capacity[at]
        if late > risk * (end - first):
            return more - 1
        more += 1


@pytest.mark.parametrize(("kind", "ahead"), [("office", 1), ("changing", 1), ("growth", 7)])
def test_each_day_is_answered_from_the_days_before_it_alone_and_compared_with_a_plain_count(
    kind: str, ahead: int
) -> None:
    host = trace(kind, 1, days=16, vms=4)
    model = Model(middle(host), 0)
    times = held_out(host, model, 0.01, ahead)
    assert len(times) == 16 - ENOUGH_DAYS - ahead + 1
    day_ms = host.per_day * host.span_ms
    for time in times:
        first = host.days - (host.end_ms - time.since_ms) // day_ms
        # Only what was known then is there.
        assert time.answer == answer(host.until(first), model, 0.01, ahead)
        if ahead == 1:
            assert time.fitted == plain_fitted(host, model.vm or 0, range(first, first + 1), 0.01)
        assert time.error == time.answer - time.fitted


def test_nothing_that_comes_later_changes_an_answer() -> None:
    host = trace("leak", 2, days=12, vms=4)
    model = Model(middle(host), 0)
    later = host._replace(need=host.need.copy(), capacity=host.capacity.copy())
    later.need[:, 9 * host.per_day :] = 7
    later.capacity[9 * host.per_day :] = 0
    before, after = (held_out(each, model, 0.01, 1)[:2] for each in (host, later))
    assert before == after


def test_the_distribution_of_errors_is_what_counting_them_gives() -> None:
    times = [HeldOut(0, 3 + error, 3, error, 0.25) for error in (0, 0, 1, -3, 3, 0, -1, 2)]
    errors = errors_of(times)
    assert (errors.times, errors.mean_absolute, errors.worst) == (8, 10 / 8, 3)
    assert (errors.within_one_share, errors.too_many_share, errors.late_share) == (5 / 8, 3 / 8, 0.25)
    assert errors.counts == ((-3, 1), (-1, 1), (0, 3), (1, 1), (2, 1), (3, 1))
    assert errors_of([]).times == 0


def test_a_day_of_which_little_is_recorded_is_not_held_out_and_no_weekday_is_like_it() -> None:
    host = trace("batch", 1, days=16, vms=4)
    model = Model(middle(host), 0)
    day = slice(9 * host.per_day, 10 * host.per_day - 60)
    host.weights[day], host.capacity[day], host.need[:, day] = 0, 0, AWAY
    times = held_out(host, model, 0.01, 1)
    assert len(times) == 16 - ENOUGH_DAYS - 1
    assert answer(host.until(16), model, 0.01, 1) >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_more_memory_never_fits_fewer_and_a_vm_more_never_fits_more(kind: str) -> None:
    host = trace(kind, 3, days=15, vms=5)
    model = Model(middle(host), 0)
    more = host._replace(capacity=host.capacity + 300_000)
    other = host._replace(
        names=(*host.names, "one more"),
        need=np.vstack([host.need, np.full((1, host.weights.size), 100_000)]),
        silent=np.vstack([host.silent, host.silent[:1]]),
    )
    for ahead in (1, 7):
        now = answer(host, model, 0.01, ahead)
        assert answer(more, model, 0.01, ahead) >= now >= answer(other, model, 0.01, ahead)


def test_a_vm_that_is_gone_needs_nothing_one_that_came_needed_it_before_and_a_nightly_one_stays() -> None:
    host = trace("office", 4, days=10, vms=4)
    day = host.per_day
    host.need[0, 5 * day :] = AWAY
    host.need[1, : 8 * day] = AWAY
    host.need[2, (np.arange(10 * day) % day) > 20] = AWAY
    loads = as_it_is(host, Model(3, 0))
    assert not loads.needs[0].any()
    assert (loads.needs[1, : 8 * day] == np.sort(host.need[1, 8 * day :])[2 * day - 3]).all()
    assert (loads.needs[2] > 0).sum() == 10 * 21
    # Within a day of its end it is not known whether it comes back.
    assert as_it_is(host.until(6), Model(3, 0)).needs[0].any()


def test_with_less_than_a_week_it_says_how_much_is_missing_and_answers_with_what_it_can() -> None:
    host = trace("office", 1, days=16, vms=4)
    model = model_of(host)
    found = answer_of(host.until(3), model)
    assert found.missing_days == ENOUGH_DAYS + 1 - 3
    assert [each.errors.times for each in found.horizons] == [0, 0]
    assert found.horizons[0].fits == found.horizons[1].fits == found.fits >= 0
    assert answer_of(host, model).missing_days == 0


def test_what_limits_is_when_it_does_not_fit_and_who_needs_more_than_usual_then() -> None:
    host = trace("office", 5, days=10, vms=3)
    host.need[:], host.capacity[:] = 100, 1000
    at = np.arange(host.weights.size)
    noon = at % host.per_day // 6 == 12
    host.need[0, noon], host.need[2, noon] = 400, 150
    found = answer_of(host, Model(1, 100), 0.01, vms=4, zone_ms=2 * 3_600_000)
    assert found.fits == 3
    assert [(each.hour, each.days, each.share) for each in found.bottleneck.hours] == [(14, 10, 1.0)]
    assert [vm.name for vm in found.bottleneck.vms] == ["vm-00", "vm-02"]
    assert found.bottleneck.vms[0].then_bytes == 400 * 4096
    assert found.bottleneck.vms[0].peak_share == 1.0
    asked = found.asked
    assert asked is not None
    assert (asked.fits, asked.late_share, asked.worst_bytes) == (False, 1 / 24, 50 * 4096)
    assert (asked.held_out_days, asked.fitted_days) == (3, 0)
    assert answer_of(host, Model(1, 100), 0.05, vms=4).fits == 7
