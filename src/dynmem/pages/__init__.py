"""Page ranges as they travel (packed 64-bit words), and the set of pages that a guest has given up.

A batch of ranges is one `bytes` object of little-endian words: start page in bits 0 to 39, page count in bits
40 to 63. Functions and sets take whole batches, and no Python object is made per range.
"""

from dynmem.pages.page_set import Added, PageSet
from dynmem.pages.ranges import RANGE_BYTES, coalesce, from_pages, merge, pack, page_count, span, unpack
from dynmem.pages.runs import Runs

# in the order of importance: the set, making ranges, looking into them
__all__ = [
    "PageSet",
    "Added",
    "span",
    "merge",
    "from_pages",
    "pack",
    "unpack",
    "coalesce",
    "page_count",
    "RANGE_BYTES",
    "Runs",
]
