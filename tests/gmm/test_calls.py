"""The calls of a VM in another process: what each sends, and what it makes of the reply."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.gmm.manager_double import ManagerDouble

from dynmem.gmm import BalloonAction, GmmError, OcPolicy, OsFamily, Priority, Status
from dynmem.gmm.calls import Calls
from dynmem.gmm.serving import PAGES_COMPARED_MAX, perform
from dynmem.gmm.statistics import HypervisorMemoryStats, MemoryStats
from dynmem.gmm.structures import VMMDEVSHAREDREGIONDESC

REGIONS = np.array([(2**47, 4096, 0)], VMMDEVSHAREDREGIONDESC)

# what is called, with what result of the manager; what arrives there; what is returned
CALLS: dict[str, tuple[Callable[[Calls], object], object, tuple[Any, ...], object]] = {
    "initial_reservation": (
        lambda calls: calls.initial_reservation(9, 8, 7, OcPolicy.TBD, Priority.HIGH),
        None,
        ("initial_reservation", "a", 9, 8, 7, OcPolicy.TBD, Priority.HIGH),
        None,
    ),
    "update_reservation": (
        lambda calls: calls.update_reservation(6, 5, 4),
        None,
        ("update_reservation", "a", 6, 5, 4),
        None,
    ),
    "free_large_page": (
        lambda calls: calls.free_large_page(1024),
        None,
        ("free_large_page", "a", 1024),
        None,
    ),
    "ballooned_pages": (
        lambda calls: calls.ballooned_pages(BalloonAction.INFLATE, 256),
        None,
        ("ballooned_pages", "a", BalloonAction.INFLATE, 256),
        None,
    ),
    "map_unmap_chunk": (
        lambda calls: calls.map_unmap_chunk(5, 6),
        2**46,
        ("map_unmap_chunk", "a", 5, 6),
        2**46,
    ),
    "query_hypervisor_memory_stats": (
        lambda calls: calls.query_hypervisor_memory_stats(),
        None,
        ("query_hypervisor_memory_stats",),
        HypervisorMemoryStats(1, 2, 3, 4, 5),
    ),
    "query_memory_stats": (
        lambda calls: calls.query_memory_stats(),
        None,
        ("query_memory_stats", "a"),
        MemoryStats(allocated_pages=1, free_pages=2, max_pages=3, ballooned_pages=4),
    ),
    "register_shared_module": (
        lambda calls: calls.register_shared_module(OsFamily.LINUX64, "libc", "6", 2**47, 8192, REGIONS),
        Status.SHARED_MODULE_ALREADY_REGISTERED,
        ("register_shared_module", "a", 4, "libc", "6", 2**47, 8192, [(2**47, 4096, 0)]),
        Status.SHARED_MODULE_ALREADY_REGISTERED,
    ),
    "unregister_shared_module": (
        lambda calls: calls.unregister_shared_module("libc", "6", 2**47, 8192),
        None,
        ("unregister_shared_module", "a", "libc", "6", 2**47, 8192),
        None,
    ),
    "reset_shared_modules": (
        lambda calls: calls.reset_shared_modules(),
        None,
        ("reset_shared_modules", "a"),
        None,
    ),
    "check_shared_modules": (
        lambda calls: calls.check_shared_modules(),
        None,
        ("check_shared_modules", "a", PAGES_COMPARED_MAX),
        None,
    ),
    "is_duplicate_page": (
        lambda calls: calls.is_duplicate_page(513),
        True,
        ("find_duplicate_page", "a", 513, PAGES_COMPARED_MAX),
        True,
    ),
    "query_statistics": (
        lambda calls: calls.query_statistics().tobytes(),
        None,
        ("query_statistics", "a"),
        bytes(range(200)),
    ),
    "reset_statistics": (
        lambda calls: calls.reset_statistics("cFreedChunks", "cChunks"),
        None,
        ("reset_statistics", "cChunks", "cFreedChunks"),
        None,
    ),
}


def calls_on(manager: ManagerDouble) -> Calls:
    return Calls(lambda operation, data: perform(manager, "a", operation, data))


@pytest.mark.parametrize("name", CALLS)
def test_a_call_arrives_with_its_arguments_and_returns_what_the_manager_does(name: str) -> None:
    call, result, arrives, returns = CALLS[name]
    manager = ManagerDouble()
    manager.result = result
    assert call(calls_on(manager)) == returns
    assert manager.calls == [arrives]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_refused_raises_with_the_code_and_the_sentence_of_the_manager(name: str) -> None:
    manager = ManagerDouble()
    manager.refusal = GmmError(Status.MEMORY_RESERVATION_DECLINED, "it reserves 9 pages, 8 can be backed")
    with pytest.raises(GmmError, match="9 pages, 8 can be backed") as refused:
        CALLS[name][0](calls_on(manager))
    assert refused.value.code is Status.MEMORY_RESERVATION_DECLINED


def test_every_call_is_tried() -> None:
    assert {name for name in vars(Calls) if not name.startswith("_")} == CALLS.keys()


def test_what_no_request_can_carry_is_refused_before_it_is_sent() -> None:
    manager = ManagerDouble()
    calls = calls_on(manager)
    with pytest.raises(GmmError, match="127 are the most"):
        calls.unregister_shared_module("n" * 128, "6", 0, 0)
    with pytest.raises(GmmError, match="15 are the most"):
        calls.register_shared_module(4, "libc", "6" * 16, 0, 0, REGIONS)
    with pytest.raises(GmmError, match="cBasePages"):
        calls.update_reservation(-1, 1, 1)
    with pytest.raises(GmmError, match="cBalloonedPages"):
        calls.ballooned_pages(BalloonAction.INFLATE, 2**32)
    with pytest.raises(KeyError, match="cPages"):
        calls.reset_statistics("cPages")
    assert manager.calls == []
