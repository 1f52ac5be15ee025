"""The journal: what the manager was about to do, recorded before it was done, and the outcome.

SQLite in WAL mode with synchronous=FULL: what `intend` has returned for survives kill -9 and power loss.
Sizes are never read from here. After a restart they are read from the VMs; the journal says only which
commands were open, which VMs were released or paused, and which reservations were promised. Bounded by
JOURNAL_ROWS_MAX rows.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from dynmem.errors import ConfigError, DynmemError
from dynmem.limits import JOURNAL_ROWS_MAX, JOURNAL_TEXT_MAX
from dynmem.manager.journal.file import JournalFile
from dynmem.manager.step.protection import Setting
from dynmem.manager.step.takeover import Taken

T = TypeVar("T")

# The outcome of a command that the VM accepted; only the VM's size shows what it did.
SENT: Final = "sent"
# The first word of the outcome of a command that the VM refused.
FAILED: Final = "failed"
# The first word of the outcome of a command that the VM may have accepted: no reply came.
UNKNOWN: Final = "unknown"
# The first word of the outcome of an action closed by looking at the VM: it had the target size.
REACHED: Final = "reached"
FILE_NAME: Final = "journal.sqlite"
RELEASED: Final = "released"
RESERVED: Final = "reserved"
PAUSED: Final = "paused"
_PRUNE_EVERY: Final = 256  # rows between two looks at the bound
# Concluded actions that are dropped when the disk is full and the room that was kept is used up.
_DROPPED_WHEN_FULL: Final = 100


class JournalError(DynmemError):
    """The journal cannot be written, and what has to be recorded first may not be done."""


class Intent(NamedTuple):
    """One command about to be sent."""

    vm: str
    incarnation: str
    target_bytes: int
    reason: str
    measurement: str


class Action(NamedTuple):
    """One row of the journal."""

    id: int
    at_ns: int
    vm: str
    incarnation: str
    target_bytes: int
    reason: str
    measurement: str
    outcome: str | None
    outcome_at_ns: int | None


class Instruction(NamedTuple):
    """An operator's instruction that outlives a restart: release a VM, pause one, keep room for one.

    Attributes:
        kind: RELEASED, PAUSED or RESERVED.
        name: The VM.
        size_bytes: The room; 0 for a release or a pause.
        until_ns: When it lapses, by the wall clock; 0 for a release, which does not.
        incarnation: The life of the VM when room was asked for, empty if it was absent: a later life takes
            the room over.
    """

    kind: str
    name: str
    size_bytes: int = 0
    until_ns: int = 0
    incarnation: str = ""


class Journal:
    """One manager's journal in its private folder. Each call blocks for one write to disk."""

    def __init__(self, folder: Path, *, rows_max: int = JOURNAL_ROWS_MAX) -> None:
        """Open it, or create it; ConfigError if it is of another version or is not a journal."""
        self.path: Final = folder / FILE_NAME
        self._rows_max = rows_max
        self._since_prune = 0
        try:
            self._file = JournalFile(self.path)
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(
                f"{self.path}: not a usable journal ({error}): move it away and start again;"
                " nothing in it is required"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._file.db:
                self._file.db.execute("BEGIN IMMEDIATE")
                yield self._file.db
        except sqlite3.Error as error:
            raise JournalError(
                f"{self.path}: cannot be written ({error}): until it can be, no VM is shrunk"
            ) from error

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something in a transaction, and again if room could be made for it."""
        try:
            with self._transaction() as db:
                return work(db)
        except JournalError as error:
            if not _is_full(error) or not self._make_room():
                raise
        with self._transaction() as db:
            return work(db)

    def intend(self, intents: Sequence[Intent], now_ns: int) -> list[int]:
        """Record the intents and return their ids; they are on disk when this returns. JournalError."""
        return self._write(partial(self._intend, intents, now_ns))

    def _intend(self, intents: Sequence[Intent], now_ns: int, db: sqlite3.Connection) -> list[int]:
        ids = [
            db.execute(
                "INSERT INTO action (at_ns, vm, incarnation, target_bytes, reason, measurement)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    now_ns,
                    intent.vm,
                    intent.incarnation,
                    intent.target_bytes,
                    intent.reason[:JOURNAL_TEXT_MAX],
                    intent.measurement[:JOURNAL_TEXT_MAX],
                ),
            ).lastrowid
            for intent in intents
        ]
        self._prune(db, len(intents))
        return [number for number in ids if number is not None]

    def conclude(self, outcomes: Sequence[tuple[int, str]], now_ns: int) -> None:
        """Record the outcomes of the actions with these ids. JournalError."""
        query = "UPDATE action SET outcome = ?, outcome_at_ns = ? WHERE id = ? AND outcome IS NULL"
        rows = [(outcome[:JOURNAL_TEXT_MAX], now_ns, number) for number, outcome in outcomes]
        self._write(lambda db: db.executemany(query, rows))

    def open_actions(self) -> list[Action]:
        """Return the actions without an outcome, oldest first: the manager died before it was known."""
        return self._actions("WHERE outcome IS NULL ORDER BY id")

    def recent(self, limit: int = 20) -> list[Action]:
        """Return the newest actions, newest first."""
        return self._actions("ORDER BY id DESC LIMIT ?", limit)

    def last_targets(self) -> list[Action]:
        """Return for each VM the newest action whose target it may be on its way to.

        An action that may not have been sent counts if it is growth, since memory may be taken for it. If it
        is a shrink, the one before it counts.
        """
        return self._actions(
            "WHERE id IN (SELECT max(id) FROM action WHERE outcome = ? OR outcome LIKE ? || '%'"
            " OR (measurement != '' AND (outcome IS NULL OR outcome NOT LIKE ? || '%'))"
            " GROUP BY vm) ORDER BY vm",
            *(SENT, REACHED, FAILED),
        )

    def _actions(self, clause: str, *values: int | str) -> list[Action]:
        query = f"SELECT {', '.join(Action._fields)} FROM action {clause}"  # noqa: S608 - our own words
        return [Action(*row) for row in self._read(query, values)]

    def _read(self, query: str, values: Sequence[int | str] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._file.db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(
                f"{self.path}: cannot be read ({error}): move it away and start again; nothing in it is"
                " required"
            ) from error

    def keep(self, instruction: Instruction, now_ns: int) -> None:
        """Keep an instruction over restarts, one of a kind per VM, and drop lapsed ones. JournalError.

        A release ends a pause, and a pause a release.
        """

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM standing WHERE until_ns BETWEEN 1 AND ?", (now_ns,))
            if instruction.kind in (RELEASED, PAUSED):
                query = "DELETE FROM standing WHERE kind IN (?, ?) AND name = ?"
                db.execute(query, (RELEASED, PAUSED, instruction.name))
            db.execute("INSERT OR REPLACE INTO standing VALUES (?, ?, ?, ?, ?)", instruction)

        self._write(work)

    def drop(self, instruction: Instruction) -> None:
        """Drop an instruction; nothing changes if it has lapsed or another replaced it. JournalError."""
        query = "DELETE FROM standing WHERE kind = ? AND name = ? AND until_ns = ?"
        row = (instruction.kind, instruction.name, instruction.until_ns)
        self._write(lambda db: db.execute(query, row))

    def drop_all(self, kind: str, name: str) -> None:
        """Drop every instruction of a kind about a VM. JournalError."""
        query = "DELETE FROM standing WHERE kind = ? AND name = ?"
        self._write(lambda db: db.execute(query, (kind, name)))

    def instructions(self) -> list[Instruction]:
        """Return all instructions that are in force."""
        rows = self._read(
            "SELECT kind, name, size_bytes, until_ns, incarnation FROM standing ORDER BY kind, name"
        )
        return [Instruction(*row) for row in rows]

    def take(self, taken: Taken) -> None:
        """Record that a VM is about to be taken over from Proxmox. JournalError."""
        query = "INSERT OR REPLACE INTO takeover VALUES (?, ?, ?)"
        self._write(lambda db: db.execute(query, taken))

    def give_back(self, number: int) -> None:
        """Record that a VM is no longer taken over. JournalError."""
        self._write(lambda db: db.execute("DELETE FROM takeover WHERE number = ?", (number,)))

    def taken(self) -> list[Taken]:
        """Return the VMs that are taken over, or were about to be."""
        return [Taken(*row) for row in self._read("SELECT number, vm, shares FROM takeover ORDER BY number")]

    def protect(self, setting: Setting) -> None:
        """Record that a setting of a VM's process is about to be made. JournalError."""
        query = "INSERT OR REPLACE INTO protection VALUES (?, ?, ?, ?, ?, ?)"
        self._write(lambda db: db.execute(query, setting))

    def unprotect(self, vm: str, kind: str) -> None:
        """Record that a setting is no longer made. JournalError."""
        query = "DELETE FROM protection WHERE vm = ? AND kind = ?"
        self._write(lambda db: db.execute(query, (vm, kind)))

    def protections(self) -> list[Setting]:
        """Return the settings that are made, or were about to be."""
        query = "SELECT vm, kind, life, place, before, after FROM protection ORDER BY vm, kind"
        return [Setting(*row) for row in self._read(query)]

    def _prune(self, db: sqlite3.Connection, added: int) -> None:
        self._since_prune += added
        if self._since_prune >= min(_PRUNE_EVERY, self._rows_max):
            self._since_prune = 0
            db.execute(
                "DELETE FROM action WHERE id <= (SELECT max(id) FROM action) - ?",
                (self._rows_max,),
            )

    def _make_room(self) -> bool:
        """Make room on the disk or, where that is full, inside the file; return whether there is some now."""
        if self._file.grow():
            return True
        try:
            with self._transaction() as db:
                dropped = db.execute(
                    "DELETE FROM action WHERE outcome IS NOT NULL AND id IN"
                    " (SELECT id FROM action ORDER BY id LIMIT ?)",
                    (_DROPPED_WHEN_FULL,),
                ).rowcount
        except JournalError:
            return False
        return dropped > 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _is_full(error: JournalError) -> bool:
    cause = error.__cause__
    return isinstance(cause, sqlite3.Error) and getattr(cause, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
