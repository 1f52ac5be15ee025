"""How pages come back: in batches, as a large page, or as a reference to a shared one.

A batch is freed up to the first page that cannot be, as in the original: the pages before it are free, and
their ids in the batch are NIL. Where the original forgot to look whose a page is, it is looked at here.
(VirtualBox, GMMR0.cpp: GMMR0FreePages, GMMR0FreeLargePage.)
"""

from collections import Counter
from typing import Final, NamedTuple

import numpy as np

from dynmem.gmm.accounts import Accounts
from dynmem.gmm.book import ACCOUNTS, Book
from dynmem.gmm.chunks import LARGE_PAGE, Slots
from dynmem.gmm.codes import Account, GmmError, Status
from dynmem.gmm.constants import (
    GMM_CHUNK_NUM_PAGES,
    GMM_CHUNKID_SHIFT,
    GMM_PAGE_STATE_FREE,
    GMM_PAGE_STATE_PRIVATE,
    GMM_PAGEID_IDX_MASK,
    NIL_GMM_PAGEID,
)
from dynmem.gmm.descriptors import check_array, check_page_id, check_page_ids
from dynmem.gmm.page_table import HANDLE_SHIFT, STATE_SHIFT, Ids, PageTable
from dynmem.gmm.sharing import Sharing
from dynmem.gmm.structures import GMMFREEPAGEDESC, Records
from dynmem.gmm.vms import Vm, Vms


class _Batch(NamedTuple):
    """What of a batch can be freed.

    Attributes:
        private: Where the private pages in it are.
        shared: The ids of the shared pages in it, once for each reference.
        error: Why the batch ends before its end, if it does.
    """

    private: Slots
    shared: list[int]
    error: GmmError | None = None

    @property
    def pages(self) -> int:
        """Pages that can be freed."""
        return self.private.size + len(self.shared)


class Frees:
    """Takes pages back from VMs."""

    def __init__(self, accounts: Accounts, vms: Vms, table: PageTable, sharing: Sharing) -> None:
        self._accounts: Final = accounts
        self._vms: Final = vms
        self._table: Final = table
        self._sharing: Final = sharing

    def free_pages(self, name: str, descriptors: Records, account: Account) -> int:
        """Free pages; `GlobalMemoryManager.free_pages` says how."""
        check_array(descriptors, GMMFREEPAGEDESC, "pages to free")
        ids: Ids = descriptors["idPage"]
        check_page_ids(ids)
        if account not in ACCOUNTS:
            raise GmmError(Status.INVALID_PARAMETER, f"{account!r} is not an account")
        book = self._accounts.book(name)
        if ids.size > book.identified(account):
            raise GmmError(
                Status.ATTEMPT_TO_FREE_TOO_MUCH,
                f"{name} frees {ids.size} pages of {book.identified(account)} in {account.name}",
            )
        batch = self._batch(self._vms.of(name), ids)
        if batch.private.size:
            self._table.put_back(batch.private)
            self._accounts.identify(book, account, -batch.private.size)
        for page_id in batch.shared:
            self._sharing.drop(name, page_id)
            self._accounts.identify(book, account, -1)
        done = batch.pages
        ids[:done] = NIL_GMM_PAGEID
        if batch.error is not None:
            raise GmmError(
                batch.error.code, f"{batch.error.sentence}; {done} of {ids.size} pages are freed, before it"
            )
        return done

    def free_large_page(self, name: str, page_id: int) -> None:
        """Free a large page; `GlobalMemoryManager.free_large_page` says how."""
        book = self._accounts.book(name)
        check_page_id(page_id)
        if book.identified(Account.BASE) < GMM_CHUNK_NUM_PAGES:
            raise GmmError(
                Status.ATTEMPT_TO_FREE_TOO_MUCH,
                f"{name} frees a large page and has {book.identified(Account.BASE)} pages in BASE",
            )
        position = self.owned(self._vms.of(name), page_id)
        slot = position >> GMM_CHUNKID_SHIFT
        flags = self._table.chunks.flags.item(slot)
        if not flags & LARGE_PAGE or page_id & GMM_PAGEID_IDX_MASK:
            raise GmmError(Status.INVALID_PARAMETER, f"page {page_id:#x} is not the first of a large page")
        self._table.put_back(np.arange(position, position + GMM_CHUNK_NUM_PAGES, dtype=np.intp))
        self._accounts.identify(book, Account.BASE, -GMM_CHUNK_NUM_PAGES)

    def drop(self, name: str, book: Book, page_id: int) -> None:
        """Drop a reference of a VM to a shared page, charged to BASE."""
        if not book.identified(Account.BASE):
            raise GmmError(
                Status.ATTEMPT_TO_FREE_TOO_MUCH, f"{name} drops a shared page and has no pages in BASE"
            )
        self._sharing.drop(name, page_id)
        self._accounts.identify(book, Account.BASE, -1)

    def owned(self, vm: Vm, page_id: int) -> int:
        """Return where a private page of a VM is; raise GmmError if it is another's, shared or free."""
        position = self._table.position(page_id)
        word = self._table.word(position)
        if word >> STATE_SHIFT != GMM_PAGE_STATE_PRIVATE:
            raise GmmError(Status.PAGE_NOT_PRIVATE, f"page {page_id:#x} is not a private one")
        if word >> HANDLE_SHIFT != vm.handle:
            raise GmmError(Status.NOT_PAGE_OWNER, f"page {page_id:#x} is not one of {vm.name}")
        return position

    def _batch(self, vm: Vm, ids: Ids) -> _Batch:
        """Return what can be freed: at once if all are private pages of the VM, else page by page."""
        if ids.size == 1:
            position = self._table.find(ids.item(0))
            if position >= 0 and self._table.word(position) >> HANDLE_SHIFT == vm.handle:
                return _Batch(np.array([position], np.intp), [])
        positions = self._table.positions(ids)
        if (
            int(positions.min()) >= 0
            and _all_different(positions)
            and bool((self._table.words(positions) >> HANDLE_SHIFT == vm.handle).all())
        ):
            return _Batch(positions, [])
        private: dict[int, None] = {}
        shared: Counter[int] = Counter()
        error: GmmError | None = None
        for page_id, position in zip(ids.tolist(), positions.tolist(), strict=True):
            error = self._unfreeable(vm, page_id, position, private, shared)
            if error is not None:
                break
        return _Batch(np.fromiter(private, np.intp, len(private)), list(shared.elements()), error)

    def _unfreeable(
        self, vm: Vm, page_id: int, position: int, private: dict[int, None], shared: Counter[int]
    ) -> GmmError | None:
        """Add a page to those that can be freed, or return why it cannot be after them."""
        if position < 0:
            return GmmError(Status.PAGE_NOT_FOUND, f"page {page_id:#x} is not a page of any chunk")
        word = self._table.word(position)
        state = word >> STATE_SHIFT
        if state == GMM_PAGE_STATE_FREE or position in private:
            return GmmError(Status.PAGE_ALREADY_FREE, f"page {page_id:#x} is free")
        if state == GMM_PAGE_STATE_PRIVATE and word >> HANDLE_SHIFT == vm.handle:
            private[position] = None
            return None
        if state != GMM_PAGE_STATE_PRIVATE and shared[page_id] < self._sharing.holds(vm.name, page_id):
            shared[page_id] += 1
            return None
        return GmmError(Status.NOT_PAGE_OWNER, f"page {page_id:#x} is not one of {vm.name}")


def _all_different(positions: Slots) -> bool:
    """Return whether no page is named twice, which for ascending ones takes one look."""
    if bool((positions[1:] > positions[:-1]).all()):
        return True
    ordered = np.sort(positions)
    return bool((ordered[1:] != ordered[:-1]).all())
