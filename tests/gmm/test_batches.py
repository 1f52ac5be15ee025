"""Batches of pages that a caller in another process allocates or frees."""

import pytest
from tests.gmm.manager_double import ManagerDouble

from dynmem.gmm import Account, GmmError, Status
from dynmem.gmm.batches import AllocateBatch, FreeBatch
from dynmem.gmm.constants import NIL_RTHCPHYS
from dynmem.gmm.replies import Reply
from dynmem.gmm.requests import Operation, new_request
from dynmem.gmm.serving import perform


class Wire:
    """A transport to a manager, which counts what it carries.

    Attributes:
        manager: The manager at its end.
        operations: What was asked for so far.
    """

    def __init__(self) -> None:
        self.manager = ManagerDouble()
        self.operations: list[Operation] = []

    def __call__(self, operation: int, data: bytes) -> bytes:
        self.operations.append(Operation(operation))
        return perform(self.manager, "a", operation, data)


def test_an_allocation_is_prepared_performed_and_cleaned_up() -> None:
    wire = Wire()
    with AllocateBatch(wire, 3, Account.FIXED) as batch:
        assert wire.operations == []
        assert batch.descriptors.tolist() == [(NIL_RTHCPHYS, 0, 0)] * 3
        batch.descriptors["HCPhysGCPhys"][1] = 0x7000
        pages = batch.perform()
        assert pages.tolist() == [(0x1000, 512, 0), (0x1000, 513, 0), (0x1000, 514, 0)]
    asked = [(NIL_RTHCPHYS, 0, 0), (0x7000, 0, 0), (NIL_RTHCPHYS, 0, 0)]
    assert wire.manager.calls == [("allocate_pages", "a", asked, Account.FIXED)]
    with pytest.raises(GmmError, match="cleaned up") as refused:
        batch.perform()
    assert refused.value.code is Status.WRONG_ORDER


def test_an_allocation_that_is_refused_leaves_the_descriptors_as_they_were() -> None:
    wire = Wire()
    wire.manager.refusal = GmmError(Status.HIT_GLOBAL_LIMIT, "2 pages are left")
    with AllocateBatch(wire, 3, Account.BASE) as batch:
        with pytest.raises(GmmError, match="2 pages are left") as refused:
            batch.perform()
        assert refused.value.code is Status.HIT_GLOBAL_LIMIT
        assert batch.descriptors.tolist() == [(NIL_RTHCPHYS, 0, 0)] * 3


def test_the_pages_of_an_allocation_can_all_be_freed_and_allocated_again() -> None:
    wire = Wire()
    with AllocateBatch(wire, 2, Account.BASE) as batch:
        assert batch.free() == 0
        batch.perform()
        assert batch.free() == 2
        assert batch.descriptors.tolist() == [(NIL_RTHCPHYS, 0, 0)] * 2
        batch.perform()
    assert wire.operations == [Operation.ALLOCATE_PAGES, Operation.FREE_PAGES, Operation.ALLOCATE_PAGES]
    assert wire.manager.calls[1] == ("free_pages", "a", [(512,), (513,)], Account.BASE)


def test_the_pages_of_an_allocation_that_could_not_be_freed_stay_in_its_descriptors() -> None:
    wire = Wire()
    with AllocateBatch(wire, 3, Account.BASE) as batch:
        batch.perform()
        wire.manager.refusal = GmmError(Status.PAGE_ALREADY_FREE, "page 513 is free")
        wire.manager.freed = 1
        with pytest.raises(GmmError, match="page 513"):
            batch.free()
        assert batch.descriptors["idPage"].tolist() == [0, 513, 514]


def test_a_free_is_prepared_performed_prepared_again_and_cleaned_up() -> None:
    wire = Wire()
    with FreeBatch(wire, 4, Account.BASE) as batch:
        batch.descriptors["idPage"] = [512, 513, 514, 515]
        assert batch.perform(2) == 2
        assert batch.descriptors["idPage"].tolist() == [0, 0, 514, 515]
        batch.prepare_again(4, Account.SHADOW)
        assert batch.descriptors["idPage"].tolist() == [0] * 4
        batch.descriptors["idPage"] = [600, 601, 602, 603]
        assert batch.perform() == 4
        batch.prepare_again(1, Account.FIXED)
        batch.descriptors["idPage"] = 700
        assert batch.perform() == 1
    assert wire.manager.calls == [
        ("free_pages", "a", [(512,), (513,)], Account.BASE),
        ("free_pages", "a", [(600,), (601,), (602,), (603,)], Account.SHADOW),
        ("free_pages", "a", [(700,)], Account.FIXED),
    ]
    with pytest.raises(GmmError, match="cleaned up"):
        batch.perform()


def test_a_free_of_nothing_stays_at_home() -> None:
    wire = Wire()
    with FreeBatch(wire, 4, Account.BASE) as batch:
        assert batch.perform(0) == 0
    assert wire.operations == []


@pytest.mark.parametrize("pages", [-1, 5])
def test_a_free_of_more_pages_than_were_prepared_is_refused(pages: int) -> None:
    wire = Wire()
    with (
        FreeBatch(wire, 4, Account.BASE) as batch,
        pytest.raises(GmmError, match=f"4 pages, not {pages}") as no,
    ):
        batch.perform(pages)
    assert no.value.code is Status.ACTUAL_PAGES_IPE
    assert wire.operations == []


def test_a_free_that_fails_in_the_middle_says_which_pages_it_freed() -> None:
    wire = Wire()
    wire.manager.refusal = GmmError(Status.PAGE_NOT_FOUND, "page 9 is not in any chunk")
    wire.manager.freed = 1
    with FreeBatch(wire, 3, Account.BASE) as batch:
        batch.descriptors["idPage"] = [512, 9, 513]
        with pytest.raises(GmmError) as refused:
            batch.perform()
        assert refused.value.code is Status.PAGE_NOT_FOUND
        assert batch.descriptors["idPage"].tolist() == [0, 9, 513]


@pytest.mark.parametrize("pages", [0, 2, 4])
def test_a_reply_about_another_number_of_pages_is_refused(pages: int) -> None:
    def forged(operation: int, data: bytes) -> bytes:
        del data
        return Reply(Status.SUCCESS, new_request(Operation(operation), pages)).encode()

    for batch in (AllocateBatch(forged, 3, Account.BASE), FreeBatch(forged, 3, Account.BASE)):
        with pytest.raises(GmmError, match=f"about {pages} pages, not 3") as refused:
            batch.perform()
        assert refused.value.code is Status.INVALID_PARAMETER
