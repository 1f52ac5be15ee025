"""Chunks in a memory file: what is made is really there, and what is dropped is really gone."""

import ctypes
import fcntl
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from dynmem.chunks import memfd_store
from dynmem.chunks.memfd_store import OWN_PROCESS, MemfdStore
from dynmem.gmm.constants import GMM_CHUNK_NUM_PAGES, GMM_CHUNK_SIZE, GMM_CHUNKID_LAST, GMM_CHUNKID_SHIFT
from dynmem.gmm.store import StoreFullError
from dynmem.memory import abilities, system_calls
from dynmem.memory.backend import SEALS
from dynmem.memory.host_memory import HostMemory
from dynmem.units import PAGE_SIZE, TIB

PAGES = GMM_CHUNK_NUM_PAGES


@pytest.fixture(params=[True, False], ids=["batched calls", "a call for each range"])
def store(request: pytest.FixtureRequest) -> Iterator[MemfdStore]:
    with MemfdStore(abilities=None if request.param else abilities.NONE) as made:
        yield made


class Calls(NamedTuple):
    """How often the kernel was asked to make a hole."""

    punched: list[tuple[int, int]]
    batches: list[int]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    # what the kernel can do is tried once per process: not while calls are counted
    abilities.probe()
    seen = Calls([], [])
    punch, advise = system_calls.punch, system_calls.process_madvise

    def punching(fd: int, offset: int, length: int) -> int:
        seen.punched.append((offset, length))
        return punch(fd, offset, length)

    def advising(pidfd: int, spans: npt.NDArray[np.uint64], advice: int) -> int:
        if advice == system_calls.MADV_REMOVE:
            seen.batches.append(len(spans))
        return advise(pidfd, spans, advice)

    monkeypatch.setattr(system_calls, "punch", punching)
    monkeypatch.setattr(system_calls, "process_madvise", advising)
    return seen


def ids(*pages: int) -> npt.NDArray[np.uint32]:
    return np.array(pages, np.uint32)


def write(store: MemfdStore, page: int, text: bytes) -> None:
    chunk, index = page >> GMM_CHUNKID_SHIFT, page % PAGES
    store.view(chunk)[index * PAGE_SIZE :][: len(text)] = text


def test_the_file_has_room_for_every_chunk_id_takes_no_memory_and_cannot_change_its_size() -> None:
    with MemfdStore() as store:
        assert os.fstat(store.fd).st_size == TIB == (GMM_CHUNKID_LAST + 1) * GMM_CHUNK_SIZE
        assert store.resident_pages == 0
        assert fcntl.fcntl(store.fd, fcntl.F_GET_SEALS) == SEALS


def test_a_new_chunk_is_resident_whole_and_the_first_and_the_last_id_work(store: MemfdStore) -> None:
    for count, chunk in enumerate((1, GMM_CHUNKID_LAST), 1):
        store.new_chunk(chunk)
        assert store.resident_pages == count * PAGES
        store.view(chunk)[-1] = 7
        assert os.pread(store.fd, 1, (chunk + 1) * GMM_CHUNK_SIZE - 1) == b"\x07"


@pytest.mark.parametrize("chunk", [0, 5])
def test_a_chunk_outside_the_store_is_refused(chunk: int) -> None:
    with MemfdStore(last_chunk=4) as store, pytest.raises(StoreFullError, match=f"chunk {chunk} "):
        store.new_chunk(chunk)


def test_a_chunk_is_refused_before_the_host_has_to_end_a_process_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = 3 * GMM_CHUNK_SIZE
    monkeypatch.setattr(memfd_store, "host_memory", lambda: HostMemory(0, left))
    with MemfdStore() as store:
        for chunk in (1, 2, 3):
            store.new_chunk(chunk)
        left = GMM_CHUNK_SIZE - 1
        with pytest.raises(StoreFullError, match="no memory for another chunk"):
            store.new_chunk(4)
        assert store.resident_pages == 3 * PAGES


def test_a_chunk_that_the_kernel_refuses_is_the_stores_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_calls, "allocate", lambda *_: 28)
    with MemfdStore() as store, pytest.raises(StoreFullError, match="No space left on device"):
        store.new_chunk(1)


def test_a_page_that_is_discarded_is_a_hole_that_reads_zeros(store: MemfdStore) -> None:
    store.new_chunk(1)
    for page in (PAGES, PAGES + 7, PAGES + 9):
        write(store, page, b"data")
    store.discard(ids(PAGES + 9, PAGES + 7))
    assert store.resident_pages == PAGES - 2
    assert os.pread(store.fd, 4, GMM_CHUNK_SIZE) == b"data"
    assert os.pread(store.fd, 4, GMM_CHUNK_SIZE + 7 * PAGE_SIZE) == bytes(4)
    write(store, PAGES + 7, b"again")
    assert store.resident_pages == PAGES - 1


def test_dropped_chunks_are_gone_and_no_other(store: MemfdStore) -> None:
    for chunk in range(1, 7):
        store.new_chunk(chunk)
        write(store, chunk * PAGES, b"data")
    store.drop_chunks([5, 2, 3])
    kept = [os.pread(store.fd, 4, chunk * GMM_CHUNK_SIZE) == b"data" for chunk in range(1, 7)]
    assert kept == [True, False, False, True, False, True]
    assert store.resident_pages == 3 * PAGES


def test_chunks_side_by_side_are_dropped_by_one_call_and_scattered_pages_in_one_batch(calls: Calls) -> None:
    with MemfdStore() as store:
        for chunk in range(1, 9):
            store.new_chunk(chunk)
        store.drop_chunks(list(range(8, 1, -1)))
        assert calls.punched == [(2 * GMM_CHUNK_SIZE, 7 * GMM_CHUNK_SIZE)]
        assert calls.batches == []
        calls.punched.clear()
        scattered = np.arange(PAGES, 2 * PAGES, 2, dtype=np.uint32)
        np.random.default_rng(1).shuffle(scattered)
        store.discard(scattered)
        if abilities.probe().batched_remove:
            assert (calls.punched, calls.batches) == ([], [PAGES // 2])
        else:
            assert len(calls.punched) == PAGES // 2
        assert store.resident_pages == PAGES // 2


def test_pages_are_equal_by_content_and_comparing_holes_takes_no_memory(store: MemfdStore) -> None:
    store.new_chunk(1)
    first, second, third, hole = PAGES, PAGES + 1, PAGES + 2, 2 * PAGES
    write(store, first, b"x" * PAGE_SIZE)
    write(store, second, b"x" * PAGE_SIZE)
    write(store, third, b"x" * (PAGE_SIZE - 1) + b"y")
    assert store.equal(first, second)
    assert not store.equal(first, third)
    store.discard(ids(third))
    assert store.equal(third, hole)
    assert not store.equal(first, hole)
    assert store.resident_pages == PAGES - 1


def test_each_process_has_a_chunk_at_its_own_place(store: MemfdStore) -> None:
    web, db = store.attach(1 << 40), store.attach(2 << 40)
    assert len({OWN_PROCESS, web, db}) == 3
    assert store.map_chunk(web, 3) == (1 << 40) + 3 * GMM_CHUNK_SIZE
    assert store.map_chunk(db, 3) == (2 << 40) + 3 * GMM_CHUNK_SIZE
    store.unmap_chunk(web, 3)
    store.detach(web)
    with pytest.raises(StoreFullError, match="attach it first"):
        store.map_chunk(web, 3)
    assert store.attach(3 << 40) not in {OWN_PROCESS, web, db}


def test_the_process_of_the_books_sees_at_the_address_what_is_in_the_file() -> None:
    with MemfdStore(last_chunk=4) as store:
        store.new_chunk(2)
        write(store, 2 * PAGES, b"data")
        address = store.map_chunk(OWN_PROCESS, 2)
        assert ctypes.string_at(address, 4) == b"data"
