"""What is measured, from the series that a run leaves: deaths, delays, unmet demand, work, memory moved.

A guest's reports carry its own clock, so the delay between what its load wants and what it holds is measured
inside the guest, however long a report takes to reach us. The same load in a guest that nothing limits has a
delay, too (a page is filled, an emulated processor is slow): it is subtracted, level by level.
"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from bench.trial.contenders.contender import Move
from bench.trial.script import Burst, Script
from dynmem.units import MIB

#: Delays are measured each time a load has grown by this much.
LEVEL_BYTES: Final = 8 * MIB
#: A burst is served when the load holds all of its size but this.
REACHED_BUT_BYTES: Final = 2 * MIB
NEVER: Final = math.inf
# After a burst's end its last reports are still on their way.
_LATE_S: Final = 1.0


class Heard(NamedTuple):
    """A guest's report.

    Attributes:
        at_s: When it was read: seconds of the run.
        life: How often the guest had been started before.
        t: The guest's own clock, in seconds.
        wanted: What its load wanted then. Bytes.
        held: What it held. Bytes.
        kills: Processes that its kernel had killed in this life, out of memory.
        read: How much of its disk it had read. Bytes.
    """

    at_s: float
    life: int
    t: float
    wanted: int
    held: int
    kills: int
    read: int = 0


class Held(NamedTuple):
    """One sample of the host, a figure for each guest. Bytes.

    Attributes:
        at_s: Seconds of the run.
        resident: What it holds of the host's memory.
        actual: Its size, as its monitor said last; 0 while it has none.
    """

    at_s: float
    resident: tuple[int, ...]
    actual: tuple[int, ...] = ()


class Series(NamedTuple):
    """All that a run recorded.

    Attributes:
        heard: The reports of each guest, by its number in the script.
        held: The host's samples, from the beginning of the run to its end.
        moves: Every order, also those before the beginning.
        lost: When a guest's machine ended by itself, and which.
        longest_gap_s: The longest time between two of the host's samples.
        begun_wall_ns: When it began, by the wall clock: what a log has.
    """

    heard: Sequence[Sequence[Heard]]
    held: Sequence[Held]
    moves: Sequence[Move]
    lost: Sequence[tuple[float, int]] = ()
    longest_gap_s: float = 0.0
    begun_wall_ns: int = 0


class Outcome(NamedTuple):
    """What became of one burst.

    Attributes:
        burst: The burst.
        kills: Processes that were killed in its guest, out of memory, or the guest itself.
        reached: Whether the load came to hold all of it (of page cache: whether it was read).
        delays_s: For each level, how long the load waited for it; NEVER: it did not get it.
    """

    burst: Burst
    kills: int
    reached: bool
    delays_s: tuple[float, ...]

    @property
    def survived(self) -> bool:
        """Whether nobody was killed and the load got what it wanted."""
        return self.reached and not self.kills


class Figures(NamedTuple):
    """One run in figures.

    Attributes:
        bursts: How many there were.
        survived: How many of them ended with the load alive and served.
        kills: All processes that were killed out of memory, and guests that ended.
        peak_bytes: The most that all guests held together.
        budget_bytes: What they may hold.
        samples: How often that was looked at.
        samples_above: How often it was above the budget.
        moved_bytes: The sum of all changes of targets.
        commands: How many orders were sent.
        unmet_byte_s: What loads wanted and did not hold, over time, less the same of unlimited guests.
        delay_median_s: The time from need to memory, median of all levels of all bursts.
        delay_p99_s: The same, 99th percentile.
        work: What loads held of what they wanted, over time, as a share of the same of unlimited guests.
        duration_s: How long the run took.
    """

    bursts: int
    survived: int
    kills: int
    peak_bytes: int
    budget_bytes: int
    samples: int
    samples_above: int
    moved_bytes: int
    commands: int
    unmet_byte_s: float
    delay_median_s: float
    delay_p99_s: float
    work: float
    duration_s: float


def figures(script: Script, series: Series, reference: Series | None) -> Figures:
    """Return a run's figures; *reference* is the same script with guests that nothing limits."""
    mine = outcomes(script, series)
    waited = delays(script, series, reference or series)
    totals = [sum(sample.resident) for sample in series.held]
    wanted, held, unmet = integrals(series)
    reference_wanted, reference_held, reference_unmet = integrals(reference or series)
    share = held / wanted if wanted else 0.0
    reference_share = reference_held / reference_wanted if reference_wanted else 1.0
    counted = [move for move in series.moves if move.at_s >= 0]
    return Figures(
        bursts=len(mine),
        survived=sum(each.survived for each in mine),
        kills=kills(series.heard) + len(series.lost),
        peak_bytes=max(totals, default=0),
        budget_bytes=script.budget_bytes,
        samples=len(totals),
        samples_above=sum(total > script.budget_bytes for total in totals),
        moved_bytes=moved(series.moves, script),
        commands=len(counted),
        unmet_byte_s=max(0.0, unmet - (reference_unmet if reference is not None else 0.0)),
        delay_median_s=percentile(waited, 0.5),
        delay_p99_s=percentile(waited, 0.99),
        work=share / reference_share if reference_share else 0.0,
        duration_s=script.duration_s,
    )


def outcomes(script: Script, series: Series) -> list[Outcome]:
    """Return what became of each burst."""
    return [_outcome(script, burst, series) for burst in script.bursts]


def _outcome(script: Script, burst: Burst, series: Series) -> Outcome:
    heard = [
        each
        for each in series.heard[burst.guest]
        if burst.begins_s - _LATE_S <= each.at_s <= burst.ends_s + _LATE_S
    ]
    inside = [each for each in heard if each.at_s <= max(burst.falls_s, burst.full_s) + _LATE_S]
    killed = kills([heard]) + sum(
        burst.begins_s <= at_s <= burst.ends_s and guest == burst.guest for at_s, guest in series.lost
    )
    if burst.kind == "cache":
        begun = heard[0].read if heard else 0
        most = max((each.read for each in heard), default=0)
        reached = most >= burst.size_bytes - REACHED_BUT_BYTES or most - begun >= burst.size_bytes // 2
        return Outcome(burst, killed, reached, ())
    top = script.base_bytes + burst.size_bytes
    reached = max((each.held for each in inside), default=0) >= top - REACHED_BUT_BYTES
    levels = range(script.base_bytes + LEVEL_BYTES, top - REACHED_BUT_BYTES + 1, LEVEL_BYTES)
    return Outcome(burst, killed, reached, tuple(delay(inside, level) for level in levels))


def delay(heard: Sequence[Heard], level: int) -> float:
    """Return how long after its load wanted *level* bytes the guest held them, by its own clock."""
    wanted = crossing([(each.t, each.wanted) for each in heard], level)
    held = crossing([(each.t, each.held) for each in heard], level)
    if held is None:
        return NEVER
    return max(0.0, held - wanted) if wanted is not None else 0.0


def crossing(points: Sequence[tuple[float, int]], level: int) -> float | None:
    """Return when a curve through *points* first comes to *level* from below, or None."""
    for (before, low), (after, high) in itertools.pairwise(points):
        if low < level <= high:
            return before + (after - before) * (level - low) / (high - low)
    return points[0][0] if points and points[0][1] >= level else None


def delays(script: Script, series: Series, reference: Series) -> list[float]:
    """Return the times from need to memory of all levels of all bursts, less those of the reference."""
    pairs = [
        (mine, theirs)
        for own, other in zip(outcomes(script, series), outcomes(script, reference), strict=True)
        for mine, theirs in zip(own.delays_s, other.delays_s, strict=True)
    ]
    return [
        mine if math.isinf(mine) or math.isinf(theirs) else max(0.0, mine - theirs) for mine, theirs in pairs
    ]


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that *share* of all are at or below (nearest rank), 0.0 if there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def kills(heard: Sequence[Sequence[Heard]]) -> int:
    """Return how many processes were killed while these reports were read, over all lives of all guests."""
    total = 0
    for reports in heard:
        for life in {each.life for each in reports}:
            counts = [each.kills for each in reports if each.life == life]
            total += max(counts) - counts[0]
    return total


def integrals(series: Series) -> tuple[float, float, float]:
    """Return what all loads wanted, held and lacked over the run, in byte-seconds of the guests' clocks."""
    wanted = held = unmet = 0.0
    for reports in series.heard:
        for before, after in itertools.pairwise(reports):
            if before.life != after.life or after.at_s < 0:
                continue
            step = after.t - before.t
            wanted += step * before.wanted
            held += step * min(before.held, before.wanted)
            unmet += step * max(0, before.wanted - before.held)
    return wanted, held, unmet


def moved(moves: Sequence[Move], script: Script) -> int:
    """Return the sum of all changes of targets since the beginning; a guest starts with its maximum."""
    restarts = sorted((restart.at_s, script.names[restart.guest]) for restart in script.restarts)
    total = 0
    for name in script.names:
        mine = sorted((move.at_s, move.order.target_bytes) for move in moves if move.order.name == name)
        starts = [at_s for at_s, who in restarts if who == name]
        target = script.maximum_bytes
        for number, (at_s, size) in enumerate(mine):
            earlier = mine[number - 1][0] if number else -math.inf
            if bisect_left(starts, at_s) > bisect_left(starts, earlier):
                target = script.maximum_bytes
            total += abs(size - target) if at_s >= 0 else 0
            target = size
    return total


def hourly(count: float, duration_s: float) -> float:
    """Return a count as a rate per hour."""
    return count * 3600 / duration_s if duration_s else 0.0
