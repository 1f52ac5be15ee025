"""What a time says about a host: what fixed sizes hold, what was needed, and how many more VMs would fit.

    need of a VM      the most that its guest used in a span of time, and its buffer or reserve, whichever is
                      more, between its minimum and maximum; in a span without a report, the most that it
                      needed in any other; of a guest that never reports, its whole size
    sum               the needs of all VMs in the same span
    capacity          the budget, or what the host could give of it, less slush, reservations and what is
                      kept ready
    n more fit        where sum + n × need of the model VM stays within the capacity

Every span takes the most of each VM, whether or not at the same second: sums are upper bounds, and a span in
which it does not fit is one in which it may not have fitted.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from dynmem.dates import format_date
from dynmem.errors import ConfigError, quoted
from dynmem.history.block import Block
from dynmem.history.event import Event
from dynmem.history.past import Past, Piece
from dynmem.history.spans import step_ms
from dynmem.history.thinning import VM_COLUMNS, Series, series_of
from dynmem.units import NS_PER_MS, PAGE_SIZE

# Spans that a time is cut into: of a week, five minutes each.
_SPANS: Final = 2100
# A VM is at its peak from this part of it on.
_PEAK_PART: Final = 0.9
_COLUMNS: Final = VM_COLUMNS | {
    "maximum_bytes",
    "minimum_bytes",
    "buffer_percent",
    "boot_bytes",
    "reserve_bytes",
}
# More VMs are not counted.
_MORE_MAX: Final = 1000
_P99: Final = 0.99


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


# The first row, the one behind the last, and the span that they are of.
_Part = tuple[int, int, int]


class _Load:
    """One VM, span by span; pages."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.need: dict[int, int] = {}
        self.high: dict[int, int] = {}
        self.resident: dict[int, int] = {}
        self.static: dict[int, int] = {}
        self.known_ds: dict[int, int] = {}
        self.silent: dict[int, int] = {}
        self.there_ds = self.short_ds = self.demand_sum = self.resident_sum = self.resident_ds = 0

    def see(self, piece: Piece, block: Block, parts: Sequence[_Part]) -> None:
        """Take in some rows; those of one part are of one span."""
        demand, resident, actual, short = (
            series_of(block, name, piece.for_ds) for name in ("demand", "resident", "actual", "short")
        )
        most, boot = block.figure("maximum_bytes"), block.figure("boot_bytes")
        for first, end, place in parts:
            there = [row for row in range(first, end) if most[row] is not None]
            if not there:
                continue
            last, for_ds = there[-1], piece.for_ds[first:end]
            self.there_ds += (
                sum(for_ds) if len(there) == end - first else sum(map(piece.for_ds.__getitem__, there))
            )
            size = _most(actual, first, end) or (most[last] or 0) // PAGE_SIZE
            _raise(self.static, place, max(size, (boot[last] or 0) // PAGE_SIZE))
            used = _most(demand, first, end)
            if demand is None or used is None:
                _raise(self.silent, place, size)
            else:
                self.known_ds[place] = self.known_ds.get(place, 0) + sum(demand.ds[first:end])
                self.demand_sum += sum(demand.sums[first:end])
                _raise(self.high, place, used)
                _raise(self.need, place, _need(block, last, used))
            held = _most(resident, first, end)
            if resident is not None and held is not None:
                _raise(self.resident, place, held)
                self.resident_sum += sum(resident.sums[first:end])
                self.resident_ds += sum(resident.ds[first:end])
            if short is not None:
                lacked = (
                    length for length, pages in zip(for_ds, short.high[first:end], strict=True) if pages
                )
                self.short_ds += sum(lacked)

    def settle(self) -> None:
        """Fill in the spans in which its guest reported nothing."""
        most = max(self.need.values(), default=None)
        for place, size in self.silent.items():
            self.need.setdefault(place, size if most is None else most)


def _most(series: Series | None, first: int, end: int) -> int | None:
    """Return the most of some rows of a series; None: it is not known in any."""
    if series is None:
        return None
    return max((each for each in series.high[first:end] if each is not None), default=None)


def _need(block: Block, row: int, used: int) -> int:
    """Return what a VM needs that uses so much, by its configuration in this row. Pages."""

    def figure(name: str) -> int:
        return block.figure(name)[row] or 0

    spare = max(-(-used * figure("buffer_percent") // 100), figure("reserve_bytes") // PAGE_SIZE)
    least, most = figure("minimum_bytes") // PAGE_SIZE, figure("maximum_bytes") // PAGE_SIZE
    return max(least, min(most, used + spare))


def _raise(figures: dict[int, int], place: int, figure: int) -> None:
    if figure > figures.get(place, -1):
        figures[place] = figure


class _Host:
    """All VMs, span by span."""

    def __init__(self) -> None:
        self.ds: dict[int, int] = {}
        self.capacity: dict[int, int] = {}
        self.fixed: int = 0
        self.loads: dict[str, _Load] = {}

    def see(self, piece: Piece, step: int) -> None:
        """Take in some rows."""
        parts: list[_Part] = []
        for row in piece.rows:
            place = piece.at_ms[row] // step
            self.ds[place] = self.ds.get(place, 0) + piece.for_ds[row]
            capacity, self.fixed = _capacity(piece.host, row)
            self.capacity[place] = min(self.capacity.get(place, capacity), capacity)
            if parts and parts[-1][1:] == (row, place):
                parts[-1] = (parts[-1][0], row + 1, place)
            else:
                parts.append((row, row + 1, place))
        if not parts:
            return
        for name, block in piece.vms(_COLUMNS):
            self.loads.setdefault(name, _Load(name)).see(piece, block, parts)


def _capacity(host: Block, row: int) -> tuple[int, int]:
    """Return what there was for VMs; and for those of fixed sizes, for whom nothing is kept ready. Pages."""

    def figure(name: str) -> int:
        return (host.figure(name)[row] or 0) // PAGE_SIZE

    budget = figure("budget_bytes")
    there = min(budget, figure("occupied_bytes") + figure("mem_available_bytes"))
    kept = figure("slush_bytes") + figure("reserved_bytes")
    return there - kept - figure("ready_bytes"), there - kept


def report_of(
    past: Past, since_ms: int, until_ms: int, like: str | None = None, risk: float = 0.01
) -> HostReport:
    """Return what a time says; ConfigError if the model VM was not there."""
    step, host = step_ms(since_ms, until_ms, _SPANS), _Host()
    for piece in past.pieces(since_ms, until_ms):
        host.see(piece, step)
    if not host.ds:
        raise past.nothing("that time")
    for load in host.loads.values():
        load.settle()
    moves = tuple(event for event in past.events(since_ms, until_ms) if event.kind in ("moved", "would move"))
    sums = {place: sum(load.need.get(place, 0) for load in host.loads.values()) for place in host.ds}
    model = _model(host, like)
    fit = _fits(host, sums, model, risk)
    recorded_ds = sum(host.ds.values())
    held = {place: sum(load.resident.get(place, 0) for load in host.loads.values()) for place in host.ds}
    static = {place: sum(load.static.get(place, 0) for load in host.loads.values()) for place in host.ds}
    like_need = 0 if model is None else _quantile(model.need, host.ds)
    size = 0 if model is None else max(model.static.values())
    now = max(host.ds)
    return HostReport(
        since=format_date(max(since_ms, min(host.ds) * step) * NS_PER_MS),
        until=format_date(min(until_ms, (now + 1) * step) * NS_PER_MS),
        recorded_s=recorded_ds / 10,
        span_s=step / 1000,
        capacity_bytes=min(host.capacity.values()) * PAGE_SIZE,
        static_bytes=max(static.values()) * PAGE_SIZE,
        need_mean_bytes=_mean(sums, host.ds) * PAGE_SIZE,
        need_p99_bytes=_quantile(sums, host.ds) * PAGE_SIZE,
        need_peak_bytes=max(sums.values()) * PAGE_SIZE,
        resident_mean_bytes=_mean(held, host.ds) * PAGE_SIZE,
        resident_peak_bytes=max(held.values()) * PAGE_SIZE,
        sum_of_peaks_bytes=sum(max(load.need.values()) for load in host.loads.values() if load.need)
        * PAGE_SIZE,
        met_share=_met(host),
        like=None if model is None else model.name,
        like_need_bytes=like_need * PAGE_SIZE,
        risk=risk,
        fits_static=(host.fixed - static[now]) // size if size and host.fixed > static[now] else 0,
        fits=max((each.more for each in fit if not each.seconds), default=-1),
        fits_at_risk=max((each.more for each in fit if each.share <= risk), default=-1),
        fit=fit,
        vms=tuple(_vm(load, host, moves) for load in host.loads.values() if load.need),
        moved=sum(event.kind == "moved" for event in moves),
        would_move=sum(event.kind == "would move" for event in moves),
        moves=moves,
    )


def _model(host: _Host, like: str | None) -> _Load | None:
    """Return the VM that others are like: the one that is named, or the median of those that report."""
    loads = [load for load in host.loads.values() if load.need]
    if like is not None:
        for load in loads:
            if load.name == like:
                return load
        known = ", ".join(load.name for load in loads[:20]) or "none"
        raise ConfigError(f"--like: no VM {quoted(like)} was there in that time: there was {known}")
    reporting = [load for load in loads if load.high] or loads
    reporting.sort(key=lambda load: (_quantile(load.need, host.ds), load.name))
    return reporting[(len(reporting) - 1) // 2] if reporting else None


def _fits(host: _Host, sums: dict[int, int], model: _Load | None, risk: float) -> tuple[Fit, ...]:
    """Return the figures of no more VM, one more, and so on, up to the first that is too risky."""
    if model is None:
        return ()
    usual = _quantile(model.need, host.ds)  # where it was away, it would have needed that
    total, found = sum(host.ds.values()), []
    for more in range(_MORE_MAX):
        missing = {
            place: sums[place] + more * model.need.get(place, usual) - host.capacity[place]
            for place in host.ds
        }
        late_ds = sum(host.ds[place] for place, pages in missing.items() if pages > 0)
        share = late_ds / total if total else float(any(pages > 0 for pages in missing.values()))
        found.append(Fit(more, share, late_ds / 10, max(0, *missing.values()) * PAGE_SIZE))
        if share > max(risk, 0.0) or not usual:
            break
    return tuple(found)


def _vm(load: _Load, host: _Host, moves: Sequence[Event]) -> VmReport:
    known_ds = sum(load.known_ds.values())
    own = [event for event in moves if event.vm == load.name]
    steps = [event.moved_bytes for event in own if event.kind == "moved"]
    return VmReport(
        name=load.name,
        there_s=load.there_ds / 10,
        signal_s=known_ds / 10,
        static_bytes=max(load.static.values()) * PAGE_SIZE,
        demand_mean_bytes=load.demand_sum // known_ds * PAGE_SIZE if known_ds else None,
        demand_p99_bytes=_quantile(load.high, load.known_ds) * PAGE_SIZE if load.high else None,
        demand_peak_bytes=max(load.high.values()) * PAGE_SIZE if load.high else None,
        need_p99_bytes=_quantile(load.need, host.ds) * PAGE_SIZE,
        need_peak_bytes=max(load.need.values()) * PAGE_SIZE,
        resident_mean_bytes=load.resident_sum // load.resident_ds * PAGE_SIZE if load.resident_ds else None,
        resident_peak_bytes=max(load.resident.values()) * PAGE_SIZE if load.resident else None,
        short_s=load.short_ds / 10,
        moves=len(own),
        given_bytes=-sum(step for step in steps if step < 0),
        got_bytes=sum(step for step in steps if step > 0),
        would_give_bytes=max(0, 0, *(-event.moved_bytes for event in own if event.kind == "would move")),
    )


def _mean(figures: dict[int, int], ds: dict[int, int]) -> int:
    total = sum(ds.get(place, 0) for place in figures)
    return sum(figure * ds.get(place, 0) for place, figure in figures.items()) // total if total else 0


def _quantile(figures: dict[int, int], ds: dict[int, int], part: float = _P99) -> int:
    """Return the least figure that was not exceeded in this part of the time."""
    total = sum(ds.get(place, 0) for place in figures)
    passed = 0
    for figure, place in sorted((figure, place) for place, figure in figures.items()):
        passed += ds.get(place, 0)
        if passed >= part * total:
            return figure
    return 0


def _met(host: _Host) -> float:
    """Return in which part of the time two or more VMs were near their peaks."""
    peaks = [(load.high, max(load.high.values()) * _PEAK_PART) for load in host.loads.values() if load.high]
    near = {place: sum(high.get(place, 0) >= peak for high, peak in peaks if peak) for place in host.ds}
    total = sum(host.ds.values())
    return sum(host.ds[place] for place, count in near.items() if count > 1) / total if total else 0.0
