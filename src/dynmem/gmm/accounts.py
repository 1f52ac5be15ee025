"""The accounts of the VMs: what each reserves, holds and has ballooned, by count.

Pages that are only counted belong to one VM, so they are private pages, and their chunks are whole 2 MiB
pieces of that VM. Each call does all that it says, or raises GmmError and changes nothing; but a VM whose
update of its reservation is declined may not allocate until another one is accepted.
"""

from collections.abc import Iterator
from typing import Final, Self

from dynmem.gmm.codes import Account, BalloonAction, GmmError, OcPolicy, Priority, Status
from dynmem.gmm.constants import GMM_CHUNK_NUM_PAGES
from dynmem.gmm.statistics import MemoryStats, VmSizes, VmStats

ACCOUNTS: Final = (Account.BASE, Account.SHADOW, Account.FIXED)
_BASE_PAGES_MAX: Final = (1 << 64) - 1
_OTHER_PAGES_MAX: Final = (1 << 32) - 1


class Book:
    """The account book of one VM.

    Attributes:
        reserved: Pages reserved, by account.
        allocated: Pages charged, by account.
        identified: Those of them that have page ids: its private pages and its references to shared ones.
        ballooned: Pages that its guest has given up.
        policy: Its over-commit policy.
        priority: Its priority.
        refusal: Why the last update of the reservation was declined; "" if it was not.
        order: Why somebody forbade the VM to allocate; "" if nobody did.
    """

    __slots__ = ("allocated", "ballooned", "identified", "order", "policy", "priority", "refusal", "reserved")

    def __init__(self, reserved: dict[Account, int], policy: OcPolicy, priority: Priority) -> None:
        self.reserved = reserved
        self.allocated = dict.fromkeys(ACCOUNTS, 0)
        self.identified = 0
        self.ballooned = 0
        self.policy = policy
        self.priority = priority
        self.refusal = ""
        self.order = ""

    @property
    def total_allocated(self) -> int:
        """Pages charged to all accounts."""
        return sum(self.allocated.values())

    @property
    def counted(self) -> int:
        """Pages that have no ids."""
        return self.total_allocated - self.identified

    @property
    def may_not_allocate_why(self) -> str:
        """Why it may not allocate; "" if it may."""
        return self.order or self.refusal

    def held(self, account: Account) -> int:
        """Return the pages of an account, with those in the balloon."""
        return self.allocated[account] + (self.ballooned if account is Account.BASE else 0)

    @property
    def chunks(self) -> int:
        """Whole chunks that its pages without ids take."""
        return -(-self.counted // GMM_CHUNK_NUM_PAGES)

    def stats(self, shared_pages: int, *, shared_paging_enabled: bool) -> VmStats:
        """Return its figures; *shared_pages* of those with ids are references."""
        return VmStats(
            reserved=_sizes(self.reserved),
            allocated=_sizes(self.allocated),
            private_pages=self.total_allocated - shared_pages,
            ballooned_pages=self.ballooned,
            max_ballooned_pages=self.reserved[Account.BASE],
            policy=self.policy,
            priority=self.priority,
            may_allocate=not self.may_not_allocate_why,
            may_not_allocate_why=self.may_not_allocate_why,
            shared_pages=shared_pages,
            shared_paging_enabled=shared_paging_enabled,
        )


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
    """

    def __init__(self, max_pages: int) -> None:
        if max_pages < 0:
            raise GmmError(Status.INVALID_PARAMETER, f"a limit of {max_pages} pages is negative")
        self.max_pages = max_pages
        self.reserved_pages = 0
        self.charged_pages = 0
        self.duplicate_pages = 0
        self.ballooned = 0
        self.chunks = 0
        self.freed_chunks = 0
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
    ) -> None:
        """Open the book of a VM, once and before anything else (GMMR0InitialReservation).

        A VM with the policy NO_OC is declined (MEMORY_RESERVATION_DECLINED) if what it reserves cannot be
        backed beside all that is allocated; one with TBD may reserve beyond the limit and is bounded when it
        allocates.
        """
        reserved = _checked_reservation(base_pages, shadow_pages, fixed_pages)
        if policy not in (OcPolicy.NO_OC, OcPolicy.TBD):
            raise GmmError(Status.INVALID_PARAMETER, f"{policy!r} is not an over-commit policy")
        if priority not in (Priority.HIGH, Priority.NORMAL, Priority.LOW):
            raise GmmError(Status.INVALID_PARAMETER, f"{priority!r} is not a priority")
        if vm in self._vms:
            raise GmmError(Status.WRONG_ORDER, f"{vm} has made its initial reservation already")
        book = Book(reserved, policy, priority)
        self._decline_unbacked(vm, book, reserved)
        self._vms[vm] = book
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
            self._decline_unbacked(vm, book, reserved)
        except GmmError as error:
            book.refusal = str(error)
            raise
        book.refusal = ""
        self.reserved_pages += sum(reserved.values()) - sum(book.reserved.values())
        book.reserved = reserved

    def forbid_allocation(self, vm: str, why: str) -> None:
        """Stop a VM from allocating (fMayAllocate), for a reason that it is given; "" lifts this again.

        A declined update has the same effect until one is accepted, whatever is lifted here.
        """
        self.book(vm).order = why

    def check_allocation(self, vm: str, pages: int, account: Account) -> Book:
        """Return the book of a VM that may be charged *pages* more; raise GmmError if it may not.

        The global limit comes first (HIT_GLOBAL_LIMIT), then the account (HIT_VM_ACCOUNT_LIMIT), then whether
        the VM may allocate at all (HIT_VM_ACCOUNT_LIMIT).
        """
        book = self.book(vm)
        if account not in ACCOUNTS or pages < 1:
            raise GmmError(Status.INVALID_PARAMETER, f"{pages} pages of {account!r} cannot be charged")
        if self.allocated_pages + pages > self.max_pages:
            raise GmmError(
                Status.HIT_GLOBAL_LIMIT,
                f"{vm} requests {pages} pages, {max(0, self.max_pages - self.allocated_pages)} are left of "
                f"{self.max_pages}",
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
        if account not in ACCOUNTS or pages < 1:
            raise GmmError(
                Status.INVALID_PARAMETER, f"{pages} pages of account {account!r} cannot be adopted"
            )
        self._check_account(vm, book, pages, account)
        self._count(book, account, pages)

    def release_pages(self, vm: str, pages: int, account: Account) -> None:
        """Take *pages* that have no page ids off an account."""
        book = self.book(vm)
        if account not in ACCOUNTS or pages < 1:
            raise GmmError(
                Status.INVALID_PARAMETER, f"{pages} pages of account {account!r} cannot be released"
            )
        if pages > (most := min(book.allocated[account], book.counted)):
            raise GmmError(
                Status.ATTEMPT_TO_FREE_TOO_MUCH, f"{vm} releases {pages} pages of {most} in {account.name}"
            )
        self._count(book, account, -pages)

    def identify(self, book: Book, account: Account, pages: int) -> None:
        """Charge an account with pages that have ids; a negative number takes them off."""
        book.allocated[account] += pages
        book.identified += pages
        self.charged_pages += pages

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
            case BalloonAction.DEFLATE:
                if pages > book.ballooned:
                    raise GmmError(
                        Status.ATTEMPT_TO_DEFLATE_TOO_MUCH,
                        f"{vm} deflates by {pages} pages, {book.ballooned} are ballooned",
                    )
                change = -pages
            case BalloonAction.RESET:
                change = -book.ballooned
            case _:
                raise GmmError(Status.INVALID_PARAMETER, f"{action!r} is not a balloon action")
        book.ballooned += change
        self.ballooned += change

    def cleanup_vm(self, vm: str) -> int:
        """Close the book of a VM that is gone; return the pages that it held (GMMR0CleanupVM)."""
        book = self.book(vm)
        freed = book.total_allocated
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

    def shortage(self) -> int:
        """Return the pages that are allocated beyond the limit, which VMs have to give; 0: none."""
        return max(0, self.allocated_pages - self.max_pages)

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
        for book in books:
            assert min(*book.allocated.values(), book.ballooned, book.identified, book.counted) >= 0
            assert all(book.held(account) <= book.reserved[account] for account in ACCOUNTS)
        return self

    def book(self, vm: str) -> Book:
        """Return the book of a VM, or raise GmmError (WRONG_ORDER) if it has made no reservation."""
        try:
            return self._vms[vm]
        except KeyError:
            raise GmmError(Status.WRONG_ORDER, f"{vm} has no initial reservation") from None

    def _decline_unbacked(self, vm: str, book: Book, reserved: dict[Account, int]) -> None:
        others = self.allocated_pages - (book.total_allocated if vm in self._vms else 0)
        asked = sum(reserved.values())
        if book.policy is OcPolicy.NO_OC and others + asked > self.max_pages:
            raise GmmError(
                Status.MEMORY_RESERVATION_DECLINED,
                f"{vm} reserves {asked} pages, {max(0, self.max_pages - others)} can be backed",
            )

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
        book.allocated[account] += pages
        self.charged_pages += pages
        self.chunks += book.chunks - before
        self.freed_chunks += max(0, before - book.chunks)


def _sizes(pages: dict[Account, int]) -> VmSizes:
    return VmSizes(pages[Account.BASE], pages[Account.SHADOW], pages[Account.FIXED])


def _checked_reservation(base_pages: int, shadow_pages: int, fixed_pages: int) -> dict[Account, int]:
    counts = dict(zip(ACCOUNTS, (base_pages, shadow_pages, fixed_pages), strict=True))
    if min(counts.values()) < 1:
        raise GmmError(
            Status.INVALID_PARAMETER, f"a reservation of {tuple(counts.values())} pages contains a zero"
        )
    if base_pages > _BASE_PAGES_MAX or max(shadow_pages, fixed_pages) > _OTHER_PAGES_MAX:
        raise GmmError(
            Status.INVALID_PARAMETER,
            f"a reservation of {tuple(counts.values())} pages does not fit into the fields of a request",
        )
    return counts


def _decline_below_use(vm: str, book: Book, reserved: dict[Account, int]) -> None:
    for account in ACCOUNTS:
        if book.held(account) > reserved[account]:
            raise GmmError(
                Status.MEMORY_RESERVATION_DECLINED,
                f"{vm} reserves {reserved[account]} pages in {account.name} and has {book.held(account)}, "
                "with those ballooned: free them first",
            )
