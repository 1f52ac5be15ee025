"""How wrong answers would have been: each day of a trace is held out, and answered from the days before it.

What really would have fitted is counted with the VMs that were known before: one that came on that day is one
of the "more". A day counts if at least half of it is recorded, and enough days before it are.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from dynmem.fit.counting import AWAY, Counts, Weights, count, late_share, most
from dynmem.fit.forecast import ENOUGH_DAYS, answer, is_recorded
from dynmem.fit.trace import Model, Trace, as_it_was, is_known

#: The last days that are held out: a year of them takes minutes where there are many VMs.
HELD_OUT_MAX: Final = 100
#: An error that is reached by most answers if they are good.
GOAL: Final = 1


class HeldOut(msgspec.Struct, frozen=True):
    """One time that was held out.

    Attributes:
        since_ms: When it begins, in milliseconds since the epoch.
        answer: How many more were said to fit, from the days before.
        fitted: How many more really would have fitted.
        error: How many too many were said to fit.
        late_share: In which part of the time the answer would not have fitted.
    """

    since_ms: int
    answer: int
    fitted: int
    error: int
    late_share: float


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """How wrong the answers were on the times that were held out.

    Attributes:
        times: How many times were held out; 0: too few days are recorded, and the rest says nothing.
        mean_absolute: The mean of the errors, whatever their sign.
        worst: The error that is furthest from 0; above 0: too many were said to fit.
        within_one_share: The part of the times in which the error was at most 1.
        too_many_share: The part of the times in which too many were said to fit.
        late_share: The part of the held-out time in which the answers would not have fitted: what the risk
            was in truth.
        counts: How often each error came, from the least to the greatest.
    """

    times: int = 0
    mean_absolute: float = 0.0
    worst: int = 0
    within_one_share: float = 0.0
    too_many_share: float = 0.0
    late_share: float = 0.0
    counts: tuple[tuple[int, int], ...] = ()


def held_out(trace: Trace, model: Model, risk: float, ahead: int) -> list[HeldOut]:
    """Return each time of so many days (1 or 7) that begins with a day and has enough days before it."""
    recorded = is_recorded(trace)
    found = []
    for first in range(max(ENOUGH_DAYS, trace.days - HELD_OUT_MAX), trace.days - ahead + 1):
        before = trace.until(first)
        if (
            np.count_nonzero(recorded[:first]) < ENOUGH_DAYS
            or not recorded[first : first + ahead].all()
            or not is_known(before, model)
        ):
            continue
        found.append(_one(trace.until(first + ahead), before, model, risk))
    return found


def came(trace: Trace, before: Trace, model: Model) -> tuple[Counts, Weights]:
    """Return how many more really would have fitted in each span after the days *before*, and its length."""
    spans = before.weights.size
    there = np.maximum(before.need, before.silent) >= 0
    known = np.any(there, axis=1, keepdims=True)
    loads = as_it_was(
        trace._replace(need=np.where(known, trace.need, AWAY), silent=np.where(known, trace.silent, AWAY)),
        model,
    )
    return count(loads.capacity, loads.needed, loads.each)[spans:], trace.weights[spans:]


def _one(trace: Trace, before: Trace, model: Model, risk: float) -> HeldOut:
    """Return what was said from the days before, and what came."""
    counts, weights = came(trace, before, model)
    said = answer(before, model, risk, trace.days - before.days)
    fitted = int(most(counts, weights, risk))
    return HeldOut(before.end_ms, said, fitted, said - fitted, late_share(counts, weights, max(said, 0)))


def errors_of(times: Sequence[HeldOut]) -> Errors:
    """Return how the errors are distributed."""
    if not times:
        return Errors()
    errors = np.array([each.error for each in times])
    values, counts = np.unique(errors, return_counts=True)
    return Errors(
        times=len(times),
        mean_absolute=float(np.abs(errors).mean()),
        worst=int(max(errors.tolist(), key=lambda error: (abs(error), error))),
        within_one_share=float((np.abs(errors) <= GOAL).mean()),
        too_many_share=float((errors > 0).mean()),
        late_share=float(np.mean([each.late_share for each in times])),
        counts=tuple(zip(values.tolist(), counts.tolist(), strict=True)),
    )
