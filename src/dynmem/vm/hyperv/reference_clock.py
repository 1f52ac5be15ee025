"""The reference time of a partition: units of 100 ns, computed from the TSC, so that page and MSR agree.

Its origin is set when the guest first asks, from the machine's clock; from then on the TSC alone counts.
"""

from collections.abc import Callable
from typing import Final

from dynmem.wire.hyperv import REFERENCE_HZ, TscPage

_U64: Final = (1 << 64) - 1


class ReferenceClock:
    """Counts from `now_100ns()`; `tsc(vp)` is the TSC of a processor, at `tsc_hz` (above 10 MHz)."""

    def __init__(self, tsc_hz: int, *, now_100ns: Callable[[], int], tsc: Callable[[int], int]) -> None:
        self._scale: Final = (REFERENCE_HZ << 64) // tsc_hz
        self._now_100ns = now_100ns
        self._tsc = tsc
        self._offset: int | None = None

    def read(self, vp: int) -> int:
        """Return the time on a processor, as its guest computes it from the page."""
        scaled = self._tsc(vp) * self._scale >> 64
        if self._offset is None:
            self._offset = self._now_100ns() - scaled
        return scaled + self._offset & _U64

    def page(self, vp: int) -> TscPage:
        """Return the page for the guest of this clock."""
        if self._offset is None:
            self.read(vp)
        assert self._offset is not None
        return TscPage(1, self._scale, self._offset)

    def reset(self) -> None:
        """Set the origin when the next guest asks."""
        self._offset = None
