"""The target: how long it holds, and what it means in pages to balloon, to unballoon and to hot-add.

A target is an order to one guest. What ends a channel or a guest does this to it, and to the guest's memory:

    event                   target          given-up pages   added memory     committed
    the channel closes      pursued again   stay given up    stays            with or without them: found out
    UNLOAD, a new contact   over            the guest's      stays, as it is  unknown until it reports
    a reset                 over (kept)     the guest's      goes (stays)     unknown until it reports

Behind a channel that closes is the same guest, without a driver. Behind UNLOAD or a new contact is another
one, for all that a host can see: a kernel that kexec started, or one whose driver forgot what it gave. So a
driver that is loaded again, or wakes from hibernation, is not shrunk twice, and no kernel is given pages that
another one gave. Added memory stays where it is, since the new kernel may live in it. In brackets: what a
reset does if the owner asks for it, so that the next guest gets the size of the last one.

A target that no guest was asked for yet waits for the next one.

Source: the life of `target` and `target_changed` in QEMU hw/hyperv/hv-balloon.c (which opens no channel again
without a reset), and hv_balloon_idle_state_process_target there.
"""

from typing import NamedTuple


class Target:
    """The size that the owner wants, and whether there is something to do about it.

    Attributes:
        pages: The size; None for the guest's own.
        is_due: Whether the guest is to be asked for it.

    """

    def __init__(self) -> None:
        self.pages: int | None = None
        self.is_due: bool = False
        self.retry_at: int | None = None
        self._was_asked = False

    def set(self, pages: int) -> None:
        """Replace the target. The same size again means: try again."""
        self.pages = pages
        self.is_due = True
        self._was_asked = False

    def asked(self) -> None:
        """Record that the guest is asked for it now, or has nothing to be asked for."""
        self.is_due = False
        self.retry_at = None
        self._was_asked = True

    def again(self) -> None:
        """Make the target due again: there is more to do about it."""
        self.is_due = True

    def retry(self, at_ns: int) -> None:
        """Make the target due again later."""
        self.retry_at = at_ns

    def tick(self, now: int) -> None:
        """Let time pass."""
        self.is_due |= self.retry_at is not None and now >= self.retry_at

    def channel_changed(self) -> None:
        """Make it due for the driver that opens the channel next."""
        self.is_due = self.pages is not None
        self.retry_at = None

    def guest_gone(self, *, is_kept: bool) -> None:
        """End a target that the former guest was asked for, unless it `is_kept` for the next one."""
        if self._was_asked and not is_kept:
            self.pages = None
        self.channel_changed()


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
