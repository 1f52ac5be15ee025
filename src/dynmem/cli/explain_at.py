"""``dynmem explain VM --at TIME``: the arithmetic of a VM as it was, from the file of the history."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dynmem.cli.explain_text import explained
from dynmem.cli.looking_back import folder_of, in_json, local, moment_ms
from dynmem.dates import parse_date
from dynmem.units import NS_PER_MS

if TYPE_CHECKING:
    from dynmem.history.event import Event
    from dynmem.history.past import Moment, Past
    from dynmem.manager.step.view import StatusView, VmView

_KINDS_OF_MOVES = ("moved", "would move")


def explained_at(name: str, at: str, state: Path | None, *, as_json: bool) -> str:
    """Return the page about a VM at a time, or all of it as JSON."""
    from dynmem.history.past import Past

    past = Past(folder_of(state))
    moment, move = _found(past, name, moment_ms("--at", at))
    past.close()
    return _as_json(name, moment, move) if as_json else _as_text(name, moment, move)


def page_of(past: "Past", name: str, at_ms: int) -> str:
    """Return the page about a VM at a time from a history that is open."""
    return _as_text(name, *_found(past, name, at_ms))


def _found(past: "Past", name: str, at_ms: int) -> "tuple[Moment, Event | None]":
    """Return the step at a time, and the last move before it."""
    past.known(name)
    moment = past.moment(at_ms)
    return moment, past.last_event_of(name, _KINDS_OF_MOVES, moment.at_ms)


def _as_text(name: str, moment: "Moment", move: "Event | None") -> str:
    lines = [f"{local(moment.at_ms)}{moment.note}, {moment.host.mode}"]
    if name not in moment.vms:
        return f"{lines[0]}\n{name}: it was not running"
    view = status_of(moment)
    lines.append(explained(view, view.vm(name)))
    if move is not None:
        paid = f" [{move.measurement}]" if move.measurement else ""
        at = local(parse_date(move.at) // NS_PER_MS)
        lines.append(f"last move, {at}: {move.text}{paid}")
    return "\n".join(lines)


def _as_json(name: str, moment: "Moment", move: "Event | None") -> str:
    from dynmem.dates import format_date
    from dynmem.history.again import plan_of, terms_of

    made = {each.vm: each for each in plan_of(moment).decisions}
    reply = {
        "at": format_date(moment.at_ms * NS_PER_MS),
        "step": moment.step,
        "host": moment.host,
        "vm": moment.vms.get(name),
        "again": {"free": terms_of(moment.host), "decision_in_pages": made.get(name)},
        "last_move": move,
    }
    return in_json(reply).decode()


def status_of(moment: "Moment") -> "StatusView":
    """Return a step of the history as a status: of the fields that the page about a VM shows."""
    from dynmem.history.again import plan_of, terms_of
    from dynmem.manager.step.view import BooksView, MeasuredView, StatusView

    host, terms = moment.host, terms_of(moment.host)
    made = {each.vm: each.reason for each in plan_of(moment).decisions}
    mem_available = host.mem_available_bytes or 0
    free = min(terms.budget_bytes, terms.host_bytes)
    return StatusView(
        mode=cast("Any", host.mode),
        budget_bytes=host.budget_bytes or 0,
        slush_bytes=host.slush_bytes or 0,
        period_ns=(host.period_ds or 0) * 100 * NS_PER_MS,
        swept_ns=None,
        emergency=bool(host.emergency),
        waiting=bool(host.waiting),
        measured_free=MeasuredView(
            bytes=free,
            deciding="budget" if terms.budget_bytes <= terms.host_bytes else "host",
            text="",
            budget_term_bytes=terms.budget_bytes,
            host_term_bytes=terms.host_bytes,
            mem_available_bytes=mem_available,
            held_bytes=host.claimed_bytes or 0,
            untouched_bytes=host.untouched_bytes or 0,
            reserved_bytes=host.reserved_bytes or 0,
        ),
        shortage_bytes=host.shortage_bytes or 0,
        ready_bytes=host.ready_bytes or 0,
        cut=host.cut,
        books=BooksView(0, 0, 0, 0),
        reservations=(),
        vms=tuple(_vm(moment, name, made.get(name, "")) for name in moment.vms),
    )


def _vm(moment: "Moment", name: str, made: str) -> "VmView":
    from dynmem.manager.step.view import VmView

    vm = moment.vms[name]
    wanted, planned = vm.wanted_bytes, vm.planned_bytes
    is_planned = wanted is not None and planned is not None
    return VmView(
        name=name,
        minimum_bytes=vm.minimum_bytes or 0,
        maximum_bytes=vm.maximum_bytes or 0,
        buffer_percent=vm.buffer_percent or 0,
        weight=vm.weight or 0,
        priority=cast("Any", vm.priority),
        there=True,
        released=bool(vm.released),
        run_state=vm.run_state,
        device=vm.device or None,
        floor_bytes=vm.floor_bytes,
        boot_bytes=vm.boot_bytes,
        actual_bytes=vm.actual_bytes,
        resident_bytes=vm.resident_bytes,
        resident_source=vm.resident_source or None,
        process_bytes=vm.process_bytes,
        demand_bytes=vm.demand_bytes,
        available_bytes=vm.available_bytes,
        demand_source=vm.demand_source or None,
        expected_bytes=vm.expected_bytes,
        reserve_bytes=vm.reserve_bytes,
        demand_age_ns=None if vm.age_ds is None else vm.age_ds * 100 * NS_PER_MS,
        assigned_bytes=vm.assigned_bytes,
        claim_bytes=vm.claim_bytes,
        wanted_bytes=wanted,
        planned_bytes=planned,
        headroom_bytes=max(0, (planned or 0) - (wanted or 0)) if is_planned else None,
        short_bytes=max(0, (wanted or 0) - (planned or 0)) if is_planned else 0,
        standing=cast("Any", vm.standing or None),
        reason=vm.reason or made,
        problem=vm.problem or None,
    )
