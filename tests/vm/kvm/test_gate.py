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
