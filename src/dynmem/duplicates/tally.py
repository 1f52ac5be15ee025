"""What equal pages would save, counted per VM: by page sharing, by KSM, by a balloon.

A class is a set of pages with equal bytes. Page sharing keeps one of them; what that saves is divided among
the VMs of the class by their pages in it, as Pss divides a shared page. KSM keeps a copy for each 256 pages.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Pages that share one copy under KSM: max_page_sharing (Linux Documentation/admin-guide/mm/ksm.rst).
KSM_SHARING_MAX: Final = 256

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class Tally:
    """Counts of one account; each array has an entry for each of its VMs.

    Attributes:
        equal_pages: Pages whose bytes another page of the account has, too.
        inside_pages: Pages that page sharing inside the VM alone would save.
        across_pages: Pages whose bytes another VM of the account has, too.
        sharing_pages: The VM's part of what page sharing would save.
        ksm_pages: The VM's part of what KSM would save, of pages that are not zero.
        saved_pages: What page sharing would save in all.
        classes: How many different contents the equal pages have.
    """

    def __init__(self, vms: int) -> None:
        self._vms: Final = vms
        self.equal_pages: Final[IntArray] = np.zeros(vms, np.int64)
        self.inside_pages: Final[IntArray] = np.zeros(vms, np.int64)
        self.across_pages: Final[IntArray] = np.zeros(vms, np.int64)
        self.sharing_pages: Final[FloatArray] = np.zeros(vms)
        self.ksm_pages: Final[FloatArray] = np.zeros(vms)
        self.saved_pages: int = 0
        self.classes: int = 0

    def add(self, vms: IntArray, begins: NDArray[np.bool_]) -> None:
        """Add whole classes: the VM of each page, those of one VM in a row, and which pages begin a class."""
        if not vms.size:
            return
        changes = begins.copy()
        changes[1:] |= vms[1:] != vms[:-1]
        starts = np.flatnonzero(changes)
        counts = np.diff(starts, append=vms.size)
        class_of = np.cumsum(begins[starts]) - 1
        self._add(vms[starts], counts, class_of)

    def add_class(self, counts: IntArray) -> None:
        """Add one class: how many pages each VM has in it."""
        vms = np.flatnonzero(counts)
        self._add(vms, counts[vms], np.zeros(vms.size, np.int64))

    def _add(self, vms: IntArray, counts: IntArray, class_of: IntArray) -> None:
        """Add pages by class and VM: `counts` pages of a VM in a class."""
        sizes = np.bincount(class_of, weights=counts).astype(np.int64)
        shared = sizes >= 2
        self.classes += int(np.count_nonzero(shared))
        self.saved_pages += int(sizes[shared].sum()) - int(np.count_nonzero(shared))
        kept = shared[class_of]
        vms, counts, total = vms[kept], counts[kept], sizes[class_of[kept]]
        self.equal_pages[:] += self._per_vm(vms, counts)
        self.inside_pages[:] += self._per_vm(vms, counts - 1)
        self.across_pages[:] += self._per_vm(vms, np.where(total > counts, counts, 0))
        self.sharing_pages[:] += np.bincount(vms, counts * (1 - 1 / total), self._vms)
        copies = -(-total // KSM_SHARING_MAX)
        self.ksm_pages[:] += np.bincount(vms, counts * (1 - copies / total), self._vms)

    def _per_vm(self, vms: IntArray, counts: IntArray) -> IntArray:
        return np.bincount(vms, counts, self._vms).astype(np.int64)
