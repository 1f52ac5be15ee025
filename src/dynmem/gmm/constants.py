"""Constants of the Global Memory Manager, each under the name it has in VirtualBox.

The numbers are facts of its ABI for a 64-bit host with pages of 4 KiB; each group names the header or file
that they are from.
"""

from typing import Final

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT

# Chunks and ids: VBox/vmm/gmm.h. A page id is a chunk id and the index of the page in its chunk.
GMM_CHUNK_SHIFT: Final = 21
GMM_CHUNK_SIZE: Final = 1 << GMM_CHUNK_SHIFT
GMM_CHUNK_NUM_PAGES: Final = 1 << (GMM_CHUNK_SHIFT - PAGE_SHIFT)
GMM_CHUNKID_SHIFT: Final = GMM_CHUNK_SHIFT - PAGE_SHIFT
GMM_PAGEID_LAST: Final = (1 << 28) - 1
GMM_PAGEID_IDX_MASK: Final = (1 << GMM_CHUNKID_SHIFT) - 1
GMM_CHUNKID_LAST: Final = GMM_PAGEID_LAST >> GMM_CHUNKID_SHIFT
NIL_GMM_CHUNKID: Final = 0
NIL_GMM_PAGEID: Final = 0

# Guest physical addresses in page descriptors: VBox/vmm/gmm.h; the NIL values: iprt/types.h.
GMM_GCPHYS_LAST: Final = 0x0000_0FFF_FFFF_0000
GMM_GCPHYS_UNSHAREABLE: Final = 0x0000_0FFF_FFFF_1000
NIL_RTHCPHYS: Final = (1 << 64) - 1
NIL_RTGCPHYS: Final = (1 << 64) - 1

# Pages and chunks as the books keep them: VMM/VMMR0/GMMR0.cpp. State 1 is not used on a 64-bit host.
GMM_PAGE_PFN_LAST: Final = GMM_GCPHYS_LAST >> PAGE_SHIFT
GMM_PAGE_PFN_UNSHAREABLE: Final = GMM_GCPHYS_UNSHAREABLE >> PAGE_SHIFT
GMM_PAGE_STATE_PRIVATE: Final = 0
GMM_PAGE_STATE_SHARED: Final = 2
GMM_PAGE_STATE_FREE: Final = 3
GMM_CHUNK_FLAGS_LARGE_PAGE: Final = 1
GMM_CHUNK_FLAGS_SEEDED: Final = 2

# Lists of chunks by free pages: VMM/VMMR0/GMMR0.cpp. The last list is that of the chunks nothing is used of.
GMM_CHUNK_FREE_SET_SHIFT: Final = 4
GMM_CHUNK_FREE_SET_MASK: Final = (1 << GMM_CHUNK_FREE_SET_SHIFT) - 1
GMM_CHUNK_FREE_SET_LISTS: Final = (GMM_CHUNK_NUM_PAGES >> GMM_CHUNK_FREE_SET_SHIFT) + 1
GMM_CHUNK_FREE_SET_UNUSED_LIST: Final = GMM_CHUNK_FREE_SET_LISTS - 1

# Handy pages, which a VM holds in advance: VBox/param.h. A refill is flagged at SET_FF pages.
PGM_HANDY_PAGES: Final = 128
PGM_HANDY_PAGES_SET_FF: Final = 32
PGM_HANDY_PAGES_R3_ALLOC: Final = 8
PGM_HANDY_PAGES_RZ_ALLOC: Final = 8
PGM_HANDY_PAGES_RZ_TO_R3: Final = 24
PGM_HANDY_PAGES_MIN: Final = 32

# Shared modules: VBox/vmm/gmm.h (the two lengths include the terminator), VBox/VMMDev.h and GMMR0.cpp.
GMM_SHARED_MODULE_MAX_NAME_STRING: Final = 128
GMM_SHARED_MODULE_MAX_VERSION_STRING: Final = 16
VMMDEVSHAREDREGIONDESC_MAX: Final = 32
GMM_MAX_SHARED_PER_VM_MODULES: Final = 2048
GMM_MAX_SHARED_GLOBAL_MODULES: Final = 16834

# Limits of one call, which GMMR0.cpp has as plain numbers; the names are ours.
MAX_PAGES_OF_CALL: Final = (1 << 20) - 1
MAX_HANDY_PAGES_OF_CALL: Final = 1023
MAX_MODULE_SIZE: Final = 1 << 30

# What every request begins with, and the mark of the header: VBox/sup.h.
SUPVMMR0REQHDR_MAGIC: Final = 0x1973_0211
