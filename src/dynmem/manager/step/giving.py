"""What a guest can give now. A plan that counts on more gets less, and asks nobody else for the rest.

A balloon takes what its guest has available: free pages, and caches that Linux drops for it. What it has used
since its report is no longer available, and a cushion stays with the guest, which grows while it gives.
"""

from dynmem.manager.step.record import Record
from dynmem.manager.step.safeguards import cushion_pages
from dynmem.policy import HUGE_PAGES
from dynmem.units import format_size, pages_of


def keeps_pages(record: Record) -> int:
    """Return the size below which a guest cannot go now, by its last report; 0 if it is not known. Pages."""
    demand, actual = record.facts.demand, record.actual_pages
    if demand is None or actual is None:
        return 0
    given = max(0, pages_of(demand.available_bytes) - record.expected_pages - cushion_pages(actual))
    return -(-(actual - given) // HUGE_PAGES) * HUGE_PAGES


def available_text(record: Record) -> str:
    """Return what a guest has available, in words."""
    demand = record.facts.demand
    return format_size(demand.available_bytes) if demand is not None else "nothing"
