"""What is read of the history's file: in one thread, one reading at a time, each with an end.

The file is opened for each reading: the manager may have set it aside meanwhile and begun another.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from dynmem.errors import DeadlineError, DynmemError, ExitCode, RefusedError
from dynmem.history.block import Block
from dynmem.history.past import Past
from dynmem.limits import WEB_READING_S_MAX, WEB_READINGS_MAX

T = TypeVar("T")


class NoHistoryError(DynmemError):
    """The history cannot be read now."""

    exit_code = ExitCode.UNREACHABLE


class BusyError(RefusedError):
    """Too much is being asked for at once."""


class Reading(Past):
    """An open history that is read for a while and no longer."""

    def __init__(self, folder: Path, seconds: float = WEB_READING_S_MAX) -> None:
        super().__init__(folder)
        self._seconds = seconds
        self._end_s = time.monotonic() + seconds

    def go_on(self) -> None:
        """Raise DeadlineError if this has taken too long."""
        if self.is_late:
            raise DeadlineError(
                f"{self.path}: this took more than {self._seconds:g} s to read: ask for a shorter time"
            )

    @property
    def is_late(self) -> bool:
        """Whether this has taken too long."""
        return time.monotonic() > self._end_s

    def block(self, batch: int, who: int, only: Container[str] | None = None) -> Block | None:
        self.go_on()  # whatever is read is read in blocks
        return super().block(batch, who, only)


class Readings:
    """Reads the history of a state folder, in the order in which it is asked to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "history")

    async def read(self, what: Callable[[Reading], T]) -> T:
        """Return what a call makes of the history. BusyError, NoHistoryError, or what the call raises."""
        if self._waiting >= WEB_READINGS_MAX:
            raise BusyError(f"{WEB_READINGS_MAX} readings wait already, the limit: ask again later")
        self._waiting += 1
        try:
            async with asyncio.timeout(WEB_READING_S_MAX):
                await self._turn.acquire()
        except TimeoutError as error:
            raise BusyError(
                f"the history has been read for others for {WEB_READING_S_MAX:g} s: ask again later"
            ) from error
        finally:
            self._waiting -= 1
        reading = asyncio.get_running_loop().run_in_executor(self._thread, self._read, what)
        reading.add_done_callback(self._next)
        return await asyncio.shield(reading)  # one who leaves does not give the turn to two

    def close(self) -> None:
        """Read no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _next(self, read: "asyncio.Future[T]") -> None:
        self._turn.release()
        if not read.cancelled():
            read.exception()  # it may be that nobody waits for it any more

    def _read(self, what: Callable[[Reading], T]) -> T:
        try:
            past = Reading(self._folder)
        except (DynmemError, OSError) as error:
            raise NoHistoryError(str(error)) from error
        try:
            return what(past)
        except (sqlite3.Error, OSError) as error:
            raise NoHistoryError(f"{past.path}: cannot be read ({error}): try again") from error
        finally:
            past.close()
