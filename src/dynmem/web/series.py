"""A plot: the figures of a VM or of the host over a time, in as many columns as there are points at most.

What the history keeps of a time it keeps at one level: sweeps of the last hour, later 10 s, minutes and so on
(docs/history.md). SQL finds the pieces of it; they are joined until they are as few as were asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from dynmem.history.past import Past
from dynmem.history.spans import SpanRow, spans_of, step_ms

# Between two rows that follow each other: a sweep may be late.
_LATE_S: Final = 2.0

Value = Callable[[SpanRow], float | None]


def _level(series: str, part: str) -> Value:
    return lambda row: getattr(row.levels[series], part) if series in row.levels else None


#: The series of a VM by their names in a reply.
OF_A_VM: Final[Mapping[str, Value]] = {
    "demand_bytes": _level("demand", "mean"),
    "demand_most_bytes": _level("demand", "high"),
    "actual_bytes": _level("actual", "mean"),
    "resident_bytes": _level("resident", "mean"),
    "target_bytes": lambda row: row.assigned_bytes,
    "short_bytes": _level("short", "high"),
}
#: Those of the host.
OF_THE_HOST: Final[Mapping[str, Value]] = {
    "budget_bytes": lambda row: row.budget_bytes,
    "held_bytes": lambda row: row.occupied_bytes,
    "claimed_bytes": _level("claimed", "mean"),
    "free_bytes": _level("free", "mean"),
    "free_least_bytes": _level("free", "low"),
    "ready_bytes": lambda row: row.ready_bytes,
    "available_bytes": _level("available", "mean"),
    "short_bytes": _level("shortage", "high"),
    "swapped_bytes": _level("swapped", "high"),
    "stalled_ratio": _level("stalled", "high"),
}


def series_of(past: Past, name: str | None, since_ms: int, until_ms: int, points: int) -> dict[str, Any]:
    """Return the columns of a VM's plot; None: of the host's. Where nothing is known, there is a null row."""
    kept = past.span_ms()
    rows: list[SpanRow] = []
    step = 1
    if kept is not None:
        first, last = max(since_ms, kept[0]), min(until_ms, kept[1])
        if first <= last:
            step = step_ms(first, last, points)
            rows = spans_of(past, name, first, last, step)
    values = OF_THE_HOST if name is None else OF_A_VM
    times, picked = _placed(rows, step, points)
    return {
        "step_s": step / 1000,
        "from_s": times,
        "series": {
            each: [None if row is None else value(row) for row in picked] for each, value in values.items()
        },
    }


def _placed(rows: Sequence[SpanRow], step: int, points: int) -> tuple[list[float], list[SpanRow | None]]:
    """Return when each row begins, in order, with a row of nothing in each gap.

    Where a clock went back, a date has two rows: the one that was recorded later counts.
    """
    begins = {_begin_s(row, step): row for row in rows}
    times: list[float] = []
    placed: list[SpanRow | None] = []
    end_s = None
    for begin_s, row in sorted(begins.items())[-points:]:
        if end_s is not None and begin_s - _late(row, step) > end_s:
            times.append(end_s)
            placed.append(None)
        times.append(begin_s)
        placed.append(row)
        end_s = max(begin_s + 0.001, row.at_ms / 1000)
    return times, placed


def _late(row: SpanRow, step: int) -> float:
    """Return how far a row may begin after the one before it without a gap, in seconds."""
    return max(_LATE_S, step / 1000, row.for_s)


def _begin_s(row: SpanRow, step: int) -> float:
    """Return when a row begins: with its step, or before that where it stands for more."""
    if row.for_s * 1000 > 1.5 * step:  # sweeps may be late
        return round(row.at_ms / 1000 - row.for_s, 3)
    return row.at_ms // step * step / 1000
