"""The answer of `dynmem fit`, as people read it."""

from collections.abc import Iterator
from typing import Final

from dynmem.cli.layout import broken, table
from dynmem.cli.looking_back import local
from dynmem.dates import parse_date
from dynmem.errors import printable
from dynmem.fit.answer import Asked, FitReply, Horizon
from dynmem.fit.bottleneck import Bottleneck
from dynmem.fit.counting import MORE_MAX
from dynmem.units import NS_PER_MS, format_size, size_cell

# Errors beyond this share the outermost columns of the table.
_ERROR_MAX: Final = 4


def rendered(found: FitReply, columns: int | None) -> str:
    """Return the answer as text: what fits, what limits it, and how wrong such answers were."""
    lines = [each for line in _answer(found) for each in broken(line, columns)]
    lines += ["", *_bottleneck(found.bottleneck, found.fits + 1, columns), ""]
    lines += _errors(found, columns)
    return "\n".join(lines)


def _answer(found: FitReply) -> Iterator[str]:
    since, until = (
        local(parse_date(date) // NS_PER_MS, seconds=False) for date in (found.since, found.until)
    )
    span = f"{found.span_s / 60:g} min"
    yield f"{since} to {until}, recorded: {found.recorded_days:.1f} days, in spans of {span}"
    each, fixed = format_size(found.each_bytes), format_size(found.each_fixed_bytes)
    if found.like is None:
        yield f"one more needs {fixed} at all times: nothing is known of it"
    else:
        like = printable(found.like)
        yield f"one more like {like} needs {each} in 99 % of the time; at a fixed size {fixed}"
    day, week = found.horizons
    risk = f"within the risk of {found.risk:.2%} of the time"
    if week.fits < 0:
        yield f"those that run do not fit in the coming week {risk}: no more fit"
    else:
        most = f"{week.fits} or more" if week.fits == MORE_MAX else f"{week.fits} more"
        yield f"{most} fit in the coming week {risk} ({max(0, day.fits)} in the coming day alone)"
    yield f"{found.fits_static} more would fit if all VMs had fixed sizes"
    if found.loss_bytes:
        less = format_size(found.loss_bytes)
        yield (
            f"{less} less is left than a week before, on nearly each day:"
            " the answers count on one more such week"
        )
    if found.asked is not None:
        yield _asked(found.asked)


def _asked(asked: Asked) -> str:
    verdict = f"{asked.vms} more {'fit' if asked.fits else 'do not fit'}"
    missing = (
        f"in {asked.late_share:.2%} of the recorded time up to {format_size(asked.worst_bytes)}"
        " would have been missing"
        if asked.worst_bytes
        else "they would have fitted at all times"
    )
    days = f"; they would have fitted on {asked.fitted_days} of {asked.held_out_days} held-out days"
    return f"{verdict}: {missing}{days if asked.held_out_days else ''}"


def _bottleneck(found: Bottleneck, more: int, columns: int | None) -> Iterator[str]:
    if not found.hours:
        yield f"in none of the recorded time would {more} more not have fitted"
        return
    hours = ", ".join(f"{each.hour:02}:00 ({each.share:.0%}, on {_days(each.days)})" for each in found.hours)
    share = f"{found.share:.2%} of the recorded time"
    yield from broken(f"{more} more would not have fitted in {share}, most of it from {hours}", columns)
    if found.vms:
        yield "VMs that need more than usual then:"
        rows = [["VM", "THEN", "MEAN", "AT ITS PEAK"]]
        rows += [
            [printable(vm.name), size_cell(vm.then_bytes), size_cell(vm.mean_bytes), f"{vm.peak_share:.0%}"]
            for vm in found.vms
        ]
        yield from table(rows, ("VM",))


def _days(count: int) -> str:
    return f"{count} day{'s' if count != 1 else ''}"


def _errors(found: FitReply, columns: int | None) -> Iterator[str]:
    if found.missing_days:
        yield from broken(
            f"how wrong this is cannot be said yet: {_days(found.missing_days)} of history are missing until"
            " a day can be held out and answered from a whole week before it; until then, what fits is what"
            " would have fitted in the time that is recorded",
            columns,
        )
    known = [each for each in found.horizons if each.errors.times]
    if not known:
        return
    yield "How wrong such answers were on times that were held out (above 0: too many were said to fit):"
    rows = [["AHEAD", "TIMES", "MEAN", "WORST", "WITHIN 1", "TOO MANY", "SHORT"]]
    rows += [_error_row(each) for each in known]
    yield from table(rows, ("AHEAD",))
    yield "Times by error:"
    least, most = _range(known)
    errors = range(least, most + 1)
    rows = [["AHEAD", *(_heading(error, least, most) for error in errors)]]
    rows += [[_ahead(each), *_counts(each, errors)] for each in known]
    yield from table(rows, ("AHEAD",))


def _ahead(horizon: Horizon) -> str:
    return _days(horizon.days)


def _error_row(horizon: Horizon) -> list[str]:
    errors = horizon.errors
    return [
        *(
            _ahead(horizon),
            str(errors.times),
            f"{errors.mean_absolute:.2f}",
            f"{errors.worst:+}" if errors.worst else "0",
        ),
        *(f"{share:.0%}" for share in (errors.within_one_share, errors.too_many_share)),
        f"{errors.late_share:.2%}",
    ]


def _range(horizons: list[Horizon]) -> tuple[int, int]:
    errors = [error for each in horizons for error, _ in each.errors.counts]
    return max(-_ERROR_MAX, min(-1, *errors)), min(_ERROR_MAX, max(1, *errors))


def _heading(error: int, least: int, most: int) -> str:
    end = " or less" if error == least == -_ERROR_MAX else " or more" if error == most == _ERROR_MAX else ""
    return f"{error:+}{end}" if error else "0"


def _counts(horizon: Horizon, errors: range) -> list[str]:
    found = dict.fromkeys(errors, 0)
    for error, count in horizon.errors.counts:
        found[min(errors[-1], max(errors[0], error))] += count
    return [str(count) if count else "-" for count in found.values()]
