"""The claims of the VMs: what each may take without asking, kept in the books of the GMM and nowhere else.

Four facts move the books. Growth is booked when the target is set. Shrinking is booked when `actual` fell and
the host no longer measures the memory as resident. Start and RESET book the larger of boot size and target. A
process that has ended is cleaned up. In the books, allocated + ballooned = reserved for every VM at every
moment.

The books also say what each VM is asked to give or to take back, what its balloon leaves it (its minimum),
and whether it may be grown at all: a VM that runs already and does not fit, with every VM at its minimum, is
taken in as it is and never grown (fMayAllocate) until it fits.

A claim takes memory from others, so no figure of a VM's own monitor makes one alone:

    the VM's size, as its monitor reports it      counts as
    up to its maximum and to the host's memory    what it reports, and what the host still measures of more
    more than that                                its maximum or, if the host measures more, that
    more than that, and it cannot be measured     its maximum
"""

from typing import Final

from dynmem.gmm import Account, BalloonAction, CountedBooks, OcPolicy
from dynmem.gmm import Priority as GmmPriority
from dynmem.gmm.book import Figures
from dynmem.gmm.overcommit import OvercommitRules
from dynmem.limits import MANAGER_FIGURE_BYTES_MAX
from dynmem.manager.step.record import Record
from dynmem.units import MIB, PAGE_SIZE, format_pages, pages_of

# The words of the configuration and the numbers of the GMM's ABI.
PRIORITIES: Final = {"high": GmmPriority.HIGH, "normal": GmmPriority.NORMAL, "low": GmmPriority.LOW}
NO_SHADOW: Final = 1  # the GMM takes no reservation of zero pages
NO_FIXED: Final = 1
RESERVATION: Final = "reservation "  # followed by a name: a reservation's own book
MOST_PAGES: Final = MANAGER_FIGURE_BYTES_MAX // PAGE_SIZE  # no VM has more, whatever is said of it
# A VM may reserve as much as it likes, as long as all fit at their minimums.
RULES: Final = OvercommitRules(worst_case=True)


class Claims:
    """The books of one host's VMs and reservations."""

    def __init__(self, limit_pages: int) -> None:
        self.gmm: Final = CountedBooks(limit_pages)
        self.gmm.rules = RULES

    @staticmethod
    def rank(record: Record) -> int:
        """Return whose book is opened first of those that appear together: the higher priority is."""
        return PRIORITIES[record.config.priority]

    def pages(self, name: str) -> int:
        """Return the claim of one VM; 0 if it is absent."""
        return self.gmm.allocated(name) if name in self.gmm else 0

    def begin(self, record: Record) -> None:
        """Open the book of a VM that has appeared, at its full size, whether it fits or not."""
        boot = min(record.boot_pages, record.most_pages, MOST_PAGES)
        priority = PRIORITIES[record.config.priority]
        size = max(1, boot)
        reservation = RESERVATION + record.name
        is_admitted = reservation in self.gmm
        if is_admitted:
            self.gmm.limit_balloon(reservation, 0)  # from now on its own minimum counts
        self.gmm.take_in(
            record.name, size, NO_SHADOW, NO_FIXED, OcPolicy.TBD, priority, least=record.floor_pages
        )
        if is_admitted:
            self.gmm.accept(record.name)
        self._set(record, boot, self.gmm.figures(record.name))

    def limit(self, pages: int) -> None:
        """Change what the books may allocate at most."""
        self.gmm.max_pages = pages

    def change_priority(self, record: Record) -> None:
        """Write a VM's present priority into its book."""
        self.gmm.set_priority(record.name, PRIORITIES[record.config.priority])

    def end(self, name: str) -> int:
        """Close the book of a VM whose process has ended; return the pages that are free again."""
        return self.gmm.cleanup_vm(name)

    def reset(self, record: Record) -> None:
        """Book the larger of boot size and target: the guest starts again, with its balloon empty."""
        full = max(record.boot_pages, record.target_pages or 0)
        figures = self.gmm.figures(record.name)
        self._set(record, max(min(full, record.most_pages), figures.allocated), figures)

    def observe(self, record: Record, now_ns: int) -> None:
        """Book what the sweep saw: more at once, less only where it is measured free."""
        figures = self.gmm.figures(record.name)
        held = figures.allocated
        needed = max(record.assigned_pages, 0 if record.reported else record.boot_pages)
        measured = held if record.guest_pages is None else min(held, record.guest_pages)
        self._set(record, max(0, min(max(needed, measured), record.most_pages)), figures)
        if figures.least != record.floor_pages:
            self.gmm.limit_balloon(record.name, record.floor_pages)
        if figures.may_not_allocate_why:
            self.gmm.reconsider(record.name)
        self._ask(record, figures)
        if record.late_pages(now_ns):
            self.gmm.give_up(record.name)
        elif figures.is_stuck:  # it has time again
            self.gmm.request_pages(record.name, record.owed_pages)

    def ask(self, record: Record) -> None:
        """Book what a VM is asked for by a target that is about to be sent."""
        self._ask(record, self.gmm.figures(record.name))

    def grant(self, record: Record, target_pages: int, *, checked: bool) -> None:
        """Book a larger target that is about to be sent; *checked* holds it to the limit of the books."""
        believed = min(target_pages, record.most_pages)
        if believed > self.pages(record.name):
            self._set(record, believed, self.gmm.figures(record.name), checked=checked)

    def barred(self, name: str) -> str:
        """Return why a VM is never grown now, as a sentence; "" if it may be."""
        why = self.gmm.may_not_allocate_why(name)
        if not why or not (made := self.gmm.admission(name)).refusal:
            return why
        least, others, left = map(_whole, (made.least_pages, made.others_least_pages, made.worst_pages))
        return (
            f"does not fit, and is not grown: its minimum is {least}, those of the others ({others}) leave"
            f" {left} of {format_pages(made.max_pages)}: end a VM, or lower a minimum"
        )

    def bar(self, name: str, why: str) -> None:
        """Never grow a VM from now on."""
        self.gmm.forbid_allocation(name, why)

    def _ask(self, record: Record, before: Figures) -> None:
        owed, returning = record.owed_pages, record.returning_pages
        if owed != before.requested:
            self.gmm.request_pages(record.name, owed)
        if returning != before.returning:
            self.gmm.request_deflate(record.name, returning)

    def _set(self, record: Record, pages: int, before: Figures, *, checked: bool = False) -> None:
        """Book that this VM now has *pages*, and its balloon the rest of what it reserves.

        It reserves its boot size, or more if it has grown beyond that. Growth that is not *checked* is a
        fact, and no limit refuses it. What shrinks goes first: no reservation falls below what is held.
        """
        gmm, name = self.gmm, record.name
        pages = min(pages, MOST_PAGES)
        growth = pages - before.allocated
        reserved = max(1, min(record.boot_pages, record.most_pages, MOST_PAGES), pages)
        if growth == 0 and reserved == before.reserved:
            return
        inflated = reserved - pages - before.ballooned
        if growth < 0:
            gmm.release_pages(name, -growth, Account.BASE)
        if inflated < 0:
            gmm.ballooned_pages(name, BalloonAction.DEFLATE, -inflated)
        if reserved != before.reserved:
            gmm.update_reservation(name, reserved, NO_SHADOW, NO_FIXED)
        if growth > 0:
            allocate = gmm.charge_pages if checked else gmm.adopt_pages
            allocate(name, growth, Account.BASE)
        if inflated > 0:
            gmm.ballooned_pages(name, BalloonAction.INFLATE, inflated)

    def reserve(self, name: str, size_pages: int, least_pages: int) -> None:
        """Open the book of a reservation, or open it again with other sizes."""
        book = RESERVATION + name
        if book in self.gmm:
            self.gmm.cleanup_vm(book)
        self.gmm.take_in(
            book, size_pages, NO_SHADOW, NO_FIXED, OcPolicy.TBD, GmmPriority.HIGH, least=least_pages
        )

    def unreserve(self, name: str) -> None:
        """Close the book of a reservation."""
        self.gmm.cleanup_vm(RESERVATION + name)

    def reserved(self, name: str) -> int:
        """Return the pages of a reservation; 0 if there is none."""
        book = RESERVATION + name
        return self.gmm.reserved(book) if book in self.gmm else 0

    def reserved_least(self, name: str) -> int:
        """Return what a reservation comes down to once its VM is there; 0 if there is none. Pages."""
        book = RESERVATION + name
        return self.gmm.figures(book).least if book in self.gmm else 0


def _whole(pages: int) -> str:
    """Return a size to the MiB: the books have a page more for each account that no VM here uses."""
    step = MIB // PAGE_SIZE
    return format_pages((pages + step // 2) // step * step)


def limit_pages(budget_bytes: int, slush_bytes: int) -> int:
    """Return what the books may allocate at most."""
    return pages_of(max(0, budget_bytes - slush_bytes))
