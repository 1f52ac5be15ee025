"""How many visits to other programs' monitors are made at a time: as many as end soon enough.

A visit may take 100 ms. One by one, the processors of an idle host wait for the next visit to begin; all at
once, those of a busy one take so long that no visit ends in time. So

    a visit that took less than half of its time       one place more
    one that took more than three quarters of it       one place fewer
"""

import asyncio
from collections import deque
from typing import Final

#: At first, at least and at most.
PLACES: Final = 4
PLACES_MIN: Final = 3
PLACES_MAX: Final = 16


class Gate:
    """Lets visits begin, in the order in which they came.

    Attributes:
        places: How many may be made at a time.
    """

    def __init__(self) -> None:
        self.places: int = PLACES
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was let in just then
                self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def took(self, share: float) -> None:
        """Take in which share of its time a visit took."""
        if share < 1 / 2:
            self.places = min(PLACES_MAX, self.places + 1)
        elif share > 3 / 4:
            self.places = max(PLACES_MIN, self.places - 1)

    def _leave(self) -> None:
        self._inside -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._inside < self.places:
            turn = self._waiting.popleft()
            if not turn.done():  # else it waits no longer
                self._inside += 1
                turn.set_result(None)
