"""The division of memory: a rise through the levels, and sizes that the VMs can come to.

Floors are never cut. Targets are multiples of 2 MiB wherever no bound says otherwise, and whole steps where
memory is added in larger ones: what is left over of a step that does not fit is divided again.
"""

from collections.abc import Sequence
from typing import Final

from dynmem.policy.levels import HUGE_PAGES, Climber, Level, Tops, rise, wanted_pages
from dynmem.policy.reasons import Division, Outcome, reason_for
from dynmem.policy.types import PRIORITIES, Decision, Plan, Priority, Snapshot, Vm

_DIVISIONS_MAX: Final = 4  # what is left over after the last one stays where it is


def plan(snapshot: Snapshot) -> Plan:
    """Divide the capacity among the VMs. The same snapshot always gives the same plan."""
    vms = snapshot.vms
    wanted = [wanted_pages(vm) for vm in vms]
    targets, cut, fair = _targets(vms, snapshot.capacity_pages, snapshot.ready_pages)
    division = Division.of(snapshot, wanted, targets, fair)
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
    shortage = max(0, sum(wanted) - max(0, snapshot.capacity_pages))
    return Plan(decisions, snapshot.capacity_pages, shortage, cut.name if cut else "")


def least_pages(vms: Sequence[Vm], priority: Priority, *, keeping: bool = False) -> int:
    """Return what a new VM of *priority* has to leave to those that run, in pages.

    That is their floors, and what those whose priority is not lower need to live. What cannot be taken from
    them at this moment (*keeping*) changes from sweep to sweep: it does not count where the figure has to
    last.
    """
    rank = PRIORITIES.index(priority)
    least = (Tops.of(vm).at_hand if PRIORITIES.index(vm.priority) <= rank else vm.floor_pages for vm in vms)
    return sum(max(each, vm.kept_pages) if keeping else each for each, vm in zip(least, vms, strict=True))


def _targets(vms: Sequence[Vm], capacity: int, ready: int) -> tuple[list[int], Level | None, Level | None]:
    """Divide and align; what a VM cannot use of its share, as its next step is too large, goes to others.

    Returned with the level that is cut, and the one that would be if every VM could give its share: that one
    says who gives first.
    """
    tops = [Tops.of(vm) for vm in vms]
    shares, cut = _divide(vms, tops, capacity, ready)
    _, fair = _rise(vms, tops, capacity, ready)
    targets = [_aligned(vm, share) for vm, share in zip(vms, shares, strict=True)]
    for _ in range(_DIVISIONS_MAX - 1):
        leaving = [i for i, vm in enumerate(vms) if vm.sizes.stepped(shares[i]) and targets[i] < shares[i]]
        if not leaving:
            break
        for i in leaving:
            tops[i] = tops[i].capped(targets[i])
        shares, _ = _divide(vms, tops, capacity, ready)
        targets = [_aligned(vm, share) for vm, share in zip(vms, shares, strict=True)]
    return targets, cut, fair


def _divide(
    vms: Sequence[Vm], tops: Sequence[Tops], capacity: int, ready: int
) -> tuple[list[int], Level | None]:
    """Divide among all; a VM that keeps more than its share keeps that, and the others divide the rest."""
    shares = [0] * len(vms)
    dividing = list(range(len(vms)))
    left = capacity
    while True:
        rising, cut = _rise([vms[i] for i in dividing], [tops[i] for i in dividing], left, ready)
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


def _rise(
    vms: Sequence[Vm], tops: Sequence[Tops], capacity: int, ready: int
) -> tuple[list[int], Level | None]:
    """Raise all VMs from their floors, which take their part first; comfort leaves *ready*."""
    climbers = [Climber(vm, heights, vm.floor_pages) for vm, heights in zip(vms, tops, strict=True)]
    room = capacity - sum(each.start for each in climbers)
    return rise(climbers, lambda level: room if level.is_survival else room - ready)


def _aligned(vm: Vm, pages: int) -> int:
    """Round down to 2 MiB or a whole step, but never below a bound that was reached.

    Such bounds are the maximum, the held size and the floor.
    """
    if pages >= vm.maximum_pages:
        return pages
    reached = vm.held_pages if pages >= vm.held_pages else 0
    aligned = vm.sizes.down(pages) if vm.sizes.stepped(pages) else pages // HUGE_PAGES * HUGE_PAGES
    return max(aligned, reached, vm.floor_pages, vm.kept_pages)
