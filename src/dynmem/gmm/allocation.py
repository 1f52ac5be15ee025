"""Where pages come from: the order in which chunks are tried, all or nothing.

    1  the chunk that the VM allocated from last
    2  its own chunks, fullest first
    3  any chunk on its node, if little of its reservation is left: a new chunk would stay nearly unused
    4  chunks on its node that nothing is used of
    5  any chunk on its node, then on any, if much is free already
    6  new chunks
    7  chunks that nothing is used of on other nodes, when the store is full
    8  any chunk at all

In bound mode only 1, 2, 4, 6 and 7: there no chunk has pages of two VMs. (VirtualBox, GMMR0.cpp:
gmmR0AllocatePagesNew, gmmR0AllocatePagesInBoundMode.)
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np

from dynmem.gmm.accounts import Accounts
from dynmem.gmm.book import Book
from dynmem.gmm.chunks import LARGE_PAGE, NONE
from dynmem.gmm.codes import Account, GmmError, Status
from dynmem.gmm.constants import (
    GMM_CHUNK_NUM_PAGES,
    GMM_CHUNK_SIZE,
    GMM_CHUNKID_SHIFT,
    GMM_PAGE_PFN_UNSHAREABLE,
    NIL_GMM_PAGEID,
    PAGE_SHIFT,
)
from dynmem.gmm.descriptors import check_array, check_new, pfns
from dynmem.gmm.page_table import HANDLE_SHIFT, PageTable
from dynmem.gmm.store import StoreFullError
from dynmem.gmm.structures import GMMPAGEDESC, Records
from dynmem.gmm.vms import Vm, Vms

#: With fewer pages than this left of its reservation, a VM gets no new chunk if there are others.
NEARLY_ALL_RESERVED: Final = 4 * GMM_CHUNK_NUM_PAGES
#: With as many pages free in chunks, there are no new ones.
MUCH_FREE: Final = 16 * GMM_CHUNK_NUM_PAGES

_NO_ADDRESS: Final = np.uint64(GMM_PAGE_PFN_UNSHAREABLE)


class _Search:
    """One search for pages: what is known when it begins, and what it has found.

    Attributes:
        vm: For whom.
        table: Where.
        left: Pages of its reservation that it does not hold yet.
        wanted: Pages that are still to be found.
        found: How many pages to take from which slot, in this order.
        added: Slots of new chunks, with the id that was given last before each.
    """

    __slots__ = ("added", "found", "left", "table", "vm", "wanted")

    def __init__(self, vm: Vm, table: PageTable, left: int, wanted: int) -> None:
        self.vm: Vm = vm
        self.table: PageTable = table
        self.left: int = left
        self.wanted: int = wanted
        self.found: dict[int, int] = {}
        self.added: list[tuple[int, int]] = []

    def take(self, slots: Iterator[int]) -> bool:
        """Count on the free pages of chunks, but once on each; return whether that is enough."""
        chunks, found, wanted = self.table.chunks, self.found, self.wanted
        for slot in slots:
            if slot in found:
                continue
            pages = chunks.free.item(slot)
            if pages >= wanted:
                found[slot] = wanted
                return True
            found[slot] = pages
            wanted -= pages
        self.wanted = wanted
        return False

    def undo(self) -> None:
        """Take back the new chunks."""
        for slot, last_id in reversed(self.added):
            self.table.undo_add_chunk(slot, last_id)


class _Pass(NamedTuple):
    """One way to find chunks.

    Attributes:
        chunks: Yields the slots of chunks that have free pages.
        applies: Whether it is tried at all.
        in_bound_mode: Whether it is tried in bound mode.
    """

    chunks: Callable[[_Search], Iterator[int]]
    applies: Callable[[_Search], bool] = lambda _: True
    in_bound_mode: bool = False


def _hint(search: _Search) -> Iterator[int]:
    slot, chunks = search.vm.hint, search.table.chunks
    if (
        slot is not None
        and chunks.ids.item(slot)
        and chunks.free.item(slot)
        and chunks.owner.item(slot) == search.vm.handle
        and not chunks.shared.item(slot)
    ):
        yield slot


def _own(search: _Search) -> Iterator[int]:
    return search.table.chunks.own(search.vm.handle)


def _on_node(search: _Search) -> Iterator[int]:
    nodes = search.table.chunks.node
    return (slot for slot in search.table.chunks.any() if nodes.item(slot) == search.vm.node)


def _unused_on_node(search: _Search) -> Iterator[int]:
    nodes = search.table.chunks.node
    return (slot for slot in search.table.chunks.unused() if nodes.item(slot) == search.vm.node)


def _unused(search: _Search) -> Iterator[int]:
    return search.table.chunks.unused()


def _on_any_node(search: _Search) -> Iterator[int]:
    return search.table.chunks.any()


def _new(search: _Search) -> Iterator[int]:
    table = search.table
    while chunk_id := table.chunks.next_id():
        last_id = table.chunks.last_id
        try:
            slot = table.add_chunk(chunk_id, search.vm.node)
        except StoreFullError:
            return
        search.added.append((slot, last_id))
        yield slot


def _little_is_left(search: _Search) -> bool:
    return search.left < NEARLY_ALL_RESERVED


def _much_is_free(search: _Search) -> bool:
    return search.table.chunks.free_pages >= MUCH_FREE


PASSES: Final = (
    _Pass(_hint, in_bound_mode=True),
    _Pass(_own, in_bound_mode=True),
    _Pass(_on_node, _little_is_left),
    _Pass(_unused_on_node, in_bound_mode=True),
    _Pass(_on_node, _much_is_free),
    _Pass(_on_any_node, _much_is_free),
    _Pass(_new, in_bound_mode=True),
    _Pass(_unused, in_bound_mode=True),
    _Pass(_on_any_node),
)
IN_BOUND_MODE: Final = tuple(each for each in PASSES if each.in_bound_mode)


class Allocator:
    """Gives pages to VMs."""

    def __init__(self, accounts: Accounts, vms: Vms, table: PageTable, *, bound: bool) -> None:
        self._accounts = accounts
        self._vms = vms
        self._table = table
        self._bound = bound

    def allocate_pages(self, name: str, descriptors: Records, account: Account) -> None:
        """Allocate a page for each descriptor, all or none; `GlobalMemoryManager.allocate_pages` says how."""
        check_array(descriptors, GMMPAGEDESC, "page descriptors")
        check_new(descriptors, only_marks=account is not Account.BASE)
        self._allocate(name, descriptors, account)

    def allocate_handy_pages(self, name: str, descriptors: Records) -> None:
        """Allocate base pages for descriptors that have been checked."""
        self._allocate(name, descriptors, Account.BASE)

    def allocate_large_page(self, name: str, size: int) -> int:
        """Allocate a whole chunk; `GlobalMemoryManager.allocate_large_page` says how."""
        if size != GMM_CHUNK_SIZE:
            raise GmmError(
                Status.INVALID_PARAMETER, f"a large page has {GMM_CHUNK_SIZE} bytes, and not {size}"
            )
        book = self._accounts.check_allocation(name, GMM_CHUNK_NUM_PAGES, Account.BASE)
        vm = self._vms.of(name)
        search = _Search(vm, self._table, 0, GMM_CHUNK_NUM_PAGES)
        slot = next(_unused_on_node(search), NONE)
        if slot == NONE:
            slot = next(_new(search), NONE)
        if slot == NONE:
            slot = next(self._table.chunks.unused(), NONE)
        if slot == NONE:
            raise _out_of_memory(name, GMM_CHUNK_NUM_PAGES)
        words = np.full(GMM_CHUNK_NUM_PAGES, _NO_ADDRESS | np.uint64(vm.handle << HANDLE_SHIFT))
        self._table.take(slot, words, vm)
        self._table.chunks.flags[slot] |= LARGE_PAGE
        self._accounts.identify(book, Account.BASE, GMM_CHUNK_NUM_PAGES)
        return self._table.chunks.ids.item(slot) << GMM_CHUNKID_SHIFT

    def _allocate(self, name: str, descriptors: Records, account: Account) -> None:
        book = self._accounts.check_allocation(name, descriptors.size, account)
        vm = self._vms.of(name)
        search = self._search(vm, book, descriptors.size)
        if descriptors.size == 1:
            self._hand_out_one(search, descriptors)
        else:
            self._hand_out(search, descriptors)
        search.vm.hint = next(reversed(search.found))
        self._accounts.identify(book, account, descriptors.size)

    def _search(self, vm: Vm, book: Book, pages: int) -> _Search:
        left = sum(book.reserved.values()) - book.total_allocated - book.ballooned
        search = _Search(vm, self._table, left, pages)
        try:
            for each in IN_BOUND_MODE if self._bound else PASSES:
                if each.applies(search) and search.take(each.chunks(search)):
                    return search
        except BaseException:
            search.undo()
            raise
        search.undo()
        raise _out_of_memory(vm.name, pages)

    def _hand_out_one(self, search: _Search, descriptors: Records) -> None:
        """Do the same for one page, without the arrays that a batch is worth."""
        (slot,) = search.found
        pfn = min(descriptors.item(0)[0] >> PAGE_SHIFT, GMM_PAGE_PFN_UNSHAREABLE)
        page_id = self._table.take_one(slot, pfn, search.vm)
        descriptors[0] = (page_id << PAGE_SHIFT, page_id, NIL_GMM_PAGEID)

    def _hand_out(self, search: _Search, descriptors: Records) -> None:
        words = pfns(descriptors)
        words |= np.uint64(search.vm.handle << HANDLE_SHIFT)
        ids = self._table.take_all(search.found, words, search.vm)
        descriptors["idPage"] = ids
        descriptors["idSharedPage"] = NIL_GMM_PAGEID
        descriptors["HCPhysGCPhys"] = ids.astype(np.uint64) << PAGE_SHIFT


def _out_of_memory(name: str, pages: int) -> GmmError:
    return GmmError(
        Status.OUT_OF_MEMORY, f"there are no {pages} pages for {name}: the store has no more memory"
    )
