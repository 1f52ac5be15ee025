"""The next sweep: whether it should come soon, and which resets of guests the last step knew of."""

import asyncio
from typing import Final


class NextSweep:
    """Shared by the loop, which sweeps, and by those that want it to.

    Attributes:
        wanted: Set when it should not wait for its period.
        resets: How many resets of guests were seen.
        resets_known: How many of them the last step knew of.

    """

    def __init__(self) -> None:
        self.wanted: Final = asyncio.Event()
        self.resets: int = 0
        self.resets_known: int = 0
        self._resets_before = 0

    def saw_reset(self) -> None:
        """Have it soon: what is known of a guest is from its former life."""
        self.resets += 1
        self.wanted.set()

    def begin(self) -> None:
        """Take note that it begins: it sees the guests that were reset by now."""
        self._resets_before = self.resets

    def stepped(self) -> None:
        """Take note that what it found was decided on."""
        self.resets_known = self._resets_before
