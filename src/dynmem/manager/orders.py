"""Chosen targets become orders: booked, remembered in the record, and given their reason.

In observe mode the same orders are made, with the same reasons, and nothing is booked or remembered.
"""

import msgspec

from dynmem.manager.changes import ALREADY_HELD, Candidate, Change
from dynmem.manager.claims import Claims
from dynmem.manager.measured import MeasuredFree
from dynmem.manager.record import Record
from dynmem.units import PAGE_SIZE, format_size


class Orders(msgspec.Struct, frozen=True):
    """What orders of one step have in common; `checked` holds grants against the limit of the books."""

    claims: Claims
    free: MeasuredFree
    now_ns: int
    enforced: bool
    checked: bool

    def shrink(self, candidate: Candidate, target: int) -> Change:
        """Ask for a smaller size. The claim stays until the memory is measured free."""
        decision = candidate.decision
        limit = ""
        if target > decision.target_pages:
            demand = candidate.record.facts.demand
            spare = format_size(demand.available_bytes) if demand else "nothing"
            limit = f"; {_size(decision.target_pages)} was planned, but the guest has only {spare} available"
        if self.enforced:
            candidate.record.set_target(target, self.now_ns)
        return Change(candidate.record, target, f"shrunk to {_size(target)}: {decision.reason}{limit}")

    def grant(self, candidate: Candidate, target: int) -> Change:
        """Give a larger size, out of what is measured free or what the VM holds already."""
        decision = candidate.decision
        paid = max(0, target - candidate.claim)
        self.book(candidate.record, target, checked=self.checked)
        left = decision.wanted_pages - target
        waits = f"; {_size(left)} more when others have given" if left > 0 else ""
        measurement = f"{_size(paid)} of {self.free.text}" if paid else ALREADY_HELD
        return Change(
            candidate.record, target, f"grown to {_size(target)}: {decision.reason}{waits}", measurement
        )

    def book(self, record: Record, target: int, *, checked: bool) -> None:
        """Growth is booked before it is sent."""
        if self.enforced:
            self.claims.grant(record, target, checked=checked)
            record.set_target(target, self.now_ns)


def _size(pages: int) -> str:
    return format_size(pages * PAGE_SIZE)
