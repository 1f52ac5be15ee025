"""The claims of the VMs: what each may take without asking, kept in the books of the GMM and nowhere else.

Four facts move the books. Growth is booked when the target is set. Shrinking is booked when `actual` fell and
the host no longer measures the memory as resident. Start and RESET book the larger of boot size and target. A
process that is gone is cleaned up. In the books, allocated + ballooned = reserved for every VM at every
moment.
"""

from typing import Final

from dynmem.gmm import Account, BalloonAction, Gmm, OcPolicy
from dynmem.gmm import Priority as GmmPriority
from dynmem.manager.step.record import Record
from dynmem.units import pages_of

PRIORITIES: Final = {"high": GmmPriority.HIGH, "normal": GmmPriority.NORMAL, "low": GmmPriority.LOW}
NO_SHADOW: Final = 1  # the GMM takes no reservation of zero pages
NO_FIXED: Final = 1
RESERVATION: Final = "reservation "  # followed by a name: a reservation's own book


class Claims:
    """The books of one host's VMs and reservations."""

    def __init__(self, limit_pages: int) -> None:
        self.gmm = Gmm(limit_pages)

    def begin(self, record: Record) -> None:
        """A VM has appeared: book its full size."""
        self.gmm.initial_reservation(
            record.name,
            max(1, record.boot_pages),
            NO_SHADOW,
            NO_FIXED,
            OcPolicy.TBD,
            PRIORITIES[record.config.priority],
        )
        self._book(record, record.boot_pages)

    def end(self, name: str) -> int:
        """A VM's process is gone: free all that it held. Pages."""
        return self.gmm.cleanup_vm(name)

    def reset(self, record: Record) -> None:
        """The guest starts anew, with its balloon empty: book the larger of boot size and target."""
        held = self.pages(record.name)
        self.gmm.ballooned_pages(record.name, BalloonAction.RESET, 0)
        claim = max(record.boot_pages, record.target_pages or 0, held)
        self._reserve(record, claim)
        if claim > held:
            self.gmm.adopt_pages(record.name, claim - held, Account.BASE)
        self._balloon_rest(record)

    def observe(self, record: Record) -> None:
        """Book what the sweep saw: more at once, less only where it is measured free."""
        held = self.pages(record.name)
        needed = max(record.assigned_pages, 0 if record.reported else record.boot_pages)
        resident = record.resident_pages
        if resident is None:
            needed = max(needed, held)
        else:
            needed = max(needed, min(held, resident - record.known_overhead_pages))
        self._book(record, needed)

    def grant(self, record: Record, target_pages: int, *, checked: bool) -> None:
        """A larger target is about to be sent: book it; `checked` holds it against the limit of the books."""
        held = self.pages(record.name)
        if target_pages <= held:
            return
        self._make_room(record, target_pages - held)
        allocate = self.gmm.allocate_pages if checked else self.gmm.adopt_pages
        allocate(record.name, target_pages - held, Account.BASE)

    def pages(self, name: str) -> int:
        """The claim of one VM (0 when it is not there)."""
        return self.gmm.allocated(name) if name in self.gmm else 0

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
        """Pages of a reservation (0 when there is none)."""
        book = RESERVATION + name
        return self.gmm.reserved(book) if book in self.gmm else 0

    def _book(self, record: Record, pages: int) -> None:
        """Set the claim to `pages`, as a fact."""
        held = self.pages(record.name)
        if pages > held:
            self._make_room(record, pages - held)
            self.gmm.adopt_pages(record.name, pages - held, Account.BASE)
        elif pages < held:
            self.gmm.free_pages(record.name, held - pages, Account.BASE)
        self._reserve(record, pages)
        self._balloon_rest(record)

    def _make_room(self, record: Record, pages: int) -> None:
        """Take pages out of the balloon's book so that they can be allocated."""
        ballooned = self.gmm.query_memory_stats(record.name).ballooned_pages
        if ballooned:
            self.gmm.ballooned_pages(record.name, BalloonAction.DEFLATE, min(pages, ballooned))
        self._reserve(record, self.pages(record.name) + max(0, ballooned - pages) + pages)

    def _reserve(self, record: Record, pages: int) -> None:
        """A VM that is larger than it booted (hot-added memory, or a wrong boot size) reserves that much."""
        size = max(1, record.boot_pages, pages)
        if size != self.gmm.reserved(record.name):
            self.gmm.update_reservation(record.name, size, NO_SHADOW, NO_FIXED)

    def _balloon_rest(self, record: Record) -> None:
        """What is reserved and not claimed is in the balloon."""
        ballooned = self.gmm.query_memory_stats(record.name).ballooned_pages
        rest = self.gmm.reserved(record.name) - self.pages(record.name) - ballooned
        if rest > 0:
            self.gmm.ballooned_pages(record.name, BalloonAction.INFLATE, rest)
        elif rest < 0:
            self.gmm.ballooned_pages(record.name, BalloonAction.DEFLATE, -rest)


def limit_pages(budget_bytes: int, slush_bytes: int) -> int:
    """What the books may allocate at most."""
    return pages_of(max(0, budget_bytes - slush_bytes))
