"""Which targets change in this step: shrinks that plan and guests allow, grants that are measured free.

Shrinks come first. A grant is paid from measured free alone, by the same levels as the plan: whoever lacks
demand comes before whoever lacks a buffer, and headroom comes last. Raising a target within what the VM still
holds costs nothing.
"""

from collections.abc import Sequence

import msgspec

from dynmem.manager.step.record import Record
from dynmem.manager.step.safeguards import BUFFER_SHARE, band_pages, cushion_pages
from dynmem.policy import HUGE_PAGES, Climber, Decision, Tops, Vm, rise
from dynmem.units import pages_of

ALREADY_HELD = "no grant: it holds this much already"


class Candidate(msgspec.Struct):
    """A movable VM with its decision. Pages; `held` is the target now, `claim` what it may still have."""

    record: Record
    view: Vm
    decision: Decision
    held: int
    claim: int
    may_shrink: bool
    paced: bool  # a target was sent less than a period ago

    @property
    def goal(self) -> int:
        """What it may be raised to: what a guest keeps above its maximum is counted, and never asked for."""
        return min(self.decision.target_pages, max(self.record.maximum_pages, self.held))

    @property
    def short(self) -> bool:
        """Whether it has less than it wants, and the plan would give it more."""
        return self.held < min(self.decision.wanted_pages, self.goal)

    @property
    def needy(self) -> bool:
        """Whether it lacks more than a buffer: what its guest needs, or its floor."""
        return self.held < min(max(self.view.demand_pages, self.view.floor_pages), self.goal)

    @property
    def least_growth(self) -> int:
        """The least that is worth a change: demand is met in full, a part of a buffer waits for more."""
        if self.needy:
            return 1
        if not self.short:
            return max(self.band, self.view.margin_pages // BUFFER_SHARE)
        buffer = self.decision.wanted_pages - max(self.view.demand_pages, self.view.floor_pages)
        return max(1, min(self.band, buffer // BUFFER_SHARE))

    @property
    def unpaid_pages(self) -> int:
        """What the plan gives it beyond what it may take already."""
        return max(0, self.goal - max(self.held, self.claim))

    @property
    def in_flight(self) -> int:
        """What it has been asked for and has not given yet."""
        return max(0, (self.record.actual_pages or 0) - self.held)

    @property
    def target_now(self) -> int:
        """The target after this step's orders."""
        return self.record.target_pages or 0

    @property
    def band(self) -> int:
        """Its dead band."""
        return band_pages(self.view.maximum_pages)


class Change(msgspec.Struct, frozen=True):
    """A target that changes; `measurement` is "" for a shrink."""

    record: Record
    target: int
    reason: str
    measurement: str = ""


def shrink_target(candidate: Candidate, *, cushion: bool) -> int:
    """The least that may be asked of this VM now: the plan's target, and what its guest can give at once."""
    target = candidate.decision.target_pages
    demand = candidate.record.facts.demand
    actual = candidate.record.actual_pages
    if not candidate.may_shrink:
        return candidate.held
    if cushion and demand is not None and actual is not None:
        given = max(0, pages_of(demand.available_bytes) - cushion_pages(actual))
        keeps = -(-(actual - given) // HUGE_PAGES) * HUGE_PAGES
        target = max(target, keeps)
    return min(target, candidate.held)


def choose_shrinks(
    candidates: Sequence[Candidate], needed: int, free: int, *, cushion: bool, dead_band: bool
) -> list[tuple[Candidate, int]]:
    """Who gives, and down to what: the largest differences first, until what is `needed` is covered.

    What is free and what is being given already counts. Memory that nobody waits for stays where it is: that
    is the dead band of shrinks, and without it everybody goes where the plan says.
    """
    wanted = [(each, shrink_target(each, cushion=cushion)) for each in candidates]
    wanted = [(each, target) for each, target in wanted if target < each.held]
    chosen: list[tuple[Candidate, int]] = []
    brought = free + sum(each.in_flight for each in candidates)
    for each, target in sorted(wanted, key=lambda pair: pair[1] - pair[0].held):
        if dead_band and brought >= needed:
            break
        chosen.append((each, target))
        brought += each.held - target
    return chosen


def growing(candidate: Candidate, *, dead_band: bool) -> bool:
    """Whether a VM is to have more: always when it lacks demand, otherwise when it is worth a change."""
    growth = candidate.goal - candidate.held
    return growth >= (candidate.least_growth if dead_band else 1)


def choose_grants(
    candidates: Sequence[Candidate], free: int, spare: int, *, dead_band: bool
) -> list[tuple[Candidate, int]]:
    """Who gets more, and up to what, from `free` pages for those who are short and `spare` for headroom."""
    growers = [each for each in candidates if growing(each, dead_band=dead_band)]
    climbers = [
        Climber(each.view, Tops.of(each.view).capped(each.goal), max(each.held, min(each.goal, each.claim)))
        for each in growers
    ]
    reached, _ = rise(climbers, lambda level: free if level.is_short else min(free, spare))
    pairs = zip(growers, climbers, reached, strict=True)
    targets = ((each, _granted(each, own.start, have)) for each, own, have in pairs)
    return [
        (each, target)
        for each, target in targets
        if target > each.held and not _trickle(each, target, dead_band=dead_band)
    ]


def _trickle(candidate: Candidate, target: int, *, dead_band: bool) -> bool:
    """A part of what is due that is not worth a change, or a small one again within one period: it waits."""
    growth = target - candidate.held
    if target >= candidate.goal:
        return False
    return (dead_band and growth < candidate.least_growth) or (candidate.paced and growth < candidate.band)


def _granted(candidate: Candidate, own: int, reached: int) -> int:
    """Whole 2 MiB, except where the target itself is reached; what it holds already is not rounded away.

    Where memory is added in larger steps, a part of a step is of no use.
    """
    if reached >= candidate.goal:
        return reached
    return candidate.view.sizes.down(max(own, reached // HUGE_PAGES * HUGE_PAGES))
