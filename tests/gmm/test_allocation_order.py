"""Where pages come from: which chunk is tried before which."""

import numpy as np
import pytest
from tests.gmm.naive_store import NaiveStore

from dynmem.gmm import Account, GlobalMemoryManager, GmmError, OcPolicy, Priority
from dynmem.gmm.structures import free_page_descriptors, page_descriptors

CHUNK = 512


class Order:
    """VMs that differ in node and in what is left of their reservation."""

    def __init__(self, **options: object) -> None:
        self.store = NaiveStore(40)
        self.gmm = GlobalMemoryManager(1 << 20, self.store, **options)  # type: ignore[arg-type]

    def reserve(self, vm: str, chunks: int, node: int = 0) -> None:
        self.gmm.register_vm(vm, numa_node=node)
        self.gmm.initial_reservation(vm, chunks * CHUNK, 1, 1, OcPolicy.TBD, Priority.LOW)

    def take(self, vm: str, pages: int) -> list[int]:
        descriptors = page_descriptors(pages)
        self.gmm.allocate_pages(vm, descriptors, Account.BASE)
        ids: list[int] = descriptors["idPage"].tolist()
        return ids

    def free(self, vm: str, ids: list[int]) -> None:
        self.gmm.free_pages(vm, free_page_descriptors(ids), Account.BASE)
        self.gmm.verify()


def chunks(ids: list[int]) -> list[int]:
    """Return the chunks of pages, in the order in which they come."""
    return list(dict.fromkeys(page_id >> 9 for page_id in ids))


def test_the_chunk_that_was_used_last_comes_first_then_the_fullest_of_the_vms_own() -> None:
    order = Order()
    order.reserve("a", 20)
    ids = order.take("a", 4 * CHUNK)
    of = {chunk: [page_id for page_id in ids if page_id >> 9 == chunk] for chunk in (1, 2, 3, 4)}
    order.free("a", of[1][:300] + of[2][:20] + of[3][:100] + of[4][:400])
    assert chunks(order.take("a", 10)) == [4]  # used last, although it is the emptiest
    assert chunks(order.take("a", 700)) == [4, 2, 3, 1]


def test_a_new_chunk_is_made_rather_than_one_of_another_vm_used() -> None:
    order = Order()
    for vm in "ab":
        order.reserve(vm, 20)
    assert chunks(order.take("a", 10)) == [1]
    assert chunks(order.take("b", 10)) == [2]
    assert chunks(order.take("a", 600)) == [1, 3]


def test_with_little_left_of_its_reservation_a_vm_gets_pages_of_others_on_its_node() -> None:
    order = Order()
    order.reserve("other", 20, node=1)
    order.reserve("neighbour", 20)
    order.reserve("a", 4)
    order.take("other", 10)
    order.take("neighbour", 10)
    assert chunks(order.take("a", 3)) == [3]  # four chunks and two pages were left
    order.reserve("small", 3)
    assert chunks(order.take("small", 3)) == [2]  # the fullest of the first VM that has one there
    order.reserve("far", 3, node=2)
    assert chunks(order.take("far", 1)) == [4]


def test_an_unused_chunk_on_the_node_is_used_before_a_new_one_and_on_another_only_under_pressure() -> None:
    for mode in ("shared", "bound"):
        order = Order(mode=mode)
        order.reserve("a", 20)
        order.reserve("b", 20)
        order.reserve("far", 20, node=1)
        order.free("a", order.take("a", 1))
        assert chunks(order.take("far", 1)) == [2]
        assert chunks(order.take("b", 1)) == [1]
        order.free("b", [1 << 9])
        order.store.full = True
        assert chunks(order.take("far", CHUNK)) == [2, 1]


def test_with_much_free_there_are_no_new_chunks_and_the_vms_node_comes_first() -> None:
    order = Order()
    order.reserve("far", 30, node=1)
    order.reserve("a", 30)
    order.reserve("b", 40)
    for vm in ("far", "a"):
        ids = order.take(vm, 9 * CHUNK)
        order.free(
            vm, [page_id for page_id in ids if page_id & 511 >= 8]
        )  # 9 x 504: 16 chunks are free with both
    assert order.gmm.query_hypervisor_memory_stats().free_pages >= 16 * CHUNK
    before = set(order.store.chunks)
    near = chunks(order.take("b", 9 * 504))
    assert set(near) == set(range(10, 19))
    order.take("far", 1)
    assert order.store.chunks == before
    assert set(chunks(order.take("b", 600))) == {19, 20}  # too little is free now


def test_private_pages_keep_away_from_a_chunk_with_shared_ones() -> None:
    order = Order()
    order.reserve("a", 20)
    (page,) = order.take("a", 1)
    order.gmm.pages.share(page)
    assert chunks(order.take("a", 1)) == [2]


def test_under_pressure_any_page_is_used_those_beside_shared_ones_too() -> None:
    order = Order()
    order.reserve("a", 20)
    order.reserve("b", 20, node=1)
    (page,) = order.take("a", 1)
    order.gmm.pages.share(page)
    order.store.full = True
    assert chunks(order.take("b", 511)) == [1]
    with pytest.raises(GmmError, match="OUT_OF_MEMORY"):
        order.take("b", 1)


def test_a_batch_over_many_chunks_is_freed_chunk_by_chunk_whatever_its_order() -> None:
    order = Order()
    order.reserve("a", 30)
    ids = np.array(order.take("a", 6 * CHUNK))
    np.random.default_rng(1).shuffle(ids)
    order.free("a", ids[:2000].tolist())
    assert sorted(order.gmm.pages.pages_of("a").tolist()) == sorted(ids[2000:].tolist())
    again = order.take("a", 2000)
    assert sorted(again) == sorted(ids[:2000].tolist())
    order.free("a", [*ids[2000:].tolist(), *again])
    assert order.gmm.query_statistics().chunks == 1


def test_lists_stay_whole_whatever_is_freed_and_allocated_over_many_chunks() -> None:
    order, chance = Order(), np.random.default_rng(3)
    held: dict[str, list[int]] = {"a": [], "b": []}
    for vm in held:
        order.reserve(vm, 18)
        held[vm] = order.take(vm, 16 * CHUNK)
    for _ in range(12):
        for vm, ids in held.items():
            chosen = chance.permutation(len(ids))
            count = int(chance.integers(1, 3000))
            order.free(vm, [ids[at] for at in chosen[:count]])
            held[vm] = [ids[at] for at in chosen[count:]]
            held[vm] += order.take(vm, int(chance.integers(1, count + 1)))
            order.gmm.verify()
    assert sorted(held["a"]) == sorted(order.gmm.pages.pages_of("a").tolist())
    assert sorted(held["b"]) == sorted(order.gmm.pages.pages_of("b").tolist())
