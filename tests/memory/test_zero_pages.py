"""Zero pages of memory that nobody writes to go back to the host; nothing else does."""

from pathlib import Path

import numpy as np
import pytest

from dynmem.memory.backend import Backend, MemfdBackend, RamBackend
from dynmem.memory.backend_file import FileBackend
from dynmem.memory.zero_pages import ZeroPages
from dynmem.units import MIB, PAGE_SIZE

SIZE = 8 * MIB
PAGES = SIZE // PAGE_SIZE


def filled(backend: Backend, seed: int = 1) -> np.ndarray:
    """Write to two of three pages, zeros to every second of those; return a copy of all."""
    memory = np.frombuffer(backend.view, np.uint8).reshape(-1, PAGE_SIZE)
    kinds = np.random.default_rng(seed).integers(0, 3, len(memory))
    memory[kinds == 1] = 0
    memory[kinds == 2, -1] = 5
    return memory.copy()


@pytest.mark.parametrize("cut", [None, 2 * MIB, 3 * MIB])
def test_zero_pages_go_back_and_every_byte_stays(cut: int | None) -> None:
    with MemfdBackend(SIZE) as backend:
        if cut is not None:
            backend.cut(cut)
        before = filled(backend)
        data = int(np.count_nonzero(before.any(axis=1)))
        resident = backend.resident_bytes()
        pages = ZeroPages([backend])
        steps = sum(1 for _ in pages.steps())
        assert steps >= 2
        assert pages.looked_at == resident
        assert pages.zero == pages.discarded == resident - data * PAGE_SIZE > 0
        assert backend.resident_bytes() == data * PAGE_SIZE
        assert (np.frombuffer(backend.view, np.uint8).reshape(-1, PAGE_SIZE) == before).all()


def test_holes_are_not_looked_at() -> None:
    with MemfdBackend(SIZE) as backend:
        pages = ZeroPages([backend])
        assert list(pages.steps()) == []
        assert (pages.looked_at, backend.resident_bytes()) == (0, 0)


def test_a_step_looks_at_no_more_than_is_punched_in_it() -> None:
    """What is written between two steps is seen by the second."""
    with MemfdBackend(SIZE) as backend:
        backend.view[:] = bytes(SIZE)
        pages = ZeroPages([backend])
        steps = pages.steps()
        next(steps)
        assert pages.discarded == 2 * MIB
        backend.view[SIZE - 1] = 9
        list(steps)
        assert backend.view[SIZE - 1] == 9
        assert backend.resident_bytes() == PAGE_SIZE


def test_memory_that_was_set_aside_or_that_others_may_write_to_is_left_out(tmp_path: Path) -> None:
    with (
        MemfdBackend(SIZE, prealloc=True) as preallocated,
        FileBackend(SIZE, tmp_path / "named", share=True) as named,
        RamBackend(SIZE) as private,
        MemfdBackend(SIZE) as huge,
    ):
        huge.hugetlb = True  # as far as its pages are concerned: the host need not have any
        for each in (private, huge):
            each.view[:] = bytes(SIZE)
        backends = [preallocated, named, private, huge]
        before = [each.resident_bytes() for each in backends]
        pages = ZeroPages(backends)
        assert list(pages.steps()) == []
        assert pages.left_out == 4 * SIZE
        assert [each.resident_bytes() for each in backends] == before
