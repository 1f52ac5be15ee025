"""Pages for tests of sharing, as plainly as can be: a dictionary, with a number for the content of each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynmem.gmm.codes import GmmError, Status
from dynmem.gmm.modules import Region
from dynmem.gmm.structures import GMMSHAREDPAGEDESC, VMMDEVSHAREDREGIONDESC, Records


@dataclass
class Page:
    """A page in use; a free one has neither an owner nor references."""

    owner: str | None
    content: int
    references: int = 0
    may_share: bool = True


class NaivePages:
    """The books of pages that `Sharing` is given."""

    def __init__(self) -> None:
        self.pages: dict[int, Page] = {}
        self.stuck: set[int] = set()  # whose memory cannot be returned

    def give(self, vm: str, page_id: int, content: int) -> int:
        """Give a VM a private page."""
        self.pages[page_id] = Page(vm, content)
        return page_id

    def owner(self, page_id: int) -> str | None:
        return self._page(page_id).owner

    def references(self, page_id: int) -> int:
        return self._page(page_id).references

    def may_share(self, page_id: int) -> bool:
        return self._page(page_id).may_share

    def address(self, page_id: int) -> int:
        return page_id << 12

    def equal(self, page_id: int, other: int) -> bool:
        return self._page(page_id).content == self._page(other).content

    def share(self, page_id: int) -> None:
        page = self.pages[page_id]
        assert page.owner is not None
        page.owner, page.references = None, 1

    def refer(self, page_id: int) -> None:
        assert self.pages[page_id].references
        self.pages[page_id].references += 1

    def release(self, page_id: int) -> None:
        assert self.pages[page_id].references
        if self.pages[page_id].references == 1:
            self._discard(page_id)
        self.pages[page_id].references -= 1

    def free_shared(self, page_ids: NDArray[np.uint32]) -> None:
        ids = page_ids.tolist()
        assert all(self.pages[page_id].references == 1 for page_id in ids)
        for page_id in ids:
            self._discard(page_id)
        for page_id in ids:
            self.pages[page_id].references = 0

    def free(self, page_id: int) -> None:
        assert self.pages[page_id].owner is not None
        self._discard(page_id)
        self.pages[page_id].owner = None

    def private_pages(self, other_than: str) -> NDArray[np.uint32]:
        ids = [page_id for page_id, page in self.pages.items() if page.owner not in (None, other_than)]
        return np.array(ids, np.uint32)

    def _discard(self, page_id: int) -> None:
        if page_id in self.stuck:
            raise OSError(f"page {page_id:#x} is stuck")

    def _page(self, page_id: int) -> Page:
        if page_id not in self.pages:
            raise GmmError(Status.PAGE_NOT_FOUND, f"page {page_id:#x} is not in any chunk")
        return self.pages[page_id]


def regions_of(*regions: Region) -> Records:
    """Return the regions as a guest registers them."""
    descriptors = np.zeros(len(regions), VMMDEVSHAREDREGIONDESC)
    descriptors["GCRegionAddr"] = np.array([region.address for region in regions], np.uint64)
    descriptors["cbRegion"] = [region.size for region in regions]
    return descriptors


def page_to_check(page_id: int, address: int = 0x1000) -> np.void:
    """Return a descriptor of a page at a guest physical address, as the caller fills it in."""
    descriptors = np.zeros(1, GMMSHAREDPAGEDESC)
    descriptors["GCPhys"], descriptors["idPage"] = address, page_id
    descriptor = descriptors[0]
    assert isinstance(descriptor, np.void)
    return descriptor
