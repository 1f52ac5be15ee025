"""Chosen targets become orders: booked, recorded, and given their reason.

In observe and advise mode the same orders are made, with the same reasons, and nothing is booked or recorded.
"""

from collections.abc import Mapping, Sequence

import msgspec

from dynmem.manager.step.changes import ALREADY_HELD, Candidate, Change
from dynmem.manager.step.claims import Claims
from dynmem.manager.step.measured import MeasuredFree
from dynmem.manager.step.record import Record
from dynmem.manager.step.results import SetBalloon
from dynmem.manager.step.standing import boast
from dynmem.units import PAGE_SIZE, format_pages


class Orders(msgspec.Struct, frozen=True):
    """What the orders of one step have in common.

    Attributes:
        claims: The books.
        free: What is measured free.
        now_ns: The time of the step.
        enforced: Whether orders are booked and recorded.
        checked: Whether grants are held to the limit of the books.
    """

    claims: Claims
    free: MeasuredFree
    now_ns: int
    enforced: bool
    checked: bool

    @property
    def grown(self) -> str:
        """The verb of a growth: where nothing is sent, it would have happened."""
        return "grown" if self.enforced else "would grow"

    @property
    def shrunk(self) -> str:
        """The verb of a shrink."""
        return "shrunk" if self.enforced else "would shrink"

    def shrink(self, candidate: Candidate, target: int) -> Change:
        """Shrink a VM. Its claim stays until the memory is measured free."""
        decision = candidate.decision
        if self.enforced:
            candidate.record.retarget(target, self.now_ns)
            self.claims.ask(candidate.record)
        reason = f"{self.shrunk} to {format_pages(target)}{boast(candidate.record)}: {decision.reason}"
        return Change(candidate.record, target, reason)

    def grant(self, candidate: Candidate, target: int) -> Change:
        """Grow a VM, out of what is measured free or what it holds already."""
        decision = candidate.decision
        paid = max(0, target - candidate.claim)
        self.book(candidate.record, target, checked=self.checked)
        left = decision.wanted_pages - target
        waits = f"; {format_pages(left)} more when others have shrunk" if left > 0 else ""
        measurement = f"{format_pages(paid)} of {self.free.text}" if paid else ALREADY_HELD
        return Change(
            candidate.record,
            target,
            f"{self.grown} to {format_pages(target)}: {decision.reason}{waits}",
            measurement,
        )

    def book(self, record: Record, target: int, *, checked: bool) -> None:
        """Book growth before it is sent."""
        if self.enforced:
            self.claims.grant(record, target, checked=checked)
            record.retarget(target, self.now_ns)
            self.claims.ask(record)


def commands_for(
    changes: Sequence[Change], targets_before: Mapping[str, int | None]
) -> tuple[SetBalloon, ...]:
    """Return what to send; of two changes of one VM, the last. *targets_before* are those before the step."""
    last = {each.record.name: each for each in changes}
    return tuple(
        SetBalloon(
            vm=name,
            target_bytes=each.target * PAGE_SIZE,
            reason=each.reason,
            measurement=each.measurement,
            takes_nothing=each.target >= min(each.record.actual_pages or 0, targets_before[name] or 0),
            news="" if each.is_found else each.line,
            parts=each.parts,
        )
        for name, each in last.items()
    )
