"""The history on disk: rows are added, thinned with age, and bounded in bytes. Calls come from one thread.

What is long to compute is computed outside of a transaction, a VM at a time, with a pause when *pace* is
called: the manager's own thread is never kept waiting.
"""

import contextlib
import errno
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from dynmem.history.block import (
    AT,
    FOR,
    HOST_FIGURES,
    HOST_TEXTS,
    IS_SWEEP,
    VM_FIGURES,
    VM_TEXTS,
    Block,
    decode,
    encode,
)
from dynmem.history.columns import MalformedError
from dynmem.history.event import Event
from dynmem.history.file import PAGE_BYTES, WHO_BITS, WHO_MAX, FullError, open_for_writing
from dynmem.history.thinning import ROWS, TIERS, joined, spans, thinned
from dynmem.limits import (
    HISTORY_BYTES_MAX,
    HISTORY_DISK_FREE_BYTES,
    HISTORY_EVENTS_PART,
    HISTORY_TEXT_MAX,
)
from dynmem.manager.step.sample import HostSample, Sample, VmSample

HOST: Final = 0
# Events that stay readable as they are; of more, the older half is packed.
_EVENTS_LOOSE: Final = 1000
# Batches that are thinned at once, at most: after many restarts they are short.
_GROUP_MAX: Final = 600
# Rows that are thinned at once, at most: ten sweeps a second for ten minutes.
_ROWS_MAX: Final = 6000
# VMs of which nothing is kept any more are forgotten when there are twice as many as this, or as were left.
_NAMES_LOOSE: Final = 2000
# What is given back to a full disk at a time.
_SHED_BYTES: Final = 1 << 20
# For names, events and the tree of the table.
_LEAST_BYTES: Final = 1 << 16
# Pages that are moved within the file at a time, so that the log of it fits where that has room already.
_VACUUM_PAGES: Final = 64
_DISK_PART: Final = 16

_NO_VM: Final = ("", *(None if name in VM_FIGURES else "" for name in VmSample.__struct_fields__[1:]))


class Row(NamedTuple):
    """One step as it is added: its date, how long it stands, and what is kept of it."""

    at_ms: int
    for_ds: int
    sample: Sample


class Batch(NamedTuple):
    """A row of the table of batches."""

    id: int
    tier: int
    begin_ds: int
    end_ds: int
    first_ms: int
    last_ms: int
    rows: int
    bytes: int


class Store:
    """One open history. Calls raise SQLite's errors or FullError; what was not finished is not there then."""

    def __init__(
        self, folder: Path, bytes_max: int = HISTORY_BYTES_MAX, pace: Callable[[], None] = lambda: None
    ) -> None:
        """Open it, or begin one; HistoryError. `news` says what was set aside for that."""
        self.folder: Final = folder
        self._bytes_max = bytes_max
        self._pace = pace
        db, self._descriptor, news = open_for_writing(folder)
        self.db: Final[sqlite3.Connection] = db
        self.news: Final[str] = news
        try:
            self._who = self._names()
            self._names_left = len(self._who)
            self.end_ds: int = self._number("SELECT coalesce(max(end_ds), 0) FROM batch")
            self._next_batch = self._number("SELECT coalesce(max(id), 0) FROM batch") + 1
            self._next_event = self._number("SELECT coalesce(max(id), 0) FROM event") + 1
        except BaseException:
            self.close()
            raise

    def limit(self, bytes_max: int) -> None:
        """Let the file take so many bytes from now on."""
        self._bytes_max = bytes_max

    def close(self) -> None:
        """Close it."""
        self.db.close()
        os.close(self._descriptor)

    # -- adding ---------------------------------------------------------------------------------------------

    def add(self, rows: Sequence[Row], events: Sequence[tuple[int, Event]]) -> None:
        """Add rows and events (each with its date in milliseconds), all or none."""
        blocks = [(HOST, encode(_host_block(rows)))] if rows else []
        names = dict.fromkeys(name for row in rows for name in row.sample.vms)
        coming = [name for name in names if name not in self._who]
        if coming:
            taken = set(self._who.values())
            free = (number for number in range(1, WHO_MAX + 1) if number not in taken)
            with self._transaction():
                self.db.executemany("INSERT INTO who VALUES (?, ?)", zip(free, coming, strict=False))
            self._who = self._names()
        for name in names:
            if name in self._who:
                blocks.append((self._who[name], encode(_vm_block(name, rows))))
                self._pace()
        self._allocate(blocks)
        with self._transaction():
            if rows:
                end_ds = self.end_ds + sum(row.for_ds for row in rows)
                dates = [row.at_ms for row in rows]
                self._insert(0, (self.end_ds, end_ds), (min(dates), max(dates)), len(rows), blocks)
            for at, (at_ms, event) in enumerate(events):
                data = msgspec.json.encode(_shortened(event)).decode()
                self.db.execute("INSERT INTO event VALUES (?, ?, ?)", (self._next_event + at, at_ms, data))
        self._next_event += len(events)
        if rows:
            self.end_ds = end_ds

    def _names(self) -> dict[str, int]:
        """Return the VMs of which something is kept, each with its number."""
        return {name: number for number, name in self.db.execute("SELECT id, name FROM who")}

    def _insert(
        self,
        tier: int,
        time_ds: tuple[int, int],
        dates: tuple[int, int],
        rows: int,
        blocks: Iterable[tuple[int, bytes]],
    ) -> None:
        """Insert a batch with its blocks, within a transaction."""
        number = self._next_batch
        size = 0
        for who, data in blocks:
            self.db.execute("INSERT INTO block VALUES (?, ?)", (number << WHO_BITS | who, data))
            size += len(data)
        row = Batch(number, tier, *time_ds, *dates, rows, size)
        self.db.execute("INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        self._next_batch += 1

    # -- thinning -------------------------------------------------------------------------------------------

    def tidy(self) -> bool:
        """Do the next piece of thinning; return whether there was one."""
        self._pack_events()
        live = (self._number("PRAGMA page_count") - self._number("PRAGMA freelist_count")) * PAGE_BYTES
        limit = self._limit()
        self._drop_events(limit // HISTORY_EVENTS_PART)
        is_pressed = live > limit
        group = self._group(is_pressed=is_pressed)
        if not group:
            return False
        if group[0].tier == len(TIERS) - 1 or len(group) == 1:
            with self._transaction():
                self._drop(group)
        else:
            self._thin(group)
        self._forget_names()
        if self._number("PRAGMA page_count") * PAGE_BYTES > limit:
            self._give_back(limit)
        return True

    def _limit(self) -> int:
        """Return how large the file may be now: less where others need the disk."""
        info = os.statvfs(self.folder)
        kept = min(HISTORY_DISK_FREE_BYTES, info.f_blocks * info.f_frsize // _DISK_PART)
        size = self._number("PRAGMA page_count") * PAGE_BYTES
        return max(0, min(self._bytes_max, size + info.f_bavail * info.f_frsize - kept))

    def _group(self, *, is_pressed: bool) -> list[Batch]:
        """Return the batches that are thinned next, or dropped if they are of the last tier."""
        for tier, rule in enumerate(TIERS):
            batches = self._batches("WHERE tier = ? AND end_ds <= ?", tier, self.end_ds - rule.keep_ds)
            if tier == len(TIERS) - 1:
                if batches:
                    return batches[:1]
                continue
            group = _first(batches, ROWS * TIERS[tier + 1].step_ds)
            if len(group) < len(batches) or len(group) == _GROUP_MAX:
                return group
        if not is_pressed:
            return []
        sizes = self.db.execute(
            "SELECT tier, sum(bytes) FROM batch WHERE tier < ? GROUP BY tier HAVING count(*) > 1",
            (len(TIERS) - 1,),
        ).fetchall()
        if sizes:
            tier = max(sizes, key=lambda row: row[1])[0]
            return _first(self._batches("WHERE tier = ?", tier), ROWS * TIERS[tier + 1].step_ds)
        return self._batches("WHERE 1")[:1]

    def _thin(self, group: Sequence[Batch]) -> None:
        """Make one batch of the next tier of some batches."""
        tier = group[0].tier + 1
        rows = [batch.rows for batch in group]
        hosts = [self._block(batch.id, HOST) for batch in group]
        if any(host is None or host.rows != count for host, count in zip(hosts, rows, strict=True)):
            # Without its dates, a batch is worth nothing.
            known = zip(group, hosts, strict=True)
            with self._transaction():
                self._drop([batch for batch, host in known if host is None or host.rows != batch.rows])
            return
        host = joined(hosts, rows)
        at_ms = [each or 0 for each in host.figure(AT)]
        for_ds = [each or 0 for each in host.figure(FOR)]
        parts = spans(at_ms, for_ds, group[0].begin_ds, TIERS[tier].step_ds)
        blocks = [(HOST, encode(thinned(host, for_ds, parts, is_host=True)))]
        for who in self._who_of(group):
            each = [self._block(batch.id, who) for batch in group]
            each = [
                block if block and block.rows == count else None
                for block, count in zip(each, rows, strict=True)
            ]
            blocks.append((who, encode(thinned(joined(each, rows), for_ds, parts, is_host=False))))
            self._pace()
        dates = (min(batch.first_ms for batch in group), max(batch.last_ms for batch in group))
        self._allocate(blocks)
        with self._transaction():
            self._drop(group)
            self._insert(tier, (group[0].begin_ds, group[-1].end_ds), dates, len(parts), blocks)

    def _who_of(self, group: Sequence[Batch]) -> list[int]:
        found: set[int] = set()
        for batch in group:
            first = batch.id << WHO_BITS
            keys = self.db.execute(
                "SELECT id FROM block WHERE id BETWEEN ? AND ?", (first + 1, first + WHO_MAX)
            )
            found.update(key & WHO_MAX for (key,) in keys)
        return sorted(found)

    def _block(self, batch: int, who: int) -> Block | None:
        """Return a block; None: there is none, or it is damaged."""
        row = self.db.execute("SELECT data FROM block WHERE id = ?", (batch << WHO_BITS | who,)).fetchone()
        try:
            return decode(row[0]) if row else None
        except MalformedError:
            return None

    def _drop(self, group: Iterable[Batch]) -> None:
        """Delete batches, within a transaction."""
        for batch in group:
            first = batch.id << WHO_BITS
            self.db.execute("DELETE FROM block WHERE id BETWEEN ? AND ?", (first, first + WHO_MAX))
            self.db.execute("DELETE FROM batch WHERE id = ?", (batch.id,))

    def _pack_events(self) -> None:
        """Pack the older half of the events, if there are many: the last one is never among them."""
        if self._number("SELECT count(*) FROM event") <= 2 * _EVENTS_LOOSE:
            return
        query = "SELECT id, at_ms, data FROM event ORDER BY id LIMIT ?"
        rows = self.db.execute(query, (_EVENTS_LOOSE,)).fetchall()
        dates = [at_ms for _, at_ms, _ in rows]
        data = zlib.compress(msgspec.json.encode(rows), 6)
        packed = (rows[0][0], rows[-1][0], min(dates), max(dates), data)
        with self._transaction():
            self.db.execute("INSERT INTO packed VALUES (?, ?, ?, ?, ?)", packed)
            self.db.execute("DELETE FROM event WHERE id <= ?", (rows[-1][0],))

    def _drop_events(self, bytes_max: int) -> None:
        """Delete the oldest packed events until the others fit."""
        while True:
            first, size = self.db.execute("SELECT min(id), sum(length(data)) FROM packed").fetchone()
            if first is None or size <= bytes_max:
                return
            with self._transaction():
                self.db.execute("DELETE FROM packed WHERE id = ?", (first,))

    def _forget_names(self) -> None:
        """Forget VMs of which nothing is kept any more."""
        if len(self._who) < 2 * max(_NAMES_LOOSE, self._names_left):
            return
        used = "SELECT DISTINCT id & ? FROM block"
        with self._transaction():
            self.db.execute(f"DELETE FROM who WHERE id NOT IN ({used})", (WHO_MAX,))  # noqa: S608 - our own words
        self._who = self._names()
        self._names_left = len(self._who)

    # -- the disk -------------------------------------------------------------------------------------------

    def _allocate(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """See that the disk has room for what is about to be written to the file. FullError.

        SQLite writes to its log first: what the file has no room for later would stay there, and fill it.
        """
        free = self._number("PRAGMA freelist_count") * PAGE_BYTES
        need = _LEAST_BYTES + sum(len(data) for _, data in blocks) * 5 // 4 - free
        if need > 0:
            try:
                os.posix_fallocate(self._descriptor, self._number("PRAGMA page_count") * PAGE_BYTES, need)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    return  # a file system that allocates nothing ahead
                raise FullError(f"{self.folder}: no room for the history ({error.strerror})") from error

    def shed(self) -> None:
        """Make the file smaller on a disk that is full: the oldest goes, in steps that need no room."""
        self.db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        before = self._number("PRAGMA page_count") * PAGE_BYTES
        free = 0
        while free < _SHED_BYTES and (oldest := self._batches("WHERE 1")[:1]):
            with self._transaction():
                self._drop(oldest)
            free = self._number("PRAGMA freelist_count") * PAGE_BYTES
        self._give_back(max(0, before - _SHED_BYTES))

    def _give_back(self, limit: int) -> None:
        """Give free pages of the file back to the disk until it is no larger than *limit*."""
        while (
            self._number("PRAGMA freelist_count") and self._number("PRAGMA page_count") * PAGE_BYTES > limit
        ):
            self.db.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
            self.db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
            self._pace()

    # -- SQLite ---------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self.db.execute("ROLLBACK")
            raise

    def _number(self, query: str) -> int:
        return int(self.db.execute(query).fetchone()[0])

    def _batches(self, where: str, *values: int) -> list[Batch]:
        query = f"SELECT * FROM batch {where} ORDER BY begin_ds, id"  # noqa: S608 - our own words
        return [Batch(*row) for row in self.db.execute(query, values)]


def _first(batches: Sequence[Batch], span_ds: int) -> list[Batch]:
    """Return the first batches that are at most this long together; at least two, if there are."""
    group: list[Batch] = []
    rows = 0
    for batch in batches[:_GROUP_MAX]:
        rows += batch.rows
        if len(group) > 1 and (batch.end_ds - group[0].begin_ds > span_ds or rows > _ROWS_MAX):
            break
        group.append(batch)
    return group


def _vm_block(name: str, rows: Sequence[Row]) -> Block:
    found = [row.sample.vms.get(name) for row in rows]
    values = zip(*[msgspec.structs.astuple(each) if each else _NO_VM for each in found], strict=True)
    columns = dict(zip(VmSample.__struct_fields__, values, strict=True))
    return Block(
        len(rows), {each: columns[each] for each in VM_FIGURES}, {each: columns[each] for each in VM_TEXTS}
    )


def _host_block(rows: Sequence[Row]) -> Block:
    values = zip(*[msgspec.structs.astuple(row.sample.host) for row in rows], strict=True)
    columns = dict(zip(HostSample.__struct_fields__, values, strict=True))
    times = {
        AT: [row.at_ms for row in rows],
        FOR: [row.for_ds for row in rows],
        IS_SWEEP: [int(row.sample.is_sweep) for row in rows],
    }
    return Block(
        len(rows),
        times | {each: columns[each] for each in HOST_FIGURES},
        {each: columns[each] for each in HOST_TEXTS},
    )


def _shortened(event: Event) -> Event:
    text, measurement = event.text[:HISTORY_TEXT_MAX], event.measurement[:HISTORY_TEXT_MAX]
    return msgspec.structs.replace(event, text=text, measurement=measurement)
