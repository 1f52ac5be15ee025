"""The recorder: steps come in at once, are written in a thread, and a disk that fails stops nothing."""

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest
from tests.rigs.pasts import RecordedHost

from dynmem.history import recorder as recording
from dynmem.history.file import FILE_NAME, FullError
from dynmem.history.past import Past
from dynmem.history.recorder import ROWS, Pace, Recorder
from dynmem.history.store import Store
from dynmem.limits import HISTORY_BYTES_MIN, HISTORY_WAITING_MAX
from dynmem.manager.step.sample import HostSample, Sample
from dynmem.units import NS_PER_S

DISK_FULL = sqlite3.OperationalError("database or disk is full")
DISK_FULL.sqlite_errorcode = sqlite3.SQLITE_FULL


def test_every_sweep_is_in_the_file_after_the_end_and_the_time_adds_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        recorder, recorded = Recorder(tmp_path, print), RecordedHost()
        recorder.happened("started", "observe: 3 VMs")
        for row in recorded.sweeps(2 * ROWS + 7):
            recorder.stepped(row.sample, {})
        await recorder.finish()
        past = Past(tmp_path)
        assert sum(len(piece.rows) for piece in past.pieces(0)) == 2 * ROWS + 7
        assert sum(sum(piece.for_ds) for piece in past.pieces(0)) == (2 * ROWS + 6) * 10
        kinds = [event.kind for event in past.events()]
        assert kinds[0] == "started"
        assert kinds.count("came") == 3

    asyncio.run(scenario())


def test_a_time_in_which_the_host_slept_is_not_known_and_counts_as_ten_periods(tmp_path: Path) -> None:
    async def scenario() -> None:
        recorder = Recorder(tmp_path, print)
        for now_ns in (0, 3600 * NS_PER_S):
            recorder.stepped(Sample(now_ns, True, HostSample(mode="observe", period_ds=10), {}, ()), {})
        await recorder.finish()
        assert [piece.for_ds for piece in Past(tmp_path).pieces(0)] == [[0, 100]]

    asyncio.run(scenario())


def test_a_file_that_is_damaged_meanwhile_is_set_aside_and_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        lines: list[str] = []
        recorder, recorded = Recorder(tmp_path, lines.append), RecordedHost()

        async def some() -> None:
            for row in recorded.sweeps(ROWS):
                recorder.stepped(row.sample, {})
            await recorder.written()

        await some()
        store = recorder._store
        assert store is not None
        store.db.execute("PRAGMA writable_schema=ON")
        store.db.execute("UPDATE sqlite_schema SET rootpage = 9999 WHERE name = 'block'")
        store.close()
        recorder._store = None
        await some()
        await recorder.finish()
        assert any("set aside as" in line for line in lines)
        assert (tmp_path / f"{FILE_NAME}.aside-1").exists()
        assert sum(len(piece.rows) for piece in Past(tmp_path).pieces(0)) == ROWS

    asyncio.run(scenario())


def test_what_waits_for_a_disk_is_bounded_and_what_was_given_up_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_PAUSE_S", 0.0)
    is_broken = True
    add = Store.add

    def failing(self: Store, *what: object) -> None:
        if is_broken:
            raise sqlite3.OperationalError("disk I/O error")
        add(self, *what)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "add", failing)

    async def scenario() -> None:
        nonlocal is_broken
        lines: list[str] = []
        recorder, recorded = Recorder(tmp_path, lines.append), RecordedHost(1)
        for row in recorded.sweeps(HISTORY_WAITING_MAX + 50, wandering=False):
            recorder.stepped(row.sample, {})
            await asyncio.sleep(0)
        await recorder.written()
        assert recorder.problem is not None
        assert len(lines) == 1
        assert "the VMs are served as ever" in lines[0]
        is_broken = False
        await recorder.finish()
        past = Past(tmp_path)
        assert sum(len(piece.rows) for piece in past.pieces(0)) == HISTORY_WAITING_MAX
        lost = [event.text for event in past.events() if event.kind == "lost"]
        assert lost == ["50 sweeps could not be written and are not in the history"]

    asyncio.run(scenario())


def test_events_that_wait_for_a_disk_are_bounded_and_the_newest_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "HISTORY_EVENTS_WAITING_MAX", 20)

    async def scenario() -> None:
        recorder = Recorder(tmp_path, print)
        for number in range(50):
            recorder.happened("request", str(number))
        await recorder.finish()
        # The first is being written while the others come.
        assert [event.text for event in Past(tmp_path).events()] == ["0", *map(str, range(30, 50))]

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [FullError("no room"), DISK_FULL], ids=["before", "meanwhile"])
def test_on_a_full_disk_the_oldest_gives_way_to_the_newest_and_nothing_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    is_full = False
    add, shed = Store.add, Store.shed

    def adding(self: Store, *what: object) -> None:
        if is_full:
            raise error
        add(self, *what)  # type: ignore[arg-type]

    def shedding(self: Store) -> None:
        nonlocal is_full
        shed(self)
        is_full = False

    monkeypatch.setattr(Store, "add", adding)
    monkeypatch.setattr(Store, "shed", shedding)

    async def scenario() -> None:
        nonlocal is_full
        lines: list[str] = []
        recorder, recorded = Recorder(tmp_path, lines.append), RecordedHost(1)
        rows = recorded.sweeps(2 * ROWS, wandering=False)
        for at, row in enumerate(rows):
            is_full = at >= ROWS
            recorder.stepped(row.sample, {})
            await recorder.written()
        await recorder.finish()
        assert lines == []
        assert sum(len(piece.rows) for piece in Past(tmp_path).pieces(0)) == ROWS

    asyncio.run(scenario())


def test_a_folder_in_which_nothing_can_be_written_is_reported_once_and_the_end_comes(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    for number in range(1, 10):
        (tmp_path / f"{FILE_NAME}.aside-{number}").mkdir()

    async def scenario() -> None:
        lines: list[str] = []
        recorder, recorded = Recorder(tmp_path, lines.append), RecordedHost(1)
        for row in recorded.sweeps(3 * ROWS, wandering=False):
            recorder.stepped(row.sample, {})
            await asyncio.sleep(0)
        await recorder.finish()
        assert len(lines) == 1
        assert "move them away" in lines[0]

    asyncio.run(scenario())


def test_the_file_is_its_users_alone(tmp_path: Path) -> None:
    Store(tmp_path).close()
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_where_the_operator_wants_none_no_history_is_kept_and_it_can_begin_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        recorder, recorded = Recorder(tmp_path, print, 0), RecordedHost(1)
        recorder.happened("started", "observe: 1 VM")
        for row in recorded.sweeps(ROWS + 5):
            recorder.stepped(row.sample, {})
        await recorder.written()
        assert os.listdir(tmp_path) == []  # noqa: PTH208 - nothing waits for it
        recorder.limit(HISTORY_BYTES_MIN)
        for row in recorded.sweeps(ROWS + 5):
            recorder.stepped(row.sample, {})
        await recorder.finish()
        assert sum(len(piece.rows) for piece in Past(tmp_path).pieces(0)) == ROWS + 5

    asyncio.run(scenario())


def test_where_none_is_kept_any_more_what_there_is_stays(tmp_path: Path) -> None:
    async def scenario() -> None:
        recorder, recorded = Recorder(tmp_path, print), RecordedHost(1)
        for row in recorded.sweeps(3 * ROWS + 5):
            recorder.stepped(row.sample, {})
            await recorder.written()
        recorder.limit(0)
        await recorder.finish()
        assert sum(len(piece.rows) for piece in Past(tmp_path).pieces(0)) == 3 * ROWS + 5

    asyncio.run(scenario())


def test_the_thread_rests_longer_than_it_works_so_that_no_step_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s, rests = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds
        rests.append(seconds)

    monkeypatch.setattr("dynmem.history.recorder.time.monotonic", lambda: now_s)
    monkeypatch.setattr("dynmem.history.recorder.time.sleep", sleep)
    pace, works = Pace(), 0
    for _ in range(1000):
        now_s += 0.0005  # a VM
        works += 1
        pace()
    assert 200 <= len(rests) <= 334  # after each 2 ms of work, and before 3
    assert sum(rests) >= 2 * 0.0005 * works * 0.9
