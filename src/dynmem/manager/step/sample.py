"""What a history keeps of one step: every figure that its decisions were computed from, and the decisions.

It is much less than the status, and it is read after every sweep. Sizes are bytes. What is not known is None.
"""

from collections.abc import Collection
from typing import Final

import msgspec

from dynmem.manager.step.advice import command_for
from dynmem.manager.step.changes import Change
from dynmem.manager.step.facts import HostFacts, ManagerSettings, Mode
from dynmem.manager.step.record import Record
from dynmem.manager.step.standing import above
from dynmem.manager.step.status import Seen, StatusReader
from dynmem.policy import Decision, Vm
from dynmem.units import NS_PER_MS, PAGE_SIZE

# The age of a report is kept to a tenth of a second: with every digit it would be most of what is kept.
_AGE_NS: Final = 100 * NS_PER_MS


class MoveSample(msgspec.Struct, frozen=True):
    """A target that a step set, or would have set.

    Attributes:
        vm: The VM.
        target_bytes: The new target.
        before_bytes: The size that its monitor reported before.
        reason: Why, as a sentence.
        measurement: The term of measured free that pays for it; empty for a shrink.
        sent: Whether it was sent.
        command: What an operator would type to make the change; empty in other modes than advise.
    """

    vm: str
    target_bytes: int
    before_bytes: int | None
    reason: str
    measurement: str
    sent: bool
    command: str = ""


class VmSample(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One VM that is there, at one step.

    Attributes:
        name: Its name.
        incarnation: Which life of it.
        run_state: What its monitor reports.
        device: The kind of its balloon device; empty if it has none.
        standing: Whether the manager may change it.
        reason: Why it stands so, and why it has what it has, as a sentence.
        problem: What is wrong with it.
        demand_source: The formula of its demand.
        resident_source: How its resident memory was measured.
        priority: Its priority.
        limit: What `most_bytes` is, in words.
        kept_why: Why `kept_bytes` are kept, in words.
        resets: RESETs seen in this life.
        minimum_bytes: The least it may get, by the configuration.
        maximum_bytes: The most.
        buffer_percent: Its buffer.
        weight: Its weight.
        boot_bytes: What it booted with.
        actual_bytes: Its size as its VMM reports it.
        resident_bytes: What the host measures that its guest holds.
        process_bytes: What its process holds besides.
        demand_bytes: What its guest reports that it needs.
        available_bytes: What its guest could use at once.
        reserve_bytes: What it should keep at hand beyond its demand.
        age_ds: How old the report was, in tenths of a second.
        floor_bytes: The least it may get: its minimum, or its guest's own floor.
        expected_bytes: What is added for a guest that grows.
        assigned_bytes: The target last set, or the size that was adopted.
        claim_bytes: What it may take without asking.
        wanted_bytes: What the plan found that it wants.
        planned_bytes: What the plan gives it.
        least_bytes: The least that the plan could give it.
        most_bytes: The most that the plan could give it.
        needed_bytes: What the plan was told that it needs.
        held_bytes: What the plan was told that it has been given.
        at_hand_bytes: What the plan was told that it should have at hand.
        margin_bytes: The growth that headroom covers first.
        kept_bytes: What cannot be taken from it now.
        whole_bytes: The largest of the sizes that it can have without steps.
        step_bytes: The step of larger ones; 0: any size.
        stopped_bytes: Where its guest gave no more; 0 if it did not stop.
        declined_bytes: Where its guest took no more.
        released: 1 if it is released.
        place: Its place in the plan; None: it is not in it.
        believed_bytes: What is believed of `demand_bytes`: a report from before a change of size is off.
        plugged_bytes: What virtio-mem has plugged, a part of `actual_bytes`; None: it has none.
    """

    name: str
    incarnation: str = ""
    run_state: str = ""
    device: str = ""
    standing: str = ""
    reason: str = ""
    problem: str = ""
    demand_source: str = ""
    resident_source: str = ""
    priority: str = "normal"
    limit: str = ""
    kept_why: str = ""
    resets: int | None = 0
    minimum_bytes: int | None = None
    maximum_bytes: int | None = None
    buffer_percent: int | None = None
    weight: int | None = None
    boot_bytes: int | None = None
    actual_bytes: int | None = None
    resident_bytes: int | None = None
    process_bytes: int | None = None
    demand_bytes: int | None = None
    available_bytes: int | None = None
    reserve_bytes: int | None = None
    age_ds: int | None = None
    floor_bytes: int | None = None
    expected_bytes: int | None = None
    assigned_bytes: int | None = None
    claim_bytes: int | None = None
    wanted_bytes: int | None = None
    planned_bytes: int | None = None
    least_bytes: int | None = None
    most_bytes: int | None = None
    needed_bytes: int | None = None
    held_bytes: int | None = None
    at_hand_bytes: int | None = None
    margin_bytes: int | None = None
    kept_bytes: int | None = None
    whole_bytes: int | None = None
    step_bytes: int | None = None
    stopped_bytes: int | None = None
    declined_bytes: int | None = None
    released: int | None = 0
    place: int | None = None
    believed_bytes: int | None = None
    plugged_bytes: int | None = None


class HostSample(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The host at one step.

    Attributes:
        mode: What is done with what is decided.
        cut: The level of the plan at which memory ran out; empty if it did not.
        deciding: Which term of measured free decided.
        budget_bytes: The budget.
        slush_bytes: The part of it that is never granted.
        period_ds: From one sweep to the next, in tenths of a second.
        mem_available_bytes: What the host has available: MemAvailable, and what ZFS's cache could give back.
        total_bytes: MemTotal.
        claimed_bytes: What all VMs hold or may take.
        untouched_bytes: What they may take and have not touched.
        reserved_bytes: What reservations hold.
        occupied_bytes: What all VMs take of the host now.
        room_bytes: What the plan divided.
        ready_bytes: What is kept ready.
        shortage_bytes: How far what is wanted exceeds what there is.
        emergency: 1 if the VMs occupy more than the budget.
        waiting: 1 if a VM or a reservation waits for memory that is being given.
        swapped_bytes: What is in swap, zram included.
        stalled_parts: The part of the last ten seconds in which a program waited for memory (PSI, some), in
            ten-thousandths.
    """

    mode: str = ""
    cut: str = ""
    deciding: str = ""
    budget_bytes: int | None = None
    slush_bytes: int | None = None
    period_ds: int | None = None
    mem_available_bytes: int | None = None
    total_bytes: int | None = None
    claimed_bytes: int | None = None
    untouched_bytes: int | None = None
    reserved_bytes: int | None = None
    occupied_bytes: int | None = None
    room_bytes: int | None = None
    ready_bytes: int | None = None
    shortage_bytes: int | None = None
    emergency: int | None = None
    waiting: int | None = None
    swapped_bytes: int | None = None
    stalled_parts: int | None = None


class Sample(msgspec.Struct, frozen=True):
    """One step.

    Attributes:
        now_ns: When, by the manager's monotonic clock.
        is_sweep: Whether all VMs were looked at.
        host: The host.
        vms: Every VM that is there, by its name.
        moves: The targets that changed, or would have.
    """

    now_ns: int
    is_sweep: bool
    host: HostSample
    vms: dict[str, VmSample]
    moves: tuple[MoveSample, ...]


def sample_of(reader: StatusReader) -> Sample | None:
    """Return what is kept of the last step; None before the first."""
    seen, settings = reader.seen, reader.settings
    if seen is None:
        return None
    decisions = {each.vm: each for each in seen.plan.decisions}
    views = {each.name: (place, each) for place, each in enumerate(seen.snapshot.vms)}
    vms = {}
    for record in reader.roster:
        name = record.name
        standing = seen.survey.standings.get(name)
        kind, why = (standing.kind, standing.reason) if standing else ("", "")
        decision = decisions.get(name)
        place, view = views.get(name, (None, None))
        reasons = (why, seen.survey.barred.get(name, ""), above(record), decision.reason if decision else "")
        vms[name] = _vm(
            record,
            (kind, "; ".join([part for part in reasons if part])),
            reader.claims.pages(name),
            place,
            view,
            decision,
            is_released=name in reader.releases,
        )
    last = {each.record.name: each for each in seen.changes}  # of two of one VM, that is the one that counts
    return Sample(
        seen.survey.now_ns,
        seen.survey.facts.looked is None,
        _host(seen, settings),
        vms,
        tuple(_move(change, settings.mode, reader.sent) for change in last.values()),
    )


def _vm(
    record: Record,
    standing: tuple[str, str],
    claim: int,
    place: int | None,
    view: Vm | None,
    decision: Decision | None,
    *,
    is_released: bool,
) -> VmSample:
    facts, config, demand = record.facts, record.config, record.facts.demand
    stopped, declined = record.stopped, record.declined
    planned = view is not None and decision is not None
    return VmSample(
        name=config.name,
        incarnation=record.incarnation,
        run_state=facts.run_state,
        device=facts.device or "",
        standing=standing[0],
        reason=standing[1],
        problem=facts.problem or "",
        demand_source=demand.source if demand else "",
        resident_source=facts.resident_source,
        priority=config.priority,
        limit=view.limit if view else "",
        kept_why=view.kept_why if view and view.kept_pages else "",
        resets=record.resets,
        minimum_bytes=config.minimum_bytes,
        maximum_bytes=config.maximum_bytes,
        buffer_percent=config.buffer_percent,
        weight=config.weight,
        boot_bytes=facts.boot_bytes,
        actual_bytes=facts.actual_bytes,
        resident_bytes=facts.guest_bytes,
        process_bytes=facts.resident_overhead_bytes or None,
        demand_bytes=demand.committed_bytes if demand else None,
        available_bytes=demand.available_bytes if demand else None,
        reserve_bytes=demand.reserve_bytes if demand else None,
        age_ds=demand.age_ns // _AGE_NS if demand else None,
        floor_bytes=record.floor_pages * PAGE_SIZE,
        expected_bytes=(record.needed_pages - record.demand_pages) * PAGE_SIZE if demand else None,
        assigned_bytes=None if record.target_pages is None else record.target_pages * PAGE_SIZE,
        claim_bytes=claim * PAGE_SIZE,
        wanted_bytes=decision.wanted_pages * PAGE_SIZE if decision else None,
        planned_bytes=decision.target_pages * PAGE_SIZE if decision else None,
        least_bytes=view.floor_pages * PAGE_SIZE if view and planned else None,
        most_bytes=view.maximum_pages * PAGE_SIZE if view and planned else None,
        needed_bytes=view.demand_pages * PAGE_SIZE if view and planned else None,
        held_bytes=view.held_pages * PAGE_SIZE if view and planned else None,
        at_hand_bytes=view.at_hand_pages * PAGE_SIZE if view and planned else None,
        margin_bytes=view.margin_pages * PAGE_SIZE if view and planned else None,
        kept_bytes=view.kept_pages * PAGE_SIZE if view and planned else None,
        whole_bytes=view.sizes.whole_pages * PAGE_SIZE if view and planned else None,
        step_bytes=view.sizes.step_pages * PAGE_SIZE if view and planned else None,
        stopped_bytes=stopped.at_pages * PAGE_SIZE if stopped is not None and stopped.holds else 0,
        declined_bytes=declined.at_pages * PAGE_SIZE if declined is not None and declined.holds else 0,
        released=int(is_released),
        place=place,
        believed_bytes=record.demand_pages * PAGE_SIZE if demand else None,
        plugged_bytes=facts.plugged_bytes if facts.virtio_mems else None,
    )


def _host(seen: Seen, settings: ManagerSettings) -> HostSample:
    free, host = seen.free, seen.survey.facts.host
    some = host.pressure_some_percent
    return HostSample(
        mode=settings.mode,
        cut=seen.plan.cut,
        deciding=free.deciding,
        budget_bytes=free.budget_pages * PAGE_SIZE,
        slush_bytes=free.slush_pages * PAGE_SIZE,
        period_ds=settings.period_ns // _AGE_NS,
        mem_available_bytes=free.available_pages * PAGE_SIZE,
        total_bytes=host.mem_total_bytes,
        claimed_bytes=free.held_pages * PAGE_SIZE,
        untouched_bytes=free.untouched_pages * PAGE_SIZE,
        reserved_bytes=free.reserved_pages * PAGE_SIZE,
        occupied_bytes=seen.survey.occupied * PAGE_SIZE,
        room_bytes=seen.snapshot.capacity_pages * PAGE_SIZE,
        ready_bytes=seen.ready * PAGE_SIZE,
        shortage_bytes=seen.plan.shortage_pages * PAGE_SIZE,
        emergency=int(seen.survey.emergency),
        waiting=int(seen.waiting),
        swapped_bytes=_swapped(host),
        stalled_parts=None if some is None else round(some * 100),
    )


def _swapped(host: HostFacts) -> int | None:
    total, free = host.swap_total_bytes, host.swap_free_bytes
    return None if total is None or free is None else total - free


def _move(change: Change, mode: Mode, sent: Collection[str]) -> MoveSample:
    return MoveSample(
        change.record.name,
        change.target * PAGE_SIZE,
        change.record.facts.actual_bytes,
        change.reason,
        change.measurement,
        change.record.name in sent,
        command_for(change) if mode == "advise" else "",
    )
