"""The Global Memory Manager: one object that holds the books of all memory, and the calls on it."""

from collections.abc import Iterator
from typing import Self

from dynmem.gmm.accounts import Accounts
from dynmem.gmm.codes import Account, BalloonAction, OcPolicy, Priority
from dynmem.gmm.constants import GMM_CHUNK_NUM_PAGES
from dynmem.gmm.statistics import HypervisorMemoryStats, MemoryStats, Stats


class GlobalMemoryManager:
    """The books of all VMs under one limit of *max_pages*; a VM is known by its name.

    A call does all that it says, or raises GmmError and changes nothing.
    """

    def __init__(self, max_pages: int) -> None:
        self._accounts = Accounts(max_pages)

    def __contains__(self, vm: str) -> bool:
        return vm in self._accounts

    def __iter__(self) -> Iterator[str]:
        return iter(self._accounts)

    @property
    def max_pages(self) -> int:
        """The most pages that all VMs together may be charged."""
        return self._accounts.max_pages

    @max_pages.setter
    def max_pages(self, pages: int) -> None:
        self._accounts.max_pages = pages

    def initial_reservation(
        self, vm: str, base: int, shadow: int, fixed: int, policy: OcPolicy, priority: Priority
    ) -> None:
        """Open the books of a VM, once and before anything else (GMMR0InitialReservation).

        A VM with the policy NO_OC is declined (MEMORY_RESERVATION_DECLINED) if what it reserves cannot be
        backed beside all that is allocated; one with TBD may reserve beyond the limit and is bounded when it
        allocates.
        """
        self._accounts.initial_reservation(vm, base, shadow, fixed, policy, priority)

    def update_reservation(self, vm: str, base: int, shadow: int, fixed: int) -> None:
        """Replace what a VM reserves (GMMR0UpdateReservation).

        It is declined (MEMORY_RESERVATION_DECLINED) if it cannot be backed, or if an account holds more than
        that already: then the VM may not allocate until one is accepted. (The original declines nothing.)
        """
        self._accounts.update_reservation(vm, base, shadow, fixed)

    def forbid_allocation(self, vm: str, why: str) -> None:
        """Stop a VM from allocating (fMayAllocate), for a reason that its refusals carry; "" lifts this.

        A declined update of the reservation has the same effect until one is accepted.
        """
        self._accounts.forbid_allocation(vm, why)

    def charge_pages(self, vm: str, pages: int, account: Account) -> None:
        """Charge an account with pages that somebody else allocates and that have no page ids."""
        self._accounts.charge_pages(vm, pages, account)

    def adopt_pages(self, vm: str, pages: int, account: Account) -> None:
        """Charge an account with pages that a VM holds already.

        VirtualBox has no such call: no limit refuses a fact; what exceeds the limit is the shortage.
        """
        self._accounts.adopt_pages(vm, pages, account)

    def release_pages(self, vm: str, pages: int, account: Account) -> None:
        """Take pages that were charged or adopted off an account."""
        self._accounts.release_pages(vm, pages, account)

    def ballooned_pages(self, vm: str, action: BalloonAction, pages: int) -> None:
        """Count pages in the balloon (GMMR0BalloonedPages); the caller frees or allocates them.

        INFLATE after freeing, DEFLATE before allocating, RESET (with 0 pages) when the guest starts again.
        """
        self._accounts.ballooned_pages(vm, action, pages)

    def cleanup_vm(self, vm: str) -> int:
        """Close the books of a VM that is gone; return the pages that it held (GMMR0CleanupVM)."""
        return self._accounts.cleanup_vm(vm)

    def shortage(self) -> int:
        """Return the pages that are allocated beyond the limit, which VMs have to give; 0: none."""
        return self._accounts.shortage()

    def query_statistics(self, vm: str | None = None) -> Stats:
        """Return the totals, and the figures of one VM if it is named (GMMR0QueryStatistics)."""
        accounts = self._accounts
        return Stats(
            max_pages=accounts.max_pages,
            reserved_pages=accounts.reserved_pages,
            over_committed_pages=max(0, accounts.reserved_pages - accounts.max_pages),
            allocated_pages=accounts.allocated_pages,
            ballooned_pages=accounts.ballooned,
            chunks=accounts.chunks,
            freed_chunks=accounts.freed_chunks,
            vms=len(accounts),
            vm=None if vm is None else accounts.book(vm).stats(0, shared_paging_enabled=False),
        )

    def query_hypervisor_memory_stats(self) -> HypervisorMemoryStats:
        """Return the totals (GMMR0QueryHypervisorMemoryStatsReq)."""
        accounts = self._accounts
        allocated = accounts.allocated_pages
        free = accounts.chunks * GMM_CHUNK_NUM_PAGES - allocated
        return HypervisorMemoryStats(allocated, free, accounts.ballooned, 0, accounts.max_pages)

    def query_memory_stats(self, vm: str) -> MemoryStats:
        """Return the figures of one VM's base account (GMMR0QueryMemoryStatsReq, GMMR3QueryMemoryStats)."""
        return self._accounts.query_memory_stats(vm)

    def allocated(self, vm: str, account: Account = Account.BASE) -> int:
        """Return the pages of one account, without building statistics."""
        return self._accounts.allocated(vm, account)

    def reserved(self, vm: str, account: Account = Account.BASE) -> int:
        """Return the reserved pages of one account, without building statistics."""
        return self._accounts.reserved(vm, account)

    def verify(self) -> Self:
        """Assert that every total is the sum of the VMs' accounts and that each account keeps its rules."""
        self._accounts.verify()
        return self
