"""The rows of a history, and its events, as people read them."""

from collections.abc import Callable, Sequence
from typing import Final

from dynmem.cli.layout import broken, table
from dynmem.cli.looking_back import local
from dynmem.dates import parse_date
from dynmem.history.event import Event
from dynmem.history.spans import SpanRow
from dynmem.units import NS_PER_MS, size_cell

_EVENTS_MAX: Final = 40
_MINUTE_S: Final = 60


def _mean(series: str) -> Callable[[SpanRow], str]:
    return lambda row: size_cell(round(row.levels[series].mean)) if series in row.levels else "-"


def _most(series: str) -> Callable[[SpanRow], str]:
    return lambda row: size_cell(round(row.levels[series].high)) if series in row.levels else "-"


def _least(series: str) -> Callable[[SpanRow], str]:
    return lambda row: size_cell(round(row.levels[series].low)) if series in row.levels else "-"


def _pressure(row: SpanRow) -> str:
    level = row.levels.get("pressure")
    return "-" if level is None else f"{level.mean:.0%}"


def _stalled(row: SpanRow) -> str:
    level = row.levels.get("stalled")
    return "-" if level is None else f"{level.high:.1%}"


Columns = tuple[tuple[str, Callable[[SpanRow], str]], ...]
_OF_A_VM: Final[Columns] = (
    ("DEMAND", _mean("demand")),
    ("PEAK", _most("demand")),
    ("PRESSURE", _pressure),
    ("ACTUAL", _mean("actual")),
    ("RESIDENT", _mean("resident")),
    ("TARGET", lambda row: size_cell(row.assigned_bytes)),
    ("PLAN", lambda row: size_cell(row.planned_bytes)),
    ("SHORT", _most("short")),
)
_OF_THE_HOST: Final[Columns] = (
    ("AVAILABLE", _mean("available")),
    ("LEAST", _least("available")),
    ("FREE", _mean("free")),
    ("LEAST", _least("free")),
    ("CLAIMED", _mean("claimed")),
    ("SHORTAGE", _most("shortage")),
    ("SWAPPED", _most("swapped")),
    ("STALLED", _stalled),
)


def rendered(name: str | None, rows: Sequence[SpanRow], events: Sequence[Event], columns: int | None) -> str:
    """Return a table, and what happened meanwhile."""
    lines: list[str] = []
    if rows:
        chosen = _OF_THE_HOST if name is None else _OF_A_VM
        seconds = min(row.for_s for row in rows) < _MINUTE_S
        cells = [["UNTIL", *(title for title, _ in chosen), *(["STATE"] if name else [])]]
        cells += [
            [
                local(row.at_ms, seconds=seconds),
                *(cell(row) for _, cell in chosen),
                *([row.standing or "-"] if name else []),
            ]
            for row in rows
        ]
        lines += table(cells, ("UNTIL", "STATE"))
    if events:
        left_out = len(events) - _EVENTS_MAX
        lines += [
            "",
            "What happened:"
            if left_out <= 0
            else f"What happened (the last {_EVENTS_MAX}; all: dynmem events):",
        ]
        for event in events[-_EVENTS_MAX:]:
            lines += event_lines(event, columns, with_vm=False)
    return "\n".join(lines)


def event_lines(event: Event, columns: int | None, *, with_vm: bool = True) -> list[str]:
    """Return an event as lines."""
    who = f" {event.vm}:" if event.vm and with_vm else ""
    paid = f" [{event.measurement}]" if event.measurement else ""
    command = f"; to do it: {event.command}" if event.command else ""
    date = local(parse_date(event.at) // NS_PER_MS)
    return broken(f"{date}{who} {event.kind}: {event.text}{paid}{command}", columns, hang=4)
