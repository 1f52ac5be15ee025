"""Calls on pages with ids that are refused: each with the status that says why, and nothing changed."""

from collections.abc import Callable

import numpy as np
import pytest
from tests.gmm.naive_store import snapshot
from tests.gmm.page_host import BASE, CHUNK, FIXED, SHADOW, Host

from dynmem.gmm import Account, GmmError, OcPolicy, Priority, Status
from dynmem.gmm.constants import GMM_GCPHYS_LAST, GMM_PAGEID_LAST, NIL_RTHCPHYS
from dynmem.gmm.structures import GMMFREEPAGEDESC, GMMPAGEDESC, Records, page_descriptors


def pages(count: int, **fields: int) -> Records:
    """Return descriptors of pages to allocate, the last with these fields."""
    descriptors = page_descriptors(count)
    for field, value in fields.items():
        descriptors[field][-1] = value
    return descriptors


def full(host: Host) -> None:
    """Fill all chunks but for 3 pages, and the store."""
    host.take("b", CHUNK - 3)
    host.store.full = True


def mapped(host: Host) -> None:
    host.take("a", 1)
    host.gmm.map_unmap_chunk("a", 1, 0)


def nothing(_: Host) -> None:
    """Begin with nothing allocated."""


def some(host: Host) -> None:
    host.take("a", 10)
    host.take("b", 10)


def large(host: Host) -> None:
    host.gmm.allocate_large_page("a")
    host.take("b", 600)


def shares(host: Host) -> None:
    host.share()


def forbidden(host: Host) -> None:
    host.gmm.forbid_allocation("a", "it is being saved")


def handy(vm: str, update: int, allocate: int, *entries: tuple[int, int, int]) -> Callable[[Host], object]:
    descriptors = np.array(list(entries) or [(NIL_RTHCPHYS, 0, 0)], GMMPAGEDESC)
    return lambda host: host.gmm.allocate_handy_pages(vm, update, allocate, descriptors)


def allocate(vm: str, account: Account, descriptors: Records) -> Callable[[Host], object]:
    return lambda host: host.gmm.allocate_pages(vm, descriptors, account)


def free(vm: str, account: Account, *ids: int) -> Callable[[Host], object]:
    return lambda host: host.free(vm, list(ids), account)


def mapping(vm: str, map_id: int, unmap_id: int) -> Callable[[Host], object]:
    return lambda host: host.gmm.map_unmap_chunk(vm, map_id, unmap_id)


REFUSED: list[tuple[Status, Callable[[Host], None], Callable[[Host], object]]] = [
    # allocate_pages
    (Status.INVALID_PARAMETER, nothing, allocate("a", BASE, pages(1)[:0])),
    (Status.INVALID_PARAMETER, nothing, allocate("a", BASE, np.zeros(1 << 20, GMMPAGEDESC))),
    (Status.INVALID_PARAMETER, nothing, allocate("a", BASE, np.zeros((1, 1), GMMPAGEDESC))),
    (Status.INVALID_PARAMETER, nothing, allocate("a", BASE, np.zeros(1, GMMFREEPAGEDESC))),
    (Status.INVALID_PARAMETER, nothing, allocate("a", Account.INVALID, pages(1))),
    (Status.INVALID_PARAMETER, nothing, allocate("a", BASE, pages(2, idPage=1))),
    (Status.INVALID_PARAMETER, nothing, allocate("a", BASE, pages(2, idSharedPage=1))),
    (Status.INVALID_PARAMETER, nothing, allocate("a", BASE, pages(2, HCPhysGCPhys=0x1001))),
    (Status.INVALID_PARAMETER, nothing, allocate("a", BASE, pages(2, HCPhysGCPhys=GMM_GCPHYS_LAST + 0x2000))),
    (Status.INVALID_PARAMETER, nothing, allocate("a", BASE, pages(2, HCPhysGCPhys=1 << 44))),
    (Status.INVALID_PARAMETER, nothing, allocate("a", FIXED, pages(2, HCPhysGCPhys=0x1000))),
    (Status.INVALID_PARAMETER, nothing, allocate("a", FIXED, pages(1, HCPhysGCPhys=0x1000))),
    (Status.INVALID_PARAMETER, nothing, allocate("a", BASE, pages(1, HCPhysGCPhys=GMM_GCPHYS_LAST + 0x2000))),
    (Status.INVALID_PARAMETER, nothing, allocate("a", BASE, pages(1, HCPhysGCPhys=0x1001))),
    (Status.INVALID_PARAMETER, nothing, allocate("a", BASE, pages(1, idPage=1))),
    (Status.INVALID_PARAMETER, nothing, allocate("a", BASE, pages(1, idSharedPage=1))),
    (Status.WRONG_ORDER, nothing, allocate("c", BASE, pages(1))),
    (Status.HIT_GLOBAL_LIMIT, some, allocate("a", BASE, pages(6 * CHUNK))),
    (Status.HIT_VM_ACCOUNT_LIMIT, some, allocate("a", BASE, pages(3 * CHUNK - 9))),
    (Status.HIT_VM_ACCOUNT_LIMIT, some, allocate("a", SHADOW, pages(21))),
    (Status.HIT_VM_ACCOUNT_LIMIT, forbidden, allocate("a", BASE, pages(1))),
    (Status.OUT_OF_MEMORY, full, allocate("a", BASE, pages(4))),
    # allocate_handy_pages
    (Status.INVALID_PARAMETER, some, handy("a", 0, 0)),
    (Status.INVALID_PARAMETER, some, handy("a", 1, 1024)),
    (Status.INVALID_PARAMETER, some, handy("a", 2, 0)),
    (Status.INVALID_PARAMETER, some, handy("a", -1, 1)),
    (Status.INVALID_PARAMETER, some, handy("a", 1, 0, (0x1001, 1 << 9, 0))),
    (Status.INVALID_PARAMETER, some, handy("a", 1, 0, (0x1000, GMM_PAGEID_LAST + 1, 0))),
    (Status.INVALID_PARAMETER, some, handy("a", 1, 0, (0x1000, 0, GMM_PAGEID_LAST + 1))),
    (Status.INVALID_PARAMETER, some, handy("a", 0, 1, (0x1000, 0, 0))),
    (Status.INVALID_PARAMETER, some, handy("a", 0, 1, (NIL_RTHCPHYS, 1 << 9, 0))),
    (Status.WRONG_ORDER, some, handy("c", 0, 1)),
    (Status.PAGE_NOT_FOUND, some, handy("a", 1, 0, (0x1000, 5 << 9, 0))),
    (Status.PAGE_NOT_FOUND, some, handy("a", 1, 0, (0x1000, 0, 5 << 9))),
    (Status.PAGE_NOT_PRIVATE, some, handy("a", 1, 0, (0x1000, 1 << 9 | 100, 0))),
    (Status.PAGE_NOT_PRIVATE, shares, handy("a", 1, 0, (0x1000, 1 << 9, 0))),
    (Status.NOT_PAGE_OWNER, some, handy("b", 1, 0, (0x1000, 1 << 9, 0))),
    (Status.PAGE_NOT_SHARED, some, handy("a", 1, 0, (0x1000, 0, 1 << 9))),
    (Status.HIT_VM_ACCOUNT_LIMIT, forbidden, handy("a", 0, 1)),
    (Status.OUT_OF_MEMORY, full, handy("a", 0, 4, *[(NIL_RTHCPHYS, 0, 0)] * 4)),
    # allocate_large_page
    (Status.INVALID_PARAMETER, nothing, lambda host: host.gmm.allocate_large_page("a", 1 << 20)),
    (Status.WRONG_ORDER, nothing, lambda host: host.gmm.allocate_large_page("c")),
    (Status.HIT_VM_ACCOUNT_LIMIT, forbidden, lambda host: host.gmm.allocate_large_page("a")),
    (Status.OUT_OF_MEMORY, full, lambda host: host.gmm.allocate_large_page("a")),
    # free_pages: what frees nothing
    (Status.INVALID_PARAMETER, some, free("a", BASE)),
    (Status.INVALID_PARAMETER, some, free("a", Account.INVALID, 1 << 9)),
    (Status.INVALID_PARAMETER, some, free("a", BASE, 1 << 9, GMM_PAGEID_LAST + 1)),
    (Status.WRONG_ORDER, some, free("c", BASE, 1 << 9)),
    (Status.ATTEMPT_TO_FREE_TOO_MUCH, some, free("a", SHADOW, 1 << 9)),
    (Status.PAGE_NOT_FOUND, some, free("a", BASE, 5 << 9)),
    (Status.PAGE_ALREADY_FREE, some, free("a", BASE, 1 << 9 | 100)),
    (Status.NOT_PAGE_OWNER, some, free("b", BASE, 1 << 9)),
    # free_large_page
    (Status.INVALID_PARAMETER, large, lambda host: host.gmm.free_large_page("a", 1 << 28)),
    (Status.INVALID_PARAMETER, large, lambda host: host.gmm.free_large_page("a", 1 << 9 | 1)),
    (Status.INVALID_PARAMETER, large, lambda host: host.gmm.free_large_page("b", 2 << 9)),
    (Status.WRONG_ORDER, large, lambda host: host.gmm.free_large_page("c", 1 << 9)),
    (Status.ATTEMPT_TO_FREE_TOO_MUCH, some, lambda host: host.gmm.free_large_page("a", 1 << 9)),
    (Status.PAGE_NOT_FOUND, large, lambda host: host.gmm.free_large_page("a", 7 << 9)),
    (Status.PAGE_NOT_PRIVATE, large, lambda host: host.gmm.free_large_page("b", 3 << 9 | 500)),
    (Status.NOT_PAGE_OWNER, large, lambda host: host.gmm.free_large_page("b", 1 << 9)),
    # map_unmap_chunk
    (Status.INVALID_PARAMETER, mapped, mapping("a", 0, 0)),
    (Status.INVALID_PARAMETER, mapped, mapping("a", 1 << 19, 0)),
    (Status.INVALID_PARAMETER, mapped, mapping("a", 1, 1 << 19)),
    (Status.INVALID_PARAMETER, mapped, mapping("a", 1, 1)),
    (Status.WRONG_ORDER, mapped, mapping("c", 1, 0)),
    (Status.CHUNK_NOT_FOUND, mapped, mapping("b", 7, 0)),
    (Status.CHUNK_NOT_FOUND, mapped, mapping("b", 1, 7)),
    (Status.CHUNK_NOT_MAPPED, mapped, mapping("b", 0, 1)),
    # the rest
    (Status.WRONG_ORDER, nothing, lambda host: host.gmm.register_vm("a")),
    (Status.INVALID_PARAMETER, nothing, lambda host: host.gmm.register_vm("")),
    (Status.INVALID_PARAMETER, nothing, lambda host: host.gmm.register_vm("c", process=-1)),
    (Status.INVALID_PARAMETER, nothing, lambda host: host.gmm.register_vm("c", numa_node=256)),
    (Status.WRONG_ORDER, nothing, lambda host: host.gmm.cleanup_vm("c")),
    (Status.WRONG_ORDER, nothing, lambda host: host.gmm.query_statistics("c")),
    (Status.WRONG_ORDER, nothing, lambda host: host.gmm.reset_shared_modules("c")),
    (
        Status.INVALID_PARAMETER,
        nothing,
        lambda host: host.gmm.initial_reservation("c", 0, 1, 1, OcPolicy.TBD, Priority.LOW),
    ),
]


@pytest.mark.parametrize(("code", "prepare", "call"), REFUSED)
def test_a_refused_call_on_pages_says_why_and_changes_nothing(
    code: Status, prepare: Callable[[Host], None], call: Callable[[Host], object]
) -> None:
    host = Host()
    prepare(host)
    before, chunks = snapshot(host.gmm), set(host.store.chunks)
    with pytest.raises(GmmError, match=code.name) as refused:
        call(host)
    assert refused.value.code is code
    assert snapshot(host.gmm.verify()) == before
    assert host.store.chunks == chunks
