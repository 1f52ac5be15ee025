"""How many more VMs will fit in the coming day and in the coming week: the estimator that docs/fit.md chose.

    a week    what fitted in all but the risk of the time that is recorded
    a day     the mean of what fitted on the last two of the same weekday, each in all but the risk of it

Where on at least 6 of the last 7 days less memory was left than a week before, the median of these losses is
taken off what there is. With less than a week, both are what fitted in all but the risk of the time that is
recorded.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynmem.fit.counting import count, most
from dynmem.fit.trace import Loads, Model, Trace, as_it_is

#: Days that are needed to know what a week is like.
ENOUGH_DAYS: Final = 7
# Of seven days, on how many less must be left than a week before: by chance alone, one time in sixteen.
_LOSING: Final = 6
# The mean of two days is taken in parts of a VM, and rounded down at the end.
_PARTS: Final = 1000


def is_recorded(trace: Trace) -> NDArray[np.bool_]:
    """Return of each day whether at least half of it is recorded."""
    half_ds = trace.per_day * trace.span_ms // 100 // 2
    found: NDArray[np.bool_] = trace.weights.reshape(-1, trace.per_day).sum(axis=1) >= half_ds
    return found


def loss(trace: Trace, loads: Loads, risk: float) -> int:
    """Return how much less memory is left each week, in pages; 0: that is not to be seen."""
    left = (loads.capacity - loads.needed).reshape(-1, trace.per_day)
    days, known = most(left, loads.weights.reshape(-1, trace.per_day), risk), is_recorded(trace)
    if days.size < 2 * ENOUGH_DAYS:
        return 0
    both = known[-7:] & known[-14:-7]
    lost = (days[-14:-7] - days[-7:])[both]
    return int(np.median(lost)) if np.count_nonzero(lost > 0) >= _LOSING else 0


def ahead_of(trace: Trace, model: Model, risk: float) -> tuple[Loads, int]:
    """Return what the coming week will be like, and how much less is left than in the last."""
    loads = as_it_is(trace, model)
    less = loss(trace, loads, risk)
    return loads._replace(capacity=loads.capacity - less), less


def answer(trace: Trace, model: Model, risk: float, days: int) -> int:
    """Return how many more fit in the coming days (1 or 7); -1: not even those that run."""
    loads, _ = ahead_of(trace, model, risk)
    same = [day for day in range(trace.days - 7, -1, -7) if is_recorded(trace)[day]][:2]
    if days > 1 or not same:
        return int(most(count(loads.capacity, loads.needed, loads.each), loads.weights, risk))
    counts = count(loads.capacity, loads.needed, loads.each, _PARTS).reshape(-1, trace.per_day)[same]
    of_each = most(counts, loads.weights.reshape(-1, trace.per_day)[same], risk)
    return int(np.floor(of_each.mean() / _PARTS))
