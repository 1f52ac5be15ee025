"""Which targets change in this step: shrinks that plan and guests allow, grants that are measured free.

Shrinks come first. A grant is paid from measured free alone, by the same levels as the plan: a VM that lacks
demand comes before one that lacks a buffer, and headroom comes last. Raising a target within what the VM
still holds costs nothing.
"""

from collections.abc import Sequence

import msgspec

from dynmem.manager.step.division import Parts, divide
from dynmem.manager.step.ready import refilled
from dynmem.manager.step.record import Record
from dynmem.manager.step.safeguards import BUFFER_SHARE, band_pages
from dynmem.policy import HUGE_PAGES, Climber, Decision, Tops, Vm, rise
from dynmem.units import PAGE_SIZE

ALREADY_HELD = "no grant: it holds this much already"


class Candidate(msgspec.Struct):
    """A movable VM with its decision. Pages.

    Attributes:
        record: What is remembered of it.
        view: What the policy saw of it.
        decision: What the plan gives it.
        held: Its target before this step.
        counted: What counts of it in the plan.
        claim: What it may take without asking.
        may_shrink: Whether its target may be lowered.
        paced: Whether a target was sent less than a period ago.
        in_flight: What it was asked to give and will have given soon.
    """

    record: Record
    view: Vm
    decision: Decision
    held: int
    counted: int
    claim: int
    may_shrink: bool
    paced: bool
    in_flight: int

    @property
    def uncounted_pages(self) -> int:
        """What it may take and is not believed to have: it is above its own maximum."""
        return max(0, self.held - self.counted)

    @property
    def goal(self) -> int:
        """What it may be raised to: its maximum, or more only if it holds more already."""
        return min(self.decision.target_pages, max(self.record.maximum_pages, self.held))

    @property
    def short(self) -> bool:
        """Whether it has less than it wants, and the plan gives it more."""
        return self.held < min(self.decision.wanted_pages, self.goal)

    @property
    def needy(self) -> bool:
        """Whether it lacks more than a buffer: its floor, or what its guest needs.

        While a guest grows, that is what it needs soon: with every look it would be a little more.
        """
        soon = self.view.demand_pages - self.record.expected_pages // 2
        return self.held < min(max(soon, self.view.floor_pages), self.goal)

    @property
    def least_growth(self) -> int:
        """The least growth that is worth a change: any for demand, a fair part of a buffer.

        What an untried virtio-mem is offered is little, and shows whether it can have more.
        """
        if self.needy or self.record.is_untried:
            return 1
        if not self.short:
            return max(self.band, self.view.margin_pages // BUFFER_SHARE)
        buffer = self.decision.wanted_pages - max(self.view.demand_pages, self.view.floor_pages)
        return max(1, min(self.band, buffer // BUFFER_SHARE), self.record.expected_pages // 2)

    @property
    def unpaid_pages(self) -> int:
        """What the plan gives it beyond what it may take already."""
        return max(0, self.goal - max(self.held, self.claim))

    @property
    def target_now(self) -> int:
        """The target after this step's orders."""
        return self.record.target_pages or 0

    @property
    def band(self) -> int:
        """Its dead band."""
        return band_pages(self.view.maximum_pages)


class Change(msgspec.Struct, frozen=True):
    """A target that changes.

    Attributes:
        record: The VM.
        target: Its new target. Pages.
        reason: Why, as a sentence.
        measurement: The term of measured free that pays for it; empty for a shrink.
        is_found: Whether the reason is what a guest did by itself, true whether the target is sent or not.
    """

    record: Record
    target: int
    reason: str
    measurement: str = ""
    is_found: bool = False

    @property
    def parts(self) -> Parts | None:
        """What each device of the VM has of the target; None: its balloon has all."""
        record = self.record
        least = min(record.floor_pages, record.boot_pages) * PAGE_SIZE
        return divide(record.facts, self.target * PAGE_SIZE, least, record.stuck)

    @property
    def text(self) -> str:
        """Why, and what pays for it."""
        return f"{self.reason} [{self.measurement}]" if self.measurement else self.reason

    @property
    def line(self) -> str:
        """The line that reports it."""
        return f"{self.record.name}: {self.text}"


def shrinks_for(
    candidates: Sequence[Candidate],
    free: int,
    promised: int,
    ready: int,
    *,
    dead_band: bool,
    is_emergency: bool,
) -> list[tuple[Candidate, int]]:
    """Return which VMs shrink and to what, so that *free* pages suffice for those that grow.

    And for what is *promised*, and to refill what is kept *ready*.
    """
    takers = [each for each in candidates if growing(each, dead_band=dead_band)]
    needed = sum(each.unpaid_pages for each in takers) + promised
    coming = sum(each.in_flight for each in candidates)
    needed += refilled(ready, free + coming - needed)
    return choose_shrinks(
        candidates,
        needed,
        max(0, free),
        dead_band=dead_band and not is_emergency,
        urgent=promised > 0 or any(each.needy for each in takers),
    )


def choose_shrinks(
    candidates: Sequence[Candidate], needed: int, free: int, *, dead_band: bool, urgent: bool
) -> list[tuple[Candidate, int]]:
    """Return which VMs shrink and to what: the largest differences first, until *needed* is covered.

    What is free, and what is being given already, counts. Memory that no VM waits for stays where it is: that
    is the dead band of shrinks, and without it every VM goes where the plan says. A VM above its own maximum
    shrinks unless what is free covers that, too. For comfort alone, nobody is asked for less than a band.
    """
    planned = ((each, each.decision.target_pages) for each in candidates if each.may_shrink)
    wanted = [(each, target) for each, target in planned if target < each.held]
    chosen: list[tuple[Candidate, int]] = []
    brought = free + sum(each.in_flight for each in candidates)
    for each, target in sorted(wanted, key=lambda pair: pair[1] - pair[0].counted):
        if dead_band and brought >= needed + each.uncounted_pages:
            continue
        if dead_band and not urgent and each.held - target < each.band and not each.uncounted_pages:
            continue
        chosen.append((each, target))
        brought += max(0, each.counted - target)
    return chosen


def growing(candidate: Candidate, *, dead_band: bool) -> bool:
    """Return whether a VM gets more: always if it lacks demand, otherwise if it is worth a change."""
    growth = candidate.goal - candidate.held
    return growth >= (candidate.least_growth if dead_band else 1)


def choose_grants(
    candidates: Sequence[Candidate], free: int, spare: int, ready: int, *, dead_band: bool
) -> list[tuple[Candidate, int]]:
    """Return which VMs grow and to what: from *free* pages if they are short, from *spare* for headroom.

    What is kept *ready* is there for what a guest needs to live.
    """
    growers = [each for each in candidates if growing(each, dead_band=dead_band)]
    climbers = [
        Climber(each.view, Tops.of(each.view).capped(each.goal), max(each.held, min(each.goal, each.claim)))
        for each in growers
    ]
    comfort, headroom = free - ready, min(free, spare) - ready
    reached, _ = rise(
        climbers,
        lambda level: free if level.is_survival else comfort if level.is_short else headroom,
    )
    pairs = zip(growers, climbers, reached, strict=True)
    targets = ((each, _granted(each, own.start, have)) for each, own, have in pairs)
    return [
        (each, target)
        for each, target in targets
        if target > each.held and not _trickle(each, target, dead_band=dead_band)
    ]


def _trickle(candidate: Candidate, target: int, *, dead_band: bool) -> bool:
    """Return whether a part of what is due waits: it is not worth a change, or the last one was just sent."""
    growth = target - candidate.held
    if target >= candidate.goal:
        return False
    return (dead_band and growth < candidate.least_growth) or (candidate.paced and growth < candidate.band)


def _granted(candidate: Candidate, own: int, reached: int) -> int:
    """Round down to 2 MiB, unless the goal is reached; what it holds already is not rounded away.

    Where memory is added in larger steps, a part of a step is useless.
    """
    if reached >= candidate.goal:
        return reached
    return candidate.view.sizes.down(max(own, reached // HUGE_PAGES * HUGE_PAGES))
