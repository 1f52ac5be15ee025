"""What a time says about a host: what fixed sizes hold, what was needed, and how many more VMs would fit.

`history.loads` says what a VM needs and what there is for VMs, `fit.counting` what it needs where its guest
reported nothing, and how many more fit. Sums of VMs are upper bounds: a span in which they do not fit is one
in which they may not have fitted.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from dynmem.dates import format_date
from dynmem.fit.counting import (
    AWAY,
    MORE_MAX,
    Sizes,
    count,
    each_like,
    fits_static,
    late_share,
    mean,
    median_of,
    missing,
    most,
    quantile,
    settled,
    usual,
)
from dynmem.history.event import Event
from dynmem.history.loads import HostLoads, VmLoad, loads_of, named
from dynmem.history.past import Past
from dynmem.history.spans import step_ms
from dynmem.units import NS_PER_MS, PAGE_SIZE

# Spans that a time is cut into: of a week, five minutes each.
_SPANS: Final = 2100
# A VM is at its peak from this part of it on.
_PEAK_PART: Final = 0.9


class VmReport(msgspec.Struct, frozen=True, kw_only=True):
    """One VM over the time.

    Attributes:
        name: Its name.
        there_s: For how long it was there.
        signal_s: For how much of that its guest reported what it needs.
        static_bytes: What a fixed size would hold: its boot size, or the most that it had.
        demand_mean_bytes: What its guest used, on average; null: it never reported.
        demand_p99_bytes: What it used at most in all but a hundredth of the time.
        demand_peak_bytes: What it used at most.
        need_p99_bytes: What it needed at most in all but a hundredth of the time.
        need_peak_bytes: What it needed at most: that, and its buffer or reserve, within its bounds.
        resident_mean_bytes: What the host held for it, on average; null: that was never measured.
        resident_peak_bytes: What the host held at most.
        short_s: For how long it lacked something of what it wanted, at most.
        moves: How often its size was moved, or would have been.
        given_bytes: What it was asked for in the moves that were made.
        got_bytes: What it got in these.
        would_give_bytes: The most that it would have been asked for at once.
    """

    name: str
    there_s: float
    signal_s: float
    static_bytes: int
    demand_mean_bytes: int | None
    demand_p99_bytes: int | None
    demand_peak_bytes: int | None
    need_p99_bytes: int
    need_peak_bytes: int
    resident_mean_bytes: int | None
    resident_peak_bytes: int | None
    short_s: float
    moves: int = 0
    given_bytes: int = 0
    got_bytes: int = 0
    would_give_bytes: int = 0


class Fit(msgspec.Struct, frozen=True):
    """What would be if so many more VMs like the model ran.

    Attributes:
        more: How many more.
        share: In which part of the time they would not have fitted.
        seconds: For how long that is.
        worst_bytes: How much was missing at most.
    """

    more: int
    share: float
    seconds: float
    worst_bytes: int


class HostReport(msgspec.Struct, frozen=True, kw_only=True):
    """A host over a time.

    Attributes:
        since: When what is looked at begins, in UTC.
        until: When it ends.
        recorded_s: For how much of that something is recorded.
        span_s: How long the spans are that it is cut into.
        capacity_bytes: What there was for VMs, at least.
        static_bytes: What fixed sizes would have held at most.
        need_mean_bytes: What all VMs needed together, on average.
        need_p99_bytes: What they needed at most in all but a hundredth of the time.
        need_peak_bytes: What they needed at most.
        resident_mean_bytes: What the host held for all of them, on average.
        resident_peak_bytes: What it held at most.
        sum_of_peaks_bytes: The peaks of all VMs, whenever they were.
        met_share: In which part of the time two or more VMs were at nine tenths of their peak.
        like: The model of the VMs that would fit; null: no VM was there.
        like_need_bytes: What it needed at most in all but a hundredth of the time.
        risk: The share of the time that is accepted.
        fits_static: How many more would fit at fixed sizes.
        fits: How many more would have fitted at all times; -1: not even those that ran.
        fits_at_risk: How many more, but for that share of the time; -1: not even those that ran.
        fit: The figures of each number, up to one more than that.
        vms: Every VM that was there.
        moved: How many moves were made.
        would_move: How many moves would have been made.
        moves: Each of them.
    """

    since: str
    until: str
    recorded_s: float
    span_s: float
    capacity_bytes: int
    static_bytes: int
    need_mean_bytes: int
    need_p99_bytes: int
    need_peak_bytes: int
    resident_mean_bytes: int
    resident_peak_bytes: int
    sum_of_peaks_bytes: int
    met_share: float
    like: str | None
    like_need_bytes: int
    risk: float
    fits_static: int
    fits: int
    fits_at_risk: int
    fit: tuple[Fit, ...]
    vms: tuple[VmReport, ...]
    moved: int
    would_move: int
    moves: tuple[Event, ...]


def report_of(
    past: Past, since_ms: int, until_ms: int, like: str | None = None, risk: float = 0.01
) -> HostReport:
    """Return what a time says; ConfigError if the model VM was not there."""
    step = step_ms(since_ms, until_ms, _SPANS)
    host = loads_of(past, since_ms, until_ms, step)
    moves = tuple(event for event in past.events(since_ms, until_ms) if event.kind in ("moved", "would move"))
    spans = _Spans(host)
    model = _model(spans, like)
    fit = _fits(spans, model, risk)
    held, static = (
        sum((spans.row(each) for each in rows), spans.none)
        for rows in ([load.resident for load in spans.vms], [load.static for load in spans.vms])
    )
    size = 0 if model is None else max(spans.vms[model].static.values())
    now = max(host.ds)
    return HostReport(
        since=format_date(max(since_ms, min(host.ds) * step) * NS_PER_MS),
        until=format_date(min(until_ms, (now + 1) * step) * NS_PER_MS),
        recorded_s=int(spans.ds.sum()) / 10,
        span_s=step / 1000,
        capacity_bytes=int(spans.capacity.min()) * PAGE_SIZE,
        static_bytes=int(static.max()) * PAGE_SIZE,
        need_mean_bytes=mean(spans.needed, spans.ds) * PAGE_SIZE,
        need_p99_bytes=quantile(spans.needed, spans.ds) * PAGE_SIZE,
        need_peak_bytes=int(spans.needed.max()) * PAGE_SIZE,
        resident_mean_bytes=mean(held, spans.ds) * PAGE_SIZE,
        resident_peak_bytes=int(held.max()) * PAGE_SIZE,
        sum_of_peaks_bytes=int(spans.needs.max(axis=1, initial=0).sum()) * PAGE_SIZE,
        met_share=_met(spans),
        like=None if model is None else spans.vms[model].name,
        like_need_bytes=0 if model is None else usual(spans.needs[model], spans.ds) * PAGE_SIZE,
        risk=risk,
        fits_static=fits_static(host.fixed - int(static[-1]), size),
        fits=max((each.more for each in fit if not each.seconds), default=-1),
        fits_at_risk=max((each.more for each in fit if each.share <= risk), default=-1),
        fit=fit,
        vms=tuple(_vm(at, spans, moves) for at in range(len(spans.vms))),
        moved=sum(event.kind == "moved" for event in moves),
        would_move=sum(event.kind == "would move" for event in moves),
        moves=moves,
    )


class _Spans:
    """The loads as arrays: one element for each span of which something is recorded, in order."""

    def __init__(self, host: HostLoads) -> None:
        self.places = sorted(host.ds)
        self.vms = [load for load in host.vms.values() if load.need or load.silent]
        self.ds = self.row(host.ds)
        self.capacity = self.row(host.capacity)
        self.none = np.zeros_like(self.ds)
        #: What each VM needed; AWAY where it was not there.
        self.needs = settled(
            self._rows([load.need for load in self.vms]), self._rows([load.silent for load in self.vms])
        )
        #: What all of them needed together.
        self.needed: Sizes = np.maximum(self.needs, 0).sum(axis=0)

    def row(self, figures: Mapping[int, int], away: int = 0) -> Sizes:
        """Return a figure of each span; *away* where there is none."""
        return np.array([figures.get(place, away) for place in self.places], dtype=np.int64)

    def _rows(self, each: Sequence[Mapping[int, int]]) -> Sizes:
        rows = [self.row(figures, AWAY) for figures in each]
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(self.places))


def _model(spans: _Spans, like: str | None) -> int | None:
    """Return the VM that others are like: the one that is named, or the median of those that report."""
    names = [load.name for load in spans.vms]
    if like is not None:
        if like not in names:
            raise named(names, like)
        return names.index(like)
    reporting = [at for at, load in enumerate(spans.vms) if load.high]
    return median_of(reporting or range(len(names)), names, spans.needs, spans.ds)


def _fits(spans: _Spans, model: int | None, risk: float) -> tuple[Fit, ...]:
    """Return the figures of no more VM, one more, and so on, up to the first that is too risky."""
    if model is None:
        return ()
    each = each_like(spans.needs[model], spans.ds)
    counts = count(spans.capacity, spans.needed, each)
    last = 0
    if usual(spans.needs[model], spans.ds):
        last = min(int(most(counts, spans.ds, max(risk, 0.0))) + 1, MORE_MAX)
    return tuple(
        Fit(
            more,
            late_share(counts, spans.ds, more),
            int(spans.ds[counts < more].sum()) / 10,
            missing(spans.capacity, spans.needed, each, more) * PAGE_SIZE,
        )
        for more in range(last + 1)
    )


def _vm(at: int, spans: _Spans, moves: Sequence[Event]) -> VmReport:
    load, needs = spans.vms[at], spans.needs[at]
    known_ds = sum(load.known_ds.values())
    own = [event for event in moves if event.vm == load.name]
    steps = [event.moved_bytes for event in own if event.kind == "moved"]
    return VmReport(
        name=load.name,
        there_s=load.there_ds / 10,
        signal_s=known_ds / 10,
        static_bytes=max(load.static.values()) * PAGE_SIZE,
        demand_mean_bytes=load.demand_sum // known_ds * PAGE_SIZE if known_ds else None,
        demand_p99_bytes=_usually(load, spans),
        demand_peak_bytes=max(load.high.values()) * PAGE_SIZE if load.high else None,
        need_p99_bytes=usual(needs, spans.ds) * PAGE_SIZE,
        need_peak_bytes=int(needs.max()) * PAGE_SIZE,
        resident_mean_bytes=load.resident_sum // load.resident_ds * PAGE_SIZE if load.resident_ds else None,
        resident_peak_bytes=max(load.resident.values()) * PAGE_SIZE if load.resident else None,
        short_s=load.short_ds / 10,
        moves=len(own),
        given_bytes=-sum(step for step in steps if step < 0),
        got_bytes=sum(step for step in steps if step > 0),
        would_give_bytes=max(0, 0, *(-event.moved_bytes for event in own if event.kind == "would move")),
    )


def _usually(load: VmLoad, spans: _Spans) -> int | None:
    """Return what its guest used at most in all but a hundredth of the time in which it reported."""
    if not load.high:
        return None
    return usual(spans.row(load.high, AWAY), spans.row(load.known_ds)) * PAGE_SIZE


def _met(spans: _Spans) -> float:
    """Return in which part of the time two or more VMs were near their peaks."""
    near = spans.none.copy()
    for load in spans.vms:
        peak = max(load.high.values(), default=0)
        if peak:
            near += spans.row(load.high) >= peak * _PEAK_PART
    total = int(spans.ds.sum())
    return int(spans.ds[near > 1].sum()) / total if total else 0.0
