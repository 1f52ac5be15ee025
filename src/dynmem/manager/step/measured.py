"""Measured free: what the host can really grant now, the smaller of two measurements.

The budget's term subtracts what VMs hold or may take from the budget. The host's term subtracts what VMs may
still take from what the kernel calls available. Resident memory alone misleads (discarded huge pages stay),
and so does each term alone.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from dynmem.manager.step.facts import HostFacts, ManagerSettings
from dynmem.units import format_pages, pages_covering, pages_of


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What one VM takes. Pages.

    Attributes:
        held: What it takes of the budget.
        untouched: The part that the host still has.
        occupied: What it takes of the host now; of a VM that cannot be measured, the whole claim.
    """

    held: int
    untouched: int
    occupied: int


class MeasuredFree(msgspec.Struct, frozen=True):
    """What both terms are made of. Pages; the terms may be negative.

    Attributes:
        budget_pages: The budget.
        slush_pages: The part of it that is never granted.
        held_pages: What all VMs hold or may take.
        available_pages: What the host has available: MemAvailable, and what ZFS's cache could give back.
        untouched_pages: What all VMs may still take.
        reserved_pages: What reservations hold.
        arc_pages: The part of what is available that ZFS's cache could give back.
    """

    budget_pages: int
    slush_pages: int
    held_pages: int
    available_pages: int
    untouched_pages: int
    reserved_pages: int
    arc_pages: int = 0

    @property
    def budget_term(self) -> int:
        """Budget − slush − what VMs hold or may take − reservations."""
        return self.budget_pages - self.slush_pages - self.held_pages - self.reserved_pages

    @property
    def host_term(self) -> int:
        """Available on the host − slush − what VMs may still take − reservations."""
        return self.available_pages - self.slush_pages - self.untouched_pages - self.reserved_pages

    @property
    def pages(self) -> int:
        """The smaller term: what may be granted."""
        return min(self.budget_term, self.host_term)

    @property
    def spare_pages(self) -> int:
        """What may be granted as headroom.

        The host's term then keeps the slush twice, so that headroom does not sway with the host's memory.
        """
        return min(self.budget_term, self.host_term - self.slush_pages)

    @property
    def deciding(self) -> Literal["budget", "host"]:
        """Which term decides: "budget" or "host"."""
        return "budget" if self.budget_term <= self.host_term else "host"

    @property
    def text(self) -> str:
        """The deciding term in words, and the sum of the other one."""
        slush, reserved = format_pages(self.slush_pages), format_pages(self.reserved_pages)
        free = format_pages(self.pages)
        arc = f" ({format_pages(self.arc_pages)} of it in ZFS's cache)" if self.arc_pages else ""
        if self.deciding == "budget":
            return (
                f"{free} measured free by the budget: {format_pages(self.budget_pages)} − slush {slush} "
                f"− held or promised {format_pages(self.held_pages)} − reserved {reserved} "
                f"(the host's term says {format_pages(self.host_term)})"
            )
        return (
            f"{free} measured free by the host: available {format_pages(self.available_pages)}{arc} − slush "
            f"{slush} − granted and untouched {format_pages(self.untouched_pages)} − reserved {reserved} "
            f"(the budget's term says {format_pages(self.budget_term)})"
        )


def charge(claim_pages: int, guest_pages: int | None, huge_pages: int = 0) -> Charge:
    """Return what a VM takes, by its claim and by what the host measured of its guest's memory.

    *huge_pages* of its RAM are huge pages that the host has set aside: they have come out of MemAvailable
    already, touched or not. What its process holds besides is in no VM's account, but in the host's: it is
    not available.
    """
    aside = min(claim_pages, huge_pages)
    if guest_pages is None:
        return Charge(held=claim_pages, untouched=claim_pages - aside, occupied=claim_pages)
    occupied = max(guest_pages, aside)
    return Charge(
        held=max(guest_pages, claim_pages),
        untouched=max(0, claim_pages - occupied),
        occupied=occupied,
    )


def measure(
    settings: ManagerSettings, host: HostFacts, charges: Sequence[Charge], reserved_pages: int
) -> MeasuredFree:
    """Add up both terms."""
    return MeasuredFree(
        budget_pages=pages_of(settings.budget_bytes),
        slush_pages=pages_covering(settings.slush_bytes),
        held_pages=sum(each.held for each in charges),
        available_pages=pages_of(host.available_bytes),
        untouched_pages=sum(each.untouched for each in charges),
        reserved_pages=reserved_pages,
        arc_pages=pages_of(host.arc_bytes or 0),
    )
