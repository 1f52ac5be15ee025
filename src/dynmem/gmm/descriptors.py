"""Arrays of page descriptors from callers: checked before anything is done with them."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynmem.gmm.codes import GmmError, Status
from dynmem.gmm.constants import (
    GMM_GCPHYS_LAST,
    GMM_GCPHYS_UNSHAREABLE,
    GMM_PAGE_PFN_UNSHAREABLE,
    GMM_PAGEID_LAST,
    MAX_PAGES_OF_CALL,
    NIL_GMM_PAGEID,
    NIL_RTHCPHYS,
    PAGE_SHIFT,
)
from dynmem.gmm.structures import Records, Structure

#: Bits that no address of a page up to GMM_GCPHYS_LAST has.
_NOT_IN_ADDRESS: Final = ~0x0000_0FFF_FFFF_F000 & (1 << 64) - 1


def check_array(descriptors: Records, structure: Structure, what: str) -> None:
    """Raise GmmError (INVALID_PARAMETER) unless this is an array of 1 to 2^20 - 1 of a structure."""
    if descriptors.dtype != structure or descriptors.ndim != 1:
        raise _invalid(f"{what} are not an array of their structure")
    if not 1 <= descriptors.size <= MAX_PAGES_OF_CALL:
        raise _invalid(f"{descriptors.size} {what} are not 1 to {MAX_PAGES_OF_CALL}")


def check_new(descriptors: Records, *, only_marks: bool) -> None:
    """Raise GmmError (INVALID_PARAMETER) unless these are what pages can be allocated for."""
    if descriptors.size == 1:
        address, page_id, shared_id = descriptors.item(0)
        is_mark = address in (NIL_RTHCPHYS, GMM_GCPHYS_UNSHAREABLE)
        is_page = not address & _NOT_IN_ADDRESS and address <= GMM_GCPHYS_LAST
        if (is_mark or (is_page and not only_marks)) and not page_id and not shared_id:
            return
    check_addresses(descriptors, only_marks=only_marks)
    check_nil(descriptors)


def check_addresses(descriptors: Records, *, only_marks: bool = False) -> None:
    """Raise GmmError (INVALID_PARAMETER) unless each address is one of a guest page, or a mark.

    The marks are NIL_RTHCPHYS and GMM_GCPHYS_UNSHAREABLE; *only_marks* excludes addresses.
    """
    addresses: NDArray[np.uint64] = descriptors["HCPhysGCPhys"]
    if (
        not only_marks
        and not int(np.bitwise_or.reduce(addresses)) & _NOT_IN_ADDRESS
        and int(addresses.max()) <= GMM_GCPHYS_LAST
    ):
        return
    good = (addresses == NIL_RTHCPHYS) | (addresses == GMM_GCPHYS_UNSHAREABLE)
    if not only_marks:
        good |= (addresses & _NOT_IN_ADDRESS == 0) & (addresses <= GMM_GCPHYS_LAST)
    if not good.all():
        index = int(good.argmin())
        allowed = "a mark, as outside the base account" if only_marks else "the address of a page or a mark"
        raise _invalid(
            f"descriptor {index} has the address {int(addresses[index]):#x}, which is not {allowed}"
        )


def check_nil(descriptors: Records) -> None:
    """Raise GmmError (INVALID_PARAMETER) unless all page ids are NIL."""
    for field in ("idPage", "idSharedPage"):
        if descriptors[field].any():
            index = int(descriptors[field].astype(bool).argmax())
            raise _invalid(f"descriptor {index} has {field} {int(descriptors[field][index]):#x}, not NIL")


def check_page_id(page_id: int) -> None:
    """Raise GmmError (INVALID_PARAMETER) for a number that is beyond the ids of pages."""
    if not NIL_GMM_PAGEID <= page_id <= GMM_PAGEID_LAST:
        raise _invalid(f"{page_id:#x} is beyond the last page id, {GMM_PAGEID_LAST:#x}")


def check_page_ids(page_ids: NDArray[np.uint32]) -> None:
    """Raise GmmError (INVALID_PARAMETER) if any of these numbers is beyond the ids of pages."""
    check_page_id(page_ids.item(0) if page_ids.size == 1 else int(page_ids.max()))


def pfns(descriptors: Records) -> NDArray[np.uint64]:
    """Return where the guest has each page, as page numbers; without an address it is not to be shared."""
    addresses: NDArray[np.uint64] = descriptors["HCPhysGCPhys"]
    numbers = addresses >> np.uint64(PAGE_SHIFT)
    np.minimum(numbers, np.uint64(GMM_PAGE_PFN_UNSHAREABLE), out=numbers)
    return numbers


def _invalid(what: str) -> GmmError:
    return GmmError(Status.INVALID_PARAMETER, what)
