"""The report of a time, as people read it."""

from collections.abc import Iterator
from typing import Final

from dynmem.cli.history_text import event_lines
from dynmem.cli.layout import broken, table
from dynmem.cli.looking_back import local
from dynmem.dates import parse_date
from dynmem.history.report import Fit, HostReport, VmReport
from dynmem.units import NS_PER_MS, format_size, size_cell

_MOVES_MAX: Final = 20
_UNITS: Final = ((24 * 3600.0, "d"), (3600.0, "h"), (60.0, "min"))


def rendered(report: HostReport, columns: int | None) -> str:
    """Return the report as text: the host, its VMs, what would fit, and the last moves."""
    lines = [each for line in _host(report) for each in broken(line, columns)]
    if report.vms:
        lines += ["", *_vms(report)]
    lines += ["", *(each for line in _fit(report) for each in broken(line, columns))]
    if report.moves:
        lines += ["", *_moves(report, columns)]
    return "\n".join(lines)


def _host(report: HostReport) -> Iterator[str]:
    since, until = (
        local(parse_date(date) // NS_PER_MS, seconds=False) for date in (report.since, report.until)
    )
    yield f"{since} to {until}, recorded: {_time(report.recorded_s)}, in spans of {_time(report.span_s)}"
    yield f"fixed sizes hold   {format_size(report.static_bytes)}"
    peak, p99, mean = (
        format_size(size) for size in (report.need_peak_bytes, report.need_p99_bytes, report.need_mean_bytes)
    )
    yield f"needed             {peak} at most, {p99} in 99 % of the time, {mean} on average"
    peak, mean = format_size(report.resident_peak_bytes), format_size(report.resident_mean_bytes)
    yield f"held by the host   {peak} at most, {mean} on average"
    yield f"there was          {format_size(report.capacity_bytes)} for VMs, at least"
    peaks = report.sum_of_peaks_bytes
    part = report.need_peak_bytes / peaks if peaks else 0.0
    yield (
        f"peaks              {format_size(peaks)} if all came at once: {part:.0%} of that came together, and"
        f" two or more VMs were near their peaks in {report.met_share:.1%} of the time"
    )


def _time(seconds: float) -> str:
    for unit, word in _UNITS:
        if seconds >= unit:
            return f"{seconds / unit:.1f}".removesuffix(".0") + f" {word}"
    return f"{seconds:g} s"


def _vms(report: HostReport) -> list[str]:
    rows = [
        [
            "VM",
            "FIXED",
            "DEMAND",
            "P99",
            "PEAK",
            "NEED",
            "RESIDENT",
            "PEAK",
            "SHORT",
            "MOVES",
            "GAVE",
            "GOT",
            "WOULD GIVE",
        ]
    ]
    rows += [_row(vm) for vm in report.vms]
    return table(rows, ("VM",))


def _row(vm: VmReport) -> list[str]:
    sizes = (
        *(
            vm.static_bytes,
            vm.demand_mean_bytes,
            vm.demand_p99_bytes,
            vm.demand_peak_bytes,
            vm.need_peak_bytes,
        ),
        *(vm.resident_mean_bytes, vm.resident_peak_bytes),
    )
    moved = (size_cell(vm.given_bytes), size_cell(vm.got_bytes), size_cell(vm.would_give_bytes))
    return [vm.name, *map(size_cell, sizes), _time(vm.short_s), str(vm.moves), *moved]


def _fit(report: HostReport) -> Iterator[str]:
    if report.like is None:
        yield "no VM was there, so there is nothing that more of them could be like"
        return
    needs = f"which needs {format_size(report.like_need_bytes)} in 99 % of the time"
    yield f"more VMs like {report.like} ({needs}): {report.fits_static} at fixed sizes"
    if report.fits_at_risk < 0:
        yield f"those that ran did not fit: {_missing(report.fit[0])}"
        return
    if report.fits >= 0:
        yield f"{report.fits} would have fitted at all times"
    if report.fits_at_risk > report.fits:
        late = report.fit[report.fits_at_risk]
        yield f"{late.more} within the risk of {report.risk:.2%}: {_missing(late)}"
    last = report.fit[-1]
    if last.more > report.fits_at_risk:
        yield f"with {last.more}, {_missing(last)}"


def _missing(fit: Fit) -> str:
    return f"for {_time(fit.seconds)} ({fit.share:.2%}) up to {format_size(fit.worst_bytes)} was missing"


def _moves(report: HostReport, columns: int | None) -> Iterator[str]:
    counts = [
        f"{count} {what}"
        for count, what in ((report.moved, "made"), (report.would_move, "that would have been made"))
        if count
    ]
    shown = f"; the last {_MOVES_MAX} (all: --json)" if len(report.moves) > _MOVES_MAX else ""
    yield f"moves: {' and '.join(counts)}{shown}"
    for event in report.moves[-_MOVES_MAX:]:
        yield from event_lines(event, columns)
