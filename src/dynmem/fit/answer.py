"""``dynmem fit``: how many more VMs of a kind fit on this host, and how wrong such answers were."""

import msgspec
import numpy as np

from dynmem.dates import format_date
from dynmem.errors import ConfigError
from dynmem.fit.bottleneck import Bottleneck, bottleneck_of
from dynmem.fit.counting import AWAY, count, fits_static, late_share, missing, usual
from dynmem.fit.forecast import ENOUGH_DAYS, ahead_of, answer, is_recorded
from dynmem.fit.held_out import Errors, HeldOut, errors_of, held_out
from dynmem.fit.trace import Loads, Model, Trace, median_model
from dynmem.history.loads import named
from dynmem.units import NS_PER_MS, PAGE_SIZE, pages_covering


class Horizon(msgspec.Struct, frozen=True):
    """How many more fit for some days to come.

    Attributes:
        days: Days to come: 1 or 7.
        fits: How many more fit; -1: not even those that run.
        errors: How wrong such answers were on times of this length that were held out.
        held_out: Each of these times.
    """

    days: int
    fits: int
    errors: Errors
    held_out: tuple[HeldOut, ...]


class Asked(msgspec.Struct, frozen=True):
    """Whether a number of VMs fits.

    Attributes:
        vms: How many more.
        fits: Whether they fit in the coming week, within the risk.
        late_share: In which part of the recorded time they would not have fitted.
        worst_bytes: What would have been missing at most.
        held_out_days: How many recorded days they were tried on: those on which the error was measured.
        fitted_days: On how many of these they really would have fitted.
    """

    vms: int
    fits: bool
    late_share: float
    worst_bytes: int
    held_out_days: int
    fitted_days: int


class FitReply(msgspec.Struct, frozen=True, kw_only=True):
    """How many more VMs of a kind fit on a host.

    Attributes:
        since: When what is looked at begins, in UTC.
        until: When it ends.
        recorded_days: For how many days something is recorded of it.
        span_s: How long the spans are that it is cut into.
        missing_days: How many more days must be recorded before weekdays are told apart and the error is
            measured; 0: enough are.
        like: The VM that one more is like; null: it needs its whole size at all times, or no VM was there.
        each_bytes: What one more needs at most in all but a hundredth of the time.
        each_fixed_bytes: What one more holds at a fixed size.
        risk: The share of the time that is accepted.
        fits: How many more fit in the coming week; -1: not even those that run.
        fits_static: How many more would fit if all VMs had fixed sizes.
        loss_bytes: How much less memory is left than a week before, where that was so on at least 6 of the
            last 7 days: the answers count on one more week of it.
        horizons: The answers for a day and for a week, and how wrong such answers were.
        bottleneck: Where one more than fits would not have fitted.
        asked: Whether a given number of VMs fits; null: none was given.
    """

    since: str
    until: str
    recorded_days: float
    span_s: float
    missing_days: int
    like: str | None
    each_bytes: int
    each_fixed_bytes: int
    risk: float
    fits: int
    fits_static: int
    loss_bytes: int
    horizons: tuple[Horizon, ...]
    bottleneck: Bottleneck
    asked: Asked | None


def model_of(trace: Trace, like: str | None = None, size: int | None = None) -> Model:
    """Return what one more VM is like: a VM, a size in bytes, or the median; ConfigError if there is none."""
    if like is not None and size is not None:
        raise ConfigError("--size: --like says already what one more needs: leave one of them out")
    if size is not None:
        if size < PAGE_SIZE:
            raise ConfigError(f"--size: a VM of {size} bytes is less than a page: give a size such as 4G")
        return Model(None, pages_covering(size))
    if like is not None:
        if like not in trace.names:
            raise named(trace.names, like)
        index: int | None = trace.names.index(like)
    else:
        index = median_model(trace)
    if index is None:
        raise ConfigError(
            "no VM ran in that time that one more could be like: say how large one is with --size"
        )
    return Model(index, int(trace.fixed[index]))


def answer_of(
    trace: Trace, model: Model, risk: float = 0.01, vms: int | None = None, zone_ms: int = 0
) -> FitReply:
    """Return how many more fit; *zone_ms* is how far this host's clock is ahead of UTC."""
    loads, less = ahead_of(trace, model, risk)
    horizons = tuple(_horizon(trace, model, risk, ahead) for ahead in (1, 7))
    fits = horizons[-1].fits
    whole = int(np.count_nonzero(is_recorded(trace)))
    first_ms = trace.end_ms - trace.weights.size * trace.span_ms
    return FitReply(
        since=format_date(first_ms * NS_PER_MS),
        until=format_date(trace.end_ms * NS_PER_MS),
        recorded_days=int(trace.weights.sum()) / 864_000,
        span_s=trace.span_ms / 1000,
        missing_days=max(0, ENOUGH_DAYS + 1 - whole),
        like=None if model.vm is None else trace.names[model.vm],
        each_bytes=usual(loads.each, trace.weights) * PAGE_SIZE,
        each_fixed_bytes=model.pages * PAGE_SIZE,
        risk=risk,
        fits=fits,
        fits_static=_static(trace, model),
        loss_bytes=less * PAGE_SIZE,
        horizons=horizons,
        bottleneck=bottleneck_of(loads, trace.names, fits + 1, trace.span_ms, first_ms, zone_ms),
        asked=None if vms is None else _asked(loads, horizons, vms),
    )


def _horizon(trace: Trace, model: Model, risk: float, ahead: int) -> Horizon:
    times = held_out(trace, model, risk, ahead)
    return Horizon(ahead, answer(trace, model, risk, ahead), errors_of(times), tuple(times))


def _static(trace: Trace, model: Model) -> int:
    """Return how many more fit beside the VMs that run now, if all have fixed sizes."""
    last = int(np.flatnonzero(trace.weights)[-1])
    runs = (trace.need[:, last] > AWAY) | (trace.silent[:, last] > AWAY)
    return fits_static(trace.fixed_capacity - int(trace.fixed[runs].sum()), model.pages)


def _asked(loads: Loads, horizons: tuple[Horizon, ...], vms: int) -> Asked:
    recorded = loads.weights > 0
    capacity, needed, each = (figures[recorded] for figures in (loads.capacity, loads.needed, loads.each))
    days = horizons[0].held_out
    return Asked(
        vms,
        horizons[-1].fits >= vms,
        late_share(count(capacity, needed, each), loads.weights[recorded], vms),
        missing(capacity, needed, each, vms) * PAGE_SIZE,
        len(days),
        sum(each.fitted >= vms for each in days),
    )
