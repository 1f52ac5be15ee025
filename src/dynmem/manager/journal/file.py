"""The file of the journal: whether it is one, how it is made, and the room on the disk that is kept for it.

A file that is not a journal is only read: SQLite would turn any database into one that it can write to.

The room is inside SQLite's own two files, as free pages of the one and as the length of the other (the log of
recent writes, which is overwritten from its beginning). Whoever fills the disk therefore cannot take it, as
they could take a file that is removed when it is needed. So that nothing is written that the disk has no
block for, the file grows in steps, and each step is allocated first. On file systems that write to new blocks
each time (btrfs, zfs) all this is no help.
"""

import contextlib
import os
import sqlite3
import stat
from pathlib import Path
from typing import Final
from urllib.parse import quote

from dynmem.errors import ConfigError
from dynmem.limits import JOURNAL_BYTES_MAX, JOURNAL_ROOM_BYTES

SCHEMA_VERSION: Final = 4
# "dynm": what file(1) and SQLite know a file by.
APPLICATION_ID: Final = 0x64796E6D

_SCHEMA: Final = """
CREATE TABLE action (
    id INTEGER PRIMARY KEY,
    at_ns INTEGER NOT NULL,          -- wall clock, when it was intended
    vm TEXT NOT NULL,
    incarnation TEXT NOT NULL,       -- the process it was meant for: pid@start
    target_bytes INTEGER NOT NULL,
    reason TEXT NOT NULL,
    measurement TEXT NOT NULL,       -- the term of measured free that pays, '' for a shrink
    outcome TEXT,                    -- NULL: not known yet
    outcome_at_ns INTEGER
) STRICT;
CREATE INDEX action_open ON action (id) WHERE outcome IS NULL;
CREATE TABLE standing (
    kind TEXT NOT NULL,              -- 'released', 'paused' or 'reserved'
    name TEXT NOT NULL,              -- the VM
    size_bytes INTEGER NOT NULL,
    until_ns INTEGER NOT NULL,       -- wall clock; 0 for a release, which has no end
    incarnation TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (kind, name)
) STRICT;
CREATE TABLE takeover (
    number INTEGER PRIMARY KEY,      -- Proxmox's VMID
    vm TEXT NOT NULL,
    shares INTEGER                   -- what its file said before; NULL: nothing
) STRICT;
CREATE TABLE protection (
    vm TEXT NOT NULL,
    kind TEXT NOT NULL,              -- 'oom_score_adj' or 'memory.low'
    life TEXT NOT NULL,              -- the process: pid@start
    place TEXT NOT NULL,             -- the folder of its cgroup, '' for a score
    before INTEGER NOT NULL,
    after INTEGER NOT NULL,
    PRIMARY KEY (vm, kind)
) STRICT;
"""
# What brings a file of an earlier version to the next one.
_UPGRADES: Final = {
    1: "ALTER TABLE standing ADD COLUMN incarnation TEXT NOT NULL DEFAULT '';",
    2: "CREATE TABLE takeover (number INTEGER PRIMARY KEY, vm TEXT NOT NULL, shares INTEGER) STRICT;",
    3: (
        "CREATE TABLE protection (vm TEXT NOT NULL, kind TEXT NOT NULL, life TEXT NOT NULL,"
        " place TEXT NOT NULL, before INTEGER NOT NULL, after INTEGER NOT NULL,"
        " PRIMARY KEY (vm, kind)) STRICT;"
    ),
}
_ACTION: Final = (
    *("id", "at_ns", "vm", "incarnation", "target_bytes", "reason", "measurement", "outcome"),
    "outcome_at_ns",
)
_STANDING: Final = ("kind", "name", "size_bytes", "until_ns")
_TABLES: Final = {
    1: {"action": _ACTION, "standing": _STANDING},
    2: {"action": _ACTION, "standing": (*_STANDING, "incarnation")},
    3: {
        "action": _ACTION,
        "standing": (*_STANDING, "incarnation"),
        "takeover": ("number", "vm", "shares"),
    },
    4: {
        "action": _ACTION,
        "standing": (*_STANDING, "incarnation"),
        "takeover": ("number", "vm", "shares"),
        "protection": ("vm", "kind", "life", "place", "before", "after"),
    },
}
# Pages of the log after which SQLite copies them into the file and begins the log again.
_CHECKPOINT_PAGES: Final = 128
_PAGE_BYTES: Final = 4096
# The file grows by so many at a time.
_STEP_PAGES: Final = 64
# What an overflow page of SQLite holds.
_BLOB_BYTES_PER_PAGE: Final = _PAGE_BYTES - 4


class JournalFile:
    """An open journal. Calls come from one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open it, or create it. ConfigError, or an error of SQLite, if the file is something else."""
        if not _has_something(path):
            _create(path)
        _check(path)
        # Open as long as the database is: closing it would release SQLite's locks (fcntl(2), POSIX).
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        os.fchmod(self._descriptor, 0o600)
        self.db: Final = sqlite3.connect(path, isolation_level=None, timeout=1.0, check_same_thread=False)
        try:
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=FULL")
            self.db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            _upgrade(path, self.db)
            _quick_check(self.db)
            self._keep_room(path)
        except BaseException:
            self.close()
            raise

    def grow(self) -> bool:
        """Add free pages that the disk has blocks for; return whether it had any."""
        pages, free = self._number("page_count"), self._number("freelist_count")
        try:
            os.posix_fallocate(self._descriptor, pages * _PAGE_BYTES, _STEP_PAGES * _PAGE_BYTES)
        except OSError:
            return False
        self.db.execute(f"PRAGMA max_page_count={pages + _STEP_PAGES}")
        try:
            # Pages that were used once and are free now are part of the file.
            size = (free + _STEP_PAGES - 4) * _BLOB_BYTES_PER_PAGE
            self.db.execute("INSERT INTO room VALUES (zeroblob(?))", (size,))
            self.db.execute("PRAGMA wal_checkpoint(RESTART)")
            self.db.execute("DELETE FROM room")
        except sqlite3.OperationalError:
            return False
        finally:
            self._hold_size()
        return self._number("freelist_count") > free

    def close(self) -> None:
        """Close it."""
        self.db.close()
        os.close(self._descriptor)

    def _keep_room(self, path: Path) -> None:
        """Make both files as long as they have to be for a while on a full disk."""
        with contextlib.suppress(sqlite3.OperationalError):
            self.db.execute("CREATE TABLE IF NOT EXISTS room (bytes BLOB) STRICT")
            self.db.execute("DELETE FROM room")
        with contextlib.suppress(OSError), path.with_name(f"{path.name}-wal").open("r+b") as log:
            os.posix_fallocate(log.fileno(), 0, JOURNAL_ROOM_BYTES)
        self._hold_size()
        while self._number("freelist_count") * _PAGE_BYTES < JOURNAL_ROOM_BYTES and self.grow():
            pass

    def _hold_size(self) -> None:
        """Let the file grow by `grow` alone."""
        self.db.execute(f"PRAGMA max_page_count={self._number('page_count')}")

    def _number(self, pragma: str) -> int:
        (number,) = self.db.execute(f"PRAGMA {pragma}").fetchone()
        return int(number)


def _has_something(path: Path) -> bool:
    """Return whether there is a file with something in it; ConfigError if it is not a plain file of ours."""
    try:
        info = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
        raise ConfigError(f"{path}: not a plain file of this user: move it away and start again")
    if info.st_size > JOURNAL_BYTES_MAX:
        raise ConfigError(
            f"{path}: not a journal of dynmem: {info.st_size} bytes, it has at most {JOURNAL_BYTES_MAX}: move"
            " it away, or name another folder as manager.state"
        )
    return info.st_size > 0


def _create(path: Path) -> None:
    """Make an empty journal, whole or not at all."""
    made = path.with_name(f"{path.name}.new")
    for each in (made, path.with_name(f"{made.name}-journal")):
        each.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(made, isolation_level=None)) as db:
        made.chmod(0o600)
        db.executescript(
            f"PRAGMA page_size={_PAGE_BYTES}; BEGIN; {_SCHEMA} PRAGMA application_id={APPLICATION_ID};"
            f" PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
        )
    made.replace(path)


def _check(path: Path) -> None:
    """Raise ConfigError if a file is of another program, or of a later version of this one.

    Looks at the file alone. What a killed manager wrote to the log is seen once it is open.
    """
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)) as db:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        columns = {
            name: tuple(row[1] for row in db.execute("SELECT * FROM pragma_table_info(?)", (name,)))
            for name in names - {"room"}  # which is empty, but while room is made
        }
    if application == APPLICATION_ID and version > SCHEMA_VERSION:
        raise _of_another_version(path, version)
    # The first journals had no application id.
    if application not in (0, APPLICATION_ID) or columns != _TABLES.get(version):
        raise ConfigError(
            f"{path}: a database of another program: it has not been changed; move it away, or name another"
            " folder as manager.state"
        )


def _of_another_version(path: Path, version: int) -> ConfigError:
    return ConfigError(
        f"{path}: schema version {version}, this dynmem writes {SCHEMA_VERSION}: move it away,"
        " or run the version of dynmem that wrote it"
    )


def _upgrade(path: Path, db: sqlite3.Connection) -> None:
    """Bring a journal of an earlier version to this one."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    while version in _UPGRADES:
        db.executescript(f"BEGIN; {_UPGRADES[version]} PRAGMA user_version={version + 1}; COMMIT;")
        version += 1
    if version != SCHEMA_VERSION:
        raise _of_another_version(path, version)


def _quick_check(db: sqlite3.Connection) -> None:
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(found)
