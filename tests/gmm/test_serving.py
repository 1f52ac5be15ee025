"""Requests performed on a manager: each reaches its call, and every reply says what became of it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gmm.manager_double import ManagerDouble

from dynmem.gmm import Account, BalloonAction, GmmError, OcPolicy, Priority, Status
from dynmem.gmm.replies import Reply, parse_reply
from dynmem.gmm.requests import Operation, new_request
from dynmem.gmm.serving import PAGES_COMPARED_MAX, perform
from dynmem.gmm.structures import VMMDEVSHAREDREGIONDESC


def asked(manager: ManagerDouble, operation: Operation, count: int = 0, /, **values: int | bytes) -> Reply:
    """Return the reply to a request that VM a makes."""
    request = new_request(operation, count, **values)
    return parse_reply(operation, perform(manager, "a", operation, request.encode()))


# the fields of a request, and the call that it is
ASKED: list[tuple[Operation, dict[str, int | bytes], tuple[Any, ...]]] = [
    (
        Operation.INITIAL_RESERVATION,
        {"cBasePages": 2**40, "cShadowPages": 2, "cFixedPages": 3, "enmPolicy": 1, "enmPriority": 3},
        ("initial_reservation", "a", 2**40, 2, 3, OcPolicy.NO_OC, Priority.LOW),
    ),
    (
        Operation.UPDATE_RESERVATION,
        {"cBasePages": 4, "cShadowPages": 5, "cFixedPages": 6},
        ("update_reservation", "a", 4, 5, 6),
    ),
    (Operation.FREE_LARGE_PAGE, {"idPage": 512}, ("free_large_page", "a", 512)),
    (
        Operation.BALLOONED_PAGES,
        {"enmAction": 2, "cBalloonedPages": 7},
        ("ballooned_pages", "a", BalloonAction.DEFLATE, 7),
    ),
    (
        Operation.UNREGISTER_SHARED_MODULE,
        {"szName": b"libc", "szVersion": b"6", "GCBaseAddr": 2**63, "cbModule": 4096},
        ("unregister_shared_module", "a", "libc", "6", 2**63, 4096),
    ),
    (Operation.RESET_SHARED_MODULES, {}, ("reset_shared_modules", "a")),
    (Operation.CHECK_SHARED_MODULES, {}, ("check_shared_modules", "a", PAGES_COMPARED_MAX)),
]


@pytest.mark.parametrize(("operation", "values", "call"), ASKED, ids=[ask[0].name for ask in ASKED])
def test_a_request_without_outputs_reaches_its_call(
    operation: Operation, values: dict[str, int | bytes], call: tuple[Any, ...]
) -> None:
    manager = ManagerDouble()
    reply = asked(manager, operation, **values)
    assert manager.calls == [call]
    assert reply.status is Status.SUCCESS
    assert reply.outputs().encode() == new_request(operation, **values).encode()


def test_an_allocation_comes_back_with_ids_and_addresses() -> None:
    manager = ManagerDouble()
    reply = asked(manager, Operation.ALLOCATE_PAGES, 2, enmAccount=Account.SHADOW)
    assert manager.calls == [("allocate_pages", "a", [(0, 0, 0)] * 2, Account.SHADOW)]
    assert reply.outputs().array.tolist() == [(0x1000, 512, 0), (0x1000, 513, 0)]


def test_a_failed_free_comes_back_with_the_pages_that_were_freed() -> None:
    manager = ManagerDouble()
    manager.refusal = GmmError(Status.NOT_PAGE_OWNER, "page 514 belongs to b")
    manager.freed = 2
    request = new_request(Operation.FREE_PAGES, 3, enmAccount=Account.BASE)
    request.array["idPage"] = [512, 513, 514]
    reply = parse_reply(request.operation, perform(manager, "a", request.operation, request.encode()))
    assert manager.calls == [("free_pages", "a", [(512,), (513,), (514,)], Account.BASE)]
    assert (reply.status, reply.sentence) == (Status.NOT_PAGE_OWNER, "page 514 belongs to b")
    assert reply.request is not None
    assert reply.request.array["idPage"].tolist() == [0, 0, 514]


def test_a_mapped_chunk_comes_back_with_its_address() -> None:
    manager = ManagerDouble()
    manager.result = 0x7FFF_0020_0000
    reply = asked(manager, Operation.MAP_UNMAP_CHUNK, idChunkMap=3, idChunkUnmap=4)
    assert manager.calls == [("map_unmap_chunk", "a", 3, 4)]
    assert reply.outputs()["pvR3"] == 0x7FFF_0020_0000


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.SHARED_MODULE_ALREADY_REGISTERED])
def test_a_registered_module_says_so_in_the_reply_and_in_the_request(status: Status) -> None:
    manager = ManagerDouble()
    manager.result = status
    request = new_request(
        Operation.REGISTER_SHARED_MODULE,
        2,
        enmGuestOS=4,
        szName=b"libc",
        szVersion=b"6",
        GCBaseAddr=2**47,
        cbModule=8192,
    )
    request.array[:] = np.array([(2**47, 4096, 0), (2**47 + 4096, 4096, 0)], VMMDEVSHAREDREGIONDESC)
    reply = parse_reply(request.operation, perform(manager, "a", request.operation, request.encode()))
    assert manager.calls == [
        (
            "register_shared_module",
            "a",
            4,
            "libc",
            "6",
            2**47,
            8192,
            [(2**47, 4096, 0), (2**47 + 4096, 4096, 0)],
        )
    ]
    assert reply.status is status
    assert reply.outputs()["rc"] == status


def test_a_module_that_is_refused_says_so_in_the_request_too() -> None:
    manager = ManagerDouble()
    manager.refusal = GmmError(Status.SHARED_MODULE_ADDRESS_CLASH, "another module is there")
    reply = asked(manager, Operation.REGISTER_SHARED_MODULE, 1, szName=b"libc")
    assert reply.request is not None
    assert reply.status == reply.request["rc"] == Status.SHARED_MODULE_ADDRESS_CLASH


@pytest.mark.parametrize(
    ("place", "size", "code"),
    [(32, 128, Status.MODULE_NAME_TOO_LONG), (160, 16, Status.MODULE_VERSION_TOO_LONG)],
)
def test_a_name_without_an_end_is_refused(place: int, size: int, code: Status) -> None:
    data = bytearray(new_request(Operation.REGISTER_SHARED_MODULE, 1).encode())
    data[place : place + size] = b"n" * size
    manager = ManagerDouble()
    reply = parse_reply(
        Operation.REGISTER_SHARED_MODULE,
        perform(manager, "a", Operation.REGISTER_SHARED_MODULE, bytes(data)),
    )
    assert reply.status is code
    assert manager.calls == []


@pytest.mark.parametrize("is_duplicate", [True, False])
def test_a_page_is_a_duplicate_or_not(is_duplicate: bool) -> None:
    manager = ManagerDouble()
    manager.result = is_duplicate
    reply = asked(manager, Operation.FIND_DUPLICATE_PAGE, idPage=513)
    assert manager.calls == [("find_duplicate_page", "a", 513, PAGES_COMPARED_MAX)]
    assert reply.outputs()["fDuplicate"] == is_duplicate


def test_statistics_come_back_as_the_manager_lays_them_out() -> None:
    manager = ManagerDouble()
    reply = asked(manager, Operation.QUERY_STATISTICS)
    assert manager.calls == [("query_statistics", "a")]
    assert reply.outputs().record("Stats").tobytes() == bytes(range(200))


def test_a_reset_names_the_statistics_that_are_not_0() -> None:
    manager = ManagerDouble()
    request = new_request(Operation.RESET_STATISTICS)
    request.record("Stats")["cFreedChunks"] = 1
    perform(manager, "a", request.operation, request.encode())
    assert manager.calls == [("reset_statistics", "cFreedChunks")]


def test_memory_statistics_of_all_and_of_one_come_back_in_their_fields() -> None:
    fields = ("cAllocPages", "cFreePages", "cBalloonedPages", "cSharedPages", "cMaxPages")
    manager = ManagerDouble()
    of_all = asked(manager, Operation.QUERY_HYPERVISOR_MEM_STATS).outputs()
    of_one = asked(manager, Operation.QUERY_MEM_STATS).outputs()
    assert [of_all[field] for field in fields] == [1, 2, 3, 4, 5]
    assert [of_one[field] for field in fields] == [1, 2, 4, 0, 3]
    assert manager.calls == [("query_hypervisor_memory_stats",), ("query_memory_stats", "a")]


@pytest.mark.parametrize(
    ("operation", "values", "field"),
    [
        (Operation.INITIAL_RESERVATION, {"enmPolicy": 3, "enmPriority": 1}, "enmPolicy"),
        (Operation.INITIAL_RESERVATION, {"enmPolicy": 1, "enmPriority": 0x7FFFFFFF}, "enmPriority"),
        (Operation.ALLOCATE_PAGES, {"enmAccount": 4}, "enmAccount"),
        (Operation.FREE_PAGES, {"enmAccount": 4}, "enmAccount"),
        (Operation.BALLOONED_PAGES, {"enmAction": 4}, "enmAction"),
    ],
)
def test_a_number_beyond_its_enumeration_is_refused_by_name(
    operation: Operation, values: dict[str, int | bytes], field: str
) -> None:
    manager = ManagerDouble()
    reply = asked(manager, operation, **values)
    assert reply.status is Status.INVALID_PARAMETER
    assert reply.sentence.startswith(f"{field} of VMMR0_DO_GMM_")
    assert manager.calls == []


def test_memory_cannot_be_seeded_by_a_caller() -> None:
    manager = ManagerDouble()
    assert asked(manager, Operation.SEED_CHUNK).status is Status.NOT_SUPPORTED
    assert manager.calls == []


@pytest.mark.parametrize("operation", [one for one in Operation if one is not Operation.SEED_CHUNK])
def test_every_refusal_of_the_manager_comes_back_with_code_and_sentence(operation: Operation) -> None:
    manager = ManagerDouble()
    manager.refusal = GmmError(Status.OVERCOMMITTED_TRY_AGAIN_IN_A_BIT, "3 pages are on their way")
    valid = {"enmPolicy": 1, "enmPriority": 1, "enmAccount": 1, "enmAction": 1}
    request = new_request(operation)
    for field in [field for field in request if field in valid]:
        request[field] = valid[field]
    reply = parse_reply(operation, perform(manager, "a", operation, request.encode()))
    assert (reply.status, reply.sentence) == (manager.refusal.code, manager.refusal.sentence)
    assert len(manager.calls) == 1


@given(data=st.binary(max_size=300), operation=st.integers(254, 276))
def test_every_request_is_replied_to_and_one_that_cannot_be_read_reaches_no_call(
    data: bytes, operation: int
) -> None:
    manager = ManagerDouble()
    manager.refusal = GmmError(Status.WRONG_ORDER, "not now")
    head = perform(manager, "a", operation, data)[:8]
    status = Status(int.from_bytes(head[:4], "little", signed=True))
    assert status < 0
    assert manager.calls == [] or status is Status.WRONG_ORDER
    assert int.from_bytes(head[4:], "little") in (0, len(data))


def test_the_replies_are_as_long_as_the_request_and_a_sentence_at_most() -> None:
    manager = ManagerDouble()
    manager.refusal = GmmError(Status.WRONG_ORDER, "x" * 10**6)
    assert len(perform(manager, "a", Operation.CHECK_SHARED_MODULES, b"")) == 8 + 1024
