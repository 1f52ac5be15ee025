"""The target arithmetic: what a target means in pages to balloon, to unballoon and to hot-add.

Source: hv_balloon_idle_state_process_target in QEMU hw/hyperv/hv-balloon.c.
"""

from typing import NamedTuple


class Difference(NamedTuple):
    """The way from the guest's size to its target, in pages: a balloon; or an unballoon, then a hot add."""

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
    """Return what to do for a guest of `ram_pages`, hot-added ones included, less `removed_pages`.

    No balloon goes below `least_pages`, which the guest itself says it needs (min_page_cnt of its
    capabilities). An unballoon returns at most what the guest has given up; the rest has to be added.

    ram 1000, removed 300, so the size is 700
    target 600: balloon 100    target 900: unballoon 200    target 1200: unballoon 300, hot-add 200
    """
    removed = min(removed_pages, ram_pages)
    size = ram_pages - removed
    if target_pages > size:
        unballoon = min(target_pages - size, removed)
        return Difference(0, unballoon, target_pages - size - unballoon if can_hot_add else 0)
    if not can_balloon:
        return Difference(0, 0)
    return Difference(max(0, size - max(target_pages, least_pages)), 0)
