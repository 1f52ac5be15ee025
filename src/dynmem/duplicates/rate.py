"""How fast memory is read: a scan takes memory bandwidth from the guests, and may take long instead."""

import time
from collections.abc import Callable
from typing import Final

from dynmem.units import NS_PER_S

# What was not read in time is not caught up: that would be a burst.
_LATE_NS_MAX: Final = NS_PER_S // 20


class Rate:
    """A limit of bytes per second."""

    def __init__(
        self,
        bytes_per_s: int | None,
        *,
        now_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Begin; None is no limit."""
        self.bytes_per_s: Final = bytes_per_s
        self._now_ns = now_ns
        self._sleep = sleep
        self._free_at_ns = now_ns()

    def spend(self, size: int) -> None:
        """Wait until `size` more bytes may be read."""
        if self.bytes_per_s is None:
            return
        now = self._now_ns()
        if now < self._free_at_ns:
            self._sleep((self._free_at_ns - now) / NS_PER_S)
        self._free_at_ns = max(self._free_at_ns, now - _LATE_NS_MAX) + size * NS_PER_S // self.bytes_per_s
