"""The accounts of the VMs: what each reserves, holds and has ballooned, by count.

Pages that are only counted belong to one VM, so they are private pages, and their chunks are whole 2 MiB
pieces of that VM. Each call does all that it says, or raises GmmError and changes nothing; but a VM whose
update of its reservation is declined may not allocate until another one is accepted.
"""

from collections.abc import Iterator
from typing import Self

from dynmem.gmm.codes import Account, BalloonAction, GmmError, OcPolicy, Priority, Status
from dynmem.gmm.constants import GMM_CHUNK_NUM_PAGES
from dynmem.gmm.statistics import HypervisorMemoryStats, MemoryStats, Stats, VmSizes, VmStats

ACCOUNTS = (Account.BASE, Account.SHADOW, Account.FIXED)


class _Book:
    """The account book of one VM."""

    __slots__ = ("allocated", "ballooned", "policy", "priority", "refusal", "reserved")

    def __init__(self, reserved: dict[Account, int], policy: OcPolicy, priority: Priority) -> None:
        self.reserved = reserved
        self.allocated = dict.fromkeys(ACCOUNTS, 0)
        self.ballooned = 0
        self.refusal = ""  # why the last update of the reservation was declined
        self.policy = policy
        self.priority = priority

    @property
    def total_allocated(self) -> int:
        return sum(self.allocated.values())

    @property
    def fits(self) -> bool:
        """Whether no account holds more than is reserved for it."""
        return all(self.held(account) <= self.reserved[account] for account in ACCOUNTS)

    @property
    def may_allocate(self) -> bool:
        """Whether it fits, and its last update was not declined."""
        return self.fits and not self.refusal

    def held(self, account: Account) -> int:
        """Return the pages of an account, with those in the balloon."""
        return self.allocated[account] + (self.ballooned if account is Account.BASE else 0)

    @property
    def chunks(self) -> int:
        return -(-self.total_allocated // GMM_CHUNK_NUM_PAGES)

    def stats(self) -> VmStats:
        return VmStats(
            reserved=_sizes(self.reserved),
            allocated=_sizes(self.allocated),
            private_pages=self.total_allocated,
            ballooned_pages=self.ballooned,
            max_ballooned_pages=self.reserved[Account.BASE],
            policy=self.policy,
            priority=self.priority,
            may_allocate=self.may_allocate,
        )


class Accounts:
    """Accounts of all VMs under one limit of *max_pages*.

    A VM is known by its name. Totals are kept as they change, and `verify` compares them with the sum of the
    VMs.
    """

    def __init__(self, max_pages: int) -> None:
        if max_pages < 0:
            raise GmmError(Status.INVALID_PARAMETER, f"a limit of {max_pages} pages is negative")
        self.max_pages = max_pages
        self._vms: dict[str, _Book] = {}
        self._reserved = 0
        self._allocated = 0
        self._ballooned = 0
        self._chunks = 0
        self._freed_chunks = 0

    def __contains__(self, vm: str) -> bool:
        return vm in self._vms

    def __iter__(self) -> Iterator[str]:
        return iter(self._vms)

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
        book = _Book(reserved, policy, priority)
        self._decline_unbacked(vm, book, reserved)
        self._vms[vm] = book
        self._reserved += sum(reserved.values())

    def update_reservation(self, vm: str, base_pages: int, shadow_pages: int, fixed_pages: int) -> None:
        """Replace what a VM reserves (GMMR0UpdateReservation).

        With less in any account than it holds there, the VM keeps what it has and may not allocate until it
        fits again. Nor may it after an update that was declined, until one is accepted.
        """
        book = self._book(vm)
        reserved = _checked_reservation(base_pages, shadow_pages, fixed_pages)
        try:
            self._decline_unbacked(vm, book, reserved)
        except GmmError as error:
            book.refusal = str(error)
            raise
        book.refusal = ""
        self._reserved += sum(reserved.values()) - sum(book.reserved.values())
        book.reserved = reserved

    def charge_pages(self, vm: str, pages: int, account: Account) -> None:
        """Charge *pages* that have no page ids to an account, all or nothing."""
        book = self._book(vm)
        if account not in ACCOUNTS or pages < 1:
            raise GmmError(Status.INVALID_PARAMETER, f"{pages} pages of {account!r} cannot be charged")
        if self._allocated + pages > self.max_pages:
            raise GmmError(
                Status.HIT_GLOBAL_LIMIT,
                f"{vm} requests {pages} pages, {max(0, self.max_pages - self._allocated)} are left of "
                f"{self.max_pages}",
            )
        self._check_account(vm, book, pages, account)
        if not book.may_allocate:
            reason = book.refusal or "it has more than it reserved"
            raise GmmError(Status.HIT_VM_ACCOUNT_LIMIT, f"{vm} may not allocate: {reason}")
        self._change_allocated(book, account, pages)

    def adopt_pages(self, vm: str, pages: int, account: Account) -> None:
        """Charge pages that a VM holds already.

        VirtualBox has no such call: no limit refuses a fact; what exceeds the limit is the shortage.
        """
        book = self._book(vm)
        if account not in ACCOUNTS or pages < 1:
            raise GmmError(
                Status.INVALID_PARAMETER, f"{pages} pages of account {account!r} cannot be adopted"
            )
        self._check_account(vm, book, pages, account)
        self._change_allocated(book, account, pages)

    def release_pages(self, vm: str, pages: int, account: Account) -> None:
        """Take *pages* that have no page ids off an account."""
        book = self._book(vm)
        if account not in ACCOUNTS or pages < 1:
            raise GmmError(
                Status.INVALID_PARAMETER, f"{pages} pages of account {account!r} cannot be released"
            )
        if pages > book.allocated[account]:
            raise GmmError(
                Status.ATTEMPT_TO_FREE_TOO_MUCH,
                f"{vm} releases {pages} pages of {book.allocated[account]} in {account.name}",
            )
        self._change_allocated(book, account, -pages)

    def ballooned_pages(self, vm: str, action: BalloonAction, pages: int) -> None:
        """Count pages in the balloon (GMMR0BalloonedPages); the caller frees or allocates them.

        INFLATE after freeing, DEFLATE before allocating, RESET (with 0 pages) when the guest starts again.
        """
        book = self._book(vm)
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
        self._ballooned += change

    def cleanup_vm(self, vm: str) -> int:
        """Close the book of a VM that is gone; return the pages that it held (GMMR0CleanupVM)."""
        book = self._book(vm)
        freed = book.total_allocated
        self._allocated -= freed
        self._chunks -= book.chunks
        self._freed_chunks += book.chunks
        self._ballooned -= book.ballooned
        self._reserved -= sum(book.reserved.values())
        del self._vms[vm]
        return freed

    def shortage(self) -> int:
        """Return the pages that are allocated beyond the limit, which VMs have to give; 0: none."""
        return max(0, self._allocated - self.max_pages)

    def query_statistics(self, vm: str | None = None) -> Stats:
        """Return the totals, and the figures of one VM if it is named (GMMR0QueryStatistics)."""
        return Stats(
            max_pages=self.max_pages,
            reserved_pages=self._reserved,
            over_committed_pages=max(0, self._reserved - self.max_pages),
            allocated_pages=self._allocated,
            ballooned_pages=self._ballooned,
            chunks=self._chunks,
            freed_chunks=self._freed_chunks,
            vms=len(self._vms),
            vm=None if vm is None else self._book(vm).stats(),
        )

    def query_hypervisor_memory_stats(self) -> HypervisorMemoryStats:
        """Return the totals; in bound mode nothing is shared (GMMR0QueryHypervisorMemoryStatsReq)."""
        free = self._chunks * GMM_CHUNK_NUM_PAGES - self._allocated
        return HypervisorMemoryStats(self._allocated, free, self._ballooned, 0, self.max_pages)

    def query_memory_stats(self, vm: str) -> MemoryStats:
        """Return the figures of one VM's base account (GMMR0QueryMemoryStatsReq, GMMR3QueryMemoryStats)."""
        book = self._book(vm)
        allocated, most = book.allocated[Account.BASE], book.reserved[Account.BASE]
        return MemoryStats(allocated, max(0, most - allocated), most, book.ballooned)

    def allocated(self, vm: str, account: Account = Account.BASE) -> int:
        """Return the pages of one account, without building statistics."""
        return self._book(vm).allocated[account]

    def reserved(self, vm: str, account: Account = Account.BASE) -> int:
        """Return the reserved pages of one account, without building statistics."""
        return self._book(vm).reserved[account]

    def verify(self) -> Self:
        """Assert that every total is the sum of the VMs' books and that each book keeps its own rules."""
        books = self._vms.values()
        assert self._allocated == sum(book.total_allocated for book in books)
        assert self._ballooned == sum(book.ballooned for book in books)
        assert self._reserved == sum(sum(book.reserved.values()) for book in books)
        assert self._chunks == sum(book.chunks for book in books)
        for book in books:
            assert min(*book.allocated.values(), book.ballooned) >= 0
        return self

    def _book(self, vm: str) -> _Book:
        try:
            return self._vms[vm]
        except KeyError:
            raise GmmError(Status.WRONG_ORDER, f"{vm} has no initial reservation") from None

    def _decline_unbacked(self, vm: str, book: _Book, reserved: dict[Account, int]) -> None:
        others = self._allocated - (book.total_allocated if vm in self._vms else 0)
        asked = sum(reserved.values())
        if book.policy is OcPolicy.NO_OC and others + asked > self.max_pages:
            raise GmmError(
                Status.MEMORY_RESERVATION_DECLINED,
                f"{vm} reserves {asked} pages, {max(0, self.max_pages - others)} can be backed",
            )

    def _check_account(self, vm: str, book: _Book, pages: int, account: Account) -> None:
        ballooned = book.held(account) - book.allocated[account]
        if book.held(account) + pages > book.reserved[account]:
            raise GmmError(
                Status.HIT_VM_ACCOUNT_LIMIT,
                f"{vm} has {book.allocated[account]} pages and {ballooned} ballooned of "
                f"{book.reserved[account]} in {account.name}; {pages} more do not fit",
            )

    def _change_allocated(self, book: _Book, account: Account, pages: int) -> None:
        before = book.chunks
        book.allocated[account] += pages
        self._allocated += pages
        self._chunks += book.chunks - before
        self._freed_chunks += max(0, before - book.chunks)


def _sizes(pages: dict[Account, int]) -> VmSizes:
    return VmSizes(pages[Account.BASE], pages[Account.SHADOW], pages[Account.FIXED])


def _checked_reservation(base_pages: int, shadow_pages: int, fixed_pages: int) -> dict[Account, int]:
    counts = dict(zip(ACCOUNTS, (base_pages, shadow_pages, fixed_pages), strict=True))
    if min(counts.values()) < 1:
        raise GmmError(
            Status.INVALID_PARAMETER, f"a reservation of {tuple(counts.values())} pages contains a zero"
        )
    return counts
