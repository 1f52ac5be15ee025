"""How much memory a Linux guest keeps for itself however hard it is asked.

Source: compute_balloon_floor in Linux drivers/hv/hv_balloon.c. A guest of 128 MiB keeps 72, one of 512 MiB
168, one of 2 GiB 360, one of 8 GiB 744.
"""

from typing import Final

from dynmem.units import MIB, PAGE_SIZE

_MIB_PAGES: Final = MIB // PAGE_SIZE
# (guests below so many MiB) keep (so many MiB) and (one 2^n-th of their memory)
_FLOORS: Final = ((128, 8, 1), (512, 40, 2), (2048, 104, 3), (8192, 232, 4))
_LARGE: Final = (488, 5)


def balloon_floor(total_pages: int) -> int:
    """Free pages that a guest of `total_pages` (what the balloon holds left out) keeps."""
    for below, base, shift in _FLOORS:
        if total_pages < below * _MIB_PAGES:
            return base * _MIB_PAGES + (total_pages >> shift)
    base, shift = _LARGE
    return base * _MIB_PAGES + (total_pages >> shift)
