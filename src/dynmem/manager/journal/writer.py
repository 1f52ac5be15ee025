"""The journal from asyncio: one call at a time, in a thread, because each waits for the disk.

A thread cannot be cancelled, so a call that has begun runs to its end whatever happens to its caller, and no
other call begins before that.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from dynmem.manager.journal.journal import Journal, JournalError

T = TypeVar("T")


class JournalWriter:
    """Writes for the loop and for the API; reports once when writing fails, and once when it works again."""

    def __init__(self, journal: Journal, report: Callable[[str], None]) -> None:
        self.journal: Final = journal
        self.problem: str | None = None
        self._report = report
        self._one_at_a_time = asyncio.Lock()
        # Its own: the threads that others share may all be waiting for something.
        self._thread = ThreadPoolExecutor(1, "journal")
        self._running: set[asyncio.Task[Any]] = set()

    async def do(self, call: Callable[[], T]) -> T:
        """Run one call of the journal; JournalError passes on after it has been reported."""
        running = asyncio.create_task(self._run(call))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return await asyncio.shield(running)

    async def finish(self) -> None:
        """Wait for calls whose callers were cancelled; then the journal may be closed."""
        if self._running:
            await asyncio.wait(self._running)
        self._thread.shutdown(wait=False)

    async def _run(self, call: Callable[[], T]) -> T:
        try:
            async with self._one_at_a_time:
                result = await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except JournalError as error:
            if self.problem is None:
                self._report(str(error))
            self.problem = str(error)
            raise
        if self.problem is not None:
            self._report(f"{self.journal.path}: can be written again")
        self.problem = None
        return result
