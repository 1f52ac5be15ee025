"""A VM, or the host, over a time: rows of even length, each with mean, least and most of a series.

Computed from whole sweeps and from thin rows alike; sizes are bytes, pressure and stalls ratios.
"""

from collections.abc import Sequence

import msgspec

from dynmem.dates import format_date
from dynmem.history.block import AT, FOR, HOST_SERIES, VM_SERIES, Block
from dynmem.history.past import LATEST_MS, Past, Piece
from dynmem.history.thinning import VM_COLUMNS, Series, Span, series_of
from dynmem.units import NS_PER_MS, PAGE_SIZE

#: Lengths of a row, in milliseconds: those that people count in.
STEPS_MS = tuple(
    1000 * seconds
    for seconds in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 43_200, 86_400, 7 * 86_400)
)


# What one of a series is, where that is no page.
_UNITS = {"pressure": 0.001, "stalled": 0.0001}
_COLUMNS = VM_COLUMNS | {"maximum_bytes", "assigned_bytes", "standing"}
# Of the host where a VM is looked at: when each row was.
_TIMES = frozenset({AT, FOR})


class Level(msgspec.Struct, frozen=True):
    """A figure over a time.

    Attributes:
        mean: Its mean over the time in which it is known.
        low: The least.
        high: The most.
    """

    mean: float
    low: float
    high: float


class SpanRow(msgspec.Struct, frozen=True):
    """One row.

    Attributes:
        at: When it ends, in UTC.
        at_ms: The same in milliseconds since the epoch.
        for_s: For how long something is recorded of it.
        levels: Each series that is known, by its name: bytes, but for pressure and stalled, which are ratios.
        assigned_bytes: The target that was set last, at its end.
        planned_bytes: What the plan gave, at its end.
        standing: Whether the manager could change the VM, at its end.
        budget_bytes: The host's budget, at its end.
        occupied_bytes: What all VMs took of the host, at its end.
        ready_bytes: What was kept ready, at its end.
    """

    at: str
    at_ms: int
    for_s: float
    levels: dict[str, Level]
    assigned_bytes: int | None = None
    planned_bytes: int | None = None
    standing: str = ""
    budget_bytes: int | None = None
    occupied_bytes: int | None = None
    ready_bytes: int | None = None


class _Sum:
    """Adds up one series."""

    def __init__(self) -> None:
        self.ds = self.total = 0
        self.low: int | None = None
        self.high: int | None = None

    def add(self, series: Series, row: int) -> None:
        self.ds += series.ds[row]
        self.total += series.sums[row]
        low, high = series.low[row], series.high[row]
        if low is not None and high is not None:
            self.low = low if self.low is None else min(self.low, low)
            self.high = high if self.high is None else max(self.high, high)

    def level(self, unit: float) -> Level | None:
        if self.low is None or self.high is None:
            return None
        mean = self.total / self.ds if self.ds else (self.low + self.high) / 2
        return Level(
            *(each if unit < 1 else round(each) for each in (mean * unit, self.low * unit, self.high * unit))
        )


def step_ms(since_ms: int, until_ms: int, rows: int) -> int:
    """Return how long a row is, so that there are at most so many."""
    wanted = max(1, until_ms - since_ms) / max(1, rows - 1)  # the first and the last row are cut
    return next((step for step in STEPS_MS if step >= wanted), STEPS_MS[-1])


def spans_of(
    past: Past, name: str | None, since_ms: int, until_ms: int = LATEST_MS, step: int = 0
) -> list[SpanRow]:
    """Return rows of so many milliseconds (0: each as it is kept) of a VM; None: of the host."""
    rows: list[SpanRow] = []
    sums: dict[str, _Sum] = {}
    last: tuple[Piece, Block, int] | None = None
    for_ds = 0

    def end() -> None:
        nonlocal for_ds, last
        if last is not None:
            rows.append(_row(last, sums, for_ds))
        sums.clear()
        for_ds, last = 0, None

    for piece in past.pieces(since_ms, until_ms, None if name is None else _TIMES):
        block = piece.host if name is None else piece.vm(name, _COLUMNS)
        if block is None:
            continue
        known = [
            series
            for each in (HOST_SERIES if name is None else VM_SERIES)
            if (series := series_of(block, each, piece.for_ds)) is not None
        ]
        there = None if name is None else block.figure("maximum_bytes")
        seen = piece.rows
        if there is not None and None in there:
            seen = [row for row in seen if there[row] is not None or any(series.ds[row] for series in known)]
        parts = _parts([at_ms // step for at_ms in piece.at_ms] if step else None, seen)
        thin = [series.thinned(parts) for series in known]
        for at, (first, after) in enumerate(parts):
            if last is not None:
                before, now = last[0].at_ms[last[2]], piece.at_ms[first]
                if not step or before // step != now // step:
                    end()
            for series in thin:
                sums.setdefault(series.name, _Sum()).add(series, at)
            for_ds += sum(piece.for_ds[first:after])
            last = (piece, block, after - 1)
    end()
    return rows


def _parts(steps: Sequence[int] | None, rows: Sequence[int]) -> list[Span]:
    """Return rows as ranges: those that follow each other in the same step; without steps, each alone."""
    if steps is None:
        return [(row, row + 1) for row in rows]
    parts: list[Span] = []
    for row in rows:
        if parts and parts[-1][1] == row and steps[row - 1] == steps[row]:
            parts[-1] = parts[-1][0], row + 1
        else:
            parts.append((row, row + 1))
    return parts


def _row(last: tuple[Piece, Block, int], sums: dict[str, _Sum], for_ds: int) -> SpanRow:
    piece, block, row = last
    levels = {
        name: level
        for name, each in sums.items()
        if (level := each.level(_UNITS.get(name, PAGE_SIZE))) is not None
    }
    at_ms = piece.at_ms[row]
    return SpanRow(
        format_date(at_ms * NS_PER_MS),
        at_ms,
        for_ds / 10,
        levels,
        block.figure("assigned_bytes")[row],
        block.figure("planned_bytes")[row],
        block.text("standing")[row],
        *(block.figure(each)[row] for each in ("budget_bytes", "occupied_bytes", "ready_bytes")),
    )
