"""Guests that share real memory: each knows its pages by address, and what it wrote to each of them."""

import numpy as np

from dynmem.chunks.memfd_store import MemfdStore
from dynmem.gmm import Account, GlobalMemoryManager, OcPolicy, Priority, Status
from dynmem.gmm.constants import GMM_CHUNKID_SHIFT, GMM_PAGEID_IDX_MASK, NIL_GMM_PAGEID
from dynmem.gmm.sharing import Checked
from dynmem.gmm.structures import VMMDEVSHAREDREGIONDESC, free_page_descriptors, page_descriptors
from dynmem.units import PAGE_SIZE

MODULES = ("libc", "libm")
_STEP = 1 << 32  # between the modules of a guest


class Guest:
    """A VM with pages for each module, all at addresses of its own. It is `GuestPages` to the check.

    Attributes:
        page_ids: By address, the page that it has there.
        written: By address, the byte that it filled its page with.
        read_only: The pages that it was told are shared.
    """

    def __init__(self, gmm: GlobalMemoryManager, store: MemfdStore, name: str, pages: int) -> None:
        self.gmm, self.store, self.name, self.pages = gmm, store, name, pages
        self.page_ids: dict[int, int] = {}
        self.written: dict[int, int] = {}
        self.read_only: set[int] = set()
        gmm.initial_reservation(name, 10_000, 10, 10, OcPolicy.TBD, Priority.NORMAL)
        gmm.sharing.attach(name, self)
        for module in MODULES:
            self.register(module)

    def base(self, module: str) -> int:
        """Return where this guest has a module: no two guests have it at the same address."""
        return (1 + MODULES.index(module)) * _STEP + (ord(self.name[0]) << 24)

    def register(self, module: str) -> Status:
        regions = np.array([(self.base(module), self.pages * PAGE_SIZE, 0)], VMMDEVSHAREDREGIONDESC)
        return self.gmm.register_shared_module(
            self.name, 4, module, "1", self.base(module), self.pages * PAGE_SIZE, regions
        )

    def fill(self, module: str, page: int, byte: int) -> None:
        """Fill a page of a module, which is allocated first if it is not there and replaced if it is
        shared."""
        address = self.base(module) + page * PAGE_SIZE
        page_id = self.page_ids.get(address)
        if page_id is None:
            self._put_handy_page(address)
        elif page_id in self.read_only:
            self._replace(address, page_id)
        self.view(address)[:] = bytes([byte]) * PAGE_SIZE
        self.written[address] = byte

    def free(self, address: int) -> None:
        """Free the page at an address, or its reference to a shared one."""
        self.gmm.free_pages(self.name, free_page_descriptors([self.page_ids.pop(address)]), Account.BASE)
        del self.written[address]

    def check(self) -> Checked:
        """Stop, have all modules checked, and run again."""
        self.gmm.sharing.stop(self.name)
        try:
            return self.gmm.check_shared_modules(self.name)
        finally:
            self.gmm.sharing.resume(self.name)

    def view(self, address: int) -> memoryview:
        """Return the page at an address, in the store's memory."""
        page_id = self.page_ids[address]
        start = (page_id & GMM_PAGEID_IDX_MASK) * PAGE_SIZE
        return self.store.view(page_id >> GMM_CHUNKID_SHIFT)[start : start + PAGE_SIZE]

    def reads_what_it_wrote(self) -> bool:
        """Return whether each page is, from end to end, what this guest filled it with."""
        return all(self.view(address) == bytes([byte]) * PAGE_SIZE for address, byte in self.written.items())

    def page_at(self, address: int) -> int | None:
        return self.page_ids.get(address)

    def shared(self, page_id: int, now: int) -> None:
        self.page_ids = {address: now if own == page_id else own for address, own in self.page_ids.items()}
        self.read_only.add(now)

    def _replace(self, address: int, shared: int) -> None:
        """Copy a shared page on write: a handy page takes its place, and its reference is dropped."""
        old = bytes(self.view(address))
        self._put_handy_page(address, instead_of=shared)
        self.view(address)[:] = old

    def _put_handy_page(self, address: int, instead_of: int = NIL_GMM_PAGEID) -> None:
        """Allocate a handy page, and report where the guest put it."""
        descriptors = page_descriptors(1)
        self.gmm.allocate_handy_pages(self.name, 0, 1, descriptors)
        page_id = self.page_ids[address] = int(descriptors["idPage"][0])
        self.read_only.discard(page_id)
        descriptors["HCPhysGCPhys"] = address
        descriptors["idSharedPage"] = instead_of
        self.gmm.allocate_handy_pages(self.name, 1, 0, descriptors)
