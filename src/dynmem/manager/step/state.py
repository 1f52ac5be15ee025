"""How far a VM is from what the plan gives it, in words: a plan says what shall be, this says what is."""

from collections.abc import Iterable
from typing import Final

from dynmem.manager.step.record import Record
from dynmem.manager.step.safeguards import ARRIVED_PAGES
from dynmem.policy import Decision
from dynmem.units import format_pages

# More VMs than this are not listed.
GIVERS_MAX: Final = 3


def state_of(
    record: Record, decision: Decision, others: Iterable[Record], now_ns: int, *, is_any_free: bool
) -> str:
    """Return what a VM has and what it still lacks, owes or has not taken; "" if it has what it wants."""
    actual, target = record.actual_pages or 0, record.target_pages or 0
    parts = []
    if record.owed_pages and not record.late_pages(now_ns):
        parts.append(f"still has {format_pages(record.owed_pages)} to give")
    elif actual < target - ARRIVED_PAGES:
        parts.append(f"has taken {format_pages(actual)} of {format_pages(target)}")
    lacks = min(decision.wanted_pages, decision.target_pages) - target
    if lacks > ARRIVED_PAGES:
        givers = _givers(others, now_ns) or ("" if is_any_free else "nothing is free")
        parts.append(
            f"has {format_pages(target)} and waits for {format_pages(lacks)} more"
            + (f": {givers}" if givers else "")
        )
    return ", ".join(parts)


def _givers(records: Iterable[Record], now_ns: int) -> str:
    """Return which VMs still give, in words; "" if none does."""
    owing = [
        (record.owed_pages, record.name)
        for record in records
        if record.owed_pages and not record.late_pages(now_ns)
    ]
    if not owing:
        return ""
    owing.sort(reverse=True)
    names = ", ".join(name for _, name in owing[:GIVERS_MAX])
    more = " and others" if len(owing) > GIVERS_MAX else ""
    owed = format_pages(sum(pages for pages, _ in owing))
    return f"{names}{more} still {'has' if len(owing) == 1 else 'have'} {owed} to give"
