"""The live stream: one look at the manager a second, sent to all who read.

A reader that is slow is sent the last status and not those before it; of events, the last that it can still
be sent. So a reader costs the same memory however long it does not read. One that does not read at all is
dropped by its connection (`connection`).
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from dynmem.errors import DynmemError
from dynmem.history.event import Event, encoded
from dynmem.limits import WEB_HAPPENED_MAX, WEB_READERS_MAX
from dynmem.web.look import Look, Seen, Trouble
from dynmem.web.readings import BusyError

#: From one look to the next.
PERIOD_S: Final = 1.0
#: While the manager does not reply, it is asked less often.
TROUBLE_S: Final = 2.0
#: A status is sent at least as often, so that both ends know that the other is there.
QUIET_S: Final = 15.0
# What is handed to a connection at a time: the rest stays in the one frame that all readers share.
_PIECE_BYTES: Final = 1 << 16


class Reader:
    """What one reader has not been sent yet."""

    def __init__(self) -> None:
        self._state: bytes | None = None
        self._happened: deque[bytes] = deque(maxlen=WEB_HAPPENED_MAX)
        self._wake = asyncio.Event()
        self._has_ended = False

    def state(self, frame: bytes) -> None:
        """Send a status, or what is wrong, in place of one that waits still."""
        self._state = frame
        self._wake.set()

    def happened(self, frame: bytes) -> None:
        """Send an event; the oldest that waits is left out if there are too many."""
        self._happened.append(frame)
        self._wake.set()

    def end(self) -> None:
        """Send no more."""
        self._has_ended = True
        self._wake.set()

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield what there is, in pieces, until the end."""
        yield b"retry: 3000\n\n"
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._has_ended:
                return
            while (frame := self._next()) is not None:
                for begin in range(0, len(frame), _PIECE_BYTES):
                    yield frame[begin : begin + _PIECE_BYTES]

    def _next(self) -> bytes | None:
        if self._happened:
            return self._happened.popleft()
        state, self._state = self._state, None
        return state


class Live:
    """Looks while somebody reads.

    *news* returns what has happened since it was called last, *begin* makes it forget what was before.
    """

    def __init__(
        self, look: Look, news: Callable[[], Awaitable[list[Event]]], begin: Callable[[], None]
    ) -> None:
        self._look = look
        self._news = news
        self._begin = begin
        self._readers: set[Reader] = set()
        self._looking: asyncio.Task[None] | None = None
        self._state: bytes | None = None
        self._has_ended = False

    @property
    def readers(self) -> int:
        """How many read now."""
        return len(self._readers)

    def join(self) -> Reader:
        """Return a new reader, which has to `leave`. BusyError if there are too many."""
        if len(self._readers) >= WEB_READERS_MAX or self._has_ended:
            raise BusyError(
                f"{WEB_READERS_MAX} readers follow already, the limit: close a tab, or reload later"
            )
        reader = Reader()
        self._readers.add(reader)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._run())
        elif self._state is not None:
            reader.state(self._state)
        return reader

    def leave(self, reader: Reader) -> None:
        """Forget a reader; without any, nobody looks."""
        self._readers.discard(reader)
        if not self._readers and self._looking is not None:
            self._looking.cancel()
            self._looking = self._state = None

    def close(self) -> None:
        """End the stream of every reader."""
        self._has_ended = True
        for reader in self._readers:
            reader.end()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow_the_manager())
                group.create_task(self._follow_the_history())
        except Exception:
            for reader in self._readers:
                reader.end()  # their pages ask for another stream
            raise

    async def _follow_the_manager(self) -> None:
        clock = asyncio.get_running_loop().time
        before: Seen | Trouble | None = None
        sent_s = 0.0
        while True:
            begin_s = clock()
            seen = await self._look.now()
            if not seen.is_as(before) or begin_s - sent_s >= QUIET_S:
                self._state = _frame("status" if isinstance(seen, Seen) else "trouble", seen.data)
                for reader in self._readers:
                    reader.state(self._state)
                sent_s = begin_s
            before = seen
            period_s = PERIOD_S if isinstance(seen, Seen) else TROUBLE_S
            await asyncio.sleep(max(0.0, begin_s + period_s - clock()))

    async def _follow_the_history(self) -> None:
        self._begin()
        while True:
            # A history that cannot be read has no news: the page says why where it asks for it.
            with contextlib.suppress(DynmemError):
                for event in await self._news():
                    frame = _frame("happened", encoded(event))
                    for reader in self._readers:
                        reader.happened(frame)
            await asyncio.sleep(PERIOD_S)


def _frame(event: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event.encode(), data)
