"""What happens when even what the guests use does not fit: who waits, who is squeezed, and what is said.

A guest's memory in use is never taken for the comfort of another. When a VM of higher priority lacks what it
*uses*, its operator has decided before whether a VM of lower priority keeps what it uses (`on_shortage` =
"wait") or is squeezed below that: its guest swaps, or kills processes.
"""

from collections.abc import Sequence
from typing import Final

from dynmem.manager.step.record import Record
from dynmem.policy import LEVELS, PRIORITIES, Decision, Plan, Priority, Vm
from dynmem.units import format_pages

_PRIORITY_OF: Final = {level.name: level.priority for level in LEVELS if level.name.startswith("demand")}


def lacking(plan: Plan) -> Priority | None:
    """Return the highest priority whose VMs lack what they use; None: nobody does."""
    return _PRIORITY_OF.get(plan.cut)


def may_be_squeezed(record: Record, priority: Priority) -> bool:
    """Return whether a VM gives of what it uses to VMs of this priority."""
    is_lower = PRIORITIES.index(record.config.priority) > PRIORITIES.index(priority)
    return is_lower and record.config.on_shortage == "squeeze"


def shortage_lines(before: Plan | None, now: Plan, vms: Sequence[Vm]) -> list[str]:
    """Return a line when what the guests use begins, or ceases, not to fit."""
    was, priority = before is not None and lacking(before) is not None, lacking(now)
    if was == (priority is not None):
        return []
    if priority is None:
        return ["shortage over: what the guests use fits again"]
    short = [
        (vm.demand_pages - each.target_pages, each)
        for vm, each in zip(vms, now.decisions, strict=True)
        if vm.demand_pages > each.target_pages
    ]
    return [f"shortage: what the guests use does not fit: {_lacks(short)}"]


def _lacks(short: Sequence[tuple[int, Decision]]) -> str:
    short = sorted(short, key=lambda pair: -pair[0])
    return ", ".join(f"{each.vm} lacks {format_pages(pages)}" for pages, each in short[:3])
