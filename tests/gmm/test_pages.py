"""Pages with ids: what each call does to them."""

import numpy as np
import pytest
from tests.gmm.naive_store import address, snapshot
from tests.gmm.page_host import BASE, CHUNK, FIXED, SHADOW, Host

from dynmem.gmm import BalloonAction, GmmError, OcPolicy, Priority, Status
from dynmem.gmm.constants import (
    GMM_GCPHYS_UNSHAREABLE,
    GMM_PAGE_PFN_UNSHAREABLE,
    GMM_PAGEID_LAST,
    NIL_GMM_PAGEID,
    NIL_RTHCPHYS,
)
from dynmem.gmm.structures import VMMDEVSHAREDREGIONDESC, free_page_descriptors, page_descriptors


def test_allocated_pages_have_ids_of_a_chunk_and_an_index_and_their_address_in_the_store() -> None:
    host = Host()
    descriptors = page_descriptors(3)
    descriptors["HCPhysGCPhys"] = (0x1000, GMM_GCPHYS_UNSHAREABLE, NIL_RTHCPHYS)
    host.gmm.allocate_pages("a", descriptors, BASE)
    assert descriptors["idPage"].tolist() == [1 << 9, 1 << 9 | 1, 1 << 9 | 2]
    assert descriptors["HCPhysGCPhys"].tolist() == [0x20_0000, 0x20_1000, 0x20_2000]
    assert descriptors["idSharedPage"].tolist() == [NIL_GMM_PAGEID] * 3
    assert host.store.chunks == {1}
    table = host.gmm.pages
    words = [table.word(table.position(page_id)) for page_id in descriptors["idPage"].tolist()]
    handle = host.gmm._vms.of("a").handle
    assert words == [handle << 32 | pfn for pfn in (1, *[GMM_PAGE_PFN_UNSHAREABLE] * 2)]
    assert [table.may_share(page_id) for page_id in descriptors["idPage"].tolist()] == [True, False, False]
    assert [table.owner(page_id) for page_id in descriptors["idPage"].tolist()] == ["a"] * 3
    assert sorted(table.pages_of("a").tolist()) == descriptors["idPage"].tolist()


def test_statistics_follow_pages_from_allocation_through_sharing_to_the_end() -> None:
    host = Host()
    ids = host.take("a", 600)
    host.take("a", 5, FIXED)
    stats, vm = host.stats("a")
    assert (stats.allocated_pages, stats.chunks, stats.shared_pages) == (605, 2, 0)
    assert (vm.private_pages, vm.shared_pages, vm.allocated.base_pages, vm.allocated.fixed_pages) == (
        605, 0, 600, 5,
    )  # fmt: skip
    assert vm.shared_paging_enabled
    host.share()
    stats, vm = host.stats("b")
    assert (stats.allocated_pages, stats.shared_pages, stats.duplicate_pages) == (606, 1, 1)
    assert (stats.shareable_modules, stats.left_behind_shared_pages) == (1, 0)
    assert (vm.private_pages, vm.shared_pages, vm.allocated.base_pages) == (0, 1, 1)
    memory = host.gmm.query_hypervisor_memory_stats()
    assert (memory.allocated_pages, memory.shared_pages) == (606, 1)
    assert memory.free_pages == stats.chunks * CHUNK - 606
    host.free("a", ids)
    host.gmm.cleanup_vm("a")
    stats, vm = host.stats("b")
    assert (stats.allocated_pages, stats.shared_pages, stats.duplicate_pages) == (1, 1, 0)
    assert (stats.left_behind_shared_pages, stats.freed_chunks + stats.chunks) == (1, 2)
    host.gmm.cleanup_vm("b")
    stats = host.gmm.verify().query_statistics()
    assert (stats.allocated_pages, stats.shared_pages, stats.vms, stats.shareable_modules) == (0, 0, 0, 0)
    assert stats.left_behind_shared_pages == 2
    structure = stats.structure()
    assert int(structure["cLeftBehindSharedPages"]) == 2
    assert not host.store.content


def test_reset_statistics_resets_nothing_as_in_the_original() -> None:
    host = Host()
    host.take("a", 10)
    before = snapshot(host.gmm)
    host.gmm.reset_statistics(np.ones(1, "u1").astype("V1"))
    assert snapshot(host.gmm) == before


def test_a_page_that_is_freed_is_discarded_and_is_the_next_to_be_used() -> None:
    host = Host()
    ids = host.take("a", 10)
    host.store.content = dict.fromkeys(ids, 1)
    descriptors = free_page_descriptors([ids[7], ids[2]])
    assert host.gmm.free_pages("a", descriptors, BASE) == 2
    assert descriptors["idPage"].tolist() == [NIL_GMM_PAGEID] * 2
    assert set(host.store.content) == set(ids) - {ids[7], ids[2]}
    assert host.take("a", 2) == [ids[2], ids[7]]


def test_chunks_that_become_empty_go_back_to_the_host_but_for_the_spare() -> None:
    host = Host()
    ids = host.take("a", 3 * CHUNK)
    assert host.store.chunks == {1, 2, 3}
    host.free("a", ids[: 2 * CHUNK])
    assert host.store.chunks == {1, 3}
    host.free("a", ids[2 * CHUNK :])
    assert host.store.chunks == {1}
    stats, _ = host.stats("a")
    assert (stats.chunks, stats.freed_chunks, stats.allocated_pages) == (1, 2, 0)
    assert host.take("a", 1) == [1 << 9 | 511]  # of those that were freed, the last
    none = Host(spare_chunks=0)
    none.free("a", none.take("a", CHUNK + 1))
    assert none.store.chunks == set()


def test_chunk_ids_go_round_and_those_of_chunks_that_are_there_are_passed_over() -> None:
    host = Host(reserved_chunks=5, spare_chunks=0)
    (kept,) = host.take("a", 1)
    for expected in (2, 3, 4, 5, 6, 7, 8, 2, 3):
        ids = host.take("b", CHUNK)
        assert {page_id >> 9 for page_id in ids} == {expected}
        host.free("b", ids)
    assert kept >> 9 == 1


def test_the_pages_before_the_first_that_cannot_be_freed_are_freed() -> None:
    for bad, code in (
        (lambda ids, _: ids[0], Status.PAGE_ALREADY_FREE),
        (lambda ids, _: ids[-1] + 1, Status.PAGE_ALREADY_FREE),
        (lambda _, other: other[0], Status.NOT_PAGE_OWNER),
        (lambda ids, _: 5 << 9, Status.PAGE_NOT_FOUND),
        (lambda ids, _: NIL_GMM_PAGEID, Status.PAGE_NOT_FOUND),
        (lambda ids, _: GMM_PAGEID_LAST, Status.PAGE_NOT_FOUND),
    ):
        host = Host()
        other, ids = host.take("b", 1), host.take("a", 10)
        named = [ids[0], ids[4], bad(ids, other), ids[5]]
        descriptors = free_page_descriptors(named)
        with pytest.raises(GmmError, match="2 of 4 pages are freed") as stopped:
            host.gmm.free_pages("a", descriptors, BASE)
        assert stopped.value.code is code
        assert descriptors["idPage"].tolist() == [NIL_GMM_PAGEID] * 2 + named[2:]
        assert host.gmm.verify().allocated("a") == 8


def test_a_shared_page_is_freed_with_the_last_reference_and_by_nobody_without_one() -> None:
    host = Host()
    shared, merged = host.share()
    with pytest.raises(GmmError, match="PAGE_ALREADY_FREE"):
        host.free("b", [merged])
    host.take("a", 1)
    host.gmm.initial_reservation("c", 10, 1, 1, OcPolicy.TBD, Priority.LOW)
    host.take("c", 1)
    with pytest.raises(GmmError, match="NOT_PAGE_OWNER"):
        host.free("c", [shared])
    assert host.free("b", [shared]) == 1
    assert (host.gmm.allocated("b"), host.store.content[shared]) == (0, 7)
    with pytest.raises(GmmError, match="1 of 2 pages are freed") as stopped:
        host.free("a", [shared, shared])  # it has one reference only
    assert stopped.value.code is Status.NOT_PAGE_OWNER
    assert shared not in host.store.content
    assert host.gmm.verify().pages.owner(shared) is None


def test_handy_pages_are_updated_replace_shared_ones_and_are_refilled() -> None:
    host = Host()
    shared, _ = host.share()
    first, second = host.take("b", 2)
    descriptors = page_descriptors(4)
    descriptors[0] = (0x7000, first, shared)
    descriptors[1] = (NIL_RTHCPHYS, second, NIL_GMM_PAGEID)
    host.gmm.allocate_handy_pages("b", 2, 4, descriptors)
    table = host.gmm.verify().pages
    assert table.word(table.position(first)) & 0xFFFF_FFFF == 7
    assert table.word(table.position(second)) & 0xFFFF_FFFF == GMM_PAGE_PFN_UNSHAREABLE
    assert (host.gmm.sharing.held("b"), host.gmm.allocated("b")) == (0, 6)
    assert len({first, second, *descriptors["idPage"].tolist()}) == 6
    assert not descriptors["idSharedPage"].any()
    assert (descriptors["HCPhysGCPhys"] == descriptors["idPage"].astype(np.uint64) << 12).all()
    only = page_descriptors(1)
    only[0] = (GMM_GCPHYS_UNSHAREABLE, first, NIL_GMM_PAGEID)
    host.gmm.allocate_handy_pages("b", 1, 0, only)
    assert only.tolist() == [(NIL_RTHCPHYS, NIL_GMM_PAGEID, NIL_GMM_PAGEID)]
    assert not table.may_share(first)


def test_a_shared_page_that_a_handy_page_replaced_is_nil_in_its_descriptor() -> None:
    host = Host()
    shared, _ = host.share()
    descriptors = page_descriptors(1)
    descriptors[0] = (NIL_RTHCPHYS, NIL_GMM_PAGEID, shared)
    host.gmm.allocate_handy_pages("b", 1, 0, descriptors)
    assert descriptors.tolist() == [(NIL_RTHCPHYS, NIL_GMM_PAGEID, NIL_GMM_PAGEID)]
    assert host.gmm.verify().sharing.held("b") == 0


def test_handy_updates_before_the_first_that_fails_are_done() -> None:
    host = Host()
    ids = host.take("a", 2)
    descriptors = page_descriptors(3)
    descriptors["idPage"] = (ids[0], 5 << 9, ids[1])
    descriptors["HCPhysGCPhys"] = 0x9000
    with pytest.raises(GmmError) as stopped:
        host.gmm.allocate_handy_pages("a", 3, 3, descriptors)
    assert stopped.value.code is Status.PAGE_NOT_FOUND
    table = host.gmm.verify().pages
    assert [table.word(table.position(page_id)) & 0xFFFF_FFFF for page_id in ids] == [9, 0xFFFF_FFF1]
    assert descriptors.tolist() == [(NIL_RTHCPHYS, 0, 0), (0x9000, 5 << 9, 0), (0x9000, ids[1], 0)]
    assert host.gmm.allocated("a") == 2


def test_a_large_page_is_a_whole_chunk_until_one_of_its_pages_is_freed() -> None:
    host = Host()
    host.take("a", 1)
    large = host.gmm.allocate_large_page("a")
    assert (large, host.gmm.allocated("a")) == (2 << 9, 513)
    assert not host.gmm.verify().pages.may_share(large + 3)
    host.gmm.free_large_page("a", large)
    assert (host.gmm.allocated("a"), host.stats("a")[0].chunks) == (1, 2)
    large = host.gmm.allocate_large_page("a")
    host.free("a", [large + 7])
    with pytest.raises(GmmError, match="not the first of a large page") as refused:
        host.gmm.free_large_page("a", large)
    assert refused.value.code is Status.INVALID_PARAMETER
    host.free("a", [page_id for page_id in range(large, large + 512) if page_id != large + 7])
    assert host.gmm.verify().allocated("a") == 1


def test_a_page_of_a_large_page_is_not_shared_wherever_the_guest_has_it() -> None:
    host = Host()
    large = host.gmm.allocate_large_page("a")
    descriptors = page_descriptors(1)
    descriptors[0] = (0x3000, large + 3, NIL_GMM_PAGEID)
    host.gmm.allocate_handy_pages("a", 1, 0, descriptors)
    assert not host.gmm.pages.may_share(large + 3)
    small, _ = host.take("a", 2)
    host.free("a", [small, large + 7])  # two chunks at once; no large page is left
    assert host.gmm.verify().pages.may_share(large + 3)
    with pytest.raises(GmmError, match="not the first of a large page"):
        host.gmm.free_large_page("a", large)


def test_a_chunk_is_mapped_once_for_all_vms_of_a_process_and_is_kept_while_it_is() -> None:
    host = Host()
    host.gmm.register_vm("a2", process=1)
    ids = host.take("a", 1)
    assert host.gmm.map_unmap_chunk("a", 1, 0) == address(1, 1)
    assert host.gmm.map_unmap_chunk("a", 1, 0) == address(1, 1)  # it is there already
    assert host.gmm.map_unmap_chunk("a2", 1, 0) == address(1, 1)
    assert host.gmm.map_unmap_chunk("b", 1, 0) == address(2, 1)
    assert host.store.mapped == {(1, 1), (2, 1)}
    host.free("a", ids)
    host.free("b", host.take("b", CHUNK + 1))
    assert host.store.chunks == {1}  # the other goes, for this one is to spare
    host.free("b", host.take("b", CHUNK + 1))
    host.gmm.map_unmap_chunk("a", 0, 1)
    assert host.store.mapped == {(1, 1), (2, 1)}
    host.gmm.cleanup_vm("a2")
    assert host.gmm.map_unmap_chunk("b", 0, 1) == 0
    host.gmm.verify()
    assert host.store.mapped == set()


def test_an_unused_chunk_goes_back_to_the_host_when_the_last_process_unmaps_it() -> None:
    host = Host(spare_chunks=0)
    ids = host.take("a", 1)
    host.gmm.map_unmap_chunk("b", 1, 0)
    host.free("a", ids)
    assert host.store.chunks == {1}
    host.gmm.map_unmap_chunk("b", 0, 1)
    host.gmm.verify()
    assert host.store.chunks == set()


def test_mapped_chunks_stay_when_they_become_empty_and_one_of_them_is_to_spare() -> None:
    host = Host()
    ids = host.take("a", 3 * CHUNK)
    for chunk_id in (1, 3):
        host.gmm.map_unmap_chunk("a", chunk_id, 0)
    host.free("a", ids)
    assert host.store.chunks == {1, 3}
    host.gmm.verify()
    host.gmm.map_unmap_chunk("a", 0, 3)
    assert host.store.chunks == {1}


def test_an_allocation_that_the_store_cannot_end_takes_its_chunks_back() -> None:
    host = Host(max_chunks=20, reserved_chunks=20)
    (kept,) = host.take("a", 1)
    before = snapshot(host.gmm)
    with pytest.raises(GmmError, match="OUT_OF_MEMORY"):
        host.take("a", 9 * CHUNK)
    assert snapshot(host.gmm.verify()) == before
    assert host.store.chunks == {kept >> 9}
    assert host.take("b", 5 * CHUNK)[0] >> 9 == 2


def test_a_vm_that_ends_at_any_moment_leaves_nothing_behind() -> None:
    host = Host()
    shared, _ = host.share()
    host.take("a", 700)
    host.take("b", 30)  # beside those of a
    host.gmm.allocate_large_page("a")
    host.gmm.map_unmap_chunk("a", 1, 0)
    host.gmm.charge_pages("a", 10, SHADOW)
    host.gmm.ballooned_pages("a", BalloonAction.INFLATE, 5)
    host.store.content |= dict.fromkeys(host.gmm.pages.pages_of("a").tolist(), 1)
    assert host.gmm.cleanup_vm("a") == 1 + 700 + 512 + 10
    stats, vm = host.stats("b")
    assert (stats.allocated_pages, vm.private_pages, vm.shared_pages) == (31, 30, 1)
    assert (stats.ballooned_pages, stats.vms, host.store.mapped) == (0, 1, set())
    assert host.store.content == {shared: 7}
    assert "a" not in host.gmm
    assert host.gmm.register_vm("a") not in (host.gmm._vms.of("b").handle, 1)  # not the handle it had
    host.gmm.cleanup_vm("a")  # registered and nothing else
    host.gmm.cleanup_vm("b")
    host.gmm.verify()
    assert host.store.chunks == set()


@pytest.mark.parametrize("mapped", [(), (1,), (1, 2)])
def test_a_vm_that_ends_leaves_no_unused_chunk_behind_not_even_the_spare(mapped: tuple[int, ...]) -> None:
    host = Host()
    ids = host.take("a", 2 * CHUNK)
    for chunk_id in mapped:
        host.gmm.map_unmap_chunk("a", chunk_id, 0)
    host.free("a", ids)
    assert len(host.store.chunks) == max(1, len(mapped))
    host.gmm.cleanup_vm("a")
    host.gmm.verify()
    assert host.store.chunks == set()


def test_pages_with_ids_and_pages_that_are_counted_leave_an_account_each_by_their_own_call() -> None:
    host = Host()
    ids = host.take("a", 3)
    host.gmm.charge_pages("a", 3, SHADOW)
    for call in (
        lambda: host.gmm.release_pages("a", 3, BASE),
        lambda: host.free("a", ids, SHADOW),
    ):
        before = snapshot(host.gmm)
        with pytest.raises(GmmError) as refused:
            call()
        assert refused.value.code is Status.ATTEMPT_TO_FREE_TOO_MUCH
        assert snapshot(host.gmm.verify()) == before
    host.gmm.release_pages("a", 3, SHADOW)
    assert host.free("a", ids) == 3


def test_a_store_that_cannot_return_memory_leaves_the_books_as_they_were() -> None:
    host = Host(spare_chunks=0)
    ids = host.take("a", 600)
    (alone,) = host.take("b", 1)
    host.store.broken = True
    before = snapshot(host.gmm)
    for named in (ids[:1], ids[:2], ids):
        with pytest.raises(OSError, match="broken"):
            host.free("a", named)
        assert snapshot(host.gmm) == before
    with pytest.raises(OSError, match="broken"):
        host.free("b", [alone])
    assert snapshot(host.gmm) == before


def test_a_cleanup_that_a_store_interrupts_is_continued_by_another() -> None:
    host = Host(spare_chunks=0)
    host.take("a", 600)
    host.share()
    host.store.broken = True
    with pytest.raises(OSError, match="broken"):
        host.gmm.cleanup_vm("a")
    assert host.gmm.verify().allocated("a")
    host.store.broken = False
    host.gmm.cleanup_vm("a")
    assert host.gmm.verify().query_statistics().allocated_pages == 1


def test_large_pages_meet_the_limit_of_all_vms() -> None:
    host = Host(max_chunks=1)
    host.take("b", 1)
    before = snapshot(host.gmm)
    with pytest.raises(GmmError, match="HIT_GLOBAL_LIMIT"):
        host.gmm.allocate_large_page("a")
    assert snapshot(host.gmm) == before


def test_a_chunk_can_be_mapped_by_so_many_vms_and_a_process_can_map_so_many_chunks() -> None:
    host = Host(chunk_mappings=1)
    host.take("a", 1)
    host.gmm.map_unmap_chunk("a", 1, 0)
    before = snapshot(host.gmm)
    with pytest.raises(GmmError, match="TOO_MANY_CHUNK_MAPPINGS"):
        host.gmm.map_unmap_chunk("b", 1, 0)
    assert snapshot(host.gmm) == before
    host = Host(process_mappings=1)
    host.take("a", CHUNK + 1)
    host.gmm.map_unmap_chunk("a", 1, 0)
    before = snapshot(host.gmm)
    with pytest.raises(GmmError, match="TOO_MANY_CHUNK_MAPPINGS"):
        host.gmm.map_unmap_chunk("a", 2, 0)
    assert snapshot(host.gmm) == before
    host.store.full = True
    with pytest.raises(GmmError, match="OUT_OF_MEMORY"):
        host.gmm.map_unmap_chunk("b", 2, 0)
    assert snapshot(host.gmm) == before
    host.gmm.register_vm("a2", process=1)
    assert host.gmm.map_unmap_chunk("a2", 1, 0) == address(1, 1)  # its process has that one mapped


def test_in_bound_mode_a_chunk_belongs_to_one_vm_and_nothing_is_shared() -> None:
    host = Host(mode="bound")
    a, b = host.take("a", 3), host.take("b", 3)
    assert {page_id >> 9 for page_id in a} != {page_id >> 9 for page_id in b}
    with pytest.raises(GmmError, match="CHUNK_NOT_FOUND"):
        host.gmm.map_unmap_chunk("a", b[0] >> 9, 0)
    assert host.gmm.map_unmap_chunk("b", b[0] >> 9, 0)
    host.store.full = True
    with pytest.raises(GmmError, match="OUT_OF_MEMORY"):
        host.take("a", CHUNK)  # b's chunk has room, and is b's
    regions = np.array([(0x40_0000, 4096, 0)], VMMDEVSHAREDREGIONDESC)
    for call in (
        lambda: host.gmm.register_shared_module("a", 4, "libc", "1", 0x40_0000, 4096, regions),
        lambda: host.gmm.unregister_shared_module("a", "libc", "1", 0x40_0000, 4096),
        lambda: host.gmm.reset_shared_modules("a"),
        lambda: host.gmm.check_shared_modules("a"),
        lambda: host.gmm.find_duplicate_page("a", a[0]),
    ):
        with pytest.raises(GmmError, match="NOT_SUPPORTED"):
            call()
    assert not host.stats("a")[1].shared_paging_enabled
