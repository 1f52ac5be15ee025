"""Discards against real memory: what st_blocks says and what is left in the pages."""

import ctypes
import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rigs.pages import packed

from dynmem.memory import system_calls
from dynmem.memory.backend import Backend, MemfdBackend, RamBackend
from dynmem.memory.discard import Discarder, DiscardError
from dynmem.units import MIB, PAGE_SIZE

PAGES = 1024


@pytest.fixture
def backend() -> Iterator[MemfdBackend]:
    with MemfdBackend(PAGES * PAGE_SIZE) as backend:
        yield backend


def first_words(backend: MemfdBackend) -> npt.NDArray[np.uint64]:
    """The first word of each page."""
    return np.frombuffer(backend.view, np.uint64).reshape(PAGES, -1)[:, 0]


def fill(backend: MemfdBackend) -> None:
    first_words(backend)[:] = np.arange(1, PAGES + 1, dtype=np.uint64)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, PAGES - 1), st.integers(0, 60)), max_size=40))
def test_what_is_discarded_is_no_longer_resident_and_reads_zero(spans: list[tuple[int, int]]) -> None:
    spans = [(start, min(count, PAGES - start)) for start, count in spans]
    gone = {page for start, count in spans for page in range(start, start + count)}
    with MemfdBackend(PAGES * PAGE_SIZE) as backend:
        fill(backend)
        assert Discarder(backend).discard(packed(*spans)) == len(gone) * PAGE_SIZE
        assert backend.resident_bytes() == (PAGES - len(gone)) * PAGE_SIZE
        expected = [0 if page in gone else page + 1 for page in range(PAGES)]
        assert first_words(backend).tolist() == expected
        assert len(backend.view) == backend.size


def test_a_discarded_page_can_be_used_again(backend: MemfdBackend) -> None:
    fill(backend)
    Discarder(backend).discard(packed((0, PAGES)))
    backend.view[PAGE_SIZE] = 7
    assert backend.resident_bytes() == PAGE_SIZE
    assert backend.view[PAGE_SIZE] == 7


@pytest.mark.parametrize("span", [(PAGES, 1), (PAGES - 1, 2), ((1 << 40) - 1, (1 << 24) - 1)])
def test_a_range_outside_the_memory_is_refused_before_anything_is_done(
    backend: MemfdBackend, span: tuple[int, int]
) -> None:
    fill(backend)
    with pytest.raises(DiscardError, match="outside") as refused:
        Discarder(backend).discard(packed((0, 5), span))
    assert refused.value.errno == errno.EINVAL
    assert refused.value.discarded == 0
    assert backend.resident_bytes() == backend.size


def test_what_the_system_refuses_is_told_with_its_number(backend: MemfdBackend) -> None:
    discarder = Discarder(backend)
    backend.close()
    with pytest.raises(DiscardError, match=os.strerror(errno.EBADF)) as refused:
        discarder.discard(packed((0, 1)))
    assert refused.value.errno == errno.EBADF


@pytest.fixture
def no_switching() -> Iterator[None]:
    """A thread that has the interpreter lock keeps it until it lets go by itself."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(interval)


def turns_of_another_thread(call: Callable[[], object]) -> int:
    """How often another thread comes to its turn while `call` runs."""
    turns = 0
    stop = threading.Event()

    def take_turns() -> None:
        nonlocal turns
        while not stop.wait(0.0001):
            turns += 1

    thread = threading.Thread(target=take_turns)
    thread.start()
    before = turns
    call()
    after = turns
    stop.set()
    thread.join()
    return after - before


@pytest.mark.parametrize("make", [MemfdBackend, RamBackend])
@pytest.mark.usefixtures("no_switching")
def test_other_threads_run_while_a_discard_is_in_the_kernel(make: Callable[[int], Backend]) -> None:
    with make(256 * MIB) as backend:
        discarder = Discarder(backend)
        whole = packed((0, 256 * MIB // PAGE_SIZE))  # one call of tens of milliseconds

        def another_thread_ran() -> bool:
            np.frombuffer(backend.view, np.uint8)[::PAGE_SIZE] = 1
            return turns_of_another_thread(lambda: discarder.discard(whole)) > 0

        assert any(another_thread_ran() for _ in range(20))  # a busy machine may have no processor for it


@pytest.mark.usefixtures("no_switching")
def test_a_call_that_kept_the_interpreter_lock_would_stop_them(monkeypatch: pytest.MonkeyPatch) -> None:
    keeps = ctypes.PyDLL(None, use_errno=True).fallocate64
    keeps.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    monkeypatch.setattr(system_calls, "_fallocate", keeps)
    with MemfdBackend(256 * MIB) as backend:
        np.frombuffer(backend.view, np.uint8)[::PAGE_SIZE] = 1
        discarder = Discarder(backend)
        whole = packed((0, 256 * MIB // PAGE_SIZE))
        assert turns_of_another_thread(lambda: discarder.discard(whole)) == 0
        assert backend.resident_bytes() == 0
