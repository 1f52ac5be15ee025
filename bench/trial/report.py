"""The results of runs as records, as JSON, as tables for a terminal and as Markdown."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench.trial.measures import Figures, Outcome, hourly, percentile
from dynmem.units import MIB, format_size

SCHEMA_VERSION: Final = 1
COLUMNS: Final = (
    "bursts survived",
    "OOM kills",
    "resident peak",
    "samples above budget",
    "MiB moved",
    "commands (an hour)",
    "unmet MiB·s",
    "need to memory, median",
    "p99",
    "work done",
)


class BurstRecord(msgspec.Struct, frozen=True):
    """One burst of a run.

    Attributes:
        guest: Which guest.
        kind: "alone", "pair", "leak" or "cache".
        begins_s: When it began.
        size_bytes: Its size.
        rate_bytes: Its growth per second.
        survived: Whether nobody was killed and the load got all of it.
        kills: Processes that were killed in its guest.
    """

    guest: int
    kind: str
    begins_s: float
    size_bytes: int
    rate_bytes: int
    survived: bool
    kills: int


class RunRecord(msgspec.Struct, frozen=True):
    """One run. Delays are seconds for each level of each burst; null: the memory never came.

    `figures` are those of `bench.trial.measures.Figures`; there, too, null stands for never.
    """

    policy: str
    seed: int
    rate_bytes: int
    guests: int
    backend: str
    is_short: bool
    has_idle_load: bool
    figures: dict[str, float | int | None]
    delays_s: list[float | None]
    bursts: list[BurstRecord]


class Results(msgspec.Struct, frozen=True):
    """What --json prints."""

    schema_version: int
    runs: list[RunRecord]


def burst_records(outcomes: Sequence[Outcome]) -> list[BurstRecord]:
    """Return the records of a run's bursts."""
    return [
        BurstRecord(
            guest=each.burst.guest,
            kind=each.burst.kind,
            begins_s=each.burst.begins_s,
            size_bytes=each.burst.size_bytes,
            rate_bytes=each.burst.rate_bytes,
            survived=each.survived,
            kills=each.kills,
        )
        for each in outcomes
    ]


def finite(value: float) -> float | None:
    """Return a number as JSON can hold it: None for never."""
    return None if math.isinf(value) else round(value, 3)


def figures_record(figures: Figures) -> dict[str, float | int | None]:
    """Return figures as JSON can hold them."""
    return {
        name: finite(value) if isinstance(value, float) else value
        for name, value in figures._asdict().items()
    }


def encode(runs: Sequence[RunRecord]) -> str:
    """Return all runs as JSON."""
    return msgspec.json.encode(Results(SCHEMA_VERSION, list(runs))).decode()


def cells(runs: Sequence[RunRecord]) -> list[str]:
    """Return the figures of one or several runs of a policy, as the tables show them."""

    def total(name: str) -> float:
        return sum(float(run.figures[name] or 0) for run in runs)

    delays = [math.inf if each is None else each for run in runs for each in run.delays_s]
    peak = max(int(run.figures["peak_bytes"] or 0) for run in runs)
    budget = max(int(run.figures["budget_bytes"] or 0) for run in runs)
    return [
        f"{total('survived'):.0f}/{total('bursts'):.0f}",
        f"{total('kills'):.0f}",
        f"{peak / MIB:.0f} of {budget // MIB}",
        f"{total('samples_above'):.0f} of {total('samples'):.0f}",
        f"{total('moved_bytes') / MIB:.0f}",
        f"{total('commands'):.0f} ({hourly(total('commands'), total('duration_s')):.0f})",
        f"{total('unmet_byte_s') / MIB:.0f}",
        _delay(percentile(delays, 0.5)),
        _delay(percentile(delays, 0.99)),
        f"{100 * total('work') / len(runs):.1f} %",
    ]


def _delay(seconds: float) -> str:
    return "never" if math.isinf(seconds) else f"{seconds:.2f} s"


class Group:
    """The runs of one table: the same rate, every policy, and one seed or all of them."""

    def __init__(self, runs: Sequence[RunRecord]) -> None:
        self._runs = runs

    @property
    def title(self) -> str:
        """What its runs have in common."""
        first = self._runs[0]
        seeds = sorted({run.seed for run in self._runs})
        which = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"
        beside = ", beside two busy loops" if first.has_idle_load else ""
        return f"{format_size(first.rate_bytes)}/s, {which}, {first.guests} guests ({first.backend}){beside}"

    def rows(self) -> Iterator[list[str]]:
        """Yield a row for each policy."""
        for policy in dict.fromkeys(run.policy for run in self._runs):
            yield [policy, *cells([run for run in self._runs if run.policy == policy])]


def groups(runs: Sequence[RunRecord]) -> Iterator[Group]:
    """Yield a group for each rate and seed and, where there are several seeds, one for all of them."""
    for rate in dict.fromkeys(run.rate_bytes for run in runs):
        same = [run for run in runs if run.rate_bytes == rate]
        seeds = list(dict.fromkeys(run.seed for run in same))
        for seed in seeds:
            yield Group([run for run in same if run.seed == seed])
        if len(seeds) > 1:
            yield Group(same)


def table(group: Group) -> Table:
    """Return a group as a table for a terminal: a column for each policy, since figures have long names."""
    policies = list(group.rows())
    shown = Table(title=group.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("")
    for policy, *_ in policies:
        shown.add_column(policy, justify="right", no_wrap=True)
    for column, name in enumerate(COLUMNS, start=1):
        shown.add_row(name, *(policy[column] for policy in policies))
    return shown


def markdown(group: Group) -> Iterator[str]:
    """Yield a group as lines of Markdown."""
    yield from (
        f"### {group.title}",
        "",
        f"| | {' | '.join(COLUMNS)} |",
        "|---" + "|---:" * len(COLUMNS) + "|",
    )
    for row in group.rows():
        yield f"| {' | '.join(row)} |"
    yield ""
