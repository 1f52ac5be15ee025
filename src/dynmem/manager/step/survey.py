"""One sweep as the later parts of a step see it: what each VM takes, how it stands, what is measured free."""

from collections.abc import Mapping

import msgspec

from dynmem.manager.step.facts import Facts
from dynmem.manager.step.measured import Charge, MeasuredFree
from dynmem.manager.step.standing import Standing


class Survey(msgspec.Struct, frozen=True):
    """What is known before anything is decided.

    Attributes:
        facts: What the sweep found.
        charges: What each VM takes.
        standings: How each VM stands.
        bare: What is measured free before reservations.
        barred: The VMs that are never grown now, each with the reason.
        ceilings: The largest sizes that the limits of cgroups leave the VMs below them. Pages.
        occupied: What all VMs take of the host now. Pages.
    """

    facts: Facts
    charges: Mapping[str, Charge]
    standings: Mapping[str, Standing]
    bare: MeasuredFree
    barred: Mapping[str, str]
    ceilings: Mapping[str, int]
    occupied: int

    @property
    def now_ns(self) -> int:
        """When the sweep began."""
        return self.facts.now_ns

    @property
    def emergency(self) -> bool:
        """Whether the VMs occupy more than the budget."""
        return self.occupied > self.bare.budget_pages

    @property
    def room(self) -> int:
        """The budget, or what the host can still give of it, less the slush. Pages."""
        return self.bare.budget_pages - self.lacking - self.bare.slush_pages

    @property
    def lacking(self) -> int:
        """What the rest of the host leaves less than the budget. Pages."""
        return max(0, self.bare.budget_pages - self.occupied - self.bare.available_pages)

    def held(self, name: str) -> int:
        """Return what a VM takes of the budget; 0 if it is absent. Pages."""
        each = self.charges.get(name)
        return each.held if each else 0

    def is_movable(self, name: str) -> bool:
        """Return whether a VM may be changed."""
        return self.standings[name].kind == "movable"

    def free(self, reserved_pages: int) -> MeasuredFree:
        """Return what is measured free beside these reservations."""
        return msgspec.structs.replace(self.bare, reserved_pages=reserved_pages)
