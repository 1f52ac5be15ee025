"""What is kept ready: memory that nobody has, for whoever grows next.

The same memory split into private reserves is of no use to the guest that grows. Kept together it is granted
within one step, while those who have more than they need are only asked to give.

    kept ready = the fastest growth seen lately x the time that donors need
                 at least 1/32 of what can be divided, at most 1/8 of it, or what the operator sets
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from dynmem.manager.step.record import Record
from dynmem.policy import HUGE_PAGES
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE, pages_of

# From the moment that a slope is seen until donors have given: a fresh report, the order, the discard.
DONORS_NS: Final = 3 * NS_PER_S // 2
# Until growth has been seen, and again when none was seen for long.
_FIRST_PER_S: Final = 64 * MIB // PAGE_SIZE
# After this time half of what was seen is forgotten.
_HALF_NS: Final = 600 * NS_PER_S
_LEAST_SHARE: Final = 32
_MOST_SHARE: Final = 8
# What is short by less than this share of it is not refilled: it is not worth a command.
_REFILL_SHARE: Final = 4


class Ready(msgspec.Struct):
    """How much is kept ready, and how it follows the growth that is seen.

    Attributes:
        fastest: The fastest growth seen lately, of all VMs together. Pages per second.
        seen_ns: When that was.
    """

    fastest: int = 0
    seen_ns: int = 0

    def kept(self, records: Iterable[Record], room: int, set_bytes: int | None, now_ns: int) -> int:
        """Return how much of the *room* of these VMs is kept ready: what the operator set, or enough.

        Takes in how fast they grow. Pages.
        """
        self.see(sum(record.growth.pages_per_s for record in records), now_ns)
        return self.pages(max(0, room), None if set_bytes is None else pages_of(set_bytes), now_ns)

    def see(self, pages_per_s: int, now_ns: int) -> None:
        """Take in how fast all VMs together grow now."""
        faded = self._faded(now_ns)
        if pages_per_s >= faded:
            self.fastest, self.seen_ns = pages_per_s, now_ns

    def pages(self, room: int, floor: int | None, now_ns: int) -> int:
        """Return how much of what can be divided is kept ready; *floor* is the operator's. Pages."""
        per_s = max(_FIRST_PER_S, self._faded(now_ns))
        least = max(room // _LEAST_SHARE, per_s * DONORS_NS // NS_PER_S)
        own = min(least, room // _MOST_SHARE) if floor is None else floor
        return max(0, min(own, room)) // HUGE_PAGES * HUGE_PAGES

    def _faded(self, now_ns: int) -> int:
        # In halves, not little by little: each change could move memory.
        return self.fastest >> max(0, now_ns - self.seen_ns) // _HALF_NS


def refilled(ready: int, left: int) -> int:
    """Return what should be left of free memory after all grants: all that is kept ready, or nothing.

    *left* is what would be; while little of what is kept ready is missing, nobody is asked for it. Pages.
    """
    return ready if ready - left > ready // _REFILL_SHARE else 0
