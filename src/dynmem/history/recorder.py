"""The history from asyncio: steps are taken in at once and written in a thread, many in one transaction.

Nothing here keeps a step waiting. If the disk is slow or full, what waits is bounded, and the oldest of it is
given up; what cannot be written stops nothing else.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from dynmem.history.event import Event, Kind
from dynmem.history.file import FILE_NAME, FullError, HistoryError, set_aside
from dynmem.history.happenings import Happenings
from dynmem.history.store import Row, Store
from dynmem.limits import HISTORY_BYTES_MAX, HISTORY_EVENTS_WAITING_MAX, HISTORY_WAITING_MAX
from dynmem.manager.step.sample import Sample
from dynmem.units import NS_PER_MS

#: Steps that are written at once: with fewer, what each block begins with is most of it.
ROWS: Final = 20
# A step stands for no longer than so many periods: what was in between is not known.
_PERIODS_MAX: Final = 10
_TENTH_NS: Final = 100 * NS_PER_MS
# The thread works for so long before it lets the manager's own thread have the processor, seconds.
_WORK_S: Final = 0.002
# After a failure, nothing is tried for so long.
_PAUSE_S: Final = 10.0
# Pieces of thinning after each transaction: so much is never due but after a long time without a disk.
_PIECES: Final = 4


class Recorder:
    """One manager's history; *report* prints a line for the operator."""

    def __init__(
        self, folder: Path, report: Callable[[str], None], bytes_max: int = HISTORY_BYTES_MAX
    ) -> None:
        self._folder: Final = folder
        self._path: Final = folder / FILE_NAME
        self._report = report
        self._bytes_max = bytes_max
        self._happenings = Happenings()
        self._rows: list[Row] = []
        self._events: list[tuple[int, Event]] = []
        self._lost = 0
        self._began_ns: int | None = None
        self._recorded_ds = 0
        self._thread = ThreadPoolExecutor(1, "history")
        self._writing: asyncio.Task[None] | None = None
        self._pause_until_s = 0.0
        #: Why nothing can be written; None: it can.
        self.problem: str | None = None
        self._store: Store | None = None  # of the thread

    # -- of the manager's thread -----------------------------------------------------------------------------

    def stepped(self, sample: Sample | None, refused: Mapping[str, str]) -> None:
        """Take in a step: every sweep, and what was moved between two."""
        if sample is None or not self._bytes_max:
            return
        at_ms = (time.time_ns() - (time.monotonic_ns() - sample.now_ns)) // NS_PER_MS
        happened = self._happenings.see(sample, refused)
        self._events += [(at_ms, event) for event in happened]
        if sample.is_sweep or any(event.kind == "moved" for event in happened):
            self._rows.append(Row(at_ms, self._since_last(sample), sample))
        self._bound()
        if len(self._rows) >= ROWS or self._events:
            self._kick()

    def happened(self, kind: Kind, text: str, vm: str | None = None) -> None:
        """Take in what no step shows."""
        if not self._bytes_max:
            return
        self._events.append((time.time_ns() // NS_PER_MS, Event(kind=kind, text=text, vm=vm)))
        self._bound()
        self._kick()

    def limit(self, bytes_max: int) -> None:
        """Let the history take so many bytes from now on; 0: nothing more is recorded."""
        self._bytes_max = bytes_max

    async def written(self) -> None:
        """Wait until the thread is not at work."""
        while self._writing is not None:
            await asyncio.wait((self._writing,))

    async def finish(self) -> None:
        """Write what waits, and close the file."""
        await self.written()
        self._pause_until_s = 0.0
        self._kick(everything=True)
        await self.written()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _since_last(self, sample: Sample) -> int:
        """Return for how many tenths of a second a step stands: the sum over all is the time that passed."""
        if self._began_ns is None:
            self._began_ns = sample.now_ns
        passed_ds = (sample.now_ns - self._began_ns) // _TENTH_NS
        since, self._recorded_ds = passed_ds - self._recorded_ds, passed_ds
        return max(0, min(since, _PERIODS_MAX * max(1, sample.host.period_ds or 1)))

    def _bound(self) -> None:
        """Give up the oldest of what waits, if there is too much of it."""
        over = len(self._rows) - HISTORY_WAITING_MAX
        if over > 0:
            self._lost += over
            del self._rows[:over]
        del self._events[: max(0, len(self._events) - HISTORY_EVENTS_WAITING_MAX)]

    def _kick(self, *, everything: bool = False) -> None:
        """Have the thread write what waits, unless it is writing."""
        if self._writing is not None or time.monotonic() < self._pause_until_s:
            return
        rows = self._rows if everything or len(self._rows) >= ROWS else []
        events = self._events
        if not rows and not events:
            return
        if rows and self._lost:
            text = f"{self._lost} sweeps could not be written and are not in the history"
            events.insert(0, (rows[0].at_ms, Event(kind="lost", text=text)))
            self._lost = 0
        if rows:
            self._rows = []
        self._events = []
        self._writing = asyncio.create_task(self._write_in_thread(rows, events))

    async def _write_in_thread(self, rows: list[Row], events: list[tuple[int, Event]]) -> None:
        try:
            loop = asyncio.get_running_loop()
            for line in await loop.run_in_executor(self._thread, self._write, rows, events):
                self._report(line)
        except (sqlite3.Error, OSError, HistoryError) as error:
            self._rows, self._events = rows + self._rows, events + self._events
            self._bound()
            problem = str(error) if isinstance(error, HistoryError) else f"{self._path}: {error}"
            if self.problem is None:
                self._report(
                    f"{problem}; what happens meanwhile is not recorded, and the VMs are served as ever"
                )
            self.problem = problem
            self._pause_until_s = time.monotonic() + _PAUSE_S
        else:
            if self.problem is not None:
                self._report(f"{self._path}: can be written again")
            self.problem = None
        finally:
            self._writing = None
        if self.problem is None:
            self._kick()  # what came meanwhile

    # -- of the thread of the history ------------------------------------------------------------------------

    def _write(self, rows: list[Row], events: list[tuple[int, Event]]) -> list[str]:
        """Write rows and events and thin what is old; return lines to report."""
        news: list[str] = []
        try:
            news += self._open()
            self._add(rows, events)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            # Damaged where nobody had looked yet.
            self._close()
            aside = set_aside(self._folder)
            news.append(f"{self._path}: damaged ({error}): set aside as {aside}; a new history begins")
            self._open()
            self._add(rows, events)
        return news

    def _open(self) -> list[str]:
        if self._store is not None:
            if self._bytes_max:  # else what is there stays as it is
                self._store.limit(self._bytes_max)
            return []
        self._store = Store(self._folder, self._bytes_max, Pace())
        return [self._store.news] if self._store.news else []

    def _add(self, rows: list[Row], events: list[tuple[int, Event]]) -> None:
        store = self._store
        assert store is not None
        try:
            store.add(rows, events)
        except (sqlite3.OperationalError, FullError) as error:
            if not _is_full(error):
                raise
            store.shed()
            store.add(rows, events)
        # What was added is there, whatever becomes of this: it is tried again after the next rows.
        with contextlib.suppress(sqlite3.OperationalError, FullError):
            for _ in range(_PIECES if rows else 0):
                if not store.tidy():
                    break

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


def _is_full(error: Exception) -> bool:
    return isinstance(error, FullError) or getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL


class Pace:
    """Rests as often as it is called too soon: no more than a third of a processor is taken."""

    def __init__(self) -> None:
        self._rested_s = time.monotonic()

    def __call__(self) -> None:
        worked_s = time.monotonic() - self._rested_s
        if worked_s >= _WORK_S:
            time.sleep(min(2 * worked_s, 10 * _WORK_S))
            self._rested_s = time.monotonic()
