"""The gate where processors wait while their machine stands still."""

import mmap
import os
import threading

from dynmem.vm.kvm.gate import Gate
from dynmem.vm.kvm.run_page import RunPage

PATIENCE_S = 60


def run_page() -> RunPage:
    """A page without a processor behind it."""
    fd = os.memfd_create("run")
    os.truncate(fd, mmap.PAGESIZE)
    try:
        return RunPage(fd, mmap.PAGESIZE)
    finally:
        os.close(fd)


def test_processors_pass_an_open_gate_without_a_lock_that_others_could_wait_for() -> None:
    gate = Gate()
    gate.open()
    page = run_page()
    passed = threading.Event()

    def pass_it() -> None:
        assert gate.enter(page)
        gate.leave()
        passed.set()

    with gate._changed:  # as one that is about to close it
        thread = threading.Thread(target=pass_it)
        thread.start()
        assert passed.wait(PATIENCE_S)
    thread.join()
    page.close()


class SlowTable(dict[int, RunPage]):
    """Whoever is put into it stops there."""

    def __init__(self) -> None:
        self.is_there = threading.Event()
        self.goes_on = threading.Event()

    def __setitem__(self, thread: int, page: RunPage) -> None:
        super().__setitem__(thread, page)
        self.is_there.set()
        self.goes_on.wait(PATIENCE_S)


def test_one_that_finds_the_gate_closed_is_waited_for_no_longer() -> None:
    gate = Gate()
    table = gate._inside = SlowTable()
    page = run_page()
    processor = threading.Thread(target=gate.enter, args=(page,))
    processor.start()
    assert table.is_there.wait(PATIENCE_S)
    freezing = threading.Thread(target=gate.wait_until_empty)
    freezing.start()
    while not gate._changed._waiters:  # type: ignore[attr-defined]
        pass
    table.goes_on.set()
    freezing.join(PATIENCE_S)
    assert not freezing.is_alive()
    gate.end()
    processor.join(PATIENCE_S)
    page.close()


def test_a_gate_that_is_over_stays_so() -> None:
    gate = Gate()
    gate.end()
    gate.open()
    page = run_page()
    assert not gate.enter(page)
    gate.wait_until_empty()
    assert gate.is_over_within(0)
    page.close()


def test_one_that_waits_for_the_end_of_a_gate_hears_of_it() -> None:
    gate = Gate()
    assert not gate.is_over_within(0)
    threading.Thread(target=gate.end).start()
    assert gate.is_over_within(PATIENCE_S)
