"""The real guest process behind its hardware socket: it boots, balloons, checks its memory, ends in time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.rigs.board import Board

from dynmem.dm.states import HostState
from dynmem.guest.console import Report
from dynmem.memory.backend import MemfdBackend
from dynmem.pages import ranges as page_ranges
from dynmem.units import MIB, PAGE_SIZE
from dynmem.wire import hardware as wire

SIZE = 256 * MIB
PAGES = SIZE // PAGE_SIZE
SHRUNK = PAGES * 6 // 10
LOAD = "steady,high=10%,rate=1G"


@pytest.fixture
def board() -> Iterator[Board]:
    with Board(SIZE, LOAD) as board:
        board.serve(lambda: board.machine.device.state is HostState.IDLE)
        yield board


def switches(pid: int) -> int:
    """How often the process went to sleep of its own accord."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_guest_balloons_really_and_its_memory_checks_out(board: Board) -> None:
    board.wait_for_report(lambda report: report["held_pages"] == report["wanted_pages"] > 0)
    for _ in range(3):
        board.set_target(SHRUNK)
        report = board.wait_for_report(lambda report: report["ballooned_pages"] == PAGES - SHRUNK)
        assert board.machine.backend.resident_bytes() <= (report["held_pages"] + 64) * PAGE_SIZE
        board.set_target(PAGES)
    report = board.wait_for_report(lambda report: report["ballooned_pages"] == 0)
    assert report["given_pages"] == report["regained_pages"] == 3 * (PAGES - SHRUNK)
    assert (report["wrong_bytes"], report["faults"]) == (0, 0)
    assert set(report) == set(Report.__struct_fields__)


def test_one_corrupted_byte_is_reported(board: Board) -> None:
    board.wait_for_report(lambda report: report["held_pages"] == report["wanted_pages"] > 0)
    words = np.frombuffer(board.machine.backend.view, np.uint64).reshape(-1, 512)
    held = np.flatnonzero(words[16:, 1] == words[16:, 0] + np.uint64(1)) + 16  # the workload's pattern
    assert held.size > PAGES // 20
    words[held, 100] ^= np.uint64(0xFF)
    report = board.wait_for_report(lambda report: report["wrong_bytes"] > 0)
    assert report["wrong_pages"] == report["wrong_bytes"] <= held.size
    del words


def test_a_guest_without_a_doorbell_signals_by_hypercall() -> None:
    with Board(SIZE, LOAD, doorbell=False) as board:
        board.serve(lambda: board.machine.device.status is not None)
        board.set_target(SHRUNK)
        assert board.machine.actual_pages == SHRUNK


def test_a_slot_that_comes_later_is_mapped_and_acknowledged(board: Board) -> None:
    added = MemfdBackend(8 * MIB, "added")
    board.map_slot(1, 32 << 30, added.size, added.fd)
    board.serve(lambda: wire.SlotMapped(1) in board.acknowledged)
    maps = Path(f"/proc/{board.process.pid}/maps").read_text()
    assert "/memfd:added" in maps
    added.close()


def test_a_stopped_guest_goes_on_where_it_was(board: Board) -> None:
    before = board.wait_for_report(lambda report: report["held_pages"] == report["wanted_pages"] > 0)
    begin = time.monotonic()
    board.process.send_signal(signal.SIGSTOP)
    time.sleep(2)
    board.process.send_signal(signal.SIGCONT)
    after = board.wait_for_report(lambda report: report["t"] > before["t"])
    passed = time.monotonic() - begin
    assert after["t"] - before["t"] < passed - 0.5  # of the two seconds half a one may count, as in any sleep
    assert after["wrong_bytes"] == 0


def test_an_idle_guest_sleeps(board: Board) -> None:
    board.wait_for_report(lambda report: report["held_pages"] == report["wanted_pages"] > 0)
    pid, start = board.process.pid, board.reports[-1]["t"]
    woken, worked = switches(pid), processor_seconds(pid)
    board.wait_for_report(lambda report: report["t"] >= start + 2)
    assert switches(pid) - woken < 60
    assert processor_seconds(pid) - worked < 0.5


def test_a_console_that_nobody_reads_does_not_stop_the_guest() -> None:
    with Board(SIZE, LOAD) as board:
        assert board.process.stdout is not None
        board.process.stdout.close()  # every write is EPIPE from now on
        board.machine.now = 0
        quiet = os.open("/dev/null", os.O_RDONLY)
        board.process.stdout = os.fdopen(quiet, "rb")
        os.set_blocking(quiet, False)
        board.serve(lambda: board.machine.device.status is not None)
        assert board.process.poll() is None


def test_a_guest_ends_when_its_host_closes_the_socket(board: Board) -> None:
    board.socket.shutdown(2)
    assert board.process.wait(100) == 0


def test_a_wrong_workload_is_one_sentence_and_exit_code_2() -> None:
    with Board(SIZE, "cosine") as board:
        _, log = board.process.communicate(timeout=100)
    assert board.process.returncode == 2
    assert log == b"workload 'cosine' is not one of steady, idle, sine, steps, burst, pulse, told\n"


def test_a_descriptor_that_is_no_socket_is_one_sentence_and_exit_code_2() -> None:
    command = [sys.executable, "-m", "dynmem.guest", "--hardware-fd", "0"]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=100)
    assert done.returncode == 2
    assert done.stderr.startswith(b"--hardware-fd 0 is not a socket")


def test_a_host_that_sends_nonsense_ends_the_guest_with_a_sentence(board: Board) -> None:
    board.socket.send(b"nonsense")
    _, log = board.process.communicate(timeout=100)
    assert board.process.returncode == 1
    assert b"unknown hardware message" in log
    assert b"Traceback" not in log


def test_a_discarded_page_of_the_workload_is_reported(board: Board) -> None:
    board.wait_for_report(lambda report: report["held_pages"] == report["wanted_pages"] > 0)
    words = np.frombuffer(board.machine.backend.view, np.uint64).reshape(-1, 512)
    held = np.flatnonzero(words[16:, 1] == words[16:, 0] + np.uint64(1)) + 16
    del words
    board.machine.discarder.discard(page_ranges.from_pages(held))
    report = board.wait_for_report(lambda report: report["wrong_pages"] > 0)
    assert report["wrong_bytes"] > report["wrong_pages"] * PAGE_SIZE // 2


def test_a_guest_with_windows_habits_that_is_asked_at_once_ends_and_says_why() -> None:
    with Board(SIZE, f"{LOAD},habits=windows") as board:
        board.serve(lambda: board.machine.device.state is HostState.IDLE)
        board.machine.device.set_target(SHRUNK, board.machine.now)
        with pytest.raises(ConnectionResetError):
            board.serve(lambda: False)
        assert board.process.stderr is not None
        assert b"the guest has crashed: a BalloonRequest came before" in board.process.stderr.read()
