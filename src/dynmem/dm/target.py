"""The target arithmetic: what a wanted size means in pages to take, pages to give back and pages to add.

Source: hv_balloon_idle_state_process_target in QEMU hw/hyperv/hv-balloon.c.
"""

from typing import NamedTuple


class Difference(NamedTuple):
    """What leads from the guest's size to its target, in pages: a balloon; or unballoon, then hot add."""

    balloon: int
    unballoon: int
    hot_add: int = 0


def difference(
    *,
    target_pages: int,
    ram_pages: int,
    removed_pages: int,
    can_balloon: bool,
    can_hot_add: bool = False,
    least_pages: int = 0,
) -> Difference:
    """What to do for a guest with `ram_pages` (hot-added ones too) that has given up `removed_pages` of them.

    `least_pages` is what the guest itself says it needs (min_page_cnt of its capabilities): it is not asked
    to go below. More than the guest has given up cannot be given back: the rest is to be added.
    """
    removed = min(removed_pages, ram_pages)
    size = ram_pages - removed
    if target_pages > size:
        unballoon = min(target_pages - size, removed)
        return Difference(0, unballoon, target_pages - size - unballoon if can_hot_add else 0)
    if not can_balloon:
        return Difference(0, 0)
    return Difference(max(0, size - max(target_pages, least_pages)), 0)
