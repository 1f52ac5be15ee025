"""Reads the status out of what the manager remembers: each figure from the one place that keeps it."""

from collections.abc import Collection, Mapping
from typing import Final, Self

import msgspec

from dynmem.manager.step.advice import command_for
from dynmem.manager.step.books_view import books_view, vm_books_view
from dynmem.manager.step.changes import Change
from dynmem.manager.step.claims import Claims
from dynmem.manager.step.evidence import capability_of
from dynmem.manager.step.facts import ABSENT, HostFacts, ManagerSettings, VmConfig, VmFacts
from dynmem.manager.step.measured import MeasuredFree
from dynmem.manager.step.pauses import Pauses
from dynmem.manager.step.record import Record
from dynmem.manager.step.releases import Releases
from dynmem.manager.step.reservations import Reservations
from dynmem.manager.step.roster import Roster
from dynmem.manager.step.standing import above
from dynmem.manager.step.state import state_of
from dynmem.manager.step.survey import Survey
from dynmem.manager.step.takeover import conflict, taken
from dynmem.manager.step.view import (
    BooksView,
    ChangeView,
    LastChangeView,
    MeasuredView,
    StatusView,
    VmBooksView,
    VmView,
)
from dynmem.policy import Decision, Plan, Snapshot
from dynmem.units import PAGE_SIZE, format_pages, format_size

NOT_LOOKED_AT = "no sweep has looked at it yet"
# What is said of two properties of a balloon device.
PARACHUTE: Final[Mapping[bool | None, str]] = {
    True: "a guest that runs out takes memory back from its balloon (deflate-on-oom=on)",
    False: "a guest that runs out kills a process, whatever its balloon holds (deflate-on-oom=off)",
}
FREE_PAGES: Final[Mapping[bool | None, str]] = {
    True: "free pages are handed back without being asked for (free-page-reporting=on)",
    False: "free pages stay with the guest until its balloon takes them (free-page-reporting=off)",
}


class Seen(msgspec.Struct, frozen=True):
    """The last step, kept for the status.

    Attributes:
        survey: What was known before it.
        free: What was measured free beside reservations.
        snapshot: What the plan was made from.
        plan: The division of the host.
        changes: What it changed.
        ready: What is kept ready. Pages.
        waiting: Whether a VM or a reservation waits for memory that is being given.
        last: The last change of each VM, and when it was decided.
    """

    survey: Survey
    free: MeasuredFree
    snapshot: Snapshot
    plan: Plan
    changes: tuple[Change, ...]
    ready: int
    waiting: bool
    last: Mapping[str, tuple[int, Change]]

    def without(self, names: Collection[str], last: Mapping[str, tuple[int, Change]]) -> Self:
        """Return the same without the changes of these VMs, which were not sent."""
        changes = tuple(each for each in self.changes if each.record.name not in names)
        return msgspec.structs.replace(self, changes=changes, last=dict(last))


def emergency_lines(before: Seen | None, now: Seen) -> list[str]:
    """Return a line when the VMs begin, or cease, to occupy more than the budget."""
    was = before is not None and before.survey.emergency
    if now.survey.emergency == was:
        return []
    if not now.survey.emergency:
        return ["emergency over: the VMs occupy no more than the budget"]
    occupied = format_pages(now.survey.occupied)
    budget = format_pages(now.free.budget_pages)
    rule = "no VM grows, and every VM gives what it does not need"
    return [f"emergency: the VMs occupy {occupied}, the budget is {budget}: {rule}"]


class StatusReader(msgspec.Struct, frozen=True):
    """What a status is read from.

    Attributes:
        seen: The last step; None before the first.
        sent: The VMs whose last change was sent.

    """

    settings: ManagerSettings
    roster: Roster
    claims: Claims
    reservations: Reservations
    releases: Releases
    pauses: Pauses
    seen: Seen | None
    sent: Collection[str]

    def read(self) -> StatusView:
        """Return the status after the last step."""
        settings, seen = self.settings, self.seen
        return StatusView(
            mode=settings.mode,
            budget_bytes=settings.budget_bytes,
            slush_bytes=settings.slush_bytes,
            period_ns=settings.period_ns,
            swept_ns=seen.survey.now_ns if seen else None,
            emergency=seen is not None and seen.survey.emergency,
            waiting=seen is not None and seen.waiting,
            measured_free=_measured(seen) if seen else None,
            host=seen.survey.facts.host if seen else None,
            shortage_bytes=seen.plan.shortage_pages * PAGE_SIZE if seen else 0,
            ready_bytes=seen.ready * PAGE_SIZE if seen else 0,
            cut=seen.plan.cut if seen else "",
            books=self._books(),
            reservations=tuple(self.reservations.view(entry) for entry in self.reservations),
            vms=self._vms(),
        )

    def _books(self) -> BooksView:
        gmm = self.claims.gmm
        return books_view(gmm.query_statistics(), gmm.shortage(), gmm.least_pages)

    def _vm_books(self, name: str) -> VmBooksView | None:
        stats = self.claims.gmm.query_statistics(name).vm
        return None if stats is None else vm_books_view(stats, self.claims.barred(name))

    def _vms(self) -> tuple[VmView, ...]:
        seen = self.seen
        decisions = {each.vm: each for each in seen.plan.decisions} if seen else {}
        changes = {each.record.name: each for each in seen.changes} if seen else {}
        views = []
        for name, config in self.roster.configs.items():
            record = self.roster.get(name)
            if record is None or seen is None:
                views.append(self._absent(config))
            else:
                views.append(self._present(record, seen, decisions.get(name), changes.get(name)))
        return tuple(views)

    def _absent(self, config: VmConfig) -> VmView:
        problem: str | None = NOT_LOOKED_AT
        if self.seen is not None:
            problem = next((vm.problem for vm in self.seen.survey.facts.vms if vm.name == config.name), None)
        return VmView(
            **msgspec.structs.asdict(config),
            there=False,
            released=config.name in self.releases,
            paused_until_ns=self.pauses.until_ns(config.name),
            run_state=ABSENT,
            reason="its process is not running",
            problem=problem,
        )

    def _present(
        self, record: Record, seen: Seen, decision: Decision | None, change: Change | None
    ) -> VmView:
        facts, demand, standing = record.facts, record.facts.demand, seen.survey.standings.get(record.name)
        ceiling = seen.survey.ceilings.get(record.name)
        reasons = (
            standing.reason if standing else "",
            seen.survey.barred.get(record.name, ""),
            above(record),
            "" if self.settings.is_enforcing else conflict(facts, record.config),
            taken(facts),
            _stall(record),
            _thrash(record),
            _offline(record),
            self._state(record, seen, decision) if decision else "",
            decision.reason if decision else "",
        )
        return VmView(
            **msgspec.structs.asdict(record.config),
            there=True,
            released=record.name in self.releases,
            paused_until_ns=self.pauses.until_ns(record.name),
            run_state=facts.run_state,
            lock=facts.lock or None,
            pinned=facts.pinned.reason if facts.pinned is not None else None,
            limit_bytes=facts.limits[0].size_bytes if facts.limits else None,
            limit_file=facts.limits[0].file if facts.limits else None,
            ceiling_bytes=None if ceiling is None else ceiling * PAGE_SIZE,
            node_numbers=_nodes(facts, seen.survey.facts.host),
            protection=facts.protection or None,
            device=facts.device,
            floor_bytes=record.floor_pages * PAGE_SIZE,
            boot_bytes=facts.boot_bytes,
            actual_bytes=facts.actual_bytes,
            resident_bytes=facts.guest_bytes,
            resident_source=facts.resident_source,
            process_bytes=facts.resident_overhead_bytes or None,
            demand_bytes=demand.committed_bytes if demand else None,
            available_bytes=demand.available_bytes if demand else None,
            demand_source=demand.source if demand else None,
            expected_bytes=(record.needed_pages - record.demand_pages) * PAGE_SIZE if demand else None,
            reserve_bytes=demand.reserve_bytes if demand else None,
            demand_age_ns=demand.age_ns if demand else None,
            parachute=PARACHUTE.get(facts.deflates_on_oom),
            free_pages=FREE_PAGES.get(facts.reports_free_pages),
            assigned_bytes=None if record.target_pages is None else record.target_pages * PAGE_SIZE,
            claim_bytes=self.claims.pages(record.name) * PAGE_SIZE,
            books=self._vm_books(record.name),
            wanted_bytes=decision.wanted_pages * PAGE_SIZE if decision else None,
            planned_bytes=decision.target_pages * PAGE_SIZE if decision else None,
            headroom_bytes=decision.headroom_pages * PAGE_SIZE if decision else None,
            short_bytes=decision.short_pages * PAGE_SIZE if decision else 0,
            standing=standing.kind if standing else None,
            reason="; ".join(part for part in reasons if part),
            problem=facts.problem,
            change=self._change(change) if change else None,
            last_change=self._last_change(seen.last.get(record.name)),
            plugged_bytes=facts.plugged_bytes if facts.virtio_mems else None,
            pluggable_bytes=sum(each.max_bytes for each in facts.virtio_mems) if facts.virtio_mems else None,
            offline_bytes=facts.offline_bytes,
            capability=capability_of(record, standing, seen.survey.now_ns, self.settings.period_ns),
        )

    def _state(self, record: Record, seen: Seen, decision: Decision) -> str:
        """Return what a VM has of what the plan gives it; "" where nothing is sent."""
        if not self.settings.is_enforcing:
            return ""
        return state_of(record, decision, self.roster, seen.survey.now_ns, is_any_free=seen.free.pages > 0)

    def _change(self, change: Change) -> ChangeView:
        sent = change.record.name in self.sent
        mode = self.settings.mode
        why_not = "yet" if mode == "enforce" else mode
        return ChangeView(
            target_bytes=change.target * PAGE_SIZE,
            reason=change.reason if sent else f"{change.reason} (not sent: {why_not})",
            measurement=change.measurement,
            sent=sent,
            command=command_for(change) if mode == "advise" and not sent else "",
        )

    def _last_change(self, last: tuple[int, Change] | None) -> LastChangeView | None:
        if last is None:
            return None
        at_ns, change = last
        return LastChangeView(at_ns=at_ns, **msgspec.structs.asdict(self._change(change)))


def _measured(seen: Seen) -> MeasuredView:
    free = seen.free
    return MeasuredView(
        bytes=free.pages * PAGE_SIZE,
        deciding=free.deciding,
        text=free.text,
        budget_term_bytes=free.budget_term * PAGE_SIZE,
        host_term_bytes=free.host_term * PAGE_SIZE,
        mem_available_bytes=seen.survey.facts.host.mem_available_bytes,
        held_bytes=free.held_pages * PAGE_SIZE,
        untouched_bytes=free.untouched_pages * PAGE_SIZE,
        reserved_bytes=free.reserved_pages * PAGE_SIZE,
    )


def _nodes(facts: VmFacts, host: HostFacts) -> tuple[int, ...]:
    """Return the nodes that a VM's memory may come from, where it may not come from all."""
    return facts.node_numbers if len(facts.node_numbers) < len(host.nodes) else ()


def _stall(record: Record) -> str:
    """Return what was concluded from a guest that stopped, while it holds."""
    if record.stopped is not None and record.stopped.holds:
        return f"floor met at {format_pages(record.stopped.at_pages)}"
    if record.declined is not None and record.declined.holds:
        return f"takes no more than {format_pages(record.declined.at_pages)}"
    return ""


def _offline(record: Record) -> str:
    """Return how much of what was plugged is of no use to a guest; "" if nothing."""
    offline = record.facts.offline_bytes
    if not offline:
        return ""
    return (
        f"{format_size(offline)} that virtio-mem has plugged is not online in its guest: set"
        " memhp_default_state=online_movable on the command line of its kernel"
    )


def _thrash(record: Record) -> str:
    """Return what a guest's faults brought it, or that they bring it nothing."""
    if record.regained_pages:
        return f"keeps {format_pages(record.regained_pages)} for a while: it needed what it had given"
    if record.thrash.is_thrashing and (record.target_pages or 0) <= record.floor_pages:
        return f"thrashes at its minimum, {record.thrash.per_s} pages a second: raise it"
    return ""
