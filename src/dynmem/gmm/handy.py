"""Handy pages: what a VM holds in advance, so that its guest's next pages need no call.

When it has handed them out, it says where the guest put each and which shared page each replaced, and gets
others, all in one call. (VirtualBox, GMMR0.cpp: GMMR0AllocateHandyPages; PGM keeps 128 of them,
PGM_HANDY_PAGES, and asks for more when 32 are left, PGM_HANDY_PAGES_SET_FF.)
"""

from typing import Final

import numpy as np

from dynmem.gmm.accounts import Accounts
from dynmem.gmm.allocation import Allocator
from dynmem.gmm.book import Book
from dynmem.gmm.codes import GmmError, Status
from dynmem.gmm.constants import (
    GMM_GCPHYS_UNSHAREABLE,
    MAX_HANDY_PAGES_OF_CALL,
    NIL_GMM_PAGEID,
    NIL_RTHCPHYS,
    PAGE_SHIFT,
)
from dynmem.gmm.descriptors import check_addresses, check_array, check_nil, check_page_ids
from dynmem.gmm.frees import Frees
from dynmem.gmm.page_table import PageTable
from dynmem.gmm.structures import GMMPAGEDESC, Records
from dynmem.gmm.vms import Vm, Vms


class HandyPages:
    """Updates the handy pages of VMs."""

    def __init__(
        self, accounts: Accounts, vms: Vms, table: PageTable, allocator: Allocator, frees: Frees
    ) -> None:
        self._accounts: Final = accounts
        self._vms: Final = vms
        self._table: Final = table
        self._allocator: Final = allocator
        self._frees: Final = frees

    def allocate(self, name: str, to_update: int, to_allocate: int, descriptors: Records) -> None:
        """Update, then allocate; `GlobalMemoryManager.allocate_handy_pages` says how."""
        check_array(descriptors, GMMPAGEDESC, "handy page descriptors")
        counts = (to_update, to_allocate)
        if not 0 <= min(counts) <= max(counts) <= min(MAX_HANDY_PAGES_OF_CALL, descriptors.size) or not any(
            counts
        ):
            raise GmmError(
                Status.INVALID_PARAMETER,
                f"{to_update} handy pages to update and {to_allocate} to allocate are not 0 to "
                f"{MAX_HANDY_PAGES_OF_CALL} each, one of them at least, in {descriptors.size} descriptors",
            )
        _check(descriptors[:to_update], descriptors[to_update:to_allocate])
        book, vm = self._accounts.book(name), self._vms.of(name)
        for index in range(to_update):
            self._update(vm, book, descriptors[index])
        if to_allocate:
            self._allocator.allocate_handy_pages(name, descriptors[:to_allocate])

    def _update(self, vm: Vm, book: Book, descriptor: np.void) -> None:
        page_id, replaced = int(descriptor["idPage"]), int(descriptor["idSharedPage"])
        if page_id != NIL_GMM_PAGEID:
            position = self._frees.owned(vm, page_id)
            address = int(descriptor["HCPhysGCPhys"])
            if address != NIL_RTHCPHYS:
                self._table.set_pfn(position, min(address, GMM_GCPHYS_UNSHAREABLE) >> PAGE_SHIFT)
            descriptor["idPage"] = NIL_GMM_PAGEID
        descriptor["HCPhysGCPhys"] = NIL_RTHCPHYS
        if replaced != NIL_GMM_PAGEID:
            self._frees.drop(vm.name, book, replaced)
            descriptor["idSharedPage"] = NIL_GMM_PAGEID


def _check(updates: Records, others: Records) -> None:
    """Raise GmmError (INVALID_PARAMETER) unless descriptors are what they may be: the *others* NIL."""
    if updates.size:
        check_addresses(updates)
        check_page_ids(updates["idPage"])
        check_page_ids(updates["idSharedPage"])
    if others.size:
        check_nil(others)
        if not bool((others["HCPhysGCPhys"] == NIL_RTHCPHYS).all()):
            raise GmmError(
                Status.INVALID_PARAMETER, "a handy page to allocate has an address, and is not NIL"
            )
