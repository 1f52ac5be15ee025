"""What the manager does from a position: the plan, and the moves that follow, round by round, until it rests.

The policy makes the plan, and the code of the step chooses the moves: shrinks, then grants from what is
measured free. A round is such a step, carried out: what the guests gave is free on the host, and all else is
as it was. What guests need meanwhile is not foreseen.
"""

from typing import Final

import msgspec

from dynmem.history.again import is_planned
from dynmem.history.past import Moment
from dynmem.manager.step.changes import Candidate, Change, choose_grants, shrinks_for
from dynmem.manager.step.claims import Claims
from dynmem.manager.step.deadlines import Deadlines
from dynmem.manager.step.facts import Demand, VmConfig, VmFacts
from dynmem.manager.step.orders import Orders
from dynmem.manager.step.record import Excess, Record
from dynmem.manager.step.safeguards import ARRIVED_PAGES
from dynmem.manager.step.sample import VmSample
from dynmem.policy import Decision, Plan, Vm, plan, priority_of
from dynmem.units import PAGE_SIZE, pages_of
from dynmem.what_if.position import free_of, moved, owed_bytes, snapshot_with_holders

# Guests give in a round or two; a position that moves longer than this is shown as far as that.
_ROUNDS_MAX: Final = 8


class Round(msgspec.Struct, frozen=True):
    """One step from a position.

    Attributes:
        plan: How the memory is divided.
        shrinks: Who is asked for memory, the largest first.
        grants: Who grows, out of what is measured free now.
    """

    plan: Plan
    shrinks: tuple[Change, ...]
    grants: tuple[Change, ...]

    @property
    def changes(self) -> tuple[Change, ...]:
        """All of it, in the order in which it is sent."""
        return *self.shrinks, *self.grants


class Rehearsal(msgspec.Struct, frozen=True):
    """All rounds from a position, and where they lead.

    Attributes:
        rounds: Those that move something; the first stands there in any case.
        rest: The position after the last.
        is_at_rest: Whether nothing more would be moved then.
    """

    rounds: tuple[Round, ...]
    rest: Moment
    is_at_rest: bool

    @property
    def plan(self) -> Plan:
        """The plan of now."""
        return self.rounds[0].plan


def rehearse(moment: Moment) -> Rehearsal:
    """Return what the manager does from a position until nothing moves any more."""
    made = [step_from(moment)]
    while made[-1].changes and len(made) < _ROUNDS_MAX:
        moment = _carried_out(moment, made[-1])
        made.append(step_from(moment))
    is_at_rest = not made[-1].changes
    if not is_at_rest:
        moment = _carried_out(moment, made[-1])
    rounds = made[:-1] if is_at_rest and len(made) > 1 else made
    return Rehearsal(tuple(rounds), moment, is_at_rest)


def step_from(moment: Moment) -> Round:
    """Return what one step does."""
    snapshot, host = snapshot_with_holders(moment), moment.host
    made = plan(snapshot)
    candidates = [
        _candidate(moment.vms[view.name], view, decision)
        for view, decision in zip(snapshot.vms, made.decisions, strict=True)
    ]
    free, is_emergency = free_of(host), (host.occupied_bytes or 0) > (host.budget_bytes or 0)
    chosen = shrinks_for(
        candidates,
        free.pages,
        max(0, -free.pages),
        snapshot.ready_pages,
        dead_band=True,
        is_emergency=is_emergency,
    )
    orders = Orders(Claims(0), free, 0, enforced=False, checked=False)
    shrunk = {id(each) for each, _ in chosen}
    others = [each for each in candidates if id(each) not in shrunk]
    grants = choose_grants(others, free.pages, free.spare_pages, snapshot.ready_pages, dead_band=True)
    return Round(
        made,
        tuple(orders.shrink(each, target) for each, target in chosen),
        tuple(orders.grant(each, target) for each, target in grants),
    )


def _carried_out(moment: Moment, made: Round) -> Moment:
    return moved(moment, {each.record.name: each.target * PAGE_SIZE for each in made.changes})


def _candidate(vm: VmSample, view: Vm, decision: Decision) -> Candidate:
    owed = pages_of(owed_bytes(vm))
    return Candidate(
        record=_record(vm),
        view=view,
        decision=decision,
        held=pages_of(vm.assigned_bytes or 0),
        counted=view.held_pages,
        claim=pages_of(vm.claim_bytes or 0),
        may_shrink=True,  # what cannot be taken from it is kept in its view
        paced=False,
        in_flight=owed if owed > ARRIVED_PAGES else 0,
    )


def _record(vm: VmSample) -> Record:
    """Return what the choice of moves looks at of a VM."""
    demand = None
    if vm.demand_bytes is not None:
        available = vm.available_bytes or 0
        demand = Demand(vm.demand_bytes, available, vm.demand_source, 0, reserve_bytes=vm.reserve_bytes or 0)
    config = VmConfig(
        vm.name,
        vm.minimum_bytes or 0,
        vm.maximum_bytes or 0,
        buffer_percent=vm.buffer_percent or 0,
        weight=vm.weight or 1,
        priority=priority_of(vm.priority),
    )
    facts = VmFacts(
        vm.name,
        vm.incarnation,
        vm.run_state,
        vm.device or None,
        vm.boot_bytes,
        vm.actual_bytes,
        vm.resident_bytes,
        vm.resident_source,
        demand,
        limit_bytes=vm.most_bytes if is_planned(vm) else None,
    )
    return Record(
        config,
        vm.incarnation,
        vm.resets or 0,
        pages_of(vm.boot_bytes or 0),
        Excess(0),
        Deadlines(0),
        facts,
        0,
        target_pages=pages_of(vm.assigned_bytes or 0),
        expected_pages=pages_of(vm.expected_bytes or 0),
    )
