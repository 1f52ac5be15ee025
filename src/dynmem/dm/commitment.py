"""What a guest has committed, out of its status reports, whatever its driver counts of the balloon.

A report's committed pages are those that programs were promised, a reserve, and the pages in the balloon,
which the host takes off again. A Linux driver that is loaded again does not know the pages that the driver
before it gave: they are not in its count. When it gets some of them back, its count of 32 bits wraps, and the
guest reports 16 TiB too much.

Source: num_pages_ballooned and post_status in Linux drivers/hv/hv_balloon.c.
"""

_LINUX_COUNTER = 1 << 32


class Commitment:
    """The reports of one guest, driver after driver. Everything is in pages."""

    def __init__(self) -> None:
        self._last: int | None = None  # what was last found out
        self._given_before = 0  # the pages in the balloon when the driver came
        self._is_decided = True
        self._is_counted = True

    def driver_came(self, removed: int) -> None:
        """Begin with a driver that may or may not count the `removed` pages in the balloon."""
        self._given_before = removed
        self._is_decided = removed == 0
        self._is_counted = True

    def reported(self, pages: int, removed: int, most: int) -> int:
        """Return what a guest that reports `pages` has committed, with the `removed` ones in its balloon.

        A guest may promise its programs more than it has, but no more than the `most` that it can be given is
        believed. The first report of a driver is compared with the last one of the driver before: the nearer
        sum is taken. Less than there is in the balloon is proof that the driver does not count all of it.
        """
        most += removed
        if pages < removed:
            self._is_counted = False
        elif not self._is_decided and self._last is not None:
            other = _unwrapped(pages + self._given_before, most)
            self._is_counted = abs(pages - self._last) <= abs(other - self._last)
        self._is_decided = True
        counted = pages if self._is_counted else pages + self._given_before
        self._last = min(_unwrapped(counted, most), most)
        return self._last


def _unwrapped(pages: int, most: int) -> int:
    """Return a sum without what Linux's counter added to it when it wrapped."""
    return pages % _LINUX_COUNTER if pages > most else pages
