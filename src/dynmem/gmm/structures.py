"""Structures of the Global Memory Manager as numpy dtypes, laid out as the C compiler of a 64-bit host does.

Names of structures and fields are those of VBox/vmm/gmm.h with its reserved members (VBox/types.h for
VMMDEVSHAREDREGIONDESC, iprt/avl.h for the tree node). Counts are pages of 4 KiB unless a name says
otherwise; a pointer is 8 bytes and 0 in a copy that leaves the process.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dynmem.gmm.codes import GmmError, Status
from dynmem.gmm.constants import (
    GMM_SHARED_MODULE_MAX_NAME_STRING,
    GMM_SHARED_MODULE_MAX_VERSION_STRING,
    NIL_RTHCPHYS,
)

Structure = np.dtype[np.void]
Records = npt.NDArray[np.void]
Field = tuple[str, str | Structure] | tuple[str, str | Structure, tuple[int, ...]]


def layout(*fields: Field) -> Structure:
    """Return the dtype with these fields, each aligned to its size, padded at the end as C pads it."""
    return np.dtype(list(fields), align=True)


#: The id of a page to free, NIL_GMM_PAGEID once it is freed.
GMMFREEPAGEDESC: Final[Structure] = layout(("idPage", "<u4"))

#: A page to update or allocate. It goes in with the guest physical address (or GMM_GCPHYS_UNSHAREABLE, or
#: NIL_RTHCPHYS), the id of the page to update and that of the shared page it replaces, and comes out with the
#: host physical address, the id of the page and NIL_GMM_PAGEID; with NIL_RTHCPHYS and NIL_GMM_PAGEID if no
#: page was allocated.
GMMPAGEDESC: Final[Structure] = layout(("HCPhysGCPhys", "<u8"), ("idPage", "<u4"), ("idSharedPage", "<u4"))

#: Pages by account (base is RAM, ROMs and handy pages).
GMMVMSIZES: Final[Structure] = layout(("cBasePages", "<u8"), ("cShadowPages", "<u4"), ("cFixedPages", "<u4"))

#: Statistics of one VM.
GMMVMSTATS: Final[Structure] = layout(
    ("Reserved", GMMVMSIZES),
    ("Allocated", GMMVMSIZES),
    ("cPrivatePages", "<u8"),
    ("cSharedPages", "<u8"),
    ("cBalloonedPages", "<u8"),
    ("cMaxBalloonedPages", "<u8"),
    ("cReqBalloonedPages", "<u8"),
    ("cReqActuallyBalloonedPages", "<u8"),
    ("cReqDeflatePages", "<u8"),
    ("enmPolicy", "<u4"),
    ("enmPriority", "<u4"),
    ("fBallooningEnabled", "?"),
    ("fSharedPagingEnabled", "?"),
    ("fMayAllocate", "?"),
    ("afReserved", "?", (5,)),
)

#: Statistics of all VMs, and those of one (zeros if none was named).
GMMSTATS: Final[Structure] = layout(
    ("cMaxPages", "<u8"),
    ("cReservedPages", "<u8"),
    ("cOverCommittedPages", "<u8"),
    ("cAllocatedPages", "<u8"),
    ("cSharedPages", "<u8"),
    ("cDuplicatePages", "<u8"),
    ("cLeftBehindSharedPages", "<u8"),
    ("cBalloonedPages", "<u8"),
    ("cChunks", "<u4"),
    ("cFreedChunks", "<u4"),
    ("cShareableModules", "<u8"),
    ("au64Reserved", "<u8", (2,)),
    ("VMStats", GMMVMSTATS),
)

#: A region of a module as a guest registers it, by guest virtual address and bytes.
VMMDEVSHAREDREGIONDESC: Final[Structure] = layout(
    ("GCRegionAddr", "<u8"), ("cbRegion", "<u4"), ("u32Alignment", "<u4")
)

#: A region of a registered module, by address, bytes, and where the ids of its shared pages are.
GMMSHAREDREGIONDESC: Final[Structure] = layout(
    ("GCRegionAddr", "<u8"), ("cbRegion", "<u4"), ("u32Alignment", "<u4"), ("paidPages", "<u8")
)

#: Node of a tree with guest virtual addresses as keys.
AVLGCPTRNODECORE: Final[Structure] = layout(
    ("Key", "<u8"), ("pLeft", "<u8"), ("pRight", "<u8"), ("uchHeight", "u1")
)

#: A module as it is registered for all VMs, up to its first region.
GMMSHAREDMODULE: Final[Structure] = layout(
    ("Core", AVLGCPTRNODECORE),
    ("cbModule", "<u4"),
    ("cRegions", "<u4"),
    ("cUsers", "<u4"),
    ("enmGuestOS", "<u4"),
    ("szName", f"S{GMM_SHARED_MODULE_MAX_NAME_STRING}"),
    ("szVersion", f"S{GMM_SHARED_MODULE_MAX_VERSION_STRING}"),
    ("aRegions", GMMSHAREDREGIONDESC, (1,)),
)

#: A page of a module to check, by host and guest physical address and page id; then those of the page to use.
GMMSHAREDPAGEDESC: Final[Structure] = layout(
    ("HCPhys", "<u8"), ("GCPhys", "<u8"), ("idPage", "<u4"), ("u32Alignment", "<u4")
)


def page_descriptors(pages: int) -> Records:
    """Return *pages* GMMPAGEDESC for pages without a guest address, as `allocate_pages` takes them."""
    descriptors = np.zeros(pages, GMMPAGEDESC)
    descriptors["HCPhysGCPhys"] = NIL_RTHCPHYS
    return descriptors


def free_page_descriptors(page_ids: npt.ArrayLike) -> Records:
    """Return a GMMFREEPAGEDESC for each of *page_ids*."""
    return np.array(page_ids, np.uint32).view(GMMFREEPAGEDESC)


class ModuleText(NamedTuple):
    """An array of characters in a structure, which ends with a 0 byte.

    Attributes:
        what: What it is, for the sentence of an error.
        size: Bytes, with the 0 byte.
        too_long: The status when a text does not fit.
    """

    what: str
    size: int
    too_long: Status

    def encode(self, text: str) -> bytes:
        """Return the bytes of a text that fits; raise GmmError for any other."""
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise self._not_text() from None
        if b"\0" in data:
            raise GmmError(Status.INVALID_PARAMETER, f"the {self.what} contains a 0 byte, which ends it")
        if len(data) >= self.size:
            raise self._does_not_fit(len(data))
        return data

    def decode(self, field: bytes) -> str:
        """Return the text of a field, up to its first 0 byte; raise GmmError if it has none."""
        data, end, _ = field.partition(b"\0")
        # numpy takes the 0 bytes at the end of a field off, so a shorter field ended with one
        if not end and len(data) >= self.size:
            raise self._does_not_fit(len(data))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._not_text() from None

    def _does_not_fit(self, length: int) -> GmmError:
        return GmmError(
            self.too_long, f"the {self.what} is {length} bytes long; {self.size - 1} are the most"
        )

    def _not_text(self) -> GmmError:
        return GmmError(Status.INVALID_PARAMETER, f"the {self.what} is not UTF-8")


#: The name of a shared module has 127 bytes of UTF-8 at most.
MODULE_NAME: Final = ModuleText(
    "name of the module", GMM_SHARED_MODULE_MAX_NAME_STRING, Status.MODULE_NAME_TOO_LONG
)
#: The version of a shared module has 15 bytes of UTF-8 at most.
MODULE_VERSION: Final = ModuleText(
    "version of the module", GMM_SHARED_MODULE_MAX_VERSION_STRING, Status.MODULE_VERSION_TOO_LONG
)
