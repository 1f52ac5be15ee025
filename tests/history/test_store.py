"""The store: bounded, thinned, whole after any death, patient with a failing disk, deaf to jumping clocks."""

import contextlib
import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.rigs.backings import mounted
from tests.rigs.pasts import THREE_AM, RecordedHost, written

from dynmem.errors import ConfigError
from dynmem.history.block import Block, encode
from dynmem.history.event import Event
from dynmem.history.file import FILE_NAME, WHO_BITS, FullError, HistoryError
from dynmem.history.past import Past
from dynmem.history.store import Batch, Row, Store
from dynmem.history.thinning import HOUR, MINUTE, TIERS
from dynmem.manager.step.sample import HostSample, Sample, VmSample
from dynmem.units import MIB

ROOT = Path(__file__).resolve().parent.parent.parent


def one_vm(at_ms: int, size: int, for_ds: int = 10) -> Row:
    vm = VmSample(name="web", maximum_bytes=512 * MIB, actual_bytes=size, demand_bytes=size)
    return Row(at_ms, for_ds, Sample(0, True, HostSample(mode="observe"), {"web": vm}, ()))


def hours(count: int) -> list[Row]:
    """Return a row a minute."""
    return [one_vm(THREE_AM + at * 60_000, (at % 97) * 4096, MINUTE) for at in range(count * 60)]


def sums(past: Past) -> tuple[int, int]:
    """Return for how long the VM's size is known, and the sum over that time."""
    ds = total = 0
    for piece in past.pieces(0):
        block = piece.vm("web")
        assert block is not None
        if "actual.ds" in block.figures:
            ds += sum(each or 0 for each in block.figure("actual.ds"))
            total += sum(each or 0 for each in block.figure("actual.sum"))
        else:
            known = zip(piece.for_ds, block.figure("actual_bytes"), strict=True)
            pairs = [(length, size // 4096) for length, size in known if size is not None]
            ds += sum(length for length, _ in pairs)
            total += sum(length * pages for length, pages in pairs)
    return ds, total


def test_what_was_added_is_read_again_to_the_last_figure(tmp_path: Path) -> None:
    recorded = RecordedHost()
    rows = recorded.sweeps(45)
    written(tmp_path, rows)
    past = Past(tmp_path)
    for row in rows:
        moment = past.moment(row.at_ms)
        assert (moment.at_ms, moment.step) == (row.at_ms, "each sweep")
        assert (moment.host, moment.vms) == (row.sample.host, row.sample.vms)


def test_days_are_thinned_and_their_totals_stay(tmp_path: Path) -> None:
    rows = hours(100)
    written(tmp_path, rows, size=60)
    past = Past(tmp_path)
    assert sums(past) == (
        100 * HOUR,
        sum(row.for_ds * (row.sample.vms["web"].actual_bytes or 0) // 4096 for row in rows),
    )
    steps = [piece.step for piece in past.pieces(0)]
    assert sorted(set(steps)) == ["1 min", "10 s", "each sweep"]
    assert steps == sorted(steps, key=[tier.words for tier in TIERS].index, reverse=True)


def test_the_file_is_bounded_in_bytes_and_the_newest_is_whole(tmp_path: Path) -> None:
    store = Store(tmp_path, bytes_max=300_000)
    recorded = RecordedHost(vms=4)
    rows = recorded.sweeps(60)
    for turn in range(60):
        later = [row._replace(at_ms=row.at_ms + turn * 20_000) for row in rows[turn % 3 * 20 :][:20]]
        store.add(later, [])
        while store.tidy():
            pass
    last = later[-1]
    store.close()
    assert (tmp_path / FILE_NAME).stat().st_size <= 400_000
    assert Past(tmp_path).moment(last.at_ms).vms == last.sample.vms


def test_events_are_bounded_and_the_newest_stay(tmp_path: Path) -> None:
    store = Store(tmp_path, bytes_max=1 << 20)
    rng = random.Random(1)
    for at in range(24):
        texts = [f"{at}: {rng.getrandbits(256):x}" for _ in range(500)]
        store.add([], [(THREE_AM + at, Event(kind="moved", vm="web", text=text)) for text in texts])
        store.tidy()
    store.close()
    found = list(Past(tmp_path).events())
    assert [event.id for event in found] == list(range(found[0].id, 12_001))
    assert 4000 < len(found) < 11_000
    assert found[-1].text.startswith("23: ")


def test_a_clock_that_goes_back_neither_ages_nor_reorders_anything(tmp_path: Path) -> None:
    forth = [one_vm(THREE_AM + at * 1000, at * 4096) for at in range(40)]
    back = [one_vm(THREE_AM - 86_400_000 + at * 1000, (100 + at) * 4096) for at in range(40)]
    later = [one_vm(THREE_AM + 10 * 365 * 86_400_000 + at * 1000, (200 + at) * 4096) for at in range(40)]
    written(tmp_path, forth + later + back)
    past = Past(tmp_path)
    sizes = [
        size
        for piece in past.pieces(0)
        if (block := piece.vm("web"))
        for size in block.figure("actual_bytes")
    ]
    assert sizes == [at * 4096 for first in (0, 200, 100) for at in range(first, first + 40)]
    assert past.moment(THREE_AM + 5_500).vms["web"].actual_bytes == 5 * 4096


@pytest.mark.parametrize("what", ["text", "other program", "cut", "empty", "later version"])
def test_a_file_that_is_no_history_is_set_aside_and_named(tmp_path: Path, what: str) -> None:
    path = tmp_path / FILE_NAME
    if what == "text":
        path.write_text("dear diary" * 1000)
    elif what == "other program":
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE diary (day)")
    elif what == "empty":
        path.touch()
    else:
        written(tmp_path, hours(1))
        if what == "cut":
            path.write_bytes(path.read_bytes()[:9000])
        else:
            with sqlite3.connect(path) as db:
                db.execute("PRAGMA user_version=9")
            db.close()
    before = path.read_bytes()
    store = Store(tmp_path)
    assert str(path) in store.news
    assert "set aside as" in store.news
    store.add(hours(1), [])
    store.close()
    assert (tmp_path / f"{FILE_NAME}.aside-1").read_bytes()[:4096] == before[:4096]
    assert len(list(Past(tmp_path).pieces(0))) == 1


def test_no_file_that_was_set_aside_is_ever_replaced(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / FILE_NAME).write_text(f"diary {number}")
        if number < 9:
            Store(tmp_path).close()
    with pytest.raises(HistoryError, match="look at them and move them away"):
        Store(tmp_path)
    assert sorted(path.read_text() for path in tmp_path.glob("*.aside-?")) == [f"diary {n}" for n in range(9)]


def test_a_reader_of_what_is_no_history_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("dear diary" * 1000)
    with pytest.raises(ConfigError, match="name the folder of a history with --state"):
        Past(tmp_path)
    assert (tmp_path / FILE_NAME).read_text() == "dear diary" * 1000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read and give away another user's file")
def test_the_history_of_another_user_is_read_and_not_written_to(tmp_path: Path) -> None:
    written(tmp_path, hours(1))
    path = tmp_path / FILE_NAME
    os.chown(path, 54321, -1)
    assert len(list(Past(tmp_path).pieces(0))) == 3
    store = Store(tmp_path)
    store.close()
    assert "a file of another user: set aside" in store.news


@pytest.mark.parametrize(
    "data", [b"\0", encode(Block(1, {"at_ms": [1], "for_ds": [1]}, {}))], ids=["no block", "other rows"]
)
def test_a_damaged_block_is_left_out_and_thinning_goes_on(tmp_path: Path, data: bytes) -> None:
    store = Store(tmp_path)
    rows = hours(30)
    for first in range(0, len(rows), 60):
        store.add(rows[first : first + 60], [])
    for who in (0, 1):  # the dates of one batch, the VM of another
        store.db.execute("UPDATE block SET data = ? WHERE id = ?", (data, (2 + who) << 20 | who))
    while store.tidy():
        pass
    store.close()
    assert sum(len(piece.rows) for piece in Past(tmp_path).pieces(0)) > 200


def test_a_block_with_other_rows_than_its_batch_is_left_out(tmp_path: Path) -> None:
    written(tmp_path, hours(1))
    other = encode(Block(1, {"maximum_bytes": [MIB]}, {}))
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as db, db:
        db.execute("UPDATE block SET data = ? WHERE id = ?", (other, 1 << WHO_BITS | 1))
    first, *rest = Past(tmp_path).pieces(0)
    assert first.vm("web") is None
    assert rest
    assert all(piece.vm("web") is not None for piece in rest)


def test_no_more_rows_are_thinned_at_once_than_a_block_may_have(tmp_path: Path) -> None:
    with contextlib.closing(Store(tmp_path)) as store:
        for _ in range(5):
            store.add(
                [one_vm(THREE_AM, MIB, 0)] * 2000, []
            )  # what was moved between two sweeps takes no time
        store.add([one_vm(THREE_AM + 3_600_000, MIB, HOUR)], [])
        assert store.tidy()
        batches = store.db.execute("SELECT tier, rows FROM batch ORDER BY id").fetchall()
    assert [rows for tier, rows in batches if not tier] == [2000, 2000, 1]


def test_where_a_file_system_allocates_nothing_ahead_rows_are_added_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    written(tmp_path, hours(1))
    assert sum(len(piece.rows) for piece in Past(tmp_path).pieces(0)) == 60


def test_a_history_on_a_disk_that_can_only_be_read_is_read(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "tmpfs", "size=16m") as disk:
        written(disk, hours(1))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert sum(len(piece.rows) for piece in Past(disk).pieces(0)) == 60


WRITER = """
import sys, itertools
from pathlib import Path
from tests.history.test_store import hours
from dynmem.history.store import Store
from dynmem.history.event import Event
store = Store(Path(sys.argv[1]), bytes_max=600_000)
rows = hours(24)
print("ready", flush=True)
for turn in itertools.count():
    first = turn * 20 % len(rows)
    added = [row._replace(at_ms=row.at_ms + turn) for row in rows[first:first + 20]]
    store.add(added, [(row.at_ms, Event(kind="moved", vm="web", text=str(turn))) for row in added])
    store.tidy()
"""


def test_a_writer_that_is_killed_at_any_point_leaves_a_whole_file(tmp_path: Path) -> None:
    for turn in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(0.05 + 0.15 * turn)  # the moment is any
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        past = Past(tmp_path)
        for piece in past.pieces(0):
            assert piece.vm("web") is not None
        numbers = [event.id for event in past.events()]  # none yet, if it was killed before
        assert numbers == list(range(numbers[0], numbers[-1] + 1) if numbers else ())
        past.close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        batches = [Batch(*row) for row in db.execute("SELECT * FROM batch")]
        blocks = db.execute("SELECT id >> 20, count(*) FROM block GROUP BY 1").fetchall()
        assert sorted(blocks) == sorted((batch.id, 2) for batch in batches)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(b"x" * 4096):
            pass
    assert os.statvfs(disk).f_bavail == 0


def test_on_a_full_disk_the_oldest_goes_and_its_room_is_given_back(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "tmpfs", "size=16m") as disk:
        store = Store(disk)
        rows = RecordedHost(vms=20, budget=100 * 1024).sweeps(20)
        for _ in range(100):
            store.add(rows, [])
        fill(disk)
        before = (disk / FILE_NAME).stat().st_size
        with contextlib.suppress(FullError):
            for _ in range(100):
                store.add(rows, [])
        with pytest.raises(FullError):
            store.add(rows * 10, [])
        store.shed()
        assert (disk / FILE_NAME).stat().st_size < before
        assert os.statvfs(disk).f_bavail > 0  # for the journal, and for others
        last = rows[-1]._replace(at_ms=THREE_AM + 86_400_000)
        store.add([last], [])
        store.close()
        assert Past(disk).moment(last.at_ms).vms == last.sample.vms


def test_if_room_were_not_allocated_first_a_full_disk_would_leave_none_to_make_room_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "_allocate", lambda *_: None)
    with mounted(tmp_path / "disk", "tmpfs", "size=16m") as disk:
        store = Store(disk)
        rows = RecordedHost(vms=20, budget=100 * 1024).sweeps(20)
        store.add(rows, [])
        fill(disk)
        with contextlib.suppress(sqlite3.OperationalError):
            for _ in range(100):
                store.add(rows, [])
        with pytest.raises(sqlite3.OperationalError, match="full"):
            store.shed()
        store.close()


class FailingDisk(RuleBasedStateMachine):
    """A store whose writes fail now and then: what was added is there once, and what failed is not."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
        self.store = Store(self.folder)
        self.at = 0
        self.ds = self.total = self.events = 0

    @rule(count=st.integers(1, 90), fails_after=st.one_of(st.none(), st.integers(0, 8)))
    def add(self, count: int, fails_after: int | None) -> None:
        rows = [one_vm(THREE_AM + (self.at + n) * 60_000, n * 4096, MINUTE) for n in range(count)]
        events = [(row.at_ms, Event(kind="moved", text="x")) for row in rows[:3]]
        try:
            with self._failing(fails_after):
                self.store.add(rows, events)
        except sqlite3.Error:
            return
        self.at += count
        self.ds += count * MINUTE
        self.total += sum(range(count)) * MINUTE
        self.events += len(events)

    @rule(fails_after=st.one_of(st.none(), st.integers(0, 30)))
    def tidy(self, fails_after: int | None) -> None:
        with contextlib.suppress(sqlite3.Error), self._failing(fails_after):
            self.store.tidy()

    @precondition(lambda self: self.at)
    @rule()
    def open_again(self) -> None:
        self.store.close()
        self.store = Store(self.folder)
        assert not self.store.news

    @contextlib.contextmanager
    def _failing(self, after: int | None) -> Iterator[None]:
        """Refuse every statement after so many, as a full disk does."""
        left = [0 if after is None else after]

        def authorize(action: int, *_: object) -> int:
            if action not in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_DELETE) or after is None:
                return sqlite3.SQLITE_OK
            left[0] -= 1
            return sqlite3.SQLITE_OK if left[0] >= 0 else sqlite3.SQLITE_DENY

        self.store.db.set_authorizer(authorize)
        try:
            yield
        finally:
            self.store.db.set_authorizer(None)

    @invariant()
    def all_of_it_is_there(self) -> None:
        past = Past(self.folder)
        assert sums(past) == (self.ds, self.total)
        assert len(list(past.events())) == self.events
        assert all(piece.at_ms == sorted(piece.at_ms) for piece in past.pieces(0))
        past.close()

    def teardown(self) -> None:
        self.store.close()
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()


def test_what_was_added_is_there_once_and_what_failed_is_not_whatever_the_disk_does() -> None:
    few = settings(max_examples=12, stateful_step_count=12, deadline=None)
    run_state_machine_as_test(FailingDisk, settings=few)


def test_a_sample_is_the_same_after_a_journey_through_the_file(tmp_path: Path) -> None:
    """Every field, told apart from every other."""
    fields = [each for each in msgspec.structs.fields(VmSample) if each.name != "name"]
    values = {each.name: each.name if each.type is str else at for at, each in enumerate(fields, 1)}
    vm = msgspec.convert({"name": "web", **values}, VmSample)
    host_fields = msgspec.structs.fields(HostSample)
    host_values = {each.name: each.name if each.type is str else at for at, each in enumerate(host_fields, 1)}
    host = msgspec.convert(host_values, HostSample)
    written(tmp_path, [Row(THREE_AM, 10, Sample(0, True, host, {"web": vm}, ()))])
    moment = Past(tmp_path).moment(THREE_AM)
    assert (moment.host, moment.vms) == (host, {"web": vm})
