"""Which VMs should be looked at between two sweeps: those that touch memory which they had not touched.

The host sees that without asking anybody, as often as it likes.
"""

from collections.abc import Mapping
from typing import Final

from dynmem.units import MIB

# From one look at what all VMs hold to the next.
WATCH_NS: Final = 100_000_000
# Less than this is noise.
_RISE_BYTES: Final = 8 * MIB


class Watch:
    """What each VM held when it was last looked at, or less if it has given since. Bytes."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}

    def looked(self, held: Mapping[str, int | None]) -> None:
        """Take in what the VMs of a look held; None: not known."""
        for name, size in held.items():
            if size is None:
                self._held.pop(name, None)
            else:
                self._held[name] = size

    def risen(self, held: Mapping[str, int | None]) -> frozenset[str]:
        """Return the VMs that hold so much more by now that their growth has to be looked at."""
        found = set()
        for name, size in held.items():
            before = self._held.get(name)
            if size is None or before is None:
                continue
            self._held[name] = min(before, size)
            if size - before >= _RISE_BYTES:
                found.add(name)
        return frozenset(found)
