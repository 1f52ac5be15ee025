"""The clients of one monitor take turns: whoever has had least done for it comes first.

So a client that sends without end waits for the others, and one with a single question waits for one turn of
one other, however many there are. What was done is counted in bytes, those it sent and those it was sent.
"""

import asyncio
import heapq
import itertools
from typing import Final

from dynmem.limits import QMP_SAVED_BYTES_MAX


class Share:
    """What has been done for one client, in bytes."""

    def __init__(self) -> None:
        self.used: int = 0


class Turns:
    """Lets those who wait go on one by one, each in an iteration of the event loop."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, Share, asyncio.Future[None]]] = []
        self._numbers: Final = itertools.count()
        self._reached = 0  # by whoever went on last
        self._is_calling = False

    async def next(self, share: Share) -> None:
        """Wait for the turn of a client; of what it did not use while it was away it has saved a little."""
        share.used = max(share.used, self._reached - QMP_SAVED_BYTES_MAX)
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (share.used, next(self._numbers), share, turn))
        self._call()
        await turn

    def _call(self) -> None:
        if not self._is_calling:
            self._is_calling = True
            asyncio.get_running_loop().call_soon(self._let_one_go_on)

    def _let_one_go_on(self) -> None:
        self._is_calling = False
        while self._waiting:
            used, _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():  # its client may have gone away
                self._reached = used
                turn.set_result(None)
                break
        if self._waiting:
            self._call()
