"""What is booked by count: what VMs reserve, pages that have no ids, balloons, and who is to give."""

from collections.abc import Iterator
from typing import Protocol, Self

from dynmem.gmm.accounts import Accounts
from dynmem.gmm.book import Figures
from dynmem.gmm.codes import Account, BalloonAction, GmmError, OcPolicy, Priority, Status
from dynmem.gmm.overcommit import Admission, OvercommitRules
from dynmem.gmm.shortage import Shortage, interruptible, shortage_of
from dynmem.gmm.statistics import MemoryStats, Stats
from dynmem.gmm.vms import Vm, Vms


class Ledger(Protocol):
    """Chunk ids for memory that was made elsewhere, of which only the amount is known."""

    def set_chunks(self, vm: str, chunks: int, /) -> None:
        """Represent a VM's memory by this number of chunk ids; 0 removes the VM. Cannot fail."""


class CountedBooks:
    """The part of the Global Memory Manager that knows how many pages a VM has, and never which.

    For a host whose VMs make their own memory it is all that is needed.
    """

    def __init__(self, max_pages: int, ledger: Ledger | None = None) -> None:
        self._accounts = Accounts(max_pages)
        self._vms = Vms()
        self._ledger = ledger

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
        """How far reservations may exceed the maximum; a VM that was admitted stays when they change."""
        return self._accounts.rules

    @rules.setter
    def rules(self, rules: OvercommitRules) -> None:
        self._accounts.rules = rules

    def register_vm(self, vm: str, *, process: int = 0, numa_node: int = 0) -> int:
        """Give a VM a handle, before its reservation or without one; return the handle, 16 bits.

        A reservation registers a VM that is not registered, in *process* 0 on *numa_node* 0. The process is
        the store's number of it.

        Raises:
            GmmError: INVALID_PARAMETER, WRONG_ORDER (it is registered), OUT_OF_MEMORY (no handle is left).
        """
        return self._vms.register(vm, process, numa_node).handle

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

        Raises:
            GmmError: INVALID_PARAMETER, WRONG_ORDER (it has a reservation), MEMORY_RESERVATION_DECLINED,
                OUT_OF_MEMORY (no handle is left).
        """
        self._reserve(vm, (base, shadow, fixed), policy, priority, least, is_running=False)

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
        """Open the books of a running VM, whatever the rules; return why it does not fit, "" if it does.

        A VM that does not fit may not allocate until `reconsider` finds that it fits. (Ours.)
        """
        self._reserve(vm, (base, shadow, fixed), policy, priority, least, is_running=True)
        return self._accounts.book(vm).refusal

    def _reserve(
        self,
        vm: str,
        sizes: tuple[int, int, int],
        policy: OcPolicy,
        priority: Priority,
        least: int,
        *,
        is_running: bool,
    ) -> None:
        registered = vm in self._vms
        known = self._vms.of(vm)
        try:
            self._accounts.initial_reservation(
                vm, *sizes, policy, priority, least=least, is_running=is_running
            )
        except GmmError:
            if not registered:
                self._vms.undo_register(known)
            raise

    def cleanup_vm(self, vm: str) -> int:
        """Close the books of a VM that is gone, at any moment; return what it was charged (GMMR0CleanupVM).

        Its modules go first, then its references to shared pages, its mappings and its private pages; chunks
        that are empty then go back to the host. If the store fails, what it raises comes out, and another
        call continues.

        Raises:
            GmmError: WRONG_ORDER (it is neither registered nor has a reservation).
        """
        known = self._vms.get(vm)
        if known is None:
            raise GmmError(Status.WRONG_ORDER, f"{vm} has no initial reservation and is not registered")
        pages = self._accounts.book(vm).total_allocated if vm in self._accounts else 0
        self._drop_pages(known)
        if vm in self._accounts:
            self._accounts.cleanup_vm(vm)
        if self._ledger is not None:
            self._ledger.set_chunks(vm, 0)
        self._vms.remove(known)
        return pages

    def _drop_pages(self, vm: Vm) -> None:
        """Free the pages of a VM that have ids, if there are such."""

    @property
    def least_pages(self) -> int:
        """What all VMs need in the worst case: every guarantee claimed, every balloon at its maximum."""
        commitments = self._accounts.commitments
        return commitments.guaranteed + commitments.least

    def reconsider(self, vm: str) -> str:
        """Return why a VM that was declined does not fit now; "" if it does, and may allocate again."""
        return self._accounts.reconsider(vm)

    def accept(self, vm: str) -> None:
        """Let a VM allocate although it does not fit: it was admitted before it was taken in."""
        self._accounts.book(vm).refusal = ""

    def admission(self, vm: str) -> Admission:
        """Return the numbers by which a VM's present reservation would be decided if it came now."""
        return self._accounts.admission_anew(vm)

    def limit_balloon(self, vm: str, least: int) -> None:
        """Leave a VM at least *least* base pages (the rest: cMaxBalloonedPages)."""
        self._accounts.limit_balloon(vm, least)

    def update_reservation(self, vm: str, base: int, shadow: int, fixed: int) -> None:
        """Replace what a VM reserves (GMMR0UpdateReservation).

        It is declined if it cannot be backed, or if an account holds more than that already: then the VM may
        not allocate until an update is accepted. (The original declines nothing.)

        Raises:
            GmmError: INVALID_PARAMETER, WRONG_ORDER, MEMORY_RESERVATION_DECLINED (nothing changes but
                fMayAllocate).
        """
        self._accounts.update_reservation(vm, base, shadow, fixed)

    def set_priority(self, vm: str, priority: Priority) -> None:
        """Give a VM another priority; it keeps all that it has.

        The original has no such call.

        Raises:
            GmmError: INVALID_PARAMETER, WRONG_ORDER.
        """
        self._accounts.set_priority(vm, priority)

    def forbid_allocation(self, vm: str, why: str) -> None:
        """Stop a VM from allocating (fMayAllocate), for a reason that its refusals carry; "" lifts this.

        A declined update of the reservation has the same effect until one is accepted.
        """
        self._accounts.forbid_allocation(vm, why)

    def charge_pages(self, vm: str, pages: int, account: Account) -> None:
        """Charge an account with pages that are allocated elsewhere and have no page ids.

        Raises:
            GmmError: INVALID_PARAMETER, WRONG_ORDER, HIT_GLOBAL_LIMIT, HIT_VM_ACCOUNT_LIMIT.
        """
        self._accounts.charge_pages(vm, pages, account)
        self._write_ledger(vm)

    def adopt_pages(self, vm: str, pages: int, account: Account) -> None:
        """Charge an account with pages that a VM holds already.

        VirtualBox has no such call: no limit refuses a fact; what exceeds the limit is the shortage.

        Raises:
            GmmError: INVALID_PARAMETER, WRONG_ORDER, HIT_VM_ACCOUNT_LIMIT (it has not reserved as many).
        """
        self._accounts.adopt_pages(vm, pages, account)
        self._write_ledger(vm)

    def release_pages(self, vm: str, pages: int, account: Account) -> None:
        """Take pages that were charged or adopted off an account.

        Raises:
            GmmError: INVALID_PARAMETER, WRONG_ORDER, ATTEMPT_TO_FREE_TOO_MUCH.
        """
        self._accounts.release_pages(vm, pages, account)
        self._write_ledger(vm)

    def _write_ledger(self, vm: str) -> None:
        if self._ledger is not None:
            self._ledger.set_chunks(vm, self._accounts.book(vm).chunks)

    def ballooned_pages(self, vm: str, action: BalloonAction, pages: int) -> None:
        """Count pages in the balloon (GMMR0BalloonedPages); the caller frees or allocates them.

        INFLATE after freeing, DEFLATE before allocating, RESET (with 0 pages) when the guest starts again.

        Raises:
            GmmError: INVALID_PARAMETER, WRONG_ORDER, ATTEMPT_TO_FREE_TOO_MUCH, ATTEMPT_TO_DEFLATE_TOO_MUCH.
        """
        self._accounts.ballooned_pages(vm, action, pages)

    def shortage(self, pages: int = 0) -> Shortage:
        """Return which VMs have to give so that *pages* are free beside all that is promised.

        With 0, what is missing is what is allocated beyond the limit. This asks no VM: the policy does, and
        records with `request_pages` what it asked for.
        """
        return shortage_of(pages, self._accounts.free_pages(OcPolicy.TBD), self._accounts.givers())

    def request_pages(self, vm: str, pages: int, account: Account = Account.BASE) -> None:
        """Record how many pages a VM is asked for in all: of its balloon, or of its shadow account.

        What it then gives counts: `ballooned_pages` inflated, shadow pages released. 0 withdraws the request.
        While its shadow account is squeezed, the VM may not allocate there (TRY_AGAIN).
        """
        self._accounts.ask(vm, pages, account)

    def request_deflate(self, vm: str, pages: int) -> None:
        """Record how many pages a guest is asked to take back in all."""
        self._accounts.book(vm).asked.returning = max(0, pages)

    def give_up(self, vm: str) -> None:
        """Expect no pages of a VM that gives none, until it gives or is asked again."""
        self._accounts.book(vm).asked.is_stuck = True

    def interruptible(self, needy: Priority) -> tuple[str, ...]:
        """Return which VMs may be saved or ended, in order, for one of this priority when memory is out."""
        return interruptible(self._accounts.givers(), needy)

    def may_not_allocate_why(self, vm: str) -> str:
        """Return why a VM may not allocate (fMayAllocate); "" if it may."""
        return self._accounts.book(vm).may_not_allocate_why

    def query_statistics(self, vm: str | None = None) -> Stats:
        """Return the totals, and the figures of one VM if it is named (GMMR0QueryStatistics).

        Raises:
            GmmError: WRONG_ORDER.
        """
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
            vm=None if vm is None else accounts.book(vm).stats(),
        )

    def query_memory_stats(self, vm: str) -> MemoryStats:
        """Return the figures of one VM's base account (GMMR0QueryMemoryStatsReq, GMMR3QueryMemoryStats).

        Raises:
            GmmError: WRONG_ORDER.
        """
        return self._accounts.query_memory_stats(vm)

    def allocated(self, vm: str, account: Account = Account.BASE) -> int:
        """Return the pages of one account, without building statistics."""
        return self._accounts.allocated(vm, account)

    def figures(self, vm: str) -> Figures:
        """Return what one VM's base account comes to, without building statistics."""
        return self._accounts.book(vm).figures

    def reserved(self, vm: str, account: Account = Account.BASE) -> int:
        """Return the reserved pages of one account, without building statistics."""
        return self._accounts.reserved(vm, account)

    def verify(self) -> Self:
        """Assert every invariant: each total is the sum of its parts, and all books agree."""
        self._accounts.verify()
        assert all(vm in self._vms for vm in self._accounts)
        return self
