"""Whether room for a VM that is about to start can be made at all: by the books, all VMs at their minimum."""

from dynmem.gmm import CountedBooks
from dynmem.manager.step.reservations import Reservations
from dynmem.manager.step.roster import Roster
from dynmem.units import format_pages, pages_of


def refusal_of(
    name: str, size: int, left_ns: int, roster: Roster, reservations: Reservations, gmm: CountedBooks
) -> str:
    """Return why a reservation of *size* pages can never be made ready; "" if it can."""
    if size < 1 or left_ns <= 0:
        return f"a reservation needs a size and a deadline in the future; {name} has none"
    if reservations.full(name):
        return "too many reservations are open: wait until one has ended"
    floors = sum(gmm.figures(record.name).least for record in roster if record.name != name)
    others = sum(reservations.least_pages(entry.name) for entry in reservations if entry.name != name)
    most = gmm.max_pages - floors - others
    if size > most:
        return (
            f"{format_pages(size)} cannot be made free: the budget leaves"
            f" {format_pages(max(0, most))} beside the slush, the floors of the running VMs"
            f" ({format_pages(floors)}) and other reservations ({format_pages(others)})"
        )
    return ""


def lasting_pages(name: str, size: int, roster: Roster) -> int:
    """Return what a reservation comes down to once its VM is there: the VM's minimum, or all of it.

    Nothing while a VM of that name is there: then its own minimum is in the books.
    """
    if name in roster:
        return 0
    config = roster.configs.get(name)
    return min(size, pages_of(config.minimum_bytes)) if config else size
