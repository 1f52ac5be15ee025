"""What would be done, for people and programs: each VM now and then, moves in order, what cannot be."""

from collections.abc import Iterator

import msgspec

from dynmem.dates import format_date
from dynmem.history.again import is_planned
from dynmem.history.past import Moment
from dynmem.manager.step.sample import VmSample
from dynmem.policy import Decision
from dynmem.units import NS_PER_MS, PAGE_SIZE, format_pages, format_size, pages_of
from dynmem.what_if.knobs import Knobs, Newcomer
from dynmem.what_if.position import after, charge_of, checked, free_of
from dynmem.what_if.rehearsal import Rehearsal, rehearse


class PlannedMove(msgspec.Struct, frozen=True):
    """A move that would be made.

    Attributes:
        turn: In which step from now, from 1 on. The moves of one step follow one another as they stand here:
            shrinks, then grants. The next step begins when the guests have given what they were asked for.
        vm: The VM.
        from_bytes: The target before.
        to_bytes: The target after.
        reason: Why, as a sentence.
        measurement: The term of measured free that pays for it; empty for a shrink.
    """

    turn: int
    vm: str
    from_bytes: int
    to_bytes: int
    reason: str
    measurement: str


class VmOutlook(msgspec.Struct, frozen=True, kw_only=True):
    """One VM now, and when nothing moves any more.

    Attributes:
        name: Its name.
        priority: Its priority.
        demand_bytes: What its guest reports that it needs; null: it reports nothing.
        now_bytes: Its size as its monitor reports it; null: not known.
        planned_bytes: Its target when nothing moves any more; null: it is left alone.
        wanted_bytes: What it wants; null: it is left alone.
        short_bytes: What is missing of that in the end.
        is_new: Whether it is one of those that were tried: it has not started, and its room is reserved.
        reason: Why, as a sentence.
    """

    name: str
    priority: str
    demand_bytes: int | None
    now_bytes: int | None
    planned_bytes: int | None
    wanted_bytes: int | None
    short_bytes: int
    reason: str
    is_new: bool = False


class Outlook(msgspec.Struct, frozen=True):
    """What would be done from one position.

    Attributes:
        budget_bytes: The budget.
        room_bytes: What the plan divides.
        free_bytes: What is measured free now; negative: the VMs hold more, or were promised more.
        ready_bytes: What is kept ready for whoever grows next.
        shortage_bytes: How far what is wanted exceeds what there is.
        cut: The level of the plan at which memory runs out; empty if it does not.
        is_at_rest: Whether nothing would be moved after the last of these moves.
        vms: Every VM that is there, and those that were tried.
        moves: The moves, in their order.
        not_possible: What cannot be done, and why: sentences.
    """

    budget_bytes: int
    room_bytes: int
    free_bytes: int
    ready_bytes: int
    shortage_bytes: int
    cut: str
    is_at_rest: bool
    vms: tuple[VmOutlook, ...]
    moves: tuple[PlannedMove, ...]
    not_possible: tuple[str, ...]


class PlanReport(msgspec.Struct, frozen=True):
    """What would be done now, and with the settings that were tried.

    Attributes:
        at: The date of the step that it is computed from.
        source: Where that step comes from, as a sentence.
        mode: What the manager does with what it decides: observe, advise or enforce.
        now: What would be done with the settings as they are.
        tried: What would be done with the others; null: none were tried.
    """

    at: str
    source: str
    mode: str
    now: Outlook
    tried: Outlook | None


def plan_report(moment: Moment, source: str, knobs: Knobs) -> PlanReport:
    """Return what would be done from a recorded step; ConfigError if a VM or setting does not exist.

    RemoteProtocolError if the step cannot be one of a manager.
    """
    position = after(checked(moment, source))
    tried = None
    if knobs:
        tried = outlook(*knobs.apply(position))
    return PlanReport(
        format_date(moment.at_ms * NS_PER_MS), source, moment.host.mode, outlook(position), tried
    )


def outlook(position: Moment, notes: tuple[str, ...] = (), newcomers: tuple[Newcomer, ...] = ()) -> Outlook:
    """Return what would be done from a position; it reserves the room of those *newcomers* that have one."""
    found = rehearse(position)
    host = position.host
    first = {each.vm: each for each in found.plan.decisions}
    has_reserved = any(not each.is_refused for each in newcomers)
    short = _short_of_reservations(found) if has_reserved else 0
    return Outlook(
        budget_bytes=host.budget_bytes or 0,
        room_bytes=host.room_bytes or 0,
        free_bytes=free_of(host).pages * PAGE_SIZE,
        ready_bytes=host.ready_bytes or 0,
        shortage_bytes=found.plan.shortage_pages * PAGE_SIZE,
        cut=found.plan.cut,
        is_at_rest=found.is_at_rest,
        vms=(
            *(_vm(vm, found, first.get(vm.name)) for vm in position.vms.values()),
            *map(_newcomer, newcomers),
        ),
        moves=tuple(_moves(position, found)),
        not_possible=(*notes, *_obstacles(found, short)),
    )


def _vm(vm: VmSample, found: Rehearsal, decision: Decision | None) -> VmOutlook:
    rest = found.rest.vms[vm.name]
    is_moved = is_planned(vm) and decision is not None
    wanted = decision.wanted_pages * PAGE_SIZE if decision is not None else None
    planned = rest.assigned_bytes if is_moved else None
    return VmOutlook(
        name=vm.name,
        priority=vm.priority,
        demand_bytes=vm.demand_bytes,
        now_bytes=vm.actual_bytes,
        planned_bytes=planned,
        wanted_bytes=wanted,
        short_bytes=max(0, (wanted or 0) - (planned or 0)) if is_moved else 0,
        reason=decision.reason if decision is not None else _alone(vm),
    )


def _alone(vm: VmSample) -> str:
    held = format_pages(pages_of(charge_of(vm).held))
    return f"{vm.reason or vm.problem or vm.standing or 'it is left alone'}; it counts with {held}"


def _newcomer(vm: Newcomer) -> VmOutlook:
    reason = "its room cannot be made" if vm.is_refused else "its room is reserved until its guest reports"
    return VmOutlook(
        name=vm.name,
        priority="normal",
        demand_bytes=None,
        now_bytes=0,
        planned_bytes=0 if vm.is_refused else vm.bytes,
        wanted_bytes=vm.bytes,
        short_bytes=vm.bytes if vm.is_refused else 0,
        reason=reason,
        is_new=True,
    )


def _moves(position: Moment, found: Rehearsal) -> Iterator[PlannedMove]:
    before = {name: vm.assigned_bytes or 0 for name, vm in position.vms.items()}
    for turn, made in enumerate(found.rounds, 1):
        for each in made.changes:
            target = each.target * PAGE_SIZE
            name = each.record.name
            yield PlannedMove(turn, name, before[name], target, each.reason, each.measurement)
            before[name] = target


def _short_of_reservations(found: Rehearsal) -> int:
    """Return what is not measured free in the end of what is promised and reserved. Bytes."""
    return max(0, -free_of(found.rest.host).pages) * PAGE_SIZE


def _obstacles(found: Rehearsal, short: int) -> Iterator[str]:
    if found.plan.cut == "floors":
        room = max(0, found.plan.capacity_pages)
        floors = sum(each.floor_pages for each in found.plan.decisions)
        in_use = sum(pages_of(found.rest.vms[each.vm].assigned_bytes or 0) for each in found.plan.decisions)
        if floors > room:
            yield f"the minimums of all VMs do not fit: {format_pages(floors - room)} is missing"
        elif in_use > room:
            yield f"what the guests use does not fit: {format_pages(in_use - room)} is missing"
    if short:
        yield f"{format_size(short)} of what is reserved cannot be had now: guests keep what they use"
    for name, vm in found.rest.vms.items():
        if not is_planned(vm):
            yield f"{name} is not moved: {vm.reason or vm.problem or vm.standing or 'it is not managed'}"
    for each in found.plan.decisions:
        planned = found.rest.vms[each.vm].assigned_bytes or 0
        missing_bytes = each.wanted_pages * PAGE_SIZE - planned
        if missing_bytes > 0:
            wanted = format_pages(each.wanted_pages)
            yield f"{each.vm} lacks {format_size(missing_bytes)} of the {wanted} that it wants"
