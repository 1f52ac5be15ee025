"""The claims of the VMs: what each may take without asking, kept in the books of the GMM and nowhere else.

Four facts move the books. Growth is booked when the target is set. Shrinking is booked when `actual` fell and
the host no longer measures the memory as resident. Start and RESET book the larger of boot size and target. A
process that has ended is cleaned up. In the books, allocated + ballooned = reserved for every VM at every
moment.

A claim takes memory from others, so no figure of a VM's own monitor makes one alone:

    the VM's size, as its monitor reports it      counts as
    up to its maximum and to the host's memory    what it reports, and what the host still measures of more
    more than that                                its maximum or, if the host measures more, that
    more than that, and it cannot be measured     its maximum
"""

from typing import Final

from dynmem.gmm import Account, BalloonAction, GlobalMemoryManager, OcPolicy
from dynmem.gmm import Priority as GmmPriority
from dynmem.manager.step.record import Record
from dynmem.units import pages_of

# The words of the configuration and the numbers of the GMM's ABI.
PRIORITIES: Final = {"high": GmmPriority.HIGH, "normal": GmmPriority.NORMAL, "low": GmmPriority.LOW}
NO_SHADOW: Final = 1  # the GMM takes no reservation of zero pages
NO_FIXED: Final = 1
RESERVATION: Final = "reservation "  # followed by a name: a reservation's own book


class Claims:
    """The books of one host's VMs and reservations."""

    def __init__(self, limit_pages: int) -> None:
        self.gmm: Final = GlobalMemoryManager(limit_pages)

    def pages(self, name: str) -> int:
        """Return the claim of one VM; 0 if it is absent."""
        return self.gmm.allocated(name) if name in self.gmm else 0

    def begin(self, record: Record) -> None:
        """Open the book of a VM that has appeared, at its full size."""
        boot, priority = min(record.boot_pages, record.most_pages), PRIORITIES[record.config.priority]
        size = max(1, boot)
        self.gmm.initial_reservation(record.name, size, NO_SHADOW, NO_FIXED, OcPolicy.TBD, priority)
        self._set(record, boot)

    def limit(self, pages: int) -> None:
        """Change what the books may allocate at most."""
        self.gmm.max_pages = pages

    def change_priority(self, record: Record) -> None:
        """Write a VM's book under its present priority."""
        pages = self.pages(record.name)
        self.end(record.name)
        self.begin(record)
        self._set(record, pages)

    def end(self, name: str) -> int:
        """Close the book of a VM whose process has ended; return the pages that are free again."""
        return self.gmm.cleanup_vm(name)

    def reset(self, record: Record) -> None:
        """Book the larger of boot size and target: the guest starts again, with its balloon empty."""
        full = max(record.boot_pages, record.target_pages or 0)
        self._set(record, max(min(full, record.most_pages), self.pages(record.name)))

    def observe(self, record: Record) -> None:
        """Book what the sweep saw: more at once, less only where it is measured free."""
        held = self.pages(record.name)
        needed = max(record.assigned_pages, 0 if record.reported else record.boot_pages)
        measured = held if record.guest_pages is None else min(held, record.guest_pages)
        self._set(record, max(0, min(max(needed, measured), record.most_pages)))

    def grant(self, record: Record, target_pages: int, *, checked: bool) -> None:
        """Book a larger target that is about to be sent; *checked* holds it to the limit of the books."""
        believed = min(target_pages, record.most_pages)
        if believed > self.pages(record.name):
            self._set(record, believed, checked=checked)

    def _set(self, record: Record, pages: int, *, checked: bool = False) -> None:
        """Book that this VM now has *pages*, and its balloon the rest of what it reserves.

        It reserves its boot size, or more if it has grown beyond that. Growth that is not *checked* is a
        fact, and no limit refuses it.
        """
        gmm, name = self.gmm, record.name
        growth = pages - self.pages(name)
        reserved = max(1, min(record.boot_pages, record.most_pages), pages)
        if growth == 0 and reserved == gmm.reserved(name):
            return
        gmm.ballooned_pages(name, BalloonAction.RESET, 0)
        if growth < 0:  # first, for a reservation cannot fall below what is charged
            gmm.release_pages(name, -growth, Account.BASE)
        gmm.update_reservation(name, reserved, NO_SHADOW, NO_FIXED)
        if growth > 0:
            allocate = gmm.charge_pages if checked else gmm.adopt_pages
            allocate(name, growth, Account.BASE)
        gmm.ballooned_pages(name, BalloonAction.INFLATE, reserved - pages)

    def reserve(self, name: str, size_pages: int) -> None:
        """Open, or change, the book of a reservation."""
        book = RESERVATION + name
        if book in self.gmm:
            self.gmm.update_reservation(book, size_pages, NO_SHADOW, NO_FIXED)
        else:
            self.gmm.initial_reservation(
                book, size_pages, NO_SHADOW, NO_FIXED, OcPolicy.TBD, GmmPriority.HIGH
            )

    def unreserve(self, name: str) -> None:
        """Close the book of a reservation."""
        self.gmm.cleanup_vm(RESERVATION + name)

    def reserved(self, name: str) -> int:
        """Return the pages of a reservation; 0 if there is none."""
        book = RESERVATION + name
        return self.gmm.reserved(book) if book in self.gmm else 0


def limit_pages(budget_bytes: int, slush_bytes: int) -> int:
    """Return what the books may allocate at most."""
    return pages_of(max(0, budget_bytes - slush_bytes))
