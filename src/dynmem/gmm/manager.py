"""The Global Memory Manager: one object that holds the books of all memory, and the calls on it."""

from collections.abc import Iterator
from typing import Self

from dynmem.gmm.accounts import Accounts
from dynmem.gmm.codes import Account, BalloonAction, OcPolicy, Priority
from dynmem.gmm.constants import GMM_CHUNK_NUM_PAGES
from dynmem.gmm.overcommit import OvercommitRules
from dynmem.gmm.shortage import Shortage, interruptible, shortage_of
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

    @property
    def rules(self) -> OvercommitRules:
        """How far reservations may exceed the maximum; who was admitted stays when they change."""
        return self._accounts.rules

    @rules.setter
    def rules(self, rules: OvercommitRules) -> None:
        self._accounts.rules = rules

    def initial_reservation(
        self,
        vm: str,
        base: int,
        shadow: int,
        fixed: int,
        policy: OcPolicy,
        priority: Priority,
        *,
        least: int = 0,
    ) -> None:
        """Open the books of a VM, once and before anything else (GMMR0InitialReservation).

        It is declined (MEMORY_RESERVATION_DECLINED) if the rules of over-commitment forbid it, with the
        numbers that decided it (`overcommit`). (The original declines nothing.) Its balloon leaves it *least*
        base pages.
        """
        self._accounts.initial_reservation(vm, base, shadow, fixed, policy, priority, least=least)

    def take_in(
        self,
        vm: str,
        base: int,
        shadow: int,
        fixed: int,
        policy: OcPolicy,
        priority: Priority,
        *,
        least: int = 0,
    ) -> str:
        """Open the books of a VM that runs already, whatever the rules; return why it does not fit, "" if so.

        A VM that does not fit may not allocate until `reconsider` finds that it fits. (Ours.)
        """
        accounts = self._accounts
        accounts.initial_reservation(vm, base, shadow, fixed, policy, priority, least=least, is_running=True)
        return accounts.book(vm).refusal

    def reconsider(self, vm: str) -> str:
        """Return why a VM that was declined does not fit now; "" if it does, and may allocate again."""
        return self._accounts.reconsider(vm)

    def limit_balloon(self, vm: str, least: int) -> None:
        """Leave a VM at least so many base pages (the rest: cMaxBalloonedPages)."""
        self._accounts.limit_balloon(vm, least)

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

    def shortage(self, pages: int = 0) -> Shortage:
        """Return who is to give so that *pages* are free beside all that is promised (`shortage`).

        With 0, what is allocated beyond the limit is what is missing. Nobody is asked by this: the policy
        answers it, and records with `request_pages` what it asked for.
        """
        return shortage_of(pages, self._accounts.free_pages(OcPolicy.TBD), self._accounts.givers())

    def request_pages(self, vm: str, pages: int, account: Account = Account.BASE) -> None:
        """Record that a VM is asked for so many pages in all: by its balloon, or of its shadow account.

        What it then gives counts: `ballooned_pages` inflated, shadow pages released. 0 withdraws the request.
        While its shadow account is squeezed, the VM may not allocate there (TRY_AGAIN).
        """
        self._accounts.ask(vm, pages, account)

    def request_deflate(self, vm: str, pages: int) -> None:
        """Record how many pages a guest is asked to take back in all."""
        self._accounts.book(vm).asked.returning = max(0, pages)

    def give_up(self, vm: str) -> None:
        """Expect nothing of a VM that gives nothing, until it does or is asked again."""
        self._accounts.book(vm).asked.is_stuck = True

    def interruptible(self, needy: Priority) -> tuple[str, ...]:
        """Return who may be saved or ended for a VM of this priority when memory is out, in this order."""
        return interruptible(self._accounts.givers(), needy)

    def may_not_allocate_why(self, vm: str) -> str:
        """Return why a VM may not allocate (fMayAllocate); "" if it may."""
        return self._accounts.book(vm).may_not_allocate_why

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

    def ballooned(self, vm: str) -> int:
        """Return the ballooned pages of one VM, without building statistics."""
        return self._accounts.book(vm).ballooned

    def least(self, vm: str) -> int:
        """Return the base pages that a VM's balloon leaves it, without building statistics."""
        return self._accounts.book(vm).least

    def reserved(self, vm: str, account: Account = Account.BASE) -> int:
        """Return the reserved pages of one account, without building statistics."""
        return self._accounts.reserved(vm, account)

    def verify(self) -> Self:
        """Assert that every total is the sum of the VMs' accounts and that each account keeps its rules."""
        self._accounts.verify()
        return self
