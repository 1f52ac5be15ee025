"""The file of the history: one that is none, or is damaged, is set aside and named, and another is begun.

    who      the VMs, by number; 0 is the host
    batch    some rows of time, of all VMs: which tier they are of, and when they were
    block    the rows of one VM: its key is the batch's and the VM's number in one
    event    what happened, newest last
    packed   older events, many in one compressed piece

SQLite in WAL mode: readers see whole batches and hold nobody up, and what a killed writer had not finished
is not there. A batch may be lost with the power; the file is not.
"""

import contextlib
import os
import sqlite3
import stat
from pathlib import Path
from typing import Final
from urllib.parse import quote

from dynmem.errors import ConfigError, DynmemError, NotPermittedError, UnreachableError
from dynmem.limits import HISTORY_SET_ASIDE_MAX

FILE_NAME: Final = "history.sqlite"
SCHEMA_VERSION: Final = 1
# "dynh": what file(1) and SQLite know a file by.
APPLICATION_ID: Final = 0x64796E68
PAGE_BYTES: Final = 8192
#: Bits of a block's key that are the VM's number.
WHO_BITS: Final = 20
WHO_MAX: Final = (1 << WHO_BITS) - 1
# The log of recent writes: SQLite keeps it at this length, so that a full disk leaves room to make room.
_LOG_BYTES: Final = 2 << 20
_SIDE_FILES: Final = ("", "-wal", "-shm", "-journal")

_SCHEMA: Final = """
CREATE TABLE who (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE batch (
    id INTEGER PRIMARY KEY,
    tier INTEGER NOT NULL,
    begin_ds INTEGER NOT NULL,       -- recorded time before it, in tenths of a second
    end_ds INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,       -- the least and the greatest date in it, wall clock
    last_ms INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;
CREATE INDEX batch_tier ON batch (tier, begin_ds, id);
CREATE TABLE block (id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE event (id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, data TEXT NOT NULL) STRICT;
CREATE TABLE packed (
    id INTEGER PRIMARY KEY,          -- of the first event in it
    last_id INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
"""
_TABLES: Final = frozenset({"who", "batch", "block", "event", "packed"})


class HistoryError(DynmemError):
    """The history cannot be written or read."""


class FullError(HistoryError):
    """The disk has no room for what is to be written."""


def open_for_writing(folder: Path) -> tuple[sqlite3.Connection, int, str]:
    """Open the history of a state folder, or begin one; HistoryError if there can be none.

    Returned with a descriptor of the file, and with what was set aside for it, in a sentence. The descriptor
    is closed after the database: closing it before would release SQLite's locks (fcntl(2), POSIX).
    """
    path, news = folder / FILE_NAME, ""
    try:
        if (why := _fault(path, os.geteuid())) is not None:
            news = f"{path}: {why}: set aside as {_set_aside(path)}; a new history begins"
        return *_opened(path), news
    except (sqlite3.Error, OSError) as error:
        raise HistoryError(
            f"{path}: no history can be kept ({error}): check the disk and the folder"
        ) from error


def _opened(path: Path) -> tuple[sqlite3.Connection, int]:
    is_new = not path.exists()
    db = sqlite3.connect(path, isolation_level=None, timeout=2.0, check_same_thread=False)
    try:
        if is_new:
            path.chmod(0o600)
            db.executescript(f"PRAGMA page_size={PAGE_BYTES}; PRAGMA auto_vacuum=INCREMENTAL;")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(f"PRAGMA wal_autocheckpoint={_LOG_BYTES // PAGE_BYTES // 2}")
        db.execute(f"PRAGMA journal_size_limit={_LOG_BYTES}")
        db.execute("PRAGMA cache_size=-4096")
        if is_new:
            db.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA application_id={APPLICATION_ID};"
                f" PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
            )
        with contextlib.suppress(OSError), path.with_name(f"{path.name}-wal").open("r+b") as log:
            os.posix_fallocate(log.fileno(), 0, _LOG_BYTES)
        return db, os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except BaseException:
        db.close()
        raise


def _fault(path: Path, owner: int | None = None) -> str | None:
    """Return why a file is no history (of *owner*); None: it is one, or there is none."""
    try:
        info = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(info.st_mode):
        return "not a plain file"
    if owner is not None and info.st_uid != owner:
        return "a file of another user"
    if not info.st_size:
        return "an empty file"
    try:
        with contextlib.closing(_look_at(path)) as db:
            (application,) = db.execute("PRAGMA application_id").fetchone()
            (version,) = db.execute("PRAGMA user_version").fetchone()
            names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            if application != APPLICATION_ID or not names >= _TABLES:
                return "a database of another program"
            if version != SCHEMA_VERSION:
                return f"schema version {version}, this dynmem writes {SCHEMA_VERSION}"
            # The whole file is not read, which takes seconds: what is damaged further in is found when met.
            db.execute("SELECT max(id), max(end_ds) FROM batch").fetchone()
            db.execute("SELECT max(id) FROM event").fetchone()
    except sqlite3.Error as error:
        return f"damaged ({error})"
    return None


def _look_at(path: Path) -> sqlite3.Connection:
    """Open a file to read it and nothing else, whoever writes to it meanwhile."""
    db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=2.0, check_same_thread=False)
    try:
        db.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError:
        # A folder in which nothing may be written: then nobody writes to the file, either.
        db.close()
        db = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
    return db


def set_aside(folder: Path) -> Path:
    """Move a history that turned out to be damaged away, and return where it is now. HistoryError."""
    path = folder / FILE_NAME
    try:
        return _set_aside(path)
    except OSError as error:
        raise HistoryError(f"{path}: damaged, and cannot be set aside ({error}): move it away") from error


def _set_aside(path: Path) -> Path:
    for number in range(1, HISTORY_SET_ASIDE_MAX + 1):
        aside = path.with_name(f"{path.name}.aside-{number}")
        if not aside.is_symlink() and not aside.exists():
            break
    else:
        raise HistoryError(
            f"{path}: not a usable history, and {HISTORY_SET_ASIDE_MAX} files were set aside beside it"
            " already: look at them and move them away; until then none is kept"
        )
    for end in _SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
    return aside


def open_for_reading(folder: Path) -> sqlite3.Connection:
    """Open the history of a state folder to read it; a ConfigError and others say what to do."""
    path = folder / FILE_NAME
    try:
        is_there = path.exists()
        why = _fault(path)
    except OSError as error:
        raise NotPermittedError(
            f"{path}: cannot be read ({error.strerror}): use sudo, or read it as the manager's user"
        ) from error
    if not is_there:
        raise UnreachableError(
            f"{path}: there is no history: `dynmem run` keeps one in the folder that its file calls"
            " manager.state: name that with --state (and use sudo where it is root's)"
        )
    if why is not None:
        raise ConfigError(f"{path}: {why}: name the folder of a history with --state")
    try:
        db = _look_at(path)
        db.execute("BEGIN")  # all that is read is of one moment
    except sqlite3.Error as error:
        raise UnreachableError(f"{path}: cannot be read ({error}): try again, or use sudo") from error
    return db
