"""Why a VM gets its size, in words that a person understands.

One sentence per decision: what is wanted and how that is computed, what is missing or spare and, if the VM
gives memory, which VM needs it and which ones give first.
"""

from collections.abc import Sequence
from typing import Final, Self

import msgspec

from dynmem.policy.levels import Level, buffer_pages
from dynmem.policy.types import Holder, Snapshot, Vm
from dynmem.units import format_pages

FITS: Final = "everything fits"


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """One VM, what it wants and what it gets."""

    vm: Vm
    wanted_pages: int
    target_pages: int


class Division(msgspec.Struct, frozen=True, gc=False):
    """What all reasons of a plan share.

    Attributes:
        cut: The level at which memory would run out if every VM could give its share; None: it would not.
        neediest: The VM that others give for; None: no VM needs more.
        needs: What it needs, as a phrase.
        holders: Who holds what the others cannot have, the largest first, and which VM of the plan that is.
    """

    cut: Level | None
    neediest: Vm | None
    needs: str
    holders: tuple[tuple[Holder, str], ...]

    @classmethod
    def of(cls, snapshot: Snapshot, wanted: Sequence[int], targets: Sequence[int], cut: Level | None) -> Self:
        """Find the VM that lacks most of what it wants, or else the one that grows most."""
        vms, holders = snapshot.vms, _holders(snapshot, wanted, cut)
        for sizes, of_what in ((wanted, ""), (targets, " of headroom")):
            missing = [pages - vm.held_pages for vm, pages in zip(vms, sizes, strict=True)]
            most = max(missing, default=0)
            if most > 0:
                return cls(
                    cut, vms[missing.index(most)], f"needs {format_pages(most)} more{of_what}", holders
                )
        return cls(cut, None, "", holders)


def _holders(snapshot: Snapshot, wanted: Sequence[int], cut: Level | None) -> tuple[tuple[Holder, str], ...]:
    """Return the largest holder outside the plan, what is kept ready, and VMs that keep too much."""
    holders = [(each, "") for each in snapshot.holders[:1]]
    if snapshot.ready_pages and cut is not None and not cut.is_survival:
        text = f"{format_pages(snapshot.ready_pages)} is kept ready for whoever grows next"
        holders.append((Holder(snapshot.ready_pages, text), ""))
    for vm, pages in zip(snapshot.vms, wanted, strict=True):
        if vm.kept_pages > pages:
            text = f"{vm.name} keeps {format_pages(vm.kept_pages)} that cannot be taken from it now"
            holders.append((Holder(vm.kept_pages - pages, text), vm.name))
    return tuple(sorted(holders, key=lambda pair: -pair[0].pages))


def reason_for(outcome: Outcome, division: Division) -> str:
    """Return the sentence for one decision."""
    parts = []
    giving = outcome.target_pages < outcome.vm.held_pages
    if giving and division.neediest is not None and division.neediest.name != outcome.vm.name:
        taker = division.neediest
        parts.append(f"{taker.name} (priority {taker.priority}) {division.needs}")
    if giving or outcome.target_pages < outcome.wanted_pages:
        holders = (holder.text for holder, name in division.holders if name != outcome.vm.name)
        parts += list(holders)[:1]
        parts.append(division.cut.gives if division.cut else FITS)
    parts.append(_arithmetic(outcome))
    if giving and outcome.target_pages == outcome.vm.kept_pages:
        parts.append(outcome.vm.kept_why)
    return "; ".join(parts)


def _arithmetic(outcome: Outcome) -> str:
    """Return how the wanted size is computed, and how far the target is below or above it."""
    vm, wanted, target = outcome.vm, outcome.wanted_pages, outcome.target_pages
    if wanted == vm.floor_pages:
        text = f"floor {format_pages(wanted)} (demand {format_pages(vm.demand_pages)})"
    elif wanted == vm.maximum_pages:
        text = f"{vm.limit} {format_pages(wanted)} (demand {format_pages(vm.demand_pages)})"
    elif vm.at_hand_pages > buffer_pages(vm):
        at_hand = format_pages(vm.at_hand_pages)
        text = f"demand {format_pages(vm.demand_pages)} + {at_hand} at hand = {format_pages(wanted)}"
    else:
        text = f"demand {format_pages(vm.demand_pages)} + {vm.buffer_percent} % = {format_pages(wanted)}"
    if target < wanted:
        return f"{text}, {format_pages(wanted - target)} short"
    if target > wanted:
        return f"{text}, {format_pages(target - wanted)} headroom"
    return text
