"""Reservations in the journal: each stands there as long as it is open, and no longer.

One that its VM took over, that expired or that was withdrawn must not come back when the manager restarts.
"""

import contextlib
import time
from functools import partial

from dynmem.manager.journal.journal import RESERVED, Instruction, JournalError
from dynmem.manager.journal.writer import JournalWriter
from dynmem.manager.step import Manager


class Promises:
    """The reservations that the journal keeps, those of a predecessor included."""

    def __init__(self, manager: Manager, writer: JournalWriter) -> None:
        self._manager = manager
        self._writer = writer
        found = writer.journal.instructions()
        self._kept = {each.name: each for each in found if each.kind == RESERVED}

    async def keep(self, promise: Instruction) -> None:
        """Record a reservation, instead of an earlier one of its name. JournalError."""
        self._kept[promise.name] = promise
        await self._writer.do(partial(self._writer.journal.keep, promise, time.time_ns()))

    async def forget_ended(self) -> None:
        """Remove what has ended from the journal; what cannot be removed now is tried again later."""
        for promise in tuple(self._kept.values()):
            if self._manager.is_reserved(promise.name):
                continue
            with contextlib.suppress(JournalError):
                await self._writer.do(partial(self._writer.journal.drop, promise))
                if self._kept.get(promise.name) == promise:
                    del self._kept[promise.name]
