"""The accounts of the VMs: what each reserves, holds and has ballooned, by count.

Pages that are only counted belong to one VM, so they are private pages, and their chunks are whole 2 MiB
pieces of that VM. Each call does all that it says, or raises GmmError and changes nothing; but a VM whose
update of its reservation is declined may not allocate until another one is accepted.
"""

from collections.abc import Iterator
from typing import Final, Self

from dynmem.gmm.book import ACCOUNTS, Book
from dynmem.gmm.codes import Account, BalloonAction, GmmError, OcPolicy, Priority, Status
from dynmem.gmm.overcommit import Admission, Backing, Commitments, OvercommitRules
from dynmem.gmm.shortage import Giver
from dynmem.gmm.statistics import MemoryStats

# Physical addresses have 52 bits at most; the sum over all VMs fits into a field of 64 bits then.
_BASE_PAGES_MAX: Final = 1 << 40
# The fields of GMMVMSIZES have 32 bits.
_OTHER_PAGES_MAX: Final = (1 << 32) - 1


class Accounts:
    """Accounts of all VMs under one limit of *max_pages*.

    A VM is known by its name. Totals are kept as they change, and `verify` compares them with the sum of the
    VMs.

    Attributes:
        max_pages: The most that may be allocated.
        reserved_pages: What all VMs have reserved.
        charged_pages: What all VMs are charged for.
        duplicate_pages: What of that is charged more than once: references to a shared page beyond the first.
        ballooned: What all guests have given up.
        chunks: Chunks of the pages without ids.
        freed_chunks: How many of these went back to the host, ever.
        rules: How far reservations may exceed the maximum.
        commitments: What the host stands for.
    """

    def __init__(self, max_pages: int) -> None:
        if max_pages < 0:
            raise GmmError(Status.INVALID_PARAMETER, f"a limit of {max_pages} pages is negative")
        self.max_pages: int = max_pages
        self.reserved_pages: int = 0
        self.charged_pages: int = 0
        self.duplicate_pages: int = 0
        self.ballooned: int = 0
        self.chunks: int = 0
        self.freed_chunks: int = 0
        self.rules: OvercommitRules = OvercommitRules()
        self.commitments: Commitments = Commitments()
        self._vms: dict[str, Book] = {}

    def __contains__(self, vm: str) -> bool:
        return vm in self._vms

    def __iter__(self) -> Iterator[str]:
        return iter(self._vms)

    def __len__(self) -> int:
        return len(self._vms)

    def initial_reservation(
        self,
        vm: str,
        base_pages: int,
        shadow_pages: int,
        fixed_pages: int,
        policy: OcPolicy,
        priority: Priority,
        *,
        least: int = 0,
        is_running: bool = False,
    ) -> None:
        """Open the book of a VM, once and before anything else (GMMR0InitialReservation).

        It is declined (MEMORY_RESERVATION_DECLINED, with the numbers) if the rules of over-commitment forbid
        it; a VM that runs already is taken in instead, and may not allocate. Its balloon leaves it *least*
        base pages.
        """
        reserved = _checked_reservation(base_pages, shadow_pages, fixed_pages)
        if policy not in (OcPolicy.NO_OC, OcPolicy.TBD):
            raise GmmError(Status.INVALID_PARAMETER, f"{policy!r} is not an over-commit policy")
        _check_priority(priority)
        if vm in self._vms:
            raise GmmError(Status.WRONG_ORDER, f"{vm} has made its initial reservation already")
        book = Book(reserved, policy, priority)
        book.least = least
        made = self.commitments.admission(vm, book.backing, None, self.max_pages, self.rules)
        if not is_running:
            _decline(made)
        book.refusal = made.refusal
        self._vms[vm] = book
        self.commitments.add(book.backing)
        self.reserved_pages += sum(reserved.values())

    def update_reservation(self, vm: str, base_pages: int, shadow_pages: int, fixed_pages: int) -> None:
        """Replace what a VM reserves (GMMR0UpdateReservation).

        It is declined (MEMORY_RESERVATION_DECLINED) if it cannot be backed, or if an account holds more than
        that already: then the VM may not allocate until an update is accepted.
        """
        book = self.book(vm)
        reserved = _checked_reservation(base_pages, shadow_pages, fixed_pages)
        try:
            _decline_below_use(vm, book, reserved)
            _decline(self.admission(vm, reserved))
        except GmmError as error:
            book.refusal = str(error)
            raise
        before = book.backing
        self.reserved_pages += sum(reserved.values()) - sum(book.reserved.values())
        book.reserved = reserved
        self._commit(book, before)
        book.refusal = self.admission_anew(vm).refusal if book.refusal else ""

    def reconsider(self, vm: str) -> str:
        """Return why a VM that was declined, or did not fit when it was taken in, does not fit now; "" if so.

        Once it fits, it may allocate.
        """
        book = self.book(vm)
        if book.refusal:
            book.refusal = self.admission_anew(vm).refusal
        return book.refusal

    def limit_balloon(self, vm: str, least: int) -> None:
        """Leave a VM at least so many base pages: no balloon takes these, and nobody is asked for them."""
        book = self.book(vm)
        if least < 0:
            raise GmmError(Status.INVALID_PARAMETER, f"a balloon cannot leave {vm} {least} pages")
        before = book.backing
        book.least = least
        self._commit(book, before)

    def admission(self, vm: str, reserved: dict[Account, int]) -> Admission:
        """Return how another reservation of a VM is decided."""
        book = self.book(vm)
        return self.commitments.admission(vm, book.asks(reserved), book.backing, self.max_pages, self.rules)

    def admission_anew(self, vm: str) -> Admission:
        """Return how the present reservation of a VM would be decided if it came now."""
        before, commitments = self.book(vm).backing, self.commitments
        commitments.remove(before)
        admission = commitments.admission(vm, before, None, self.max_pages, self.rules)
        commitments.add(before)
        return admission

    def ask(self, vm: str, pages: int, account: Account) -> None:
        """Record that a VM is asked for so many pages in all; 0 withdraws that."""
        book = self.book(vm)
        if account not in (Account.BASE, Account.SHADOW) or pages < 0:
            raise GmmError(Status.INVALID_PARAMETER, f"{vm} cannot give {pages} pages of {account!r}")
        book.asked.ask(account, pages)

    def set_priority(self, vm: str, priority: Priority) -> None:
        """Give a VM another priority."""
        _check_priority(priority)
        self.book(vm).priority = priority

    def forbid_allocation(self, vm: str, why: str) -> None:
        """Stop a VM from allocating (fMayAllocate), for a reason that it is given; "" lifts this again.

        A declined update has the same effect until one is accepted, whatever is lifted here.
        """
        self.book(vm).order = why

    def check_allocation(self, vm: str, pages: int, account: Account) -> Book:
        """Return the book of a VM that may be charged *pages* more; raise GmmError if it may not.

        The global limit comes first (HIT_GLOBAL_LIMIT, or OVERCOMMITTED_TRY_AGAIN_IN_A_BIT if what is missing
        was asked for and is on its way), then the account (HIT_VM_ACCOUNT_LIMIT; TRY_AGAIN if that account is
        being squeezed), then whether the VM may allocate at all (HIT_VM_ACCOUNT_LIMIT).
        """
        book = self.book(vm)
        _check_pages(pages, account, "charged")
        missing = pages - self.free_pages(book.policy)
        if missing > 0:
            raise self._hit_limit(vm, pages, missing)
        if account is Account.SHADOW and book.asked.shadow:
            raise GmmError(
                Status.OVERCOMMITTED_TRY_AGAIN_IN_A_BIT,
                f"{vm} requests {pages} pages in {account.name}, and is to give {book.asked.shadow} there",
            )
        self._check_account(vm, book, pages, account)
        if why := book.may_not_allocate_why:
            raise GmmError(Status.HIT_VM_ACCOUNT_LIMIT, f"{vm} may not allocate: {why}")
        return book

    def charge_pages(self, vm: str, pages: int, account: Account) -> None:
        """Charge *pages* that have no page ids to an account, all or nothing."""
        self._count(self.check_allocation(vm, pages, account), account, pages)

    def adopt_pages(self, vm: str, pages: int, account: Account) -> None:
        """Charge pages that a VM holds already.

        VirtualBox has no such call: no limit refuses a fact; what exceeds the limit is the shortage.
        """
        book = self.book(vm)
        _check_pages(pages, account, "adopted")
        self._check_account(vm, book, pages, account)
        self._count(book, account, pages)

    def release_pages(self, vm: str, pages: int, account: Account) -> None:
        """Take *pages* that have no page ids off an account."""
        book = self.book(vm)
        _check_pages(pages, account, "released")
        if pages > (most := book.counted[account]):
            raise GmmError(
                Status.ATTEMPT_TO_FREE_TOO_MUCH,
                f"{vm} releases {pages} pages of {most} without ids in {account.name}",
            )
        self._count(book, account, -pages)

    def identify(self, book: Book, account: Account, pages: int) -> None:
        """Charge an account with pages that have ids; a negative number takes them off."""
        self._charge(book, account, pages)

    def forget(self, book: Book, pages: int) -> None:
        """Take pages with ids off the accounts of a VM that ended, whichever they were charged to."""
        for account in ACCOUNTS:
            some = min(pages, book.identified(account))
            self.identify(book, account, -some)
            pages -= some

    def ballooned_pages(self, vm: str, action: BalloonAction, pages: int) -> None:
        """Count pages in the balloon (GMMR0BalloonedPages); the caller frees or allocates them.

        INFLATE after freeing, DEFLATE before allocating, RESET (with 0 pages) when the guest starts again.
        """
        book = self.book(vm)
        if pages < 0:
            raise GmmError(Status.INVALID_PARAMETER, f"{pages} ballooned pages are negative")
        match action:
            case BalloonAction.INFLATE:
                held = book.held(Account.BASE)
                if held + pages > book.reserved[Account.BASE]:
                    raise GmmError(
                        Status.ATTEMPT_TO_FREE_TOO_MUCH,
                        f"{vm} balloons {pages} pages and holds {held} of {book.reserved[Account.BASE]}",
                    )
                change = pages
                book.asked.gave(Account.BASE, pages)
            case BalloonAction.DEFLATE:
                if pages > book.ballooned:
                    raise GmmError(
                        Status.ATTEMPT_TO_DEFLATE_TOO_MUCH,
                        f"{vm} deflates by {pages} pages, {book.ballooned} are ballooned",
                    )
                change = -pages
                book.asked.returning = max(0, book.asked.returning - pages)
            case BalloonAction.RESET:
                change = -book.ballooned
                book.asked.ask(Account.BASE, 0)
                book.asked.returning = 0
            case _:
                raise GmmError(Status.INVALID_PARAMETER, f"{action!r} is not a balloon action")
        book.ballooned += change
        self.ballooned += change

    def cleanup_vm(self, vm: str) -> int:
        """Close the book of a VM that is gone; return the pages that it held (GMMR0CleanupVM)."""
        book = self.book(vm)
        freed = book.total_allocated
        self.commitments.remove(book.backing)
        self.charged_pages -= freed
        self.chunks -= book.chunks
        self.freed_chunks += book.chunks
        self.ballooned -= book.ballooned
        self.reserved_pages -= sum(book.reserved.values())
        del self._vms[vm]
        return freed

    @property
    def allocated_pages(self) -> int:
        """Pages that are allocated: a shared one counts once, however many VMs are charged for it."""
        return self.charged_pages - self.duplicate_pages

    def free_pages(self, policy: OcPolicy) -> int:
        """Return what a VM of this policy finds free; negative: so much is missing."""
        return self.commitments.limit(policy, self.max_pages, self.rules) - self.allocated_pages

    def givers(self) -> Iterator[Giver]:
        """Yield each VM as far as it can give."""
        return (book.giver(vm) for vm, book in self._vms.items())

    def query_memory_stats(self, vm: str) -> MemoryStats:
        """Return the figures of one VM's base account (GMMR0QueryMemoryStatsReq, GMMR3QueryMemoryStats)."""
        book = self.book(vm)
        allocated, most = book.allocated[Account.BASE], book.reserved[Account.BASE]
        return MemoryStats(allocated, max(0, most - allocated), most, book.ballooned)

    def allocated(self, vm: str, account: Account = Account.BASE) -> int:
        """Return the pages of one account, without building statistics."""
        return self.book(vm).allocated[account]

    def reserved(self, vm: str, account: Account = Account.BASE) -> int:
        """Return the reserved pages of one account, without building statistics."""
        return self.book(vm).reserved[account]

    def verify(self) -> Self:
        """Assert that every total is the sum of the VMs' books and that each book keeps its own rules."""
        books = self._vms.values()
        assert self.charged_pages == sum(book.total_allocated for book in books)
        assert self.ballooned == sum(book.ballooned for book in books)
        assert self.reserved_pages == sum(sum(book.reserved.values()) for book in books)
        assert self.chunks == sum(book.chunks for book in books)
        commitments = Commitments()
        for book in books:
            commitments.add(book.backing)
        for each in Commitments.__slots__:
            assert getattr(commitments, each) == getattr(self.commitments, each), each
        for book in books:
            assert min(book.ballooned, *book.counted.values(), *map(book.identified, ACCOUNTS)) >= 0
            assert all(book.held(account) <= book.reserved[account] for account in ACCOUNTS)
        return self

    def book(self, vm: str) -> Book:
        """Return the book of a VM, or raise GmmError (WRONG_ORDER) if it has made no reservation."""
        try:
            return self._vms[vm]
        except KeyError:
            raise GmmError(Status.WRONG_ORDER, f"{vm} has no initial reservation") from None

    def _hit_limit(self, vm: str, pages: int, missing: int) -> GmmError:
        kept = self.rules.slush_pages + self.commitments.unclaimed
        what = f"{vm} requests {pages} pages, {max(0, pages - missing)} are left of {self.max_pages}" + (
            f" beside {kept} that are kept for others" if kept else ""
        )
        coming = sum(giver.under_way_pages for giver in self.givers())
        if coming >= missing:
            return GmmError(Status.OVERCOMMITTED_TRY_AGAIN_IN_A_BIT, f"{what}, and {coming} are on their way")
        return GmmError(Status.HIT_GLOBAL_LIMIT, what)

    def _commit(self, book: Book, before: Backing) -> None:
        self.commitments.remove(before)
        self.commitments.add(book.backing)

    def _charge(self, book: Book, account: Account, pages: int) -> None:
        """Charge an account with pages of either kind; a negative number takes them off."""
        book.allocated[account] += pages
        self.charged_pages += pages
        self.commitments.allocate(book.policy, pages)
        if pages < 0 and account is Account.SHADOW:
            book.asked.gave(account, -pages)

    def _check_account(self, vm: str, book: Book, pages: int, account: Account) -> None:
        ballooned = book.held(account) - book.allocated[account]
        if book.held(account) + pages > book.reserved[account]:
            raise GmmError(
                Status.HIT_VM_ACCOUNT_LIMIT,
                f"{vm} has {book.allocated[account]} pages and {ballooned} ballooned of "
                f"{book.reserved[account]} in {account.name}; {pages} more do not fit",
            )

    def _count(self, book: Book, account: Account, pages: int) -> None:
        """Charge an account with pages that have no ids; a negative number takes them off."""
        before = book.chunks
        self._charge(book, account, pages)
        book.counted[account] += pages
        self.chunks += book.chunks - before
        self.freed_chunks += max(0, before - book.chunks)


def _checked_reservation(base_pages: int, shadow_pages: int, fixed_pages: int) -> dict[Account, int]:
    counts = dict(zip(ACCOUNTS, (base_pages, shadow_pages, fixed_pages), strict=True))
    if min(counts.values()) < 1:
        raise GmmError(
            Status.INVALID_PARAMETER, f"a reservation of {tuple(counts.values())} pages contains a zero"
        )
    if base_pages > _BASE_PAGES_MAX or max(shadow_pages, fixed_pages) > _OTHER_PAGES_MAX:
        raise GmmError(
            Status.INVALID_PARAMETER,
            f"a reservation of {tuple(counts.values())} pages is more than a VM can have: "
            f"{_BASE_PAGES_MAX} base pages (addresses of 52 bits), {_OTHER_PAGES_MAX} shadow and fixed each",
        )
    return counts


def _check_pages(pages: int, account: Account, what: str) -> None:
    if account not in ACCOUNTS or pages < 1:
        raise GmmError(Status.INVALID_PARAMETER, f"{pages} pages of {account!r} cannot be {what}")


def _check_priority(priority: Priority) -> None:
    if priority not in (Priority.HIGH, Priority.NORMAL, Priority.LOW):
        raise GmmError(Status.INVALID_PARAMETER, f"{priority!r} is not a priority")


def _decline(made: Admission) -> None:
    if refusal := made.refusal:
        raise GmmError(Status.MEMORY_RESERVATION_DECLINED, refusal, made.numbers)


def _decline_below_use(vm: str, book: Book, reserved: dict[Account, int]) -> None:
    for account in ACCOUNTS:
        if book.held(account) > reserved[account]:
            raise GmmError(
                Status.MEMORY_RESERVATION_DECLINED,
                f"{vm} reserves {reserved[account]} pages in {account.name} and has {book.held(account)}, "
                "with those ballooned: free them first",
            )
