"""Two VMs with pages of a naive store."""

import numpy as np
from tests.gmm.naive_store import NaiveStore

from dynmem.gmm import Account, GlobalMemoryManager, OcPolicy, Priority
from dynmem.gmm.statistics import Stats, VmStats
from dynmem.gmm.structures import (
    GMMSHAREDPAGEDESC,
    VMMDEVSHAREDREGIONDESC,
    free_page_descriptors,
    page_descriptors,
)

CHUNK = 512
BASE, SHADOW, FIXED = Account.BASE, Account.SHADOW, Account.FIXED


class Host:
    """VMs a and b, each with pages for some chunks reserved, under a limit, over a store of 8 chunks."""

    def __init__(self, max_chunks: int = 6, reserved_chunks: int = 3, **options: object) -> None:
        self.store = NaiveStore()
        self.gmm = GlobalMemoryManager(max_chunks * CHUNK, self.store, **options)  # type: ignore[arg-type]
        self.gmm.register_vm("a", process=1)
        self.gmm.register_vm("b", process=2)
        for vm in "ab":
            self.gmm.initial_reservation(vm, reserved_chunks * CHUNK, 20, 10, OcPolicy.TBD, Priority.NORMAL)

    def take(self, vm: str, pages: int, account: Account = BASE, at: int | None = None) -> list[int]:
        """Allocate pages, at the guest's address *at* and those after it; return their ids."""
        descriptors = page_descriptors(pages)
        if at is not None:
            descriptors["HCPhysGCPhys"] = at + (np.arange(pages, dtype=np.uint64) << 12)
        self.gmm.allocate_pages(vm, descriptors, account)
        ids: list[int] = descriptors["idPage"].tolist()
        return ids

    def free(self, vm: str, ids: list[int], account: Account = BASE) -> int:
        return self.gmm.free_pages(vm, free_page_descriptors(ids), account)

    def share(self) -> tuple[int, int]:
        """Have a and b share a page; return its id, and that of a page that was b's and is free."""
        (first,), (second,) = self.take("a", 1, at=0x1000), self.take("b", 1, at=0x5000)
        regions = np.array([(0x40_0000, 4096, 0)], VMMDEVSHAREDREGIONDESC)
        for vm, page_id in (("a", first), ("b", second)):
            self.gmm.sharing.stop(vm)
            assert self.gmm.register_shared_module(vm, 4, "libc", "1", 0x40_0000, 4096, regions) == 0
            descriptor = np.zeros(1, GMMSHAREDPAGEDESC)
            descriptor["idPage"] = page_id
            self.store.content[page_id] = 7
            self.gmm.shared_module_check_page(vm, 0x40_0000, 0, 0, descriptor[0])
            assert int(descriptor["idPage"][0]) == first
        return first, second

    def stats(self, vm: str) -> tuple[Stats, VmStats]:
        stats = self.gmm.verify().query_statistics(vm)
        assert stats.vm is not None
        return stats, stats.vm
