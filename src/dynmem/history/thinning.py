"""How history becomes thinner with age, as a table, and the one operation by which it does.

A thin row stands for several rows. It keeps one of them whole, the last: a sweep as it was, from whose
figures every number of it can be computed again. And it keeps of each series how long it was known, its sum
over that time, its least and its most: these are exact for all that it stands for, however often rows were
joined.

Age is the time that the manager has recorded since. A clock that jumps makes nothing older or younger.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from operator import mul
from typing import Final

import msgspec

from dynmem.history.block import (
    AT,
    FOR,
    HOST_SERIES,
    PARTS,
    VM_SERIES,
    Block,
)
from dynmem.history.columns import Column
from dynmem.units import PAGE_SIZE, pages_covering

#: Tenths of a second.
SECOND: Final = 10
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
#: The columns from which a VM's series are computed: those of sweeps, and those of thin rows.
VM_COLUMNS: Final = frozenset(
    {"demand_bytes", "actual_bytes", "resident_bytes", "wanted_bytes", "planned_bytes"}
    | {f"{series}.{part}" for series in VM_SERIES for part in PARTS}
)
#: Rows of a block of thin rows.
ROWS: Final = 60
#: What a row of a whole sweep has and a thin one does not: the plan's sentences are most of its bytes, and
#: can be made again from its figures.
SENTENCES: Final = ("reason", "kept_why")


class Tier(msgspec.Struct, frozen=True):
    """One row of the table. Tenths of a second.

    Attributes:
        step_ds: What one row stands for; 0: each sweep has its own.
        keep_ds: How old rows are when they go on to the next tier.
        words: What it is called.
    """

    step_ds: int
    keep_ds: int
    words: str


TIERS: Final = (
    Tier(0, HOUR, "each sweep"),
    Tier(10 * SECOND, DAY, "10 s"),
    Tier(MINUTE, 7 * DAY, "1 min"),
    Tier(10 * MINUTE, 35 * DAY, "10 min"),
    Tier(HOUR, 400 * DAY, "1 h"),
)

Span = tuple[int, int]


def spans(at_ms: Sequence[int], for_ds: Sequence[int], begin_ds: int, step_ds: int) -> list[Span]:
    """Return which rows become one: from the first to the one behind the last, over the time recorded.

    Rows on both sides of a gap, or of a jump of the clock by more than a step, are not joined.
    """
    found: list[Span] = []
    first, window = 0, -1
    ends = accumulate(for_ds, initial=begin_ds)
    next(ends)
    for at, end in enumerate(ends):
        now = -(-end // step_ds)
        if at and (now != window or _is_gap(at_ms[at] - at_ms[at - 1], for_ds[at], step_ds)):
            found.append((first, at))
            first = at
        window = now
    found.append((first, len(for_ds)))
    return found


def _is_gap(passed_ms: int, for_ds: int, step_ds: int) -> bool:
    return passed_ms < 0 or passed_ms > (for_ds + step_ds) * 100


def joined(blocks: Sequence[Block | None], rows: Sequence[int]) -> Block:
    """Return blocks that follow each other as one; None: nothing is known for so many *rows*."""
    whole = Block(sum(rows), {}, {})
    figures = dict.fromkeys(name for block in blocks if block for name in block.figures)
    texts = dict.fromkeys(name for block in blocks if block for name in block.texts)
    for name in figures:
        column: list[int | None] = []
        for block, count in zip(blocks, rows, strict=True):
            column += block.figure(name) if block else [None] * count
        whole.figures[name] = column
    for name in texts:
        words: list[str] = []
        for block, count in zip(blocks, rows, strict=True):
            words += block.text(name) if block else [""] * count
        whole.texts[name] = words
    return whole


def thinned(block: Block, for_ds: Sequence[int], parts: Sequence[Span], *, is_host: bool) -> Block:
    """Return a block with one row for each of these parts."""
    ends = [end - 1 for _, end in parts]
    thin = Block(len(parts), {}, {})
    for name, texts in block.texts.items():
        if name not in SENTENCES:
            thin.texts[name] = [texts[at] for at in ends]
    for name, column in block.figures.items():
        if "." not in name:
            thin.figures[name] = [column[at] for at in ends]
    if is_host:
        thin.figures[FOR] = [sum(for_ds[first:end]) for first, end in parts]
        thin.figures[AT] = [block.figure(AT)[at] for at in ends]
    for name in HOST_SERIES if is_host else VM_SERIES:
        series = series_of(block, name, for_ds)
        if series is not None:
            thin.figures.update(series.thinned(parts).columns())
    return thin


class Series(msgspec.Struct):
    """One series of a block: how long each row is known, the sum over that time, the least and the most."""

    name: str
    ds: Sequence[int]
    sums: Sequence[int]
    low: Column
    high: Column

    def thinned(self, parts: Sequence[Span]) -> "Series":
        """Return the same with one row for each of these parts."""
        low, high = [], []
        for first, end in parts:
            least = [each for each in self.low[first:end] if each is not None]
            most = [each for each in self.high[first:end] if each is not None]
            low.append(min(least) if least else None)
            high.append(max(most) if most else None)
        return Series(
            self.name,
            [sum(self.ds[first:end]) for first, end in parts],
            [sum(self.sums[first:end]) for first, end in parts],
            low,
            high,
        )

    def columns(self) -> dict[str, Column]:
        """Return it as columns of a block."""
        name = _column_name(self.name)
        return {
            f"{name}.ds": self.ds,
            f"{name}.sum": self.sums,
            f"{name}.low": self.low,
            f"{name}.high": self.high,
        }


def _column_name(series: str) -> str:
    """Return what the columns of a series begin with."""
    return f"host {series}" if series in HOST_SERIES else series


def series_of(block: Block, name: str, for_ds: Sequence[int]) -> Series | None:
    """Return a series of a block, computed where the block has whole sweeps; None where nothing is known."""
    column = _column_name(name)
    if f"{column}.ds" in block.figures or _is_thin(block):
        ds = [each or 0 for each in block.figure(f"{column}.ds")]
        if f"{column}.low" not in block.figures:
            return None
        sums = [each or 0 for each in block.figure(f"{column}.sum")]
        return Series(name, ds, sums, block.figure(f"{column}.low"), block.figure(f"{column}.high"))
    values = _VALUES[name](block)
    if values.count(None) == len(values):
        return None
    known = [0 if value is None else length for value, length in zip(values, for_ds, strict=True)]
    sums = list(map(mul, (value or 0 for value in values), known))
    return Series(name, known, sums, values, values)


def _is_thin(block: Block) -> bool:
    return any("." in name for name in block.figures)


def _pages(block: Block, name: str) -> list[int | None]:
    return [None if size is None else pages_covering(size) for size in block.figure(name)]


def _pairs(block: Block, one: str, other: str) -> Iterator[tuple[int | None, int | None]]:
    return zip(block.figure(one), block.figure(other), strict=True)


def _pressure(block: Block) -> list[int | None]:
    """Demand in thousandths of the size: Hyper-V's pressure times ten."""
    return [
        None if demand is None or not actual else demand * 1000 // actual
        for demand, actual in _pairs(block, "demand_bytes", "actual_bytes")
    ]


def _short(block: Block) -> list[int | None]:
    return [
        None if wanted is None or planned is None else max(0, pages_covering(wanted - planned))
        for wanted, planned in _pairs(block, "wanted_bytes", "planned_bytes")
    ]


def _free(block: Block) -> list[int | None]:
    return [
        None if by_budget is None or by_host is None else min(by_budget, by_host) // PAGE_SIZE
        for by_budget, by_host in zip(
            _left(block, "budget_bytes", "claimed_bytes"),
            _left(block, "mem_available_bytes", "untouched_bytes"),
            strict=True,
        )
    ]


def _left(block: Block, whole: str, taken: str) -> Iterator[int | None]:
    """Return for each row what is left of a whole, beside the slush and reservations. Bytes."""
    names = (whole, taken, "slush_bytes", "reserved_bytes")
    for figures in zip(*(block.figure(name) for name in names), strict=True):
        known = [figure for figure in figures if figure is not None]
        yield known[0] - sum(known[1:]) if len(known) == len(names) else None


_VALUES: Final[dict[str, Callable[[Block], list[int | None]]]] = {
    "demand": lambda block: _pages(block, "demand_bytes"),
    "actual": lambda block: _pages(block, "actual_bytes"),
    "resident": lambda block: _pages(block, "resident_bytes"),
    "pressure": _pressure,
    "short": _short,
    "available": lambda block: _pages(block, "mem_available_bytes"),
    "free": _free,
    "claimed": lambda block: _pages(block, "claimed_bytes"),
    "shortage": lambda block: _pages(block, "shortage_bytes"),
    "swapped": lambda block: _pages(block, "swapped_bytes"),
    "stalled": lambda block: list(block.figure("stalled_parts")),
}
