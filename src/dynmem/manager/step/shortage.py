"""What happens when even what the guests use does not fit: who waits, who is squeezed, and what is said.

A guest's memory in use is never taken for the comfort of another. When a VM of higher priority lacks what it
*uses*, its operator has decided before whether a VM of lower priority keeps what it uses (`on_shortage` =
"wait") or is squeezed below that: its guest swaps, or kills processes. Growth that is only expected squeezes
nobody.
"""

from collections.abc import Collection, Sequence
from typing import Final

from dynmem.manager.step.record import Record
from dynmem.policy import PRIORITIES, Plan, Priority
from dynmem.units import format_pages

# More VMs than this are not named.
_NAMED_MAX: Final = 3


def lacking(records: Sequence[Record], plan: Plan, barred: Collection[str]) -> tuple[tuple[Record, int], ...]:
    """Return the VMs that get less than their guests use, and how much less: by priority, then by amount.

    Nobody gives anything for those that are *barred* from growing.
    """
    found = [
        (record, min(record.demand_pages, record.maximum_pages) - decision.target_pages)
        for record, decision in zip(records, plan.decisions, strict=True)
        if record.name not in barred
    ]
    found.sort(key=lambda pair: (PRIORITIES.index(pair[0].config.priority), -pair[1]))
    return tuple((record, pages) for record, pages in found if pages > 0)


def may_be_squeezed(record: Record, priority: Priority) -> bool:
    """Return whether a VM gives of what it uses to VMs of this priority."""
    is_lower = PRIORITIES.index(record.config.priority) > PRIORITIES.index(priority)
    return is_lower and record.config.on_shortage == "squeeze"


def shortage_lines(now: Sequence[tuple[Record, int]], *, was: bool) -> list[str]:
    """Return a line when what the guests use begins, or ceases, not to fit."""
    if bool(now) == was:
        return []
    if not now:
        return ["shortage over: what the guests use fits again"]
    lacks = (f"{record.name} lacks {format_pages(pages)}" for record, pages in now[:_NAMED_MAX])
    return [f"shortage: what the guests use does not fit: {', '.join(lacks)}"]
