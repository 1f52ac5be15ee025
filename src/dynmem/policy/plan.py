"""The division of memory: level by level, and inside a level by weight.

What everybody may have rises through the levels of the table below until the memory is used up, so what is
cut first stands last: headroom, then buffers, then the demand of low, normal and high priority. Floors are
never cut. Targets are multiples of 2 MiB wherever no bound says otherwise, and sizes that the VM can come to
where memory is added in larger steps: what is left over of a step that does not fit is divided anew.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from dynmem.policy.fill import fill
from dynmem.policy.reasons import Division, Outcome, reason_for
from dynmem.policy.types import Decision, Plan, Priority, Snapshot, Vm

HUGE_PAGES: Final = 512  # 2 MiB in pages of 4 KiB: targets that keep huge pages whole
_DIVISIONS_MAX: Final = 4  # what is left over after so many stays where it is


class Tops(msgspec.Struct, frozen=True, gc=False):
    """How far one VM may rise in each kind of level: pages, at least the floor, at most the maximum."""

    demand: int
    buffer: int
    margin: int
    held: int
    spread: int


class Level(msgspec.Struct, frozen=True, gc=False):
    """One row of the table: which of the tops counts, and for whom ("" means everybody)."""

    name: str
    top: str
    priority: Priority | None = None


LEVELS: Final = (
    Level("demand high", "demand", "high"),
    Level("demand normal", "demand", "normal"),
    Level("demand low", "demand", "low"),
    Level("buffer high", "buffer", "high"),
    Level("buffer normal", "buffer", "normal"),
    Level("buffer low", "buffer", "low"),
    Level("margin", "margin"),
    Level("held", "held"),
    Level("spread", "spread"),
)
FLOORS: Final = "floors"


def plan(snapshot: Snapshot) -> Plan:
    """Divide the capacity among the VMs. Pure; the same snapshot always gives the same plan."""
    vms = snapshot.vms
    wanted = [wanted_pages(vm) for vm in vms]
    tops = [_tops(vm, want) for vm, want in zip(vms, wanted, strict=True)]
    targets, cut = _targets(vms, tops, snapshot.capacity_pages)
    division = Division.of(vms, wanted, targets, cut)
    decisions = tuple(
        Decision(
            vm=vm.name,
            target_pages=target,
            wanted_pages=want,
            floor_pages=vm.floor_pages,
            headroom_pages=max(0, target - want),
            reason=reason_for(Outcome(vm, want, target), division),
        )
        for vm, want, target in zip(vms, wanted, targets, strict=True)
    )
    shortage = max(0, sum(wanted) - snapshot.capacity_pages)
    return Plan(decisions, snapshot.capacity_pages, shortage, cut)


def wanted_pages(vm: Vm) -> int:
    """Demand and buffer, clamped to floor and maximum. Pages."""
    return _clamped(vm, -(-vm.demand_pages * (100 + vm.buffer_percent) // 100))


def least_pages(vms: Sequence[Vm], priority: Priority) -> int:
    """What a newcomer of `priority` has to leave to those who are there, in pages.

    That is their floors, and the demand of those whose priority is not lower. What can't be taken from them
    in this very moment does not count: it changes from sweep to sweep, and the answer has to last.
    """
    ranks = {level.priority: rank for rank, level in enumerate(LEVELS) if level.top == "demand"}
    return sum(
        _clamped(vm, _up(vm, vm.demand_pages)) if ranks[vm.priority] <= ranks[priority] else vm.floor_pages
        for vm in vms
    )


def level_tops(vm: Vm, target_pages: int) -> tuple[int, ...]:
    """How far the VM rises in each row of LEVELS on its way to `target_pages` (0 where it is not meant)."""
    tops = _tops(vm, wanted_pages(vm))
    return tuple(
        min(target_pages, getattr(tops, level.top)) if level.priority in (None, vm.priority) else 0
        for level in LEVELS
    )


def _targets(vms: Sequence[Vm], tops: list[Tops], capacity: int) -> tuple[list[int], str]:
    """Divide and align; whoever can't use all of its share, since the next step is too large, leaves it."""
    shares, cut = _divide(vms, tops, capacity)
    targets = [_aligned(vm, share) for vm, share in zip(vms, shares, strict=True)]
    for _ in range(_DIVISIONS_MAX - 1):
        leaving = [i for i, vm in enumerate(vms) if vm.sizes.stepped(shares[i]) and targets[i] < shares[i]]
        if not leaving:
            break
        for i in leaving:
            tops[i] = _capped(tops[i], targets[i])
        shares, _ = _divide(vms, tops, capacity)
        targets = [_aligned(vm, share) for vm, share in zip(vms, shares, strict=True)]
    return targets, cut


def _capped(tops: Tops, most: int) -> Tops:
    return Tops(*(min(pages, most) for pages in msgspec.structs.astuple(tops)))


def _divide(vms: Sequence[Vm], tops: Sequence[Tops], capacity: int) -> tuple[list[int], str]:
    """Divide among all; whoever keeps more than its share keeps that, and the others divide the rest anew."""
    shares = [0] * len(vms)
    dividing = list(range(len(vms)))
    left = capacity
    while True:
        rising, cut = _rise([vms[i] for i in dividing], [tops[i] for i in dividing], left)
        keeping = set()
        for i, pages in zip(dividing, rising, strict=True):
            shares[i] = pages
            if pages < vms[i].kept_pages:
                shares[i] = vms[i].kept_pages
                left -= shares[i]
                keeping.add(i)
        if not keeping:
            return shares, cut
        dividing = [i for i in dividing if i not in keeping]


def _rise(vms: Sequence[Vm], tops: Sequence[Tops], capacity: int) -> tuple[list[int], str]:
    """Raise everybody from the floors through the levels; answer the shares and the level that was cut."""
    shares = [vm.floor_pages for vm in vms]
    left = capacity - sum(shares)
    cut = FLOORS if left < 0 else ""
    everybody = range(len(vms))
    for level in LEVELS:
        if left <= 0 and cut:
            break
        members = [i for i in everybody if level.priority in (None, vms[i].priority)]
        needs = [max(0, getattr(tops[i], level.top) - shares[i]) for i in members]
        asked = sum(needs)
        if asked > left and not cut:
            cut = level.name
        for i, pages in zip(members, fill(needs, [vms[i].weight for i in members], left), strict=True):
            shares[i] += pages
        left -= min(asked, max(0, left))
    return shares, cut


def _tops(vm: Vm, wanted: int) -> Tops:
    demand = _clamped(vm, _up(vm, vm.demand_pages))
    buffer = max(demand, _clamped(vm, _up(vm, wanted)))
    margin = _clamped(vm, _up(vm, buffer + vm.margin_pages))
    return Tops(
        demand=demand,
        buffer=buffer,
        margin=margin,
        held=_clamped(vm, max(margin, vm.held_pages)),
        spread=_clamped(vm, vm.maximum_pages),
    )


def _clamped(vm: Vm, pages: int) -> int:
    return max(vm.floor_pages, min(pages, vm.maximum_pages))


def _up(vm: Vm, pages: int) -> int:
    return vm.sizes.up(-(-pages // HUGE_PAGES) * HUGE_PAGES)


def _aligned(vm: Vm, pages: int) -> int:
    """Down to 2 MiB or a whole step, but never below a bound that was reached: maximum, held size, floor."""
    if pages >= vm.maximum_pages:
        return pages
    reached = vm.held_pages if pages >= vm.held_pages else 0
    aligned = vm.sizes.down(pages) if vm.sizes.stepped(pages) else pages // HUGE_PAGES * HUGE_PAGES
    return max(aligned, reached, vm.floor_pages, vm.kept_pages)
