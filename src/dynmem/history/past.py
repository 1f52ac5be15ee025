"""Reads a history, also while a manager writes to it, and without one. It changes nothing."""

import sqlite3
import zlib
from collections.abc import Container, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from dynmem.dates import format_date
from dynmem.errors import ConfigError, UnreachableError, quoted
from dynmem.history.block import AT, FOR, HOST_FIGURES, HOST_TEXTS, VM_FIGURES, VM_TEXTS, Block, decode
from dynmem.history.columns import MalformedError
from dynmem.history.event import Event
from dynmem.history.file import FILE_NAME, WHO_BITS, WHO_MAX, HistoryError, open_for_reading
from dynmem.history.store import HOST, Batch
from dynmem.history.thinning import TIERS
from dynmem.limits import HISTORY_BLOCK_BYTES_MAX
from dynmem.manager.step.sample import HostSample, VmSample
from dynmem.units import NS_PER_MS

#: A date after all others, in milliseconds.
LATEST_MS: Final = 1 << 53
#: What a row stands for that is a sweep of its own.
EACH_SWEEP: Final = TIERS[0].words
# Pieces of a thousand older events in which one is looked for.
_PACKED_MAX: Final = 100


class Piece:
    """Some rows of time, of all VMs."""

    def __init__(self, past: "Past", batch: Batch, host: Block, rows: Sequence[int]) -> None:
        self._past = past
        self._batch = batch
        #: The host's columns.
        self.host: Final = host
        #: The rows that were asked for.
        self.rows: Final = rows
        self.at_ms: Final = [each or 0 for each in host.figure(AT)]
        self.for_ds: Final = [each or 0 for each in host.figure(FOR)]

    @property
    def step(self) -> str:
        """What one row stands for, in words."""
        return TIERS[self._batch.tier].words

    def vm(self, name: str, only: Container[str] | None = None) -> Block | None:
        """Return the columns of a VM, or only some; None: it was not there, or they are damaged."""
        who = self._past.names.get(name)
        block = None if who is None else self._past.block(self._batch.id, who, only)
        return block if block is not None and block.rows == self.host.rows else None

    def vms(self, only: Container[str] | None = None) -> Iterator[tuple[str, Block]]:
        """Yield every VM that was there, with its columns, or only some of them."""
        for name in self._past.names_in(self._batch.id):
            block = self.vm(name, only)
            if block is not None:
                yield name, block


class Moment(NamedTuple):
    """One step as it was.

    Attributes:
        at_ms: When.
        step: What its row stands for, in words.
        host: The host.
        vms: Every VM that was there.
    """

    at_ms: int
    step: str
    host: HostSample
    vms: dict[str, VmSample]

    @property
    def note(self) -> str:
        """What is to be said where its row stands for more than it; otherwise empty."""
        return "" if self.step == EACH_SWEEP else f", the sweep that is kept of {self.step}"


class Past:
    """An open history, as it is at this moment."""

    def __init__(self, folder: Path) -> None:
        """Open it; ConfigError or UnreachableError says why not."""
        self.path: Final = folder / FILE_NAME
        self._db = open_for_reading(folder)
        #: Which file it is: another begins where one was set aside.
        self.file_id: Final = self._file_number()
        #: The VMs of which something is kept, each with its number.
        self.names: Final = {
            str(name): int(number) for number, name in self._rows("SELECT id, name FROM who")
        }
        self._names_of: Final = {number: name for name, number in self.names.items()}

    def _file_number(self) -> int:
        try:
            return self.path.stat().st_ino
        except OSError as error:  # it was set aside at this moment
            self._db.close()
            raise UnreachableError(f"{self.path}: cannot be read ({error.strerror}): try again") from error

    def close(self) -> None:
        """Close it."""
        self._db.close()

    def nothing(self, what: str) -> UnreachableError:
        """Return the error that nothing is kept of something."""
        return UnreachableError(f"{self.path}: nothing is kept of {what}: {self._extent()}")

    def last_event(self) -> int:
        """Return the number of the last event; 0: there is none."""
        ((last,),) = self._rows("SELECT coalesce(max(id), 0) FROM event")
        return int(last)

    def known(self, name: str) -> None:
        """Raise ConfigError if nothing is kept of a VM."""
        if name not in self.names:
            known = ", ".join(sorted(self.names)[:20]) or "none"
            raise ConfigError(f"{self.path} has no VM {quoted(name)}: it has {known}")

    def pieces(
        self, since_ms: int, until_ms: int = LATEST_MS, only: Container[str] | None = None
    ) -> Iterator[Piece]:
        """Yield what was recorded between two dates, in the order in which it was recorded.

        Of the host's columns, all or *only* some; without AT and FOR there are no rows.
        """
        query = "WHERE last_ms >= ? AND first_ms <= ? ORDER BY begin_ds, id"
        for batch in self._batches(query, since_ms, until_ms):
            host = self.block(batch.id, HOST, only)
            if host is not None and host.rows == batch.rows:
                rows = [at for at, date in enumerate(host.figure(AT)) if since_ms <= (date or 0) <= until_ms]
                yield Piece(self, batch, host, rows)

    def span_ms(self) -> tuple[int, int] | None:
        """Return the first and the last date that something is kept of; None: nothing is."""
        ((first, last),) = self._rows("SELECT min(first_ms), max(last_ms) FROM batch")
        return None if first is None else (int(first), int(last))

    def moment(self, at_ms: int) -> Moment:
        """Return the last step that is kept of the time up to a date; UnreachableError if there is none."""
        best: tuple[int, Piece, int] | None = None
        # One batch holds the date, or the one before it ends last. More are it only where a clock went back.
        for query in (
            "WHERE first_ms <= ? AND last_ms >= ? ORDER BY begin_ds, id",
            "WHERE first_ms <= ? AND last_ms <= ? ORDER BY last_ms DESC, begin_ds DESC LIMIT 1",
        ):
            for batch in self._batches(query, at_ms, at_ms):
                host = self.block(batch.id, HOST)
                if host is None or host.rows != batch.rows:
                    continue
                piece = Piece(self, batch, host, range(host.rows))
                for row, date in enumerate(piece.at_ms):
                    if date <= at_ms and (best is None or date >= best[0]):
                        best = (date, piece, row)
        if best is None:
            raise self.nothing("that time")
        date, piece, row = best
        vms = {name: vm for name, block in piece.vms() if (vm := vm_at(name, block, row)) is not None}
        return Moment(date, piece.step, host_at(piece.host, row), vms)

    def _extent(self) -> str:
        span = self.span_ms()
        if span is None:
            return "it is empty so far"
        first, last = (format_date(each * NS_PER_MS) for each in span)
        return f"it begins at {first} and ends at {last}"

    def events(self, since_ms: int = 0, until_ms: int = LATEST_MS, after_id: int = 0) -> Iterator[Event]:
        """Yield the events between two dates, oldest first; only those with a number above *after_id*."""
        packed = self._rows(
            "SELECT data FROM packed WHERE last_ms >= ? AND first_ms <= ? AND last_id > ? ORDER BY id",
            *(since_ms, until_ms, after_id),
        )
        for (data,) in packed:
            for number, at_ms, text in _unpacked(data):
                if since_ms <= at_ms <= until_ms and number > after_id:
                    yield from _event(number, at_ms, text)
        loose = self._rows(
            "SELECT id, at_ms, data FROM event WHERE at_ms BETWEEN ? AND ? AND id > ? ORDER BY id",
            *(since_ms, until_ms, after_id),
        )
        for number, at_ms, text in loose:
            yield from _event(number, at_ms, text)

    def events_back(self, since_ms: int = 0, until_ms: int = LATEST_MS) -> Iterator[Event]:
        """Yield the events between two dates, newest first, and read no more of them than are wanted."""
        for number, at_ms, text in self._events_back(since_ms, until_ms):
            if since_ms <= at_ms <= until_ms:
                yield from _event(number, at_ms, text)

    def _events_back(self, since_ms: int, until_ms: int) -> Iterator[tuple[int, int, str]]:
        for query in (
            "SELECT id FROM event WHERE at_ms BETWEEN ? AND ? ORDER BY id DESC",
            "SELECT id FROM packed WHERE last_ms >= ? AND first_ms <= ? ORDER BY id DESC",
        ):
            for (number,) in self._rows(query, since_ms, until_ms):
                if "packed" in query:
                    for (data,) in self._rows("SELECT data FROM packed WHERE id = ?", number):
                        yield from reversed(_unpacked(data))
                else:
                    yield from self._rows("SELECT id, at_ms, data FROM event WHERE id = ?", number)

    def last_event_of(self, name: str, kinds: Container[str], until_ms: int) -> Event | None:
        """Return the last event of some kinds about a VM up to a date; None: none is found near enough."""
        loose = self._rows("SELECT id, at_ms, data FROM event WHERE at_ms <= ? ORDER BY id DESC", until_ms)
        packed = self._rows(
            "SELECT data FROM packed WHERE first_ms <= ? ORDER BY id DESC LIMIT ?", until_ms, _PACKED_MAX
        )
        older = (row for (data,) in packed for row in reversed(_unpacked(data)))
        for number, at_ms, text in chain(loose, older):
            if at_ms <= until_ms:
                for event in _event(number, at_ms, text):
                    if event.vm == name and event.kind in kinds:
                        return event
        return None

    def block(self, batch: int, who: int, only: Container[str] | None = None) -> Block | None:
        """Return a block, or only some of its columns; None: there is none, or it is damaged."""
        rows = self._rows("SELECT data FROM block WHERE id = ?", batch << WHO_BITS | who)
        try:
            return decode(rows[0][0], only) if rows else None
        except MalformedError:
            return None

    def names_in(self, batch: int) -> list[str]:
        """Return the VMs that a batch has something of."""
        first = batch << WHO_BITS
        keys = self._rows("SELECT id FROM block WHERE id BETWEEN ? AND ?", first + 1, first + WHO_MAX)
        return [self._names_of[key & WHO_MAX] for (key,) in keys if key & WHO_MAX in self._names_of]

    def _batches(self, clause: str, *values: int) -> list[Batch]:
        query = f"SELECT {', '.join(Batch._fields)} FROM batch {clause}"  # noqa: S608 - our own words
        return [Batch(*row) for row in self._rows(query, *values)]

    def _rows(self, query: str, *values: int) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise HistoryError(
                f"{self.path}: cannot be read ({error}): the manager sets it aside when it meets the damage"
            ) from error


def vm_at(name: str, block: Block, row: int) -> VmSample | None:
    """Return a VM as it was in one row; None: it was not there."""
    if block.figure("maximum_bytes")[row] is None:
        return None
    texts = {each: block.text(each)[row] for each in VM_TEXTS}
    figures = {each: block.figure(each)[row] for each in VM_FIGURES}
    return msgspec.convert({"name": name} | texts | figures, VmSample)


def host_at(block: Block, row: int) -> HostSample:
    """Return the host as it was in one row."""
    texts = {each: block.text(each)[row] for each in HOST_TEXTS}
    figures = {each: block.figure(each)[row] for each in HOST_FIGURES}
    return msgspec.convert(texts | figures, HostSample)


def _unpacked(data: bytes) -> list[tuple[int, int, str]]:
    try:
        plain = zlib.decompressobj().decompress(data, HISTORY_BLOCK_BYTES_MAX)
        return msgspec.json.decode(plain, type=list[tuple[int, int, str]])
    except (zlib.error, msgspec.DecodeError, TypeError):
        return []


def _event(number: int, at_ms: int, text: str) -> Iterator[Event]:
    """Yield an event of the file; none if it is damaged, or of a kind that is not known."""
    try:
        event = msgspec.json.decode(text, type=Event)
    except msgspec.DecodeError:
        return
    yield msgspec.structs.replace(event, id=number, at=format_date(at_ms * NS_PER_MS))
