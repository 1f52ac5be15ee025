"""Computes a step again from what is kept of it: the plan by the policy itself, the rest by its sums.

What `dynmem explain --at` shows was recorded; this shows that it follows from what was known then.
"""

import msgspec

from dynmem.history.past import Moment
from dynmem.manager.step.sample import HostSample, VmSample
from dynmem.policy import Plan, Sizes, Snapshot, Vm, plan, priority_of
from dynmem.units import PAGE_SIZE, pages_of


class Terms(msgspec.Struct, frozen=True):
    """What could be granted, in bytes; both may be negative.

    Attributes:
        budget_bytes: By the budget.
        host_bytes: By the host.
    """

    budget_bytes: int
    host_bytes: int


def terms_of(host: HostSample) -> Terms:
    """Return both terms of what was measured free."""
    kept = (host.slush_bytes or 0) + (host.reserved_bytes or 0)
    return Terms(
        (host.budget_bytes or 0) - kept - (host.claimed_bytes or 0),
        (host.mem_available_bytes or 0) - kept - (host.untouched_bytes or 0),
    )


def is_planned(vm: VmSample) -> bool:
    """Return whether a VM is in the plan."""
    return vm.place is not None and vm.most_bytes is not None


def snapshot_of(moment: Moment) -> Snapshot:
    """Return what the policy was given, but for the words about who held the rest."""
    vms = [vm for vm in moment.vms.values() if is_planned(vm)]
    vms.sort(key=lambda vm: vm.place or 0)
    host = moment.host
    return Snapshot(
        capacity_pages=(host.room_bytes or 0) // PAGE_SIZE,
        vms=tuple(map(_view, vms)),
        ready_pages=pages_of(host.ready_bytes or 0),
    )


def plan_of(moment: Moment) -> Plan:
    """Return the plan, made again."""
    return plan(snapshot_of(moment))


def _view(vm: VmSample) -> Vm:
    return Vm(
        name=vm.name,
        floor_pages=pages_of(vm.least_bytes or 0),
        maximum_pages=pages_of(vm.most_bytes or 0),
        demand_pages=pages_of(vm.needed_bytes or 0),
        held_pages=pages_of(vm.held_bytes or 0),
        at_hand_pages=pages_of(vm.at_hand_bytes or 0),
        margin_pages=pages_of(vm.margin_bytes or 0),
        kept_pages=pages_of(vm.kept_bytes or 0),
        buffer_percent=vm.buffer_percent or 0,
        weight=vm.weight or 1,
        priority=priority_of(vm.priority),
        limit=vm.limit or "maximum",
        sizes=Sizes(pages_of(vm.whole_bytes or 0), pages_of(vm.step_bytes or 0)),
        **({"kept_why": vm.kept_why} if vm.kept_why else {}),
    )
