"""The target arithmetic: what a wanted size means in pages to take and pages to give back.

Source: hv_balloon_idle_state_process_target in QEMU hw/hyperv/hv-balloon.c.
"""

from typing import NamedTuple


class Difference(NamedTuple):
    """What leads from the guest's size to its target, in pages; at most one of the two is not 0."""

    balloon: int
    unballoon: int


def difference(
    *, target_pages: int, ram_pages: int, removed_pages: int, can_balloon: bool, least_pages: int = 0
) -> Difference:
    """What to do for a guest with `ram_pages` of which it has given up `removed_pages`.

    `least_pages` is what the guest itself says it needs (min_page_cnt of its capabilities): it is not asked
    to go below. More than the guest has given up cannot be given back.
    """
    removed = min(removed_pages, ram_pages)
    size = ram_pages - removed
    if target_pages > size:
        return Difference(0, min(target_pages - size, removed))
    if not can_balloon:
        return Difference(0, 0)
    return Difference(max(0, size - max(target_pages, least_pages)), 0)
