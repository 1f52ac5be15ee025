"""What `dynmem status` answers, as plain data: each size under its own name, each number with its reason."""

from collections.abc import Mapping

import msgspec

from dynmem.manager.step.changes import Change
from dynmem.manager.step.claims import Claims
from dynmem.manager.step.facts import Facts, ManagerSettings
from dynmem.manager.step.measured import Charge, MeasuredFree
from dynmem.manager.step.record import Record
from dynmem.manager.step.releases import Releases
from dynmem.manager.step.reservations import Reservations
from dynmem.manager.step.roster import Roster
from dynmem.manager.step.standing import Standing
from dynmem.policy import Decision, Plan
from dynmem.units import PAGE_SIZE, format_size


class Seen(msgspec.Struct):
    """The last step, kept for questions."""

    facts: Facts
    charges: Mapping[str, Charge]
    standings: Mapping[str, Standing]
    free: MeasuredFree
    plan: Plan
    changes: tuple[Change, ...]
    emergency: bool
    waiting: bool
    last: Mapping[str, tuple[int, Change]]


def emergency_lines(before: Seen | None, now: Seen) -> list[str]:
    """A line when the VMs begin, or cease, to hold more than the budget."""
    was = before is not None and before.emergency
    if now.emergency == was:
        return []
    if not now.emergency:
        return ["emergency over: the VMs hold no more than the budget"]
    occupied = format_size(sum(each.occupied for each in now.charges.values()) * PAGE_SIZE)
    budget = format_size(now.free.budget_pages * PAGE_SIZE)
    return [f"emergency: the VMs hold {occupied}, the budget is {budget}: no grants, everybody shrinks"]


def status_of(
    settings: ManagerSettings,
    roster: Roster,
    claims: Claims,
    reservations: Reservations,
    releases: Releases,
    seen: Seen | None,
) -> dict[str, object]:
    """The whole answer. Sizes in bytes; `vms` in the order of the configuration."""
    books = claims.gmm.query_statistics()
    decisions = {each.vm: each for each in seen.plan.decisions} if seen else {}
    changes = {each.record.name: each for each in seen.changes} if seen else {}
    return {
        "mode": settings.mode,
        "budget_bytes": settings.budget_bytes,
        "slush_bytes": settings.slush_bytes,
        "period_ns": settings.period_ns,
        "swept_ns": seen.facts.now_ns if seen else None,
        "emergency": bool(seen and seen.emergency),
        "waiting": bool(seen and seen.waiting),
        "measured_free": _measured(seen) if seen else None,
        "shortage_bytes": seen.plan.shortage_pages * PAGE_SIZE if seen else 0,
        "cut": seen.plan.cut if seen else "",
        "books": {
            "max_bytes": books.max_pages * PAGE_SIZE,
            "allocated_bytes": books.allocated_pages * PAGE_SIZE,
            "ballooned_bytes": books.ballooned_pages * PAGE_SIZE,
            "shortage_bytes": claims.gmm.shortage() * PAGE_SIZE,
        },
        "reservations": [msgspec.to_builtins(reservations.view(entry)) for entry in reservations],
        "vms": [
            _vm(
                name,
                roster.get(name),
                releases,
                claims,
                seen,
                decisions.get(name),
                changes.get(name),
                settings,
            )
            for name in roster.configs
        ],
    }


def _measured(seen: Seen) -> dict[str, object]:
    free = seen.free
    return {
        "bytes": free.pages * PAGE_SIZE,
        "deciding": free.deciding,
        "text": free.text,
        "budget_term_bytes": free.budget_term * PAGE_SIZE,
        "host_term_bytes": free.host_term * PAGE_SIZE,
        "mem_available_bytes": seen.facts.host.mem_available_bytes,
        "held_bytes": free.held_pages * PAGE_SIZE,
        "untouched_bytes": free.untouched_pages * PAGE_SIZE,
        "reserved_bytes": free.reserved_pages * PAGE_SIZE,
    }


def _vm(
    name: str,
    record: Record | None,
    releases: Releases,
    claims: Claims,
    seen: Seen | None,
    decision: Decision | None,
    change: Change | None,
    settings: ManagerSettings,
) -> dict[str, object]:
    config: dict[str, object] = {"name": name, "there": record is not None, "released": name in releases}
    if record is None or seen is None:
        return {**config, "run_state": "absent", "reason": "not there"}
    facts, standing = record.facts, seen.standings.get(name)
    demand = facts.demand
    held = standing.reason if standing else ""
    planned = decision.reason if decision else ""
    return {
        **config,
        "run_state": facts.run_state,
        "device": facts.device,
        "priority": record.config.priority,
        "weight": record.config.weight,
        "minimum_bytes": record.config.minimum_bytes,
        "maximum_bytes": record.config.maximum_bytes,
        "floor_bytes": record.floor_pages * PAGE_SIZE,
        "boot_bytes": facts.boot_bytes,
        "actual_bytes": facts.actual_bytes,
        "resident_bytes": facts.resident_bytes,
        "resident_source": facts.resident_source,
        "demand_bytes": demand.committed_bytes if demand else None,
        "available_bytes": demand.available_bytes if demand else None,
        "demand_source": demand.source if demand else None,
        "demand_age_ns": demand.age_ns if demand else None,
        "assigned_bytes": None if record.target_pages is None else record.target_pages * PAGE_SIZE,
        "claim_bytes": claims.pages(name) * PAGE_SIZE,
        "wanted_bytes": decision.wanted_pages * PAGE_SIZE if decision else None,
        "planned_bytes": decision.target_pages * PAGE_SIZE if decision else None,
        "headroom_bytes": decision.headroom_pages * PAGE_SIZE if decision else None,
        "short_bytes": decision.short_pages * PAGE_SIZE if decision else 0,
        "standing": standing.kind if standing else "",
        "reason": "; ".join(part for part in (held, _stall(record), planned) if part),
        "problem": facts.problem,
        "change": _change(change, settings),
        "last_change": _last_change(seen.last.get(name), settings),
    }


def _stall(record: Record) -> str:
    """What was concluded from a guest that stopped, for as long as it holds."""
    if record.stopped is not None and record.stopped.at_pages:
        return f"floor met at {format_size(record.stopped.at_pages * PAGE_SIZE)}"
    if record.declined is not None and record.declined.at_pages < record.maximum_pages:
        return f"takes no more than {format_size(record.declined.at_pages * PAGE_SIZE)}"
    return ""


def _change(change: Change | None, settings: ManagerSettings) -> dict[str, object] | None:
    """What this step asked of the VM, or would have asked."""
    if change is None:
        return None
    sent = settings.mode == "enforce"
    return {
        "target_bytes": change.target * PAGE_SIZE,
        "reason": change.reason if sent else f"{change.reason} (not sent: observe)",
        "measurement": change.measurement,
        "sent": sent,
    }


def _last_change(last: tuple[int, Change] | None, settings: ManagerSettings) -> dict[str, object] | None:
    """The last change, with its moment on the manager's clock."""
    if last is None:
        return None
    at_ns, change = last
    return {"at_ns": at_ns, **(_change(change, settings) or {})}
