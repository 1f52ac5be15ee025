"""What came of a load under one rule: figures of a part of the time, which add up to those of the whole."""

from typing import Self

import msgspec

from dynmem.units import MIB, PAGE_SIZE

TICKS_PER_S = 10
_PAGES_PER_MIB = MIB // PAGE_SIZE


class Tally(msgspec.Struct):
    """What is counted, in pages and tenths of a second.

    Attributes:
        ticks: How long it was measured.
        unmet: What guests lacked of what they would use with memory in plenty, times how long.
        kills: How often a guest that had no more memory killed its programs.
        moves: How often a size was set.
        moved: By how much sizes changed, up and down.
        peak: What all VMs held at most.
        held: What they held, times how long.
        above: How long they held more than the budget.
    """

    ticks: int = 0
    unmet: int = 0
    kills: int = 0
    moves: int = 0
    moved: int = 0
    peak: int = 0
    held: int = 0
    above: int = 0

    def plus(self, other: Self) -> "Tally":
        """Return the figures of both times."""
        return Tally(
            self.ticks + other.ticks,
            self.unmet + other.unmet,
            self.kills + other.kills,
            self.moves + other.moves,
            self.moved + other.moved,
            max(self.peak, other.peak),
            self.held + other.held,
            self.above + other.above,
        )


class Outcome(msgspec.Struct, frozen=True):
    """What came of it under one rule.

    Attributes:
        rule: The rule: dynmem, proxmox, mom, static, fpr or none.
        unmet_mib_s: What guests lacked of what they would have used with memory in plenty, MiB times seconds.
        kills: How often a guest that had no more memory killed its programs.
        moves_per_hour: How often a size was set.
        moved_mib_per_hour: By how much sizes changed, up and down, in MiB.
        peak_bytes: What all VMs held at most.
        mean_bytes: What they held on average.
        peak_ratio: The peak as a part of the budget.
        above_ratio: The part of the time in which they held more than the budget.
        seconds: How long was simulated.
    """

    rule: str
    unmet_mib_s: float
    kills: int
    moves_per_hour: float
    moved_mib_per_hour: float
    peak_bytes: int
    mean_bytes: int
    peak_ratio: float
    above_ratio: float
    seconds: float


def outcome_of(rule: str, tally: Tally, budget_bytes: int) -> Outcome:
    """Return the figures as people count."""
    ticks = max(1, tally.ticks)
    per_hour = 3600 * TICKS_PER_S / ticks
    peak = tally.peak * PAGE_SIZE
    return Outcome(
        rule=rule,
        unmet_mib_s=round(tally.unmet / _PAGES_PER_MIB / TICKS_PER_S, 1),
        kills=tally.kills,
        moves_per_hour=round(tally.moves * per_hour, 1),
        moved_mib_per_hour=round(tally.moved / _PAGES_PER_MIB * per_hour, 1),
        peak_bytes=peak,
        mean_bytes=tally.held // ticks * PAGE_SIZE,
        peak_ratio=round(peak / max(1, budget_bytes), 4),
        above_ratio=round(tally.above / ticks, 6),
        seconds=tally.ticks / TICKS_PER_S,
    )


class SimulationReport(msgspec.Struct, frozen=True):
    """What came of a load under each rule.

    Attributes:
        source: Where the load comes from, as a sentence.
        seed: What was drawn: the same seed gives the same figures.
        vms: How many VMs there were.
        seconds: How long the load is.
        skipped_s: How much of the time was not recorded, and is left out.
        row_s: How long a recorded row is at most; 0: each change of a load is known.
        budget_bytes: What the VMs may hold together.
        slush_bytes: The part of it that dynmem never grants.
        rate_bytes: By how much programs grow in a second; they fall four times as fast.
        give_bytes: By how much a balloon shrinks its guest in a second.
        watches: Whether the manager was played between two sweeps as well.
        assumed: What is assumed: sentences.
        rules: What came of it under each rule.
    """

    source: str
    seed: int
    vms: int
    seconds: float
    skipped_s: float
    row_s: float
    budget_bytes: int
    slush_bytes: int
    rate_bytes: int
    give_bytes: int
    watches: bool
    assumed: tuple[str, ...]
    rules: tuple[Outcome, ...]
