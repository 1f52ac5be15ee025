"""The journal from asyncio: one call at a time, in a thread, because each waits for the disk."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from dynmem.manager.journal import Journal, JournalError

T = TypeVar("T")


class JournalWriter:
    """Writes for the loop and for the API; says once when writing fails, and once when it works again."""

    def __init__(self, journal: Journal, tell: Callable[[str], None]) -> None:
        self.journal: Final = journal
        self.problem: str | None = None
        self._tell = tell
        self._one_at_a_time = asyncio.Lock()

    async def do(self, call: Callable[[], T]) -> T:
        """Run one call of the journal; JournalError passes after it has been said."""
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
