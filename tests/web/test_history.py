"""What is read of the history: plots and events, and every way in which the file is not as it should be."""

import asyncio
import os
import sqlite3
import threading
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from tests.rigs.pasts import THREE_AM, RecordedHost, written
from tests.rigs.scenes import play, plays, until
from tests.rigs.webs import Web, serving

from dynmem.errors import DeadlineError
from dynmem.history.event import Event
from dynmem.history.file import FILE_NAME
from dynmem.history.past import Past
from dynmem.history.store import Row, Store
from dynmem.limits import WEB_HAPPENED_MAX, WEB_READINGS_MAX
from dynmem.web import live, readings
from dynmem.web.happened import News
from dynmem.web.readings import Reading, Readings
from dynmem.web.series import OF_A_VM, OF_THE_HOST, series_of

FROM_S = THREE_AM / 1000
WHOLE = f"since={FROM_S - 10}&until={FROM_S + 10_000}"
Patch = pytest.MonkeyPatch


def recorded(folder: Path, sweeps: int = 40) -> RecordedHost:
    """Keep a history of some sweeps."""
    folder.mkdir(exist_ok=True)
    host = RecordedHost()
    host.sweeps(sweeps)
    written(folder, host.rows, host.events)
    return host


@plays
async def test_a_plot_has_what_was_recorded_and_no_more_points_than_were_asked_for(tmp_path: Path) -> None:
    host = recorded(tmp_path / "state")
    async with serving(tmp_path) as web:
        plot = (await web.ask(f"/api/series?of=vm:vm-1&{WHOLE}")).json
        assert plot["step_s"] == 1
        last = host.rows[-1]
        assert plot["from_s"][-1] == last.at_ms / 1000
        vm = last.sample.vms["vm-1"]
        assert plot["series"]["target_bytes"][-1] == vm.assigned_bytes
        assert plot["series"]["actual_bytes"][-1] == vm.actual_bytes
        assert list(plot["series"]) == list(OF_A_VM)
        of_host = (await web.ask(f"/api/series?of=host&{WHOLE}&points=4")).json
        assert list(of_host["series"]) == list(OF_THE_HOST)
        assert 1 < len(of_host["from_s"]) <= 4
        assert of_host["series"]["budget_bytes"][-1] == 1024 << 20
        assert of_host["series"]["held_bytes"][-1] == last.sample.host.occupied_bytes
        nothing = (await web.ask("/api/series?since=5&until=6")).json
        assert nothing["from_s"] == []


def test_the_mean_and_the_most_of_a_step_are_those_of_its_sweeps(tmp_path: Path) -> None:
    host = recorded(tmp_path)
    past = Past(tmp_path)
    plot = series_of(past, "vm-0", THREE_AM, THREE_AM + 60_000, 3)
    step_ms = plot["step_s"] * 1000
    for begin_s, mean, most in zip(
        plot["from_s"], plot["series"]["demand_bytes"], plot["series"]["demand_most_bytes"], strict=True
    ):
        demands = [
            row.sample.vms["vm-0"].demand_bytes or 0
            for row in host.rows
            if row.at_ms // step_ms * step_ms == begin_s * 1000
        ]
        assert demands
        assert most == max(demands)
        assert mean == pytest.approx(sum(demands) / len(demands), abs=1)
    past.close()


def test_a_time_without_a_manager_is_a_row_of_nothing_and_a_clock_that_went_back_keeps_the_order(
    tmp_path: Path,
) -> None:
    host = RecordedHost()
    host.sweeps(10)
    host.sweeps(10, at_ms=THREE_AM + 600_000)
    later = host.sweeps(10, at_ms=THREE_AM - 15_000)  # falls on dates that are there already
    written(tmp_path, host.rows)
    past = Past(tmp_path)
    plot = series_of(past, "vm-0", 0, 1 << 50, 2000)
    assert plot["from_s"] == sorted(set(plot["from_s"]))
    assert plot["series"]["actual_bytes"].count(None) == 1
    at = plot["series"]["actual_bytes"].index(None)
    assert plot["from_s"][at + 1] - plot["from_s"][at] > 500
    begin_s = later[2].at_ms / 1000
    assert plot["series"]["target_bytes"][plot["from_s"].index(begin_s)] == (
        later[2].sample.vms["vm-0"].assigned_bytes
    )
    past.close()


def happening(folder: Path, count: int) -> None:
    """Keep so many events: every third about vm-1; the older ones are packed."""
    store = Store(folder)
    for first in range(0, count, 500):
        events = [
            (
                THREE_AM + number * 1000,
                Event(kind="problem", text=str(number), vm=None if number % 3 else "vm-1"),
            )
            for number in range(first, min(count, first + 500))
        ]
        store.add([], events)
        store.tidy()
    store.close()


@plays
async def test_events_come_newest_first_however_they_are_kept(tmp_path: Path) -> None:
    state = tmp_path / "state"
    recorded(state, 1)
    happening(state, 2500)
    assert sqlite3.connect(state / FILE_NAME).execute("SELECT count(*) FROM packed").fetchone()[0]
    async with serving(tmp_path) as web:
        whole = (await web.ask(f"/api/events?{WHOLE}&limit=1000")).json
        assert [each["text"] for each in whole["events"]] == [str(number) for number in range(2499, 1499, -1)]
        assert whole["more"]
        first = (await web.ask(f"/api/events?of=vm:vm-1&since=0&until={FROM_S + 2.5}")).json
        assert [each["text"] for each in first["events"] if each["kind"] == "problem"] == ["0"]
        assert not first["more"]
        host = (await web.ask(f"/api/events?of=host&{WHOLE}&limit=2")).json
        assert {each.get("vm") for each in host["events"]} == {None}
    past = Past(state)
    assert [each.id for each in past.events_back()] == [each.id for each in past.events()][::-1]
    past.close()


WRONG = (
    "/api/series?of=vm",
    "/api/series?of=vm:",
    "/api/series?of=vm:a/b",
    f"/api/series?of=vm:{'a' * 65}",
    "/api/series?points=0",
    "/api/series?points=2001",
    "/api/series?points=-1",
    "/api/series?points=1e3",
    f"/api/series?points={'9' * 500}",
    "/api/series?points=" + quote("²"),
    "/api/series?since=nan",
    "/api/series?since=inf",
    "/api/series?since=-1",
    "/api/series?until=1e300",
    "/api/series?since=6&until=5",
    "/api/events?limit=1001",
    "/api/events?of=nothing",
    "/api/explain",
    "/api/explain?vm=" + quote("\x00"),
    "/api/explain?vm=vm-1&at=soon",
)


@plays
async def test_what_cannot_be_meant_is_refused_and_what_is_not_known_is_not_found(tmp_path: Path) -> None:
    recorded(tmp_path / "state", 1)
    async with serving(tmp_path) as web:
        for path in WRONG:
            reply = await web.ask(path)
            assert (path, reply.status) == (path, 400)
            assert reply.json["error"]
        for path in ("/api/series?of=vm:nosuch", f"/api/explain?vm=nosuch&at={FROM_S}"):
            assert (await web.ask(path)).status == 404
        assert (await web.ask(f"/api/explain?vm=vm-1&at={FROM_S + 5}")).status == 200
        assert (await web.ask("/api/explain?vm=vm-1&at=5")).status == 503
        year = await web.ask(f"/api/series?of=vm:vm-1&since=0&until={1 << 43}&points=2000")
        assert year.status == 200


ASKED = (f"/api/series?{WHOLE}", f"/api/events?{WHOLE}", f"/api/explain?vm=vm-1&at={FROM_S + 5}")


async def _sentences(web: Web) -> list[str]:
    """Return what is said of the history, which cannot be read."""
    replies = [await web.ask(path) for path in ASKED]
    assert {each.status for each in replies} == {503}, replies
    return [each.json["error"] for each in replies]


@plays
async def test_a_history_that_is_absent_another_programs_or_damaged_is_named_and_read_when_it_is_back(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    file = state / FILE_NAME
    async with serving(tmp_path) as web:
        assert all("there is no history" in each for each in await _sentences(web))
        recorded(state)
        assert {(await web.ask(path)).status for path in ASKED} == {200}
        whole = file.read_bytes()
        for content, said in (
            (b"dear diary" * 100, "damaged"),
            (b"", "empty"),
            (whole[: len(whole) // 2], ""),
            (whole[:4096] + bytes(len(whole) - 4096), ""),
        ):
            file.write_bytes(content)
            for end in ("-wal", "-shm"):
                file.with_name(FILE_NAME + end).unlink(missing_ok=True)
            replies = [await web.ask(path) for path in ASKED]
            assert 500 not in {each.status for each in replies}
            assert all(said in each.json.get("error", "") for each in replies)
        file.unlink()
        with sqlite3.connect(file) as other:
            other.execute("CREATE TABLE diary (day)")
        assert all("another program" in each for each in await _sentences(web))
        file.unlink()
        os.mkfifo(file)
        assert all("not a plain file" in each for each in await _sentences(web))
        file.unlink()
        recorded(state)
        assert {(await web.ask(path)).status for path in ASKED} == {200}


def test_damage_within_the_file_is_no_error_of_ours(tmp_path: Path) -> None:
    async def scene() -> None:
        recorded(tmp_path / "state")
        with sqlite3.connect(tmp_path / "state" / FILE_NAME) as db:
            db.execute("UPDATE block SET data = x'0102'")
            db.execute("UPDATE event SET data = '[1'")
        async with serving(tmp_path) as web:
            assert {(await web.ask(path)).status for path in ASKED} <= {200, 503}

    play(scene())


def test_a_history_that_is_locked_is_named_and_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    async def scene() -> None:
        recorded(tmp_path / "state")
        connect = sqlite3.connect
        monkeypatch.setattr(
            sqlite3, "connect", lambda *args, **named: connect(*args, **{**named, "timeout": 0.02})
        )
        held = connect(tmp_path / "state" / FILE_NAME, isolation_level=None)
        held.execute("PRAGMA locking_mode=EXCLUSIVE")
        held.execute("BEGIN EXCLUSIVE")
        async with serving(tmp_path) as web:
            asking = [asyncio.create_task(web.ask(path)) for path in ASKED]
            assert (await web.ask("/")).status == 200
            assert {(await each).status for each in asking} <= {200, 503}
        held.close()

    play(scene())


class Held:
    """A reading that takes as long as the test wants."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()

    def __call__(self, past: Reading) -> str:
        del past
        self.goes_on.wait(100)
        return "read"


def test_readings_wait_for_their_turn_as_many_as_the_limit_allows_and_the_loop_goes_on(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    async def scene() -> None:
        recorded(tmp_path, 1)
        held, kept = Held(), Readings(tmp_path)
        waiting = [asyncio.ensure_future(kept.read(held)) for _ in range(WEB_READINGS_MAX + 1)]
        await asyncio.sleep(0)
        with pytest.raises(readings.BusyError, match=str(WEB_READINGS_MAX)):
            await kept.read(held)
        monkeypatch.setattr(readings, "WEB_READINGS_MAX", 1000)
        waiting.append(asyncio.ensure_future(kept.read(held)))  # without the limit it waits, too
        await asyncio.sleep(0)
        assert not any(each.done() for each in waiting)
        held.goes_on.set()
        assert set(await asyncio.gather(*waiting)) == {"read"}
        kept.close()

    play(scene())


def test_a_reading_that_waits_or_takes_too_long_ends_and_one_who_leaves_gives_no_turn_to_two(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    async def scene() -> None:
        recorded(tmp_path)
        monkeypatch.setattr(readings, "WEB_READING_S_MAX", 0.05)
        held, kept = Held(), Readings(tmp_path)
        first = asyncio.ensure_future(kept.read(held))
        await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(readings.BusyError, match="for others"):
            await kept.read(held)
        monkeypatch.setattr(readings, "WEB_READING_S_MAX", 100.0)
        held.goes_on.set()
        assert await kept.read(lambda past: past.last_event()) > 0
        kept.close()

    play(scene())
    late = Reading(tmp_path, seconds=-1)
    with pytest.raises(DeadlineError, match="ask for a shorter time"):
        series_of(late, None, 0, 1 << 50, 10)
    late.close()
    untimed = Past(tmp_path)  # which is the same without an end
    assert series_of(untimed, None, 0, 1 << 50, 10)["from_s"]
    untimed.close()


def test_what_is_recorded_while_somebody_reads_is_news_and_what_was_before_is_not(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    async def scene() -> None:
        monkeypatch.setattr(live, "PERIOD_S", 0.02)
        state = tmp_path / "state"
        recorded(state, 1)
        happening(state, 10)
        async with serving(tmp_path) as web, web.reading() as stream:
            await stream.event("trouble")
            await until(lambda: web.site._news._file_id)
            store = Store(state)
            store.add([], [(THREE_AM, Event(kind="problem", text="now", vm="vm-1"))])
            store.close()
            _, news = await stream.event("happened")
            assert (news["text"], news["schema_version"]) == ("now", 1)
            for end in ("", "-wal", "-shm"):
                (state / (FILE_NAME + end)).unlink(missing_ok=True)
            happening(state, 1)  # another file, as after one was set aside
            _, news = await stream.event("happened")
            assert news["text"] == "0"

    play(scene())


def test_what_was_there_at_the_first_look_is_no_news_nor_is_anything_twice(tmp_path: Path) -> None:
    happening(tmp_path, 3)
    news = News()

    def texts() -> list[str]:
        past = Reading(tmp_path)
        found = [event.text for event in news.since(past)]
        past.close()
        return found

    assert texts() == []
    happening(tmp_path, 2)
    assert texts() == ["0", "1"]
    assert texts() == []
    happening(tmp_path, WEB_HAPPENED_MAX + 5)  # more than a reader is sent: the last
    assert texts() == [str(number) for number in range(5, WEB_HAPPENED_MAX + 5)]
    news.begin()
    assert texts() == []


def test_rows_of_an_hour_each_have_no_gaps_between_them(tmp_path: Path) -> None:
    host = RecordedHost()
    hours = host.sweeps(48)
    rows = [Row(THREE_AM + 3_600_000 * at, 36_000, row.sample) for at, row in enumerate(hours)]
    store = Store(tmp_path)
    store.add(rows, [])
    store.close()
    past = Past(tmp_path)
    plot = series_of(past, "vm-0", 0, 1 << 50, 2000)
    assert None not in plot["series"]["actual_bytes"]
    assert plot["from_s"] == [THREE_AM / 1000 + 3600 * (at - 1) for at in range(48)]
    assert msgspec.json.encode(plot)
    past.close()


def test_sweeps_that_are_ten_seconds_apart_have_no_gaps_between_them_either(tmp_path: Path) -> None:
    rows = [
        Row(THREE_AM + 5_000 + 10_000 * at, 100, row.sample)
        for at, row in enumerate(RecordedHost().sweeps(60))
    ]
    store = Store(tmp_path)
    store.add(rows, [])
    store.close()
    past = Past(tmp_path)
    for points in (5, 20, 2000):
        plot = series_of(past, "vm-0", 0, 1 << 50, points)
        assert None not in plot["series"]["actual_bytes"]
    past.close()
