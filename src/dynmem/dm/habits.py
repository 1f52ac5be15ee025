"""What a guest's driver does that no protocol says: so that a host can be tried against it.

Common to all known guests: memory that was hot-added stays theirs over a close and reopen of the channel.
"""

from typing import Final

import msgspec

from dynmem.limits import DM_BALLOON_CHUNK_PAGES
from dynmem.units import NS_PER_S


class Habits(msgspec.Struct, frozen=True):
    """One kind of guest."""

    largest_request_pages: int | None = None  # a balloon request above is not answered, ever
    settles_ns: int = 0  # asked for anything sooner after the handshake, it crashes


LINUX: Final = Habits()
# source: QEMU hw/hyperv/hv-balloon.c, at HV_BALLOON_HR_CHUNK_PAGES and HV_BALLOON_POST_INIT_WAIT
WINDOWS: Final = Habits(largest_request_pages=DM_BALLOON_CHUNK_PAGES, settles_ns=50 * NS_PER_S)
