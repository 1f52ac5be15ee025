"""A load under several rules: cut into parts of six hours, played side by side, and added up.

Each part begins ten minutes earlier than it is measured, so that sizes are where the rule has them; the first
begins with ten minutes of the load's first levels. So the same parts give the same figures, however many
processes play them.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Final, NamedTuple

from dynmem.simulation.figures import Outcome, Tally, outcome_of
from dynmem.simulation.load import Load
from dynmem.simulation.rules import RULES
from dynmem.simulation.stage import Guests, Stage

_PART_TICKS: Final = 6 * 3600 * 10
_SETTLING_TICKS: Final = 600 * 10
# Loads whose rows are longer than this say how much, but not how fast: nobody can react between two sweeps.
_SUDDEN_DS: Final = 10


class Part(NamedTuple):
    """A part of a load under one rule.

    Attributes:
        rule: The rule.
        load: The load, as far as it is needed.
        first: The tick from which on it is measured.
        end: The tick at which it ends.
        guests: What is assumed of guests.
        seed: What is drawn.
        watches: Whether the manager looks at VMs between two sweeps.
    """

    rule: str
    load: Load
    first: int
    end: int
    guests: Guests
    seed: int
    watches: bool


def watches(load: Load) -> bool:
    """Return whether a load says enough to play what the manager does between two sweeps."""
    return load.row_ds <= _SUDDEN_DS


def parts(load: Load, rules: Sequence[str], guests: Guests, seed: int) -> Iterator[Part]:
    """Yield what is to be played."""
    for first in range(0, load.for_ds, _PART_TICKS):
        end = min(first + _PART_TICKS, load.for_ds)
        piece = load.between(first - _SETTLING_TICKS, end)
        for rule in rules:
            yield Part(rule, piece, first, end, guests, seed, watches(load))


def played(part: Part) -> Tally:
    """Play one part."""
    make, returns_free = RULES[part.rule]
    rule = make(part.load, part.watches)
    stage = Stage(part.load, rule, part.guests, part.seed, returns_free=returns_free)
    return stage.play(part.first - _SETTLING_TICKS, part.first, part.end)


def simulate(
    load: Load,
    rules: Sequence[str],
    guests: Guests,
    seed: int,
    *,
    jobs: int = 1,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Outcome]:
    """Return what comes of a load under each rule; *progress* is told which part of the work is done."""
    tallies = dict.fromkeys(rules, Tally())
    work = list(parts(load, rules, guests, seed))
    total = sum(part.end - part.first for part in work)
    done = 0
    for part, tally in _all(work, jobs):
        tallies[part.rule] = tallies[part.rule].plus(tally)
        done += part.end - part.first
        progress(done / total)
    return [outcome_of(rule, tallies[rule], load.budget_bytes) for rule in rules]


def _all(work: Sequence[Part], jobs: int) -> Iterator[tuple[Part, Tally]]:
    if jobs <= 1 or len(work) == 1:
        for part in work:
            yield part, played(part)
        return
    with ProcessPoolExecutor(min(jobs, len(work))) as pool:
        waiting = {pool.submit(played, part): part for part in work}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
