"""Every bound of the product in one table, each with its reason.

Whatever a guest, a peer or a file can make grow is bounded by a name from here.
"""

from typing import Final

DM_MESSAGE_BYTES_MAX: Final = 4096  # Hyper-V and Linux build balloon messages in one page
DM_RANGES_PER_MESSAGE: Final = 510  # (4096 - 16) / 8
PAGE_RANGE_PAGES_MAX: Final = (1 << 24) - 1  # 24 bits of page_cnt
GUEST_PAGE_MAX: Final = (1 << 40) - 1  # 40 bits of start_page, the AMD64 limit
