"""Guests that need what a shrink took from them: they get it back, and keep it a while.

A balloon takes caches and what can be swapped out. Whether a guest needed that shows only afterwards, in its
major faults: pages that it has to read from a disk. If they come fast after a shrink, the guest counts as
needing the size that it had before. The figure is the guest's own word, so it brings it no more than that. A
guest with a parachute takes memory back itself, and keeps that likewise.
"""

from typing import Final

import msgspec

from dynmem.units import NS_PER_S

# So many pages a second are read back for a reason.
THRASH_PER_S: Final = 100
# So long after a shrink it is held responsible for them.
_BLAMED_NS: Final = 30 * NS_PER_S
# So long a guest keeps what it got back.
KEPT_NS: Final = 60 * NS_PER_S


class Thrash(msgspec.Struct):
    """What is known of one guest's faults and shrinks.

    Attributes:
        reported_ns: When its last report was made; -1: it has made none.
        faults: How many it had had by then.
        per_s: How many it had in a second between its last two reports.
        shrunk_ns: When it was last told to give; -1: never, or that has been made good.
        before: The size that it had before. Pages.
        needs: The size that it got back. Pages.
        until_ns: Until when it keeps that.
    """

    reported_ns: int = -1
    faults: int = 0
    per_s: int = 0
    shrunk_ns: int = -1
    before: int = 0
    needs: int = 0
    until_ns: int = 0

    def shrunk(self, size: int, now_ns: int) -> None:
        """Take in that a guest of this size is told to give; of several shrinks the first size counts."""
        if self.shrunk_ns < 0 or now_ns - self.shrunk_ns > _BLAMED_NS:
            self.before = size
        self.before = max(self.before, size)
        self.shrunk_ns = now_ns

    def see(self, at_ns: int, faults: int | None, now_ns: int) -> None:
        """Take in a report made at this time; a counter that falls is that of another kernel."""
        if faults is None or at_ns <= self.reported_ns:
            return
        passed = at_ns - self.reported_ns
        is_first = self.reported_ns < 0 or faults < self.faults
        self.per_s = 0 if is_first else (faults - self.faults) * NS_PER_S // passed
        self.reported_ns, self.faults = at_ns, faults
        if self.is_thrashing and 0 <= now_ns - self.shrunk_ns <= _BLAMED_NS and self.shrunk_ns >= 0:
            self.keep(self.before, now_ns)

    def keep(self, size: int, now_ns: int) -> None:
        """Have it keep a size for a while: it got, or took, that back."""
        self.needs, self.until_ns, self.shrunk_ns = size, now_ns + KEPT_NS, -1

    @property
    def is_thrashing(self) -> bool:
        """Whether it reads back fast now."""
        return self.per_s >= THRASH_PER_S

    def needed(self, now_ns: int) -> int:
        """Return the size that it keeps; 0 if it keeps none. Pages."""
        return self.needs if now_ns < self.until_ns else 0
