"""Released VMs: they are grown to their full size, and then left alone.

That is what they booted with or, where memory can be added to them, their configured maximum: without a
manager they would not get more when they need it. What they have beyond that they keep. None of it counts
beyond what this host could give them: more than that is only a monitor's word.

Other VMs make room first, and the memory is measured free as for every grant. If they cannot make room in
time, the rest is granted nevertheless: it is the operator's order, and the reason says that the budget does
not cover it.
"""

from collections.abc import Iterable

from dynmem.manager.step.changes import ALREADY_HELD, Change
from dynmem.manager.step.claims import Claims
from dynmem.manager.step.facts import ManagerSettings
from dynmem.manager.step.orders import Orders
from dynmem.manager.step.record import Record
from dynmem.manager.step.safeguards import RELEASE_PERIODS
from dynmem.manager.step.standing import Standing, boast
from dynmem.policy import HUGE_PAGES
from dynmem.units import format_pages


class Releases:
    """Which VMs are released, by name; also those that are not there yet."""

    def __init__(self, settings: ManagerSettings) -> None:
        self.configure(settings)
        self._names: set[str] = set()

    def configure(self, settings: ManagerSettings) -> None:
        """Count in periods of these settings."""
        self._patience_ns = RELEASE_PERIODS * settings.period_ns

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def release(self, names: Iterable[str]) -> None:
        """Leave these VMs alone from now on."""
        self._names.update(names)

    def take_up(self, names: Iterable[str]) -> list[str]:
        """Manage these VMs again; return those that were released."""
        taken = [name for name in names if name in self._names]
        self._names.difference_update(taken)
        return taken

    def promised(self, record: Record) -> int:
        """Return what is kept for a VM because it is released: its full size, if it is believed. Pages."""
        return min(record.released_pages, record.most_pages) if record.name in self._names else 0

    def missing(self, record: Record, claims: Claims) -> int:
        """Return what a released VM still lacks. Pages."""
        return max(0, self.promised(record) - claims.pages(record.name))

    def changes(
        self,
        records: Iterable[tuple[Record, Standing]],
        orders: Orders,
        free_pages: int,
        *,
        others_can_give: bool,
    ) -> tuple[list[Change], int]:
        """Grow released VMs to what they are due; return the changes and what is left of *free_pages*."""
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
            change = _raise(record, missing, max(0, free_pages), orders, patient=patient)
            if change is not None:
                orders.book(record, change.target, checked=False)
                free_pages -= max(0, min(change.target, record.most_pages) - held)
                changes.append(change)
        return changes, free_pages


def _raise(record: Record, missing: int, free: int, orders: Orders, *, patient: bool) -> Change | None:
    due, measurement = record.released_pages, orders.free.text
    given = f"released: {orders.grown} to its full size, {format_pages(due)}{boast(record)}"
    if missing == 0:
        return Change(record, due, given, ALREADY_HELD)
    if missing <= free:
        return Change(record, due, given, f"{format_pages(missing)} of {measurement}")
    if not patient:
        over = format_pages(missing - free)
        reason = f"{given}, by the operator's order: the budget does not cover {over} of it"
        return Change(record, due, reason, f"operator's order; {measurement}")
    target = (due - missing + free) // HUGE_PAGES * HUGE_PAGES
    if target <= (record.target_pages or 0):
        return None
    size = f"{format_pages(target)} of {format_pages(due)}"
    reason = f"released: {orders.grown} to {size}, to the rest when others have shrunk"
    return Change(record, target, reason, f"{format_pages(free)} of {measurement}")
