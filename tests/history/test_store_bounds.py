"""What a history does at its bounds: a disk that others need, names, short batches, later versions."""

import contextlib
import os
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from tests.history.test_store import one_vm
from tests.rigs.pasts import THREE_AM, written

from dynmem.errors import NotPermittedError, UnreachableError
from dynmem.history import past as reading
from dynmem.history import store as storing
from dynmem.history.event import Event
from dynmem.history.file import FILE_NAME, WHO_MAX, open_for_reading
from dynmem.history.past import Past
from dynmem.history.store import Store
from dynmem.history.thinning import HOUR
from dynmem.units import MIB


def test_where_others_need_the_disk_it_gives_up_all_it_has_and_forgets_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "_NAMES_LOOSE", 1)
    store = Store(tmp_path)
    row = one_vm(THREE_AM, MIB)
    vms = {f"web-{number}": row.sample.vms["web"] for number in range(3)}
    store.add([row._replace(sample=msgspec.structs.replace(row.sample, vms=vms))], [])
    assert not store.tidy()
    full = SimpleNamespace(f_blocks=1 << 30, f_frsize=4096, f_bavail=0)
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    while store.tidy():
        pass
    kept = [store.db.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("batch", "who")]
    store.close()
    assert kept == [(0,), (0,)]


def test_a_vm_gets_the_least_number_that_is_free(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.db.execute("INSERT INTO who VALUES (?, 'gone')", (WHO_MAX,))
    store.close()
    written(tmp_path, [one_vm(THREE_AM, MIB)])
    past = Past(tmp_path)
    assert past.names == {"gone": WHO_MAX, "web": 1}
    assert past.moment(THREE_AM).vms["web"].actual_bytes == MIB


def test_batches_of_many_restarts_are_thinned_before_they_make_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "_GROUP_MAX", 3)
    store = Store(tmp_path)
    for at_ms in (0, 1000, 2000, 3_600_000):
        store.add([one_vm(THREE_AM + at_ms, MIB, HOUR if at_ms > 2000 else 1)], [])
    assert store.tidy()
    assert store.db.execute("SELECT tier, count(*) FROM batch GROUP BY tier").fetchall() == [(0, 1), (1, 1)]
    store.close()


def test_an_event_of_a_kind_that_is_not_known_is_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.db.execute('INSERT INTO event VALUES (1, ?, \'{"kind":"new","text":"x"}\')', (THREE_AM,))
    store.close()
    store = Store(tmp_path)
    store.add([], [(THREE_AM, Event(kind="mode", text="y"))])
    store.close()
    assert [event.text for event in Past(tmp_path).events()] == ["y"]


def test_a_link_that_leads_nowhere_is_not_replaced_by_what_is_set_aside(tmp_path: Path) -> None:
    link = tmp_path / f"{FILE_NAME}.aside-1"
    link.symlink_to("nowhere")
    (tmp_path / FILE_NAME).write_text("dear diary")
    Store(tmp_path).close()
    assert link.is_symlink()
    assert (tmp_path / f"{FILE_NAME}.aside-2").read_text() == "dear diary"


def test_of_more_vms_than_there_are_numbers_the_first_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "WHO_MAX", 2)
    row = one_vm(THREE_AM, MIB)
    vms = {f"web-{number}": row.sample.vms["web"] for number in range(3)}
    written(tmp_path, [row._replace(sample=msgspec.structs.replace(row.sample, vms=vms))])
    past = Past(tmp_path)
    assert past.names == {"web-0": 1, "web-1": 2}
    past.close()


def test_rows_are_found_by_their_dates_also_where_the_clock_went_back_between_two(tmp_path: Path) -> None:
    dates = [THREE_AM + 1000 * second for second in (5, 1, 3)]
    written(tmp_path, [one_vm(at_ms, MIB) for at_ms in dates])
    past = Past(tmp_path)
    assert past.span_ms() == (dates[1], dates[0])
    for at_ms in dates:
        assert [[piece.at_ms[row] for row in piece.rows] for piece in past.pieces(at_ms, at_ms)] == [[at_ms]]
    past.close()


def test_after_a_batch_that_could_not_be_added_the_next_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    store = Store(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(store, "_insert", fail)
        with pytest.raises(OSError, match="Input/output"):
            store.add([one_vm(THREE_AM, MIB)], [])
    store.add([one_vm(THREE_AM + 1000, MIB)], [])
    store.close()
    past = Past(tmp_path)
    assert past.span_ms() == (THREE_AM + 1000, THREE_AM + 1000)
    past.close()


def test_a_vm_is_there_only_in_the_rows_in_which_it_was(tmp_path: Path) -> None:
    both = one_vm(THREE_AM, MIB)
    vms = both.sample.vms | {"db": msgspec.structs.replace(both.sample.vms["web"], name="db")}
    both = both._replace(sample=msgspec.structs.replace(both.sample, vms=vms))
    written(tmp_path, [both, one_vm(THREE_AM + 1000, MIB)])
    past = Past(tmp_path)
    assert [sorted(past.moment(THREE_AM + at).vms) for at in (0, 1000)] == [["db", "web"], ["web"]]
    past.close()


@pytest.mark.parametrize("damage", ["UPDATE batch SET rows = 2", "DELETE FROM who"])
def test_rows_whose_dates_or_names_are_damaged_are_left_out(tmp_path: Path, damage: str) -> None:
    written(tmp_path, [one_vm(THREE_AM, MIB)])
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as db, db:
        db.execute(damage)
    past = Past(tmp_path)
    assert [list(piece.vms()) for piece in past.pieces(0)] == ([] if "batch" in damage else [[]])
    past.close()


@pytest.mark.parametrize("damage", ["PRAGMA application_id=7", "DROP TABLE packed"])
def test_a_database_that_only_resembles_a_history_is_none(tmp_path: Path, damage: str) -> None:
    Store(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as db, db:
        db.execute(damage)
    store = Store(tmp_path)
    store.close()
    assert "a database of another program: set aside as" in store.news


def test_a_pipe_in_the_place_of_the_history_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE_NAME)
    store = Store(tmp_path)
    store.close()
    assert "not a plain file: set aside as" in store.news


def test_a_history_that_may_not_be_read_or_is_set_aside_while_it_is_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, [one_vm(THREE_AM, MIB)])
    file = tmp_path / FILE_NAME

    def set_aside(folder: Path) -> sqlite3.Connection:
        opened = open_for_reading(folder)
        file.rename(tmp_path / "aside")
        return opened

    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reading, "open_for_reading", set_aside)
    with pytest.raises(UnreachableError, match="try again"):
        Past(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(NotPermittedError, match="use sudo, or read it as the manager's user"):
        Past(tmp_path)
