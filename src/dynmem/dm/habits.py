"""What guests' drivers do that no protocol says: Linux's habits, Windows' habits, and Linux's reserve.

All known guests keep memory that was hot-added when the channel closes and opens again.
"""

from typing import Final

import msgspec

from dynmem.limits import DM_BALLOON_CHUNK_PAGES
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE


class Habits(msgspec.Struct, frozen=True):
    """One kind of guest.

    Attributes:
        largest_request_pages: A balloon request above this gets no answer; None: there is no such limit.
        settles_ns: A guest that gets a request sooner than this after the handshake crashes.

    """

    largest_request_pages: int | None = None
    settles_ns: int = 0


#: A guest with Linux's drivers/hv/hv_balloon.c.
LINUX: Final = Habits()
#: A Windows Server guest: the largest request it takes, and when it takes the first. Source: QEMU
#: hw/hyperv/hv-balloon.c, at HV_BALLOON_HR_CHUNK_PAGES and HV_BALLOON_POST_INIT_WAIT.
WINDOWS: Final = Habits(largest_request_pages=DM_BALLOON_CHUNK_PAGES, settles_ns=50 * NS_PER_S)

_MIB_PAGES: Final = MIB // PAGE_SIZE
# a guest of less than (MiB) keeps (MiB) and one 2^n-th of its memory, for the last number n
_FLOORS: Final = ((128, 8, 1), (512, 40, 2), (2048, 104, 3), (8192, 232, 4))
_LARGE: Final = (488, 5)


def balloon_floor(total_pages: int) -> int:
    """Return the free pages that a Linux guest keeps whatever the host requests.

    `total_pages` is its memory without what is in the balloon. A guest of 128 MiB keeps 72, one of 512 MiB
    168, one of 2 GiB 360, one of 8 GiB 744.

    Source: compute_balloon_floor in Linux drivers/hv/hv_balloon.c.
    """
    for below, base, shift in _FLOORS:
        if total_pages < below * _MIB_PAGES:
            return base * _MIB_PAGES + (total_pages >> shift)
    base, shift = _LARGE
    return base * _MIB_PAGES + (total_pages >> shift)
