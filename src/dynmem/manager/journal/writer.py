"""The journal from asyncio: one call at a time, in a thread, because each waits for the disk.

A thread can't be stopped in the middle, so a call that has begun goes on to its end whatever becomes of its
caller, and no other one begins before.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from dynmem.manager.journal.journal import Journal, JournalError

T = TypeVar("T")


class JournalWriter:
    """Writes for the loop and for the API; says once when writing fails, and once when it works again."""

    def __init__(self, journal: Journal, tell: Callable[[str], None]) -> None:
        self.journal: Final = journal
        self.problem: str | None = None
        self._tell = tell
        self._one_at_a_time = asyncio.Lock()
        self._under_way: set[asyncio.Task[Any]] = set()

    async def do(self, call: Callable[[], T]) -> T:
        """Run one call of the journal; JournalError passes after it has been said."""
        running = asyncio.create_task(self._run(call))
        self._under_way.add(running)
        running.add_done_callback(self._under_way.discard)
        return await asyncio.shield(running)

    async def finish(self) -> None:
        """Wait for calls whose callers have gone; then the journal may be closed."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def _run(self, call: Callable[[], T]) -> T:
        try:
            async with self._one_at_a_time:
                result = await asyncio.to_thread(call)
        except JournalError as error:
            if self.problem is None:
                self._tell(str(error))
            self.problem = str(error)
            raise
        if self.problem is not None:
            self._tell(f"{self.journal.path}: can be written again")
        self.problem = None
        return result
