"""Sharing pages of equal content between VMs: page by page, by way of the modules that they registered.

A page that is first checked for its place in a module becomes the shared page of that place. The page of
the next VM is compared with it: if it is equal, the VM refers to the shared page and its own is freed; if
not, it is left alone. A VM that is about to write to a shared page replaces it with one of its own and
drops its reference; the last reference frees the page. (VirtualBox, GMMR0.cpp: GMMR0SharedModuleCheckPage;
PGMR0SharedPage.cpp.)

**Only a stopped VM's pages are shared.** A page that its guest writes to between comparison and replacement
would lose what was written, and copy-on-write of the kernel does not reach the mappings of other processes.
So a VM runs until `stop` says otherwise, and the pages of a running one are refused (WRONG_ORDER). The VM
learns which of its pages are shared before it runs again, and from then on writes to none of them; so a VM
that refers to a shared page already may run while another's page is merged with it.

**Whose reference it is** the original does not know: a shared page has one number there, so any VM can drop
the reference of another, and those of a VM that is gone are lost. Here each VM has a count by shared page
(`references.References`, 6 bytes a page); the number of a page is the sum of these counts. A count rather
than a mark, because a guest may load one module twice.
"""

import enum
from typing import Final, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from dynmem.gmm.codes import GmmError, Status
from dynmem.gmm.constants import NIL_GMM_PAGEID, PAGE_SIZE
from dynmem.gmm.modules import ModuleRegistry, Region, SharedModule
from dynmem.gmm.references import References

#: References to one page at most: the original's page has 16 bits for them and would begin again at 0.
MAX_REFERENCES: Final = (1 << 16) - 1
#: Pages that a VM left behind, freed by one call to the store: it takes their order and gaps as they come.
FREED_AT_ONCE: Final = 4096


class PageBooks(Protocol):
    """What sharing needs of the books of pages.

    All raise GmmError (PAGE_NOT_FOUND) for an id that is not a page of any chunk. What `release` and `free`
    raise because the memory of a page cannot be returned, they raise before they change anything. Accounts
    are no concern of sharing: a merged page stays charged to its VM, as a reference.
    """

    def owner(self, page_id: int) -> str | None:
        """Return the VM of a private page, None if the page is shared or free."""

    def references(self, page_id: int) -> int:
        """Return the references to a shared page, 0 if the page is private or free."""

    def may_share(self, page_id: int) -> bool:
        """Return False for a private page marked unshareable, or in a large page."""

    def address(self, page_id: int) -> int:
        """Return what the books report as the host physical address of a page."""

    def equal(self, page_id: int, other: int) -> bool:
        """Return whether two pages have the same 4096 bytes."""

    def share(self, page_id: int) -> None:
        """Make a private page a shared one with one reference."""

    def refer(self, page_id: int) -> None:
        """Add a reference to a shared page."""

    def release(self, page_id: int) -> None:
        """Drop a reference to a shared page; the last one frees it."""

    def free_shared(self, page_ids: NDArray[np.uint32]) -> None:
        """Free shared pages that have one reference each, in one call to the store."""

    def free(self, page_id: int) -> None:
        """Free a private page, whose VM remains charged for it."""

    def private_pages(self, other_than: str) -> NDArray[np.uint32]:
        """Return the ids of all private pages of other VMs."""


class GuestPages(Protocol):
    """What a check of all modules needs of one guest: which page it has where.

    `Sharing.attach` takes it.
    """

    def page_at(self, address: int) -> int | None:
        """Return the id of the page that the guest has, read-only, at a virtual address, if any."""

    def shared(self, page_id: int, now: int) -> None:
        """Record that the guest has page *now*, never to be written to, wherever it had *page_id*."""


class Outcome(enum.Enum):
    """What became of a page that was checked.

    Attributes:
        SHARED: It is the shared page of its place now.
        MERGED: It was equal to the shared page of its place and is freed.
        LEFT: It is as it was.
    """

    SHARED = enum.auto()
    MERGED = enum.auto()
    LEFT = enum.auto()


class Checked(msgspec.Struct):
    """What a check of all modules of a VM did. Pages.

    Attributes:
        shared: Became the shared page of their place.
        merged: Were equal to the shared page of their place and are freed.
        left: Are as they were: of other content, not to be shared, or shared already.
        absent: Are not in the guest, or can be written there.
    """

    shared: int = 0
    merged: int = 0
    left: int = 0
    absent: int = 0


class LeftBehind(NamedTuple):
    """What a VM left behind when it ended.

    Attributes:
        references: To shared pages, all dropped now.
        freed: Pages whose last reference was among them.
    """

    references: int
    freed: int


class Sharing:
    """Which VM refers to which shared page, and what VMs left behind.

    Attributes:
        modules: The modules of all VMs.
        left_behind_pages: References that VMs held when they ended, ever (cLeftBehindSharedPages): a count
            for the operator as in the original, but reclaimed.
    """

    def __init__(self, pages: PageBooks) -> None:
        self._pages = pages
        self._references: dict[str, References] = {}
        self._stopped: set[str] = set()
        self._guests: dict[str, GuestPages] = {}
        self.modules: ModuleRegistry = ModuleRegistry()
        self.left_behind_pages: int = 0

    def stop(self, vm: str) -> None:
        """Record that a VM is stopped: none of its processes writes to its pages until `resume`."""
        self._stopped.add(vm)

    def resume(self, vm: str) -> None:
        """Record that a VM runs."""
        self._stopped.discard(vm)

    def attach(self, vm: str, guest: GuestPages) -> None:
        """Set through what `check` sees the pages of a guest."""
        self._guests[vm] = guest

    def held(self, vm: str) -> int:
        """Return the references of a VM to shared pages (GMMVMSTATS.cSharedPages)."""
        references = self._references.get(vm)
        return references.total if references else 0

    def holds(self, vm: str, page_id: int) -> int:
        """Return the references of a VM to one page, 0 if it is not shared."""
        references = self._references.get(vm)
        return references[page_id] if references else 0

    def check_page(self, vm: str, base: int, region: int, page: int, descriptor: np.void) -> Outcome:
        """Share one page of a module, or leave it alone (GMMR0SharedModuleCheckPage).

        *base* is where the VM registered the module, *page* the index in its region. *descriptor* is an
        element of an array of GMMSHAREDPAGEDESC; `idPage` is the VM's own page there and becomes the page
        to be used instead, with its address in `HCPhys`: the same one when it is shared now, another when
        it was merged, NIL when it was left alone.

        Raises:
            GmmError: WRONG_ORDER (the VM runs), SHARED_MODULE_NOT_FOUND, INVALID_PARAMETER (no such region or
                page, or `GCPhys` is not the address of a page), PAGE_NOT_FOUND, PAGE_NOT_PRIVATE,
                NOT_PAGE_OWNER.
        """
        self._check_stopped(vm)
        module = self.modules.find(vm, base).module
        regions = module.key.regions
        if not (0 <= region < len(regions) and 0 <= page < regions[region].pages):
            raise GmmError(
                Status.INVALID_PARAMETER, f"the module at {base:#x} has no page {page} in a region {region}"
            )
        if int(descriptor["GCPhys"]) % PAGE_SIZE:
            raise GmmError(
                Status.INVALID_PARAMETER, f"{int(descriptor['GCPhys']):#x} is not the address of a page"
            )
        outcome, page_id = self._share(vm, module, region, page, int(descriptor["idPage"]))
        descriptor["idPage"] = page_id
        if page_id != NIL_GMM_PAGEID:
            descriptor["HCPhys"] = self._pages.address(page_id)
        return outcome

    def check(self, vm: str) -> Checked:
        """Share what can be shared of all modules of a VM (GMMR0CheckSharedModules).

        The guest learns of each page as it is shared: a call that fails at a page has done those before.

        Raises:
            GmmError: WRONG_ORDER (the VM runs), NOT_SUPPORTED (no guest was attached), and what `check_page`
                raises about a page that the guest names.
        """
        self._check_stopped(vm)
        guest = self._guests.get(vm)
        if guest is None:
            raise GmmError(
                Status.NOT_SUPPORTED, f"the pages of the guest of {vm} are not known: attach it first"
            )
        checked = Checked()
        for base in self.modules.of(vm):
            registration = self.modules.find(vm, base)
            for index, region in enumerate(registration.regions):
                self._check_region(vm, guest, registration.module, index, region, checked)
        return checked

    def drop(self, vm: str, page_id: int) -> bool:
        """Drop a reference of a VM to a shared page; return whether that freed the page.

        Raises:
            GmmError: PAGE_NOT_FOUND, PAGE_NOT_SHARED, NOT_PAGE_OWNER (the VM has no reference to it).
        """
        if not self._pages.references(page_id):
            raise GmmError(Status.PAGE_NOT_SHARED, f"page {page_id:#x} is not a shared one")
        if not self.holds(vm, page_id):
            raise GmmError(Status.NOT_PAGE_OWNER, f"{vm} has no reference to the shared page {page_id:#x}")
        return self._release(vm, page_id)

    def leave(self, vm: str) -> LeftBehind:
        """Remove a VM that ended: first its modules, then every reference that it still has.

        The original counts the references and leaves the pages (GMMR0CleanupVM). If the memory of a page
        cannot be returned, what that raises comes out, and another call continues.
        """
        self.modules.reset(vm)
        self._stopped.discard(vm)
        self._guests.pop(vm, None)
        references = self._references.get(vm, References())
        total, last = references.total, list[int]()
        for page_id, count in zip(*(column.tolist() for column in references.pages()), strict=True):
            others = self._pages.references(page_id) - count
            for _ in range(count if others else count - 1):
                self._release(vm, page_id)
                self.left_behind_pages += 1
            if not others:
                last.append(page_id)
        for start in range(0, len(last), FREED_AT_ONCE):
            block = last[start : start + FREED_AT_ONCE]
            self._pages.free_shared(np.array(block, np.uint32))
            for page_id in block:
                references.drop(page_id)
            self.left_behind_pages += len(block)
        self._references.pop(vm, None)
        return LeftBehind(total, len(last))

    def find_duplicate(self, vm: str, page_id: int) -> bool:
        """Return whether a private page of another VM has the content of a page of this one.

        A scan of all pages, for a host's own tests (GMMR0FindDuplicatePage, which is in debug builds only):
        what it returns is a fact about another VM's memory, not to be passed to a guest.

        Raises:
            GmmError: PAGE_NOT_FOUND, PAGE_ALREADY_FREE, NOT_PAGE_OWNER.
        """
        owner = self._pages.owner(page_id)
        if owner is None and not self._pages.references(page_id):
            raise GmmError(Status.PAGE_ALREADY_FREE, f"page {page_id:#x} is free: it has no content")
        if owner != vm and not self.holds(vm, page_id):
            raise GmmError(Status.NOT_PAGE_OWNER, f"page {page_id:#x} is not one of {vm}")
        others = self._pages.private_pages(vm).tolist()
        return any(self._pages.equal(page_id, other) for other in others)

    def verify(self) -> tuple[int, int]:
        """Assert that pages and VMs agree on every reference.

        Return what the VMs refer to: pages, and references beyond the first of each.
        """
        self.modules.verify()
        sums: dict[int, int] = {}
        for references in self._references.values():
            ids, counts = references.pages()
            assert references.total == int(counts.sum(dtype=np.int64))
            for page_id, count in zip(ids.tolist(), counts.tolist(), strict=True):
                sums[page_id] = sums.get(page_id, 0) + count
        assert all(self._pages.references(page_id) == count for page_id, count in sums.items())
        return len(sums), sum(sums.values()) - len(sums)

    def _check_stopped(self, vm: str) -> None:
        if vm not in self._stopped:
            raise GmmError(Status.WRONG_ORDER, f"{vm} runs: stop it before any of its pages is shared")

    def _check_region(
        self, vm: str, guest: GuestPages, module: SharedModule, index: int, region: Region, checked: Checked
    ) -> None:
        first = region.address - region.address % PAGE_SIZE
        for page in range(region.pages):
            address = first + page * PAGE_SIZE
            own = guest.page_at(address)
            if own is None:
                checked.absent += 1
                continue
            if self.holds(vm, own):
                checked.left += 1
                continue
            outcome, page_id = self._share(vm, module, index, page, own)
            if outcome is Outcome.LEFT:
                checked.left += 1
                continue
            guest.shared(own, page_id)
            if outcome is Outcome.SHARED:
                checked.shared += 1
            else:
                checked.merged += 1

    def _share(self, vm: str, module: SharedModule, region: int, page: int, own: int) -> tuple[Outcome, int]:
        """Share a private page of a stopped VM; return the page that it has now, NIL if it was left alone."""
        owner = self._pages.owner(own)
        if owner is None:
            raise GmmError(
                Status.PAGE_NOT_PRIVATE, f"page {own:#x} is not a private one: only those are shared"
            )
        if owner != vm:
            raise GmmError(Status.NOT_PAGE_OWNER, f"page {own:#x} is not one of {vm}")
        if not self._pages.may_share(own):
            return Outcome.LEFT, NIL_GMM_PAGEID
        known = module.shared_pages(region)
        there = int(known[page])
        # A shared page that was freed remains in the module: as nothing, or by now as another module's
        # shared page, which its content makes as good as any.
        if there == NIL_GMM_PAGEID or not self._is_shared(there):
            self._pages.share(own)
            known[page] = own
            self._refer(vm, own)
            return Outcome.SHARED, own
        if self._pages.references(there) >= MAX_REFERENCES or not self._pages.equal(own, there):
            return Outcome.LEFT, NIL_GMM_PAGEID
        self._pages.free(own)
        self._pages.refer(there)
        self._refer(vm, there)
        return Outcome.MERGED, there

    def _is_shared(self, page_id: int) -> bool:
        """Return whether a page that once was shared is now, by whatever module; its chunk may be gone."""
        try:
            return self._pages.references(page_id) > 0
        except GmmError:
            return False

    def _refer(self, vm: str, page_id: int) -> None:
        self._references.setdefault(vm, References()).add(page_id)

    def _release(self, vm: str, page_id: int) -> bool:
        """Drop a reference that a VM has to a page; return whether it was the last, which frees the page."""
        last = self._pages.references(page_id) == 1
        # first what can fail: the store may be unable to return the page's memory
        self._pages.release(page_id)
        self._references[vm].drop(page_id)
        return last
