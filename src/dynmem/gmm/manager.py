"""The Global Memory Manager: one object that holds the books of all memory, and the calls on it."""

from typing import Literal, Self

import msgspec
import numpy as np

from dynmem.gmm.allocation import Allocator
from dynmem.gmm.chunks import NOBODY
from dynmem.gmm.codes import Account, GmmError, Status
from dynmem.gmm.constants import GMM_CHUNK_NUM_PAGES, GMM_CHUNK_SIZE
from dynmem.gmm.counted import CountedBooks, Ledger
from dynmem.gmm.frees import Frees
from dynmem.gmm.handy import HandyPages
from dynmem.gmm.mappings import CHUNK_MAPPINGS_MAX, PROCESS_MAPPINGS_MAX, Mappings
from dynmem.gmm.page_table import PageTable
from dynmem.gmm.sharing import Checked, Sharing
from dynmem.gmm.statistics import HypervisorMemoryStats, Stats
from dynmem.gmm.store import ChunkStore, NoStore
from dynmem.gmm.structures import Records
from dynmem.gmm.vms import Vm

#: Whether a chunk may have pages of several VMs, which may also share pages, or belongs to one VM.
Mode = Literal["shared", "bound"]


class GlobalMemoryManager(CountedBooks):
    """The books of all VMs under one limit of *max_pages*, over a store; a VM is known by its name.

    A call does all that it says, or raises GmmError with the status of the original and changes nothing;
    where it may do a part, that is said. Every call on a VM that has made no reservation raises WRONG_ORDER.
    Counts are pages of 4 KiB.

    Pages come in two kinds, and a VM may have both. Those of `allocate_pages` have ids, lie in chunks of the
    store and can be shared. Those of `charge_pages` are memory made elsewhere: they are counted, and have
    no ids.
    """

    def __init__(
        self,
        max_pages: int,
        store: ChunkStore | None = None,
        mode: Mode = "shared",
        *,
        ledger: Ledger | None = None,
        spare_chunks: int = 1,
        chunk_mappings: int = CHUNK_MAPPINGS_MAX,
        process_mappings: int = PROCESS_MAPPINGS_MAX,
    ) -> None:
        """Begin with no VM.

        *spare_chunks* is how many unused chunks are kept when chunks become empty; *chunk_mappings* and
        *process_mappings* are how many VMs may map one chunk, and how many chunks one process may map. A
        *ledger* gives chunk ids to memory that is only counted; none of them may be an id of the store.
        """
        super().__init__(max_pages, ledger)
        store = NoStore() if store is None else store
        bound = mode == "bound"
        self._bound = bound
        self._table = PageTable(store, self._vms, self._accounts, spare_chunks=spare_chunks)
        self._sharing = Sharing(self._table)
        self._allocator = Allocator(self._accounts, self._vms, self._table, bound=bound)
        self._frees = Frees(self._accounts, self._vms, self._table, self._sharing)
        self._handy = HandyPages(self._accounts, self._vms, self._table, self._allocator, self._frees)
        self._mappings = Mappings(
            self._vms,
            self._table,
            store,
            bound=bound,
            chunk_limit=chunk_mappings,
            process_limit=process_mappings,
        )

    @property
    def sharing(self) -> Sharing:
        """The shared pages; here a VM is declared stopped, before its pages can be shared."""
        return self._sharing

    @property
    def pages(self) -> PageTable:
        """The page table: whose a page is, and what it refers to."""
        return self._table

    # VMs that end.

    def _drop_pages(self, vm: Vm) -> None:
        """Free all pages of a VM, and charge nothing for each as soon as it is free."""
        held = self._sharing.held(vm.name)
        try:
            self._sharing.leave(vm.name)
        finally:
            dropped = held - self._sharing.held(vm.name)
            if dropped:
                self._accounts.forget(self._accounts.book(vm.name), dropped)
        self._mappings.unmap_all(vm)
        for positions in self._table.private_positions(vm.handle):
            self._table.put_back(positions)
            self._accounts.forget(self._accounts.book(vm.name), positions.size)
        self._table.disown(vm.handle)
        # those that were mapped, and the spare ones, are empty and still there
        self._table.release_unused(spare=False)

    # Pages with ids.

    def allocate_pages(self, vm: str, descriptors: Records, account: Account) -> None:
        """Allocate a page for each GMMPAGEDESC, all or none (GMMR0AllocatePages).

        *descriptors* are 1 to 2^20 - 1. In: `HCPhysGCPhys` is where the guest has the page, or
        GMM_GCPHYS_UNSHAREABLE or NIL_RTHCPHYS (outside BASE nothing else); the ids are NIL. Out:
        `HCPhysGCPhys` is its address in the store, `idPage` its id. Pages read as zeros. `allocation` has the
        order in which chunks are tried.

        Raises:
            GmmError: INVALID_PARAMETER, WRONG_ORDER, HIT_GLOBAL_LIMIT, HIT_VM_ACCOUNT_LIMIT (also if the VM
                may not allocate), OUT_OF_MEMORY (the store is full).
        """
        self._allocator.allocate_pages(vm, descriptors, account)

    def allocate_handy_pages(self, vm: str, to_update: int, to_allocate: int, descriptors: Records) -> None:
        """Note where the guest put handy pages, then allocate others (GMMR0AllocateHandyPages).

        The first *to_update* of the GMMPAGEDESC name a page and where the guest has it now (`idPage`,
        `HCPhysGCPhys`; NIL_RTHCPHYS leaves that as it is), the shared page that it replaced (`idSharedPage`),
        whose reference is dropped, or both. The first *to_allocate* have a new page of BASE each afterwards;
        those beyond *to_update* come NIL. Each number is at most 1023, and one of them may be 0.

        The updates are done up to the first failure: what is done is NIL in its descriptor. The pages are
        allocated all or none, after all updates.

        Raises:
            GmmError: INVALID_PARAMETER, WRONG_ORDER, PAGE_NOT_FOUND, PAGE_NOT_PRIVATE, NOT_PAGE_OWNER,
                PAGE_NOT_SHARED, ATTEMPT_TO_FREE_TOO_MUCH (no page in BASE to drop), and what
                `allocate_pages` raises.
        """
        self._handy.allocate(vm, to_update, to_allocate, descriptors)

    def allocate_large_page(self, vm: str, size: int = GMM_CHUNK_SIZE) -> int:
        """Allocate a whole chunk to BASE; return the id of its first page (GMMR0AllocateLargePage).

        Raises:
            GmmError: INVALID_PARAMETER (*size* is not 2 MiB), WRONG_ORDER, HIT_GLOBAL_LIMIT,
                HIT_VM_ACCOUNT_LIMIT, OUT_OF_MEMORY. (The original forgets the second and the third.)
        """
        return self._allocator.allocate_large_page(vm, size)

    def free_pages(self, vm: str, descriptors: Records, account: Account) -> int:
        """Free the page of each GMMFREEPAGEDESC; return how many (GMMR0FreePages).

        A private page is free, and its memory discarded; of a shared page a reference is dropped, and the
        last one frees it. Freeing stops at the first page that cannot be freed: those before it are free,
        their `idPage` is NIL, and the account is charged no more for them.

        Raises:
            GmmError: INVALID_PARAMETER, WRONG_ORDER, ATTEMPT_TO_FREE_TOO_MUCH (the account has fewer),
                all with nothing freed; PAGE_NOT_FOUND, PAGE_ALREADY_FREE, NOT_PAGE_OWNER (also if the VM
                has no reference to a shared page; the original forgets that).
        """
        return self._frees.free_pages(vm, descriptors, account)

    def free_large_page(self, vm: str, page_id: int) -> None:
        """Free a large page by the id of its first page (GMMR0FreeLargePage).

        Once a page of it has been freed alone, it no longer counts as a large page.

        Raises:
            GmmError: INVALID_PARAMETER (also for a page that is not the first of a large one), WRONG_ORDER,
                ATTEMPT_TO_FREE_TOO_MUCH, PAGE_NOT_FOUND, PAGE_NOT_PRIVATE, NOT_PAGE_OWNER. (The original
                looks neither at the owner nor whether it is a large page.)
        """
        self._frees.free_large_page(vm, page_id)

    def map_unmap_chunk(self, vm: str, map_id: int, unmap_id: int) -> int:
        """Map one chunk into the process of a VM and unmap another (GMMR0MapUnmapChunk).

        Either id may be NIL, but not both. Return the address of the mapped chunk, 0 if none was to be.
        A chunk that the VM has mapped already stays where it is. In bound mode, a VM can map its own chunks
        only.

        Raises:
            GmmError: INVALID_PARAMETER, WRONG_ORDER (it is not registered), CHUNK_NOT_FOUND,
                CHUNK_NOT_MAPPED, TOO_MANY_CHUNK_MAPPINGS, OUT_OF_MEMORY (no addresses).
        """
        return self._mappings.map_unmap(vm, map_id, unmap_id)

    # Sharing.

    def register_shared_module(
        self, vm: str, os_family: int, name: str, version: str, base: int, size: int, regions: Records
    ) -> Status:
        """Register a module that a VM has at *base* (GMMR0RegisterSharedModule).

        *regions* are VMMDEVSHAREDREGIONDESC. Return SUCCESS, or SHARED_MODULE_ALREADY_REGISTERED.

        Raises:
            GmmError: WRONG_ORDER, NOT_SUPPORTED (bound mode), and what `ModuleRegistry.register` raises.
        """
        self._check_sharing(vm)
        return self._sharing.modules.register(vm, os_family, name, version, base, size, regions)

    def unregister_shared_module(self, vm: str, name: str, version: str, base: int, size: int) -> None:
        """Unregister a module of a VM; its pages stay as they are (GMMR0UnregisterSharedModule).

        Raises:
            GmmError: WRONG_ORDER, NOT_SUPPORTED (bound mode), and what `ModuleRegistry.unregister` raises.
        """
        self._check_sharing(vm)
        self._sharing.modules.unregister(vm, name, version, base, size)

    def reset_shared_modules(self, vm: str) -> int:
        """Unregister all modules of a VM; return how many there were (GMMR0ResetSharedModules).

        Raises:
            GmmError: WRONG_ORDER, NOT_SUPPORTED (bound mode).
        """
        self._check_sharing(vm)
        return self._sharing.modules.reset(vm)

    def check_shared_modules(self, vm: str, *, most_pages: int | None = None) -> Checked:
        """Share what can be shared of all modules of a stopped VM (GMMR0CheckSharedModules).

        Raises:
            GmmError: WRONG_ORDER, NOT_SUPPORTED (bound mode, or its modules have more than *most_pages*
                pages), and what `Sharing.check` raises.
        """
        self._check_sharing(vm)
        _check_work(self._sharing.modules.pages_of(vm), most_pages)
        return self._sharing.check(vm)

    def shared_module_check_page(
        self, vm: str, module: int, region: int, page: int, descriptor: np.void
    ) -> None:
        """Share one page of a module of a stopped VM (GMMR0SharedModuleCheckPage).

        *module* is the base that it was registered at, *descriptor* an element of an array of
        GMMSHAREDPAGEDESC; `Sharing.check_page` says what becomes of it.

        Raises:
            GmmError: WRONG_ORDER, NOT_SUPPORTED (bound mode), and what `Sharing.check_page` raises.
        """
        self._check_sharing(vm)
        self._sharing.check_page(vm, module, region, page, descriptor)

    def find_duplicate_page(self, vm: str, page_id: int, *, most_pages: int | None = None) -> bool:
        """Return whether a private page of another VM has the same content (GMMR0FindDuplicatePage).

        Raises:
            GmmError: WRONG_ORDER, NOT_SUPPORTED (bound mode, or the other VMs have more than *most_pages*
                private pages), and what `Sharing.find_duplicate` raises.
        """
        self._check_sharing(vm)
        chunks, own = self._table.chunks, self._accounts.book(vm).total_identified - self._sharing.held(vm)
        used = chunks.count * GMM_CHUNK_NUM_PAGES - chunks.free_pages
        _check_work(used - self._table.shared_pages - own, most_pages)
        return self._sharing.find_duplicate(vm, page_id)

    def _check_sharing(self, vm: str) -> None:
        self._accounts.book(vm)
        if self._bound:
            raise GmmError(Status.NOT_SUPPORTED, "nothing is shared in bound mode")

    # Figures.

    def query_statistics(self, vm: str | None = None) -> Stats:
        counted, chunks, sharing = super().query_statistics(), self._table.chunks, self._sharing
        return msgspec.structs.replace(
            counted,
            shared_pages=self._table.shared_pages,
            duplicate_pages=self._accounts.duplicate_pages,
            left_behind_shared_pages=sharing.left_behind_pages,
            chunks=counted.chunks + chunks.count,
            freed_chunks=counted.freed_chunks + chunks.dropped,
            shareable_modules=len(sharing.modules),
            vm=None
            if vm is None
            else self._accounts.book(vm).stats(sharing.held(vm), shared_paging_enabled=not self._bound),
        )

    def reset_statistics(self, stats: Records) -> None:
        """Reset nothing, whatever figures of a GMMSTATS are named (GMMR0ResetStatistics).

        Each figure is what is there, or is what others derive their own from: none is permitted, as in the
        original.
        """
        del stats

    def query_hypervisor_memory_stats(self) -> HypervisorMemoryStats:
        """Return the totals (GMMR0QueryHypervisorMemoryStatsReq); what is free is free in chunks."""
        accounts = self._accounts
        counted = sum(accounts.book(vm).total_counted for vm in accounts)
        return HypervisorMemoryStats(
            allocated_pages=accounts.allocated_pages,
            free_pages=accounts.chunks * GMM_CHUNK_NUM_PAGES - counted + self._table.chunks.free_pages,
            ballooned_pages=accounts.ballooned,
            shared_pages=accounts.duplicate_pages,
            max_pages=accounts.max_pages,
        )

    def verify(self) -> Self:
        super().verify()
        self._table.verify()
        assert self._sharing.verify() == (self._table.shared_pages, self._accounts.duplicate_pages)
        self._mappings.verify()
        chunks = self._table.chunks
        owners = set(chunks.owner[chunks.slots()].tolist())
        assert owners <= {NOBODY, *(vm.handle for vm in self._vms)}
        private = self._table.private_counts()
        for vm in self._vms:
            pages = private.pop(vm.handle, 0) + self._sharing.held(vm.name)
            assert pages == (
                self._accounts.book(vm.name).total_identified if vm.name in self._accounts else 0
            )
        assert not private
        return self


def _check_work(pages: int, most_pages: int | None) -> None:
    if most_pages is not None and pages > most_pages:
        raise GmmError(
            Status.NOT_SUPPORTED,
            f"{pages} pages are too many to compare in one request, which has {most_pages} at most: make the"
            " call in the process that keeps the books",
        )
