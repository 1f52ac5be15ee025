"""The standing pool: memory that is kept for VMs about to start, so that a reservation is ready at once.

It is a reservation that nobody has made yet. What reservations hold counts as taken out of it, and once their
VMs run it is filled again, out of buffers and headroom: never out of what running VMs need to live.
"""

from collections.abc import Sequence
from typing import Final

from dynmem.policy import Vm, least_pages

#: For whom it is, in the sentences that say who holds memory.
WHOSE: Final = "VMs about to start"


def pool_pages(pool: int, reserved: int, views: Sequence[Vm], room: int) -> int:
    """Return what is kept now of a *pool* of this size, beside what is *reserved* of the *room*. Pages."""
    left = room - reserved - least_pages(views, "low", keeping=True)
    return max(0, min(pool - reserved, left))
