"""Chunk ids of guest memory that somebody else made: each stands for one place, whatever comes and goes."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.chunks.ledger import LedgerStore, Place
from dynmem.gmm.codes import Account, GmmError, OcPolicy, Priority
from dynmem.gmm.constants import GMM_CHUNK_NUM_PAGES, GMM_CHUNK_SIZE, GMM_CHUNKID_LAST
from dynmem.gmm.manager import GlobalMemoryManager
from dynmem.units import TIB

VMS = ("db", "mail", "web")


def test_a_chunk_id_stands_for_a_vm_and_an_offset() -> None:
    ledger = LedgerStore()
    ledger.set_chunks("web", 3)
    ledger.set_chunks("db", 2)
    assert [ledger.place(number) for number in range(7)] == [
        None,
        Place("web", 0),
        Place("web", 1),
        Place("web", 2),
        Place("db", 0),
        Place("db", 1),
        None,
    ]
    assert ledger.place(GMM_CHUNKID_LAST + 1) is None


def test_a_vm_that_shrinks_returns_the_ids_of_its_highest_offsets() -> None:
    ledger = LedgerStore()
    ledger.set_chunks("web", 4)
    kept = ledger.chunk_ids("web")[:2].tolist()
    ledger.set_chunks("web", 2)
    assert ledger.chunk_ids("web").tolist() == kept
    assert [ledger.place(number) for number in (3, 4)] == [None, None]


def test_an_id_is_used_again_only_after_all_others() -> None:
    ledger = LedgerStore(last_chunk=8)
    ledger.set_chunks("web", 4)
    ledger.set_chunks("web", 0)
    ledger.set_chunks("db", 6)
    assert ledger.chunk_ids("db").tolist() == [5, 6, 7, 8, 1, 2]


def test_memory_beyond_the_last_id_goes_without_until_ids_are_returned() -> None:
    ledger = LedgerStore(last_chunk=8)
    ledger.set_chunks("web", 5)
    ledger.set_chunks("db", 6)
    assert (ledger.chunk_ids("db").size, ledger.unnamed_chunks) == (3, 3)
    ledger.set_chunks("web", 0)
    ledger.set_chunks("db", 6)
    assert (ledger.chunk_ids("db").size, ledger.unnamed_chunks, ledger.used_ids) == (6, 0, 6)


sizes = st.tuples(st.sampled_from(VMS), st.integers(0, 60))


@given(steps=st.lists(sizes, max_size=12), first=st.integers(1, 50), last=st.integers(1, 100))
def test_ids_and_places_are_each_others_inverse_after_any_steps(
    steps: list[tuple[str, int]], first: int, last: int
) -> None:
    ledger = LedgerStore(first, first + last - 1)
    wanted = dict.fromkeys(VMS, 0)
    for vm, chunks in steps:
        ledger.set_chunks(vm, chunks)
        wanted[vm] = chunks
        named = {vm: ledger.chunk_ids(vm).tolist() for vm in VMS}
        places = {
            number: place for number in range(first + last + 1) if (place := ledger.place(number)) is not None
        }
        assert places == {number: Place(vm, at) for vm in VMS for at, number in enumerate(named[vm])}
        assert ledger.used_ids == len(places) <= last
        assert ledger.unnamed_chunks == sum(wanted.values()) - len(places)
        assert all(len(named[vm]) <= wanted[vm] for vm in VMS)


@pytest.mark.parametrize("vms", [1, 1000])
def test_a_terabyte_takes_less_than_a_ten_thousandth_of_it_in_any_number_of_vms(vms: int) -> None:
    ledger = LedgerStore()
    each = GMM_CHUNKID_LAST // vms
    for number in range(vms):
        ledger.set_chunks(f"vm{number}", each // 2)
        ledger.set_chunks(f"vm{number}", each)
    arrays: list[npt.NDArray[Any]] = [
        ledger._numbers,
        ledger._blocks,
        *(owner.ids for owner in ledger._owners.values()),
    ]
    assert ledger.used_ids == each * vms
    assert sum(array.nbytes for array in arrays) <= each * vms * 12 + vms * 256
    assert each * vms * 12 < TIB / 10_000
    assert GMM_CHUNK_SIZE * each * vms > 0.99 * TIB
    assert (
        np.unique(np.concatenate([ledger.chunk_ids(f"vm{number}") for number in range(vms)])).size
        == each * vms
    )


def test_the_books_move_the_ledger_whatever_moves_them() -> None:
    ledger = LedgerStore(first_chunk=100)
    gmm = GlobalMemoryManager(10_000, mode="bound", ledger=ledger)
    for vm in ("web", "db"):
        gmm.initial_reservation(vm, 4000, 10, 10, OcPolicy.TBD, Priority.NORMAL)
    gmm.charge_pages("web", 2 * GMM_CHUNK_NUM_PAGES + 1, Account.BASE)
    gmm.adopt_pages("db", 1, Account.SHADOW)
    assert ledger.chunk_ids("web").tolist() == [100, 101, 102]
    assert ledger.place(103) == Place("db", 0)
    gmm.release_pages("web", 1, Account.BASE)
    assert ledger.chunk_ids("web").tolist() == [100, 101]
    gmm.adopt_pages("web", GMM_CHUNK_NUM_PAGES, Account.BASE)
    assert ledger.used_ids == gmm.query_statistics().chunks == 4
    with pytest.raises(GmmError):
        gmm.charge_pages("web", 5000, Account.BASE)
    gmm.cleanup_vm("web")
    assert (ledger.used_ids, ledger.place(100)) == (1, None)
