"""What keeps one more VM from fitting: in which hours, and which VMs are at their most together then."""

from typing import Final

import msgspec
import numpy as np

from dynmem.fit.counting import MORE_MAX, count
from dynmem.fit.trace import Loads
from dynmem.units import PAGE_SIZE

# Hours and VMs that are named.
_HOURS_MAX: Final = 5
_VMS_MAX: Final = 5
# A VM is at its peak from this part of it on.
_PEAK_PART: Final = 0.9
_HOUR_MS: Final = 3_600_000


class LimitingHour(msgspec.Struct, frozen=True):
    """An hour of the day in which one more would not have fitted.

    Attributes:
        hour: Which hour, by the clock of this host.
        days: On how many days.
        share: Which part of the time in which one more would not have fitted lies in this hour.
    """

    hour: int
    days: int
    share: float


class LimitingVm(msgspec.Struct, frozen=True):
    """A VM that needs more than usual when one more would not have fitted.

    Attributes:
        name: The VM.
        then_bytes: What it needed then, on average.
        mean_bytes: What it needs on average over all of the time.
        peak_share: In which part of that time it was at nine tenths of its peak or more.
    """

    name: str
    then_bytes: int
    mean_bytes: int
    peak_share: float


class Bottleneck(msgspec.Struct, frozen=True):
    """Where one more than the answer would not have fitted.

    Attributes:
        share: In which part of the time.
        hours: In which hours most of that lies, most of it first; at most 5.
        vms: Which VMs needed most above their mean then; at most 5.
    """

    share: float
    hours: tuple[LimitingHour, ...]
    vms: tuple[LimitingVm, ...]


def bottleneck_of(
    loads: Loads, names: tuple[str, ...], more: int, span_ms: int, first_ms: int, zone_ms: int
) -> Bottleneck:
    """Return where so many more would not have fitted; the first span begins at *first_ms*.

    More than are counted always fit.
    """
    late = (count(loads.capacity, loads.needed, loads.each) < more) & (loads.weights > 0)
    weights = np.where(late, loads.weights, 0)
    if more > MORE_MAX or not late.any():
        return Bottleneck(0.0, (), ())
    local_ms = first_ms + zone_ms + np.arange(late.size) * span_ms
    hours, days = local_ms // _HOUR_MS % 24, local_ms // (24 * _HOUR_MS)
    by_hour = np.bincount(hours, weights=weights, minlength=24)
    total = int(weights.sum())
    order = np.argsort(-by_hour, kind="stable")[:_HOURS_MAX]
    return Bottleneck(
        total / int(loads.weights.sum()),
        tuple(
            LimitingHour(
                int(hour),
                int(np.unique(days[late & (hours == hour)]).size),
                float(by_hour[hour] / total),
            )
            for hour in order
            if by_hour[hour]
        ),
        _vms(loads, names, weights),
    )


def _vms(loads: Loads, names: tuple[str, ...], weights: np.ndarray) -> tuple[LimitingVm, ...]:
    then = loads.needs @ (weights / weights.sum())
    mean = loads.needs @ (loads.weights / loads.weights.sum())
    at_peak = loads.needs >= loads.needs.max(axis=1, initial=1)[:, None] * _PEAK_PART
    share = at_peak @ weights / weights.sum()
    order = np.argsort(mean - then, kind="stable")[:_VMS_MAX]
    return tuple(
        LimitingVm(names[at], round(then[at]) * PAGE_SIZE, round(mean[at]) * PAGE_SIZE, float(share[at]))
        for at in order
        if then[at] >= mean[at] + 1  # a page
    )
