"""Requests on the real manager: the life of a VM by requests alone, and forged ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.gmm import (
    Account,
    BalloonAction,
    GlobalMemoryManager,
    GmmError,
    OcPolicy,
    OsFamily,
    Priority,
    Status,
    serving,
)
from dynmem.gmm.batches import AllocateBatch, FreeBatch, Transport
from dynmem.gmm.calls import Calls
from dynmem.gmm.constants import GMM_CHUNK_NUM_PAGES, GMM_CHUNKID_SHIFT, NIL_GMM_CHUNKID
from dynmem.gmm.requests import SHAPES, Operation, Request, new_request
from dynmem.gmm.serving import Manager, perform
from dynmem.gmm.structures import VMMDEVSHAREDREGIONDESC

PAGES = 4 * GMM_CHUNK_NUM_PAGES


def manager_of(*vms: str) -> GlobalMemoryManager:
    """Return a manager of 8 MiB on which these VMs are registered and have reserved 2 MiB each."""
    gmm = GlobalMemoryManager(PAGES)
    for vm in vms:
        gmm.register_vm(vm)
        gmm.initial_reservation(vm, GMM_CHUNK_NUM_PAGES, 16, 16, OcPolicy.NO_OC, Priority.NORMAL)
    return gmm


def wire(gmm: Manager, vm: str) -> Transport:
    """Return the transport of a VM in another process."""
    return lambda operation, data: perform(gmm, vm, operation, data)


def test_a_vm_lives_by_requests_alone() -> None:
    gmm = manager_of()
    gmm.register_vm("a")
    to_gmm = wire(gmm, "a")
    calls = Calls(to_gmm)
    calls.initial_reservation(512, 16, 16, OcPolicy.NO_OC, Priority.HIGH)
    calls.update_reservation(1024, 16, 16)
    with AllocateBatch(to_gmm, 600, Account.BASE) as batch:
        ids = batch.perform()["idPage"].tolist()
        assert len({*ids}) == 600
        calls.ballooned_pages(BalloonAction.INFLATE, 24)
        stats = calls.query_statistics()[0]
        assert stats["cAllocatedPages"] == stats["VMStats"]["cPrivatePages"] == 600
        assert stats["VMStats"]["Reserved"]["cBasePages"] == 1024
        assert stats["VMStats"]["enmPriority"] == Priority.HIGH
        assert stats["VMStats"]["cBalloonedPages"] == 24
        assert calls.query_memory_stats().allocated_pages == 600
        assert calls.query_hypervisor_memory_stats().max_pages == PAGES
        chunk = ids[0] >> GMM_CHUNKID_SHIFT
        assert calls.map_unmap_chunk(chunk, NIL_GMM_CHUNKID) > 0
        assert calls.map_unmap_chunk(NIL_GMM_CHUNKID, chunk) == 0
        assert not calls.is_duplicate_page(ids[0])
        assert batch.free() == 600
    calls.ballooned_pages(BalloonAction.RESET, 0)
    assert calls.query_memory_stats().allocated_pages == 0
    gmm.verify()


def test_the_pages_of_another_vm_are_freed_by_no_request() -> None:
    gmm = manager_of("a", "b")
    with (
        AllocateBatch(wire(gmm, "a"), 3, Account.BASE) as others,
        AllocateBatch(wire(gmm, "b"), 3, Account.BASE) as own,
        FreeBatch(wire(gmm, "b"), 3, Account.BASE) as free,
    ):
        own.perform()
        ids = others.perform()["idPage"].tolist()
        free.descriptors["idPage"] = ids
        with pytest.raises(GmmError) as refused:
            free.perform()
        assert refused.value.code is Status.NOT_PAGE_OWNER
        assert free.descriptors["idPage"].tolist() == ids
    assert gmm.allocated("a") == gmm.allocated("b") == 3
    gmm.verify()


class NothingThere:
    """A guest that has no pages where its modules are."""

    def page_at(self, address: int) -> None:
        del address

    def shared(self, page_id: int, now: int) -> None:
        raise AssertionError(f"page {page_id} became {now}")


def test_a_request_has_no_more_pages_compared_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    gmm = manager_of("a", "b")
    with (
        AllocateBatch(wire(gmm, "a"), 2, Account.BASE) as own,
        AllocateBatch(wire(gmm, "b"), 3, Account.BASE) as others,
    ):
        (first, _) = own.perform()["idPage"].tolist()
        others.perform()
        calls = Calls(wire(gmm, "a"))
        regions = np.array([(0x10_0000, 0x2000, 0)], VMMDEVSHAREDREGIONDESC)
        calls.register_shared_module(OsFamily.LINUX64, "libc", "6", 0x10_0000, 0x2000, regions)
        gmm.sharing.stop("a")
        gmm.sharing.attach("a", NothingThere())
        for call, pages in ((lambda: calls.is_duplicate_page(first), 3), (calls.check_shared_modules, 2)):
            monkeypatch.setattr(serving, "PAGES_COMPARED_MAX", pages)
            call()
            monkeypatch.setattr(serving, "PAGES_COMPARED_MAX", pages - 1)
            with pytest.raises(GmmError, match=f"{pages} pages are too many") as refused:
                call()
            assert refused.value.code is Status.NOT_SUPPORTED
    gmm.verify()


def test_the_largest_reservations_of_many_vms_still_fit_into_the_statistics() -> None:
    gmm = manager_of()
    for number in range(20):
        calls = Calls(wire(gmm, f"vm {number}"))
        with pytest.raises(GmmError, match="52 bits"):
            calls.initial_reservation(2**40 + 1, 2**32 - 1, 2**32 - 1, OcPolicy.TBD, Priority.LOW)
        calls.initial_reservation(2**40, 2**32 - 1, 2**32 - 1, OcPolicy.TBD, Priority.LOW)
    assert calls.query_statistics()["cReservedPages"] == 20 * (2**40 + 2 * (2**32 - 1))
    # with as many VMs as there are handles, too
    assert 2**16 * (2**40 + 2 * 2**32) < 2**64


def forged(values: st.DataObject) -> Request:
    """Return a request that is likely to be understood, with numbers at the ends of their fields."""
    operation = values.draw(st.sampled_from([*Operation]))
    shape = SHAPES.get(operation)
    count = values.draw(st.integers(0, 4)) if shape is not None and shape.array is not None else 0
    request = new_request(operation, count)
    for field in request:
        if field.startswith("enm"):
            request[field] = values.draw(st.integers(0, 4))
        elif shape is not None and field != shape.length and shape.fields[field].kind == "u":
            last = int(np.iinfo(shape.fields[field]).max)
            request[field] = values.draw(st.sampled_from([0, 1, 512, 513, last >> 24, last]))
    if count:
        ids = st.sampled_from([0, 1, 512, 513, 1024, 2**28])
        first = "GCRegionAddr" if operation is Operation.REGISTER_SHARED_MODULE else "idPage"
        request.array[first] = values.draw(st.lists(ids, min_size=count, max_size=count))
    return request


@settings(max_examples=100)
@given(values=st.data())
def test_no_forged_request_breaks_the_books_or_touches_another_vm(values: st.DataObject) -> None:
    gmm = manager_of("honest", "a")
    with AllocateBatch(wire(gmm, "honest"), 5, Account.BASE) as batch:
        batch.perform()
    for _ in range(values.draw(st.integers(1, 6))):
        request = forged(values)
        data = bytearray(request.encode())
        for _ in range(values.draw(st.integers(0, 2)) if len(data) > 8 else 0):
            data[values.draw(st.integers(8, len(data) - 1))] = values.draw(st.integers(0, 255))
        perform(gmm, values.draw(st.sampled_from(["a", "new"])), request.operation, bytes(data))
        gmm.verify()
        assert gmm.allocated("honest") == 5
        assert gmm.query_statistics().structure()["cReservedPages"] == gmm.query_statistics().reserved_pages
