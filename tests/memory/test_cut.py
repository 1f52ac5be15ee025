"""Memory that is cut into files: whoever has the descriptor of one can use nothing of the others."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rigs.backings import BACKINGS, fill, first_words
from tests.rigs.own_process import few_more_descriptors, open_descriptors

from dynmem.memory.backend import Backend, BackendError, MemfdBackend
from dynmem.memory.discard import Discarder
from dynmem.pages import ranges as page_ranges
from dynmem.units import MIB, PAGE_SIZE

SIZE = 8 * MIB
PART = 3 * MIB  # the last one is smaller
CUTS = ("memfd", "ram for another process", "tmpfs", "huge tmpfs")


@pytest.fixture(params=CUTS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    with BACKINGS[request.param](SIZE, tmp_path) as backend:
        backend.cut(PART)
        yield backend


def test_each_part_is_in_a_file_of_its_own_and_no_longer_than_the_part(backend: Backend) -> None:
    parts = list(backend.files(0, SIZE))
    assert [(offset, length) for _, offset, length in parts] == [(0, PART), (0, PART), (0, 2 * MIB)]
    assert [os.fstat(fd).st_size for fd, _, _ in parts] == [PART, PART, 2 * MIB]
    assert len({os.fstat(fd).st_ino for fd, _, _ in parts}) == 3


def test_it_is_one_memory_for_the_process_that_cut_it(backend: Backend) -> None:
    fill(backend)
    assert first_words(backend).tolist() == list(range(1, SIZE // PAGE_SIZE + 1))
    assert backend.resident_bytes() >= SIZE
    fd, _, length = list(backend.files(0, SIZE))[1]
    with mmap.mmap(fd, length) as part:
        assert int.from_bytes(part[:8], "little") == PART // PAGE_SIZE + 1


def test_a_discard_across_a_border_frees_both_sides(backend: Backend) -> None:
    fill(backend)
    pages = MIB // PAGE_SIZE
    granted = Discarder(backend).discard(page_ranges.span(2 * pages, 4 * pages))
    assert granted == 4 * MIB
    assert backend.resident_bytes() == SIZE - 4 * MIB
    words = first_words(backend).tolist()
    assert not any(words[2 * pages : 6 * pages])
    assert all(words[: 2 * pages] + words[6 * pages :])


def test_memory_that_was_preallocated_is_so_after_the_cut() -> None:
    with MemfdBackend(SIZE, prealloc=True) as backend:
        backend.cut(PART)
        assert backend.resident_bytes() == SIZE
        backend.preallocate()
        assert backend.resident_bytes() == SIZE


@pytest.mark.parametrize("kind", ["disk", "private memfd", "ram", "hugetlb memfd"])
def test_what_cannot_be_cut_stays_whole(kind: str, tmp_path: Path) -> None:
    with BACKINGS[kind](SIZE, tmp_path) as backend:
        before = backend.fd
        backend.cut(PART)
        assert list(backend.files(0, SIZE)) == [(before, 0, SIZE)]


def test_a_cut_that_fails_leaves_no_descriptor() -> None:
    before = open_descriptors()
    with (
        MemfdBackend(SIZE) as backend,
        few_more_descriptors(3),
        pytest.raises(BackendError, match="Too many open files"),
    ):
        backend.cut(MIB)
    assert open_descriptors() == before
