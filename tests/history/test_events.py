"""Events as they are read: loose, packed, after a clock went back, and from bytes that no manager wrote."""

import zlib
from pathlib import Path

import msgspec
import pytest
from tests.rigs.pasts import THREE_AM

from dynmem.history import past as reading
from dynmem.history import store as storing
from dynmem.history.event import Event
from dynmem.history.past import Past
from dynmem.history.store import Store
from dynmem.limits import HISTORY_TEXT_MAX


def moved(seconds: int, text: str, vm: str = "web") -> tuple[int, Event]:
    return THREE_AM + 1000 * seconds, Event(kind="moved", vm=vm, text=text)


@pytest.mark.parametrize("are_packed", [False, True])
def test_the_last_move_up_to_a_date_is_the_one_recorded_last_also_where_the_clock_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, are_packed: bool
) -> None:
    monkeypatch.setattr(storing, "_EVENTS_LOOSE", 3)
    store = Store(tmp_path)
    store.add([], [moved(5, "first"), moved(3, "after the clock went back"), moved(9, "later")])
    if are_packed:
        store.add([], [moved(10 + at, "of another", "db") for at in range(4)])
        store.tidy()
    store.close()
    past = Past(tmp_path)
    assert bool(past._rows("SELECT id FROM packed")) is are_packed
    found = [past.last_event_of("web", {"moved"}, THREE_AM + 1000 * at) for at in (2, 4, 6, 9)]
    texts = [None if each is None else each.text for each in found]
    assert texts == [None, "after the clock went back", "after the clock went back", "later"]
    assert past.last_event_of("web", {"reset"}, THREE_AM + 9000) is None
    past.close()


def test_packed_events_that_would_unpack_to_more_than_any_manager_packs_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = msgspec.json.encode([(1, THREE_AM, msgspec.json.encode(moved(0, "packed")[1]).decode())])
    Store(tmp_path).close()
    for spaces, texts in ((0, ["packed"]), (100_000, [])):
        store = Store(tmp_path)
        data = zlib.compress(b" " * spaces + rows)
        store.db.execute("INSERT OR REPLACE INTO packed VALUES (1, 1, ?, ?, ?)", (THREE_AM, THREE_AM, data))
        store.close()
        monkeypatch.setattr(reading, "HISTORY_BLOCK_BYTES_MAX", 1000)
        past = Past(tmp_path)
        assert [event.text for event in past.events()] == texts
        past.close()


def test_a_sentence_is_kept_as_far_as_one_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    at_ms, event = moved(0, "x" * 5000)
    store.add([], [(at_ms, msgspec.structs.replace(event, measurement="y" * 5000))])
    store.close()
    past = Past(tmp_path)
    (found,) = past.events()
    assert (found.text, found.measurement) == ("x" * HISTORY_TEXT_MAX, "y" * HISTORY_TEXT_MAX)
    past.close()


def test_packed_events_are_found_by_their_dates_also_where_the_clock_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "_EVENTS_LOOSE", 3)
    store = Store(tmp_path)
    store.add([], [moved(5, "first"), moved(1, "earlier"), moved(3, "last")])
    store.add([], [moved(60 + at, "of another", "db") for at in range(4)])
    store.tidy()
    store.close()
    past = Past(tmp_path)
    for second, text in ((1, "earlier"), (5, "first")):
        at_ms = THREE_AM + 1000 * second
        assert [event.text for event in past.events(at_ms, at_ms)] == [text]
    past.close()


def test_events_are_numbered_on_after_older_ones_were_packed_and_the_history_was_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "_EVENTS_LOOSE", 1)
    for number in range(9):
        store = Store(tmp_path)
        store.add([], [moved(number, str(number))])
        store.tidy()
        store.close()
    past = Past(tmp_path)
    assert [(event.id, event.text) for event in past.events()] == [(at + 1, str(at)) for at in range(9)]
    assert past._rows("SELECT max(last_id) FROM packed") == [(7,)]
    assert past.last_event() == 9
    past.close()
