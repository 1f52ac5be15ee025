"""Released VMs: they are given all that they can have, and then they are left alone.

That is what they booted with or, where memory can be added to them, their configured maximum: without a
manager nobody would give them more when they need it. What they have beyond that they keep.

Others make room first, and the memory is measured free as for every grant. Where they can't make room in
time, the rest is given all the same: it is the operator's order, and the reason says that the budget does not
cover it.
"""

from collections.abc import Iterable

from dynmem.manager.step.changes import ALREADY_HELD, Change
from dynmem.manager.step.claims import Claims
from dynmem.manager.step.facts import ManagerSettings
from dynmem.manager.step.orders import Orders
from dynmem.manager.step.record import Record
from dynmem.manager.step.safeguards import RELEASE_PERIODS
from dynmem.manager.step.standing import Standing
from dynmem.policy import HUGE_PAGES
from dynmem.units import format_pages


class Releases:
    """Which VMs are released, by name: also those that are not there yet."""

    def __init__(self, settings: ManagerSettings) -> None:
        self._patience_ns = RELEASE_PERIODS * settings.period_ns
        self._names: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def release(self, names: Iterable[str]) -> None:
        """Leave these VMs alone from now on."""
        self._names.update(names)

    def take_up(self, names: Iterable[str]) -> list[str]:
        """Manage these VMs again; answer those that had been released."""
        taken = [name for name in names if name in self._names]
        self._names.difference_update(taken)
        return taken

    def promised(self, record: Record) -> int:
        """What a VM is due because it is released. Pages."""
        return record.released_pages if record.name in self._names else 0

    def missing(self, record: Record, claims: Claims) -> int:
        """What a released VM still has to get. Pages."""
        return max(0, self.promised(record) - claims.pages(record.name))

    def changes(
        self,
        records: Iterable[tuple[Record, Standing]],
        orders: Orders,
        free_pages: int,
        *,
        others_can_give: bool,
    ) -> tuple[list[Change], int]:
        """Raise released VMs to what they can have; answer the changes and what is left of `free_pages`."""
        changes = []
        for record, standing in records:
            if standing.kind != "released" or not record.adopted:
                record.released_ns = None
                continue
            if record.target_pages == record.released_pages:
                continue
            if record.released_ns is None:
                record.released_ns = orders.now_ns
            held = orders.claims.pages(record.name)
            patient = others_can_give and orders.now_ns - record.released_ns < self._patience_ns
            missing = self.missing(record, orders.claims)
            change = _raise(record, missing, max(0, free_pages), orders.free.text, patient=patient)
            if change is not None:
                orders.book(record, change.target, checked=False)
                free_pages -= max(0, change.target - held)
                changes.append(change)
        return changes, free_pages


def _raise(record: Record, missing: int, free: int, measurement: str, *, patient: bool) -> Change | None:
    due = record.released_pages
    given = f"released: given {format_pages(due)}, all that it can have"
    if missing == 0:
        return Change(record, due, given, ALREADY_HELD)
    if missing <= free:
        return Change(record, due, given, f"{format_pages(missing)} of {measurement}")
    if not patient:
        reason = (
            f"{given}, by the operator's order: {format_pages(missing - free)} of it are beyond what the "
            "budget covers"
        )
        return Change(record, due, reason, f"operator's order; {measurement}")
    target = (due - missing + free) // HUGE_PAGES * HUGE_PAGES
    if target <= (record.target_pages or 0):
        return None
    reason = f"released: {format_pages(target)} of {format_pages(due)} now, the rest when others have given"
    return Change(record, target, reason, f"{format_pages(free)} of {measurement}")
