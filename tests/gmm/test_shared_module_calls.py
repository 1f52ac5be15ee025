"""The calls of the manager on shared modules: the codes of each, and that a refused call changes nothing."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.gmm.naive_pages import page_to_check, regions_of

from dynmem.gmm import Account, GlobalMemoryManager, GmmError, OcPolicy, OsFamily, Priority, Status
from dynmem.gmm.constants import GMM_GCPHYS_UNSHAREABLE, NIL_GMM_PAGEID
from dynmem.gmm.manager import Mode
from dynmem.gmm.modules import Region
from dynmem.gmm.sharing import Checked
from dynmem.gmm.store import ChunkStore, NoStore
from dynmem.gmm.structures import free_page_descriptors, page_descriptors

BASE = 0x7FF0_0000_0000
REGIONS = regions_of(Region(BASE, 0x4000))
FIRST = 1 << 9


class CountingStore(NoStore):
    """A store that notes how many pages it was asked to discard in each call."""

    def __init__(self) -> None:
        self.discarded: list[int] = []

    def discard(self, page_ids: NDArray[np.uint32], /) -> None:
        self.discarded.append(page_ids.size)


def host(mode: Mode = "shared", store: ChunkStore | None = None) -> GlobalMemoryManager:
    """VMs a and b with 4 pages each, a stopped with the first shared; c has the module and nothing else."""
    gmm = GlobalMemoryManager(4096, store, mode)
    for vm in "abc":
        gmm.initial_reservation(vm, 600, 10, 10, OcPolicy.TBD, Priority.NORMAL)
        if mode == "shared":
            assert register(gmm, vm) is Status.SUCCESS
    for vm in "ab":
        descriptors = page_descriptors(4)
        descriptors["HCPhysGCPhys"] = np.arange(4) << 12
        gmm.allocate_pages(vm, descriptors, Account.BASE)
    gmm.sharing.stop("a")
    if mode == "shared":
        gmm.shared_module_check_page("a", BASE, 0, 0, page_to_check(FIRST))
    return gmm


def register(gmm: GlobalMemoryManager, vm: str, name: str = "libc", base: int = BASE) -> Status:
    return gmm.register_shared_module(vm, OsFamily.LINUX64, name, "1", base, 0x4000, REGIONS)


def unregister(gmm: GlobalMemoryManager, vm: str, name: str = "libc", base: int = BASE) -> None:
    gmm.unregister_shared_module(vm, name, "1", base, 0x4000)


def check(gmm: GlobalMemoryManager, vm: str, page_id: int) -> None:
    gmm.shared_module_check_page(vm, BASE, 0, 1, page_to_check(page_id))


def other_vms_page(gmm: GlobalMemoryManager) -> int:
    return int(gmm.pages.pages_of("b").min())


REFUSED: list[tuple[Status, Callable[[GlobalMemoryManager], object]]] = [
    (Status.WRONG_ORDER, lambda gmm: register(gmm, "d")),
    (Status.MODULE_NAME_TOO_LONG, lambda gmm: register(gmm, "a", "n" * 128)),
    (Status.SHARED_MODULE_ADDRESS_CLASH, lambda gmm: register(gmm, "a", "libm")),
    (Status.WRONG_ORDER, lambda gmm: unregister(gmm, "d")),
    (Status.SHARED_MODULE_NOT_FOUND, lambda gmm: unregister(gmm, "a", "libm")),
    (Status.SHARED_MODULE_NOT_FOUND, lambda gmm: unregister(gmm, "a", base=0)),
    (Status.WRONG_ORDER, lambda gmm: gmm.reset_shared_modules("d")),
    (Status.WRONG_ORDER, lambda gmm: gmm.check_shared_modules("d")),
    (Status.WRONG_ORDER, lambda gmm: gmm.check_shared_modules("b")),
    (Status.NOT_SUPPORTED, lambda gmm: gmm.check_shared_modules("a")),
    (Status.WRONG_ORDER, lambda gmm: check(gmm, "d", FIRST + 1)),
    (Status.WRONG_ORDER, lambda gmm: check(gmm, "b", other_vms_page(gmm))),
    (Status.PAGE_NOT_FOUND, lambda gmm: check(gmm, "a", NIL_GMM_PAGEID)),
    (Status.PAGE_NOT_FOUND, lambda gmm: check(gmm, "a", 0xFFFF_FFFF)),
    (Status.PAGE_NOT_PRIVATE, lambda gmm: check(gmm, "a", FIRST)),
    (Status.PAGE_NOT_PRIVATE, lambda gmm: check(gmm, "a", FIRST + 500)),
    (Status.NOT_PAGE_OWNER, lambda gmm: check(gmm, "a", other_vms_page(gmm))),
    (Status.WRONG_ORDER, lambda gmm: gmm.find_duplicate_page("d", FIRST)),
    (Status.PAGE_NOT_FOUND, lambda gmm: gmm.find_duplicate_page("a", NIL_GMM_PAGEID)),
    (Status.PAGE_ALREADY_FREE, lambda gmm: gmm.find_duplicate_page("a", FIRST + 500)),
    (Status.NOT_PAGE_OWNER, lambda gmm: gmm.find_duplicate_page("a", other_vms_page(gmm))),
    (Status.NOT_PAGE_OWNER, lambda gmm: gmm.find_duplicate_page("b", FIRST)),
    (
        Status.NOT_PAGE_OWNER,
        lambda gmm: gmm.free_pages("b", free_page_descriptors([FIRST]), Account.BASE),
    ),
]


def snapshot(gmm: GlobalMemoryManager) -> object:
    vms = {vm: (gmm.query_statistics(vm), gmm.pages.pages_of(vm).tolist()) for vm in gmm}
    modules = {vm: gmm.sharing.modules.of(vm) for vm in gmm}
    return vms, modules, gmm.pages.references(FIRST), gmm.sharing.holds("a", FIRST)


@pytest.mark.parametrize(("code", "call"), REFUSED)
def test_a_refused_call_has_its_code_and_changes_nothing(
    code: Status, call: Callable[[GlobalMemoryManager], object]
) -> None:
    gmm = host()
    before = snapshot(gmm)
    with pytest.raises(GmmError) as refused:
        call(gmm)
    assert refused.value.code is code
    assert snapshot(gmm.verify()) == before


def test_in_bound_mode_every_call_on_modules_is_refused() -> None:
    gmm = host("bound")
    before = gmm.query_statistics("a")
    for call in (
        lambda: register(gmm, "a"),
        lambda: unregister(gmm, "a"),
        lambda: gmm.reset_shared_modules("a"),
        lambda: gmm.check_shared_modules("a"),
        lambda: check(gmm, "a", FIRST),
        lambda: gmm.find_duplicate_page("a", FIRST),
    ):
        with pytest.raises(GmmError) as refused:
            call()
        assert refused.value.code is Status.NOT_SUPPORTED
    assert gmm.verify().query_statistics("a") == before


def test_each_module_is_registered_once_and_reset_with_the_others_of_its_vm() -> None:
    gmm = host()
    assert register(gmm, "a") is Status.SHARED_MODULE_ALREADY_REGISTERED
    assert register(gmm, "a", "libm", BASE + 0x10_0000) is Status.SUCCESS
    assert gmm.query_statistics().shareable_modules == 2
    assert gmm.reset_shared_modules("a") == 2
    unregister(gmm, "b")
    assert gmm.query_statistics().shareable_modules == 1
    unregister(gmm, "c")
    stats = gmm.verify().query_statistics("a")
    assert (stats.shareable_modules, stats.shared_pages) == (0, 1)
    assert stats.vm is not None
    assert (stats.vm.shared_pages, stats.vm.private_pages) == (1, 3)


def test_a_check_of_a_vm_without_pages_of_its_modules_shares_nothing() -> None:
    class NoPages:
        def page_at(self, address: int) -> int | None:
            return None if address else 1

        def shared(self, page_id: int, now: int) -> None:
            raise AssertionError((page_id, now))

    gmm = host()
    gmm.sharing.stop("c")
    gmm.sharing.attach("c", NoPages())
    assert gmm.check_shared_modules("c") == Checked(absent=4)


def test_an_unshareable_page_and_one_of_a_large_page_are_left_alone() -> None:
    gmm = host()
    descriptors = page_descriptors(1)
    descriptors["HCPhysGCPhys"] = GMM_GCPHYS_UNSHAREABLE
    gmm.allocate_pages("a", descriptors, Account.BASE)
    large = gmm.allocate_large_page("a")
    for page_id in (int(descriptors["idPage"][0]), large):
        descriptor = page_to_check(page_id)
        gmm.shared_module_check_page("a", BASE, 0, 1, descriptor)
        assert descriptor["idPage"] == NIL_GMM_PAGEID
        assert gmm.verify().pages.owner(page_id) == "a"


def test_what_a_vm_leaves_behind_is_returned_to_the_store_in_one_call() -> None:
    store = CountingStore()
    gmm = host(store=store)
    for page in range(1, 3):
        gmm.shared_module_check_page("a", BASE, 0, page, page_to_check(FIRST + page))
    gmm.cleanup_vm("a")
    # the shared ones, then its last private one
    assert store.discarded == [3, 1]
    assert gmm.verify().query_statistics().left_behind_shared_pages == 3


def test_a_page_that_others_refer_to_is_not_freed_with_those_that_were_left_behind() -> None:
    gmm = host()
    gmm.shared_module_check_page("a", BASE, 0, 1, page_to_check(FIRST + 1))
    gmm.pages.refer(FIRST)
    for page_ids in ([FIRST + 1, FIRST], [FIRST + 1, FIRST + 2], [FIRST + 1, 0]):
        with pytest.raises(GmmError) as refused:
            gmm.pages.free_shared(np.array(page_ids, np.uint32))
        assert refused.value.code is Status.PAGE_NOT_SHARED
        assert gmm.pages.references(FIRST + 1) == 1


def test_neither_free_nor_shared_pages_are_among_those_that_a_page_is_compared_with() -> None:
    gmm = host()
    of_a, of_b = (set(gmm.pages.pages_of(vm).tolist()) for vm in "ab")
    assert (len(of_a), len(of_b)) == (3, 4)
    assert set(gmm.pages.private_pages("a").tolist()) == of_b
    assert set(gmm.pages.private_pages("c").tolist()) == of_a | of_b
