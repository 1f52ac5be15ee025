"""Output and input that wait: bounded, in order, and nothing forgotten without a count."""

import pytest

from dynmem.vm.console import backlog as backlog_module
from dynmem.vm.console import input as input_module
from dynmem.vm.console.backlog import Backlog
from dynmem.vm.console.input import Input

FULL = 16_384


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "CONSOLE_UNWRITTEN_BYTES_MAX", FULL)
    monkeypatch.setattr(input_module, "CONSOLE_UNREAD_BYTES_MAX", 8)


class Wakes:
    """Counts its calls."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def all_of(backlog: Backlog) -> bytes:
    return b"".join(iter(backlog.take, b""))


def test_what_is_added_byte_by_byte_is_taken_together() -> None:
    backlog = Backlog(Wakes())
    for number in range(3000):
        backlog.append(bytes((number & 0xFF,)))
    assert backlog.take() == bytes(number & 0xFF for number in range(3000))
    assert backlog.take() == b""


def test_who_takes_is_woken_once_and_only_after_it_has_found_nothing() -> None:
    wakes = Wakes()
    backlog = Backlog(wakes)
    backlog.append(b"a")
    assert wakes.count == 0
    assert all_of(backlog) == b"a"
    for _ in range(5):
        backlog.append(b"b")
    assert wakes.count == 1
    backlog.take()
    backlog.append(b"c")
    assert wakes.count == 1
    assert all_of(backlog) == b"c"
    backlog.append(b"d")
    assert wakes.count == 2


def test_of_too_much_the_oldest_is_dropped_and_counted_and_its_place_is_marked() -> None:
    backlog = Backlog(Wakes())
    written = b"".join(b"%07d\n" % number for number in range(5000))
    for start in range(0, len(written), 8):
        backlog.append(written[start : start + 8])
    note, end = all_of(backlog).split(b"]\r\n")
    assert FULL - 4096 < len(end) <= FULL
    assert written.endswith(end)
    assert backlog.dropped_bytes == len(written) - len(end)
    assert note == b"\r\n[%d bytes were dropped" % backlog.dropped_bytes
    backlog.append(b"next")
    assert all_of(backlog) == b"next"


def test_input_is_taken_in_order_and_there_is_room_for_so_much() -> None:
    wakes = Wakes()
    waiting = Input(wakes)
    waiting.put(b"abcdef")
    assert waiting.room == 2
    assert waiting.take(4) == b"abcd"
    assert wakes.count == 0
    waiting.put(b"0123456789")
    assert waiting.room == 0
    assert waiting.take(100) == b"ef012345"
    assert wakes.count == 1
    assert waiting.take(100) == b""
