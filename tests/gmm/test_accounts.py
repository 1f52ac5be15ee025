"""The accounts of the Global Memory Manager: what each call does, refuses, and leaves as it was."""

import pickle
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.gmm import (
    Account,
    BalloonAction,
    GlobalMemoryManager,
    GmmError,
    MemoryStats,
    OcPolicy,
    Priority,
    Status,
    VmSizes,
)


def books(limit: int = 10_000) -> GlobalMemoryManager:
    gmm = GlobalMemoryManager(limit)
    gmm.initial_reservation("a", 5000, 10, 20, OcPolicy.TBD, Priority.HIGH)
    gmm.initial_reservation("b", 8000, 10, 20, OcPolicy.TBD, Priority.LOW)
    gmm.charge_pages("a", 3000, Account.BASE)
    gmm.ballooned_pages("a", BalloonAction.INFLATE, 1000)
    return gmm


REFUSED: list[tuple[Status, Callable[[GlobalMemoryManager], object]]] = [
    (
        Status.WRONG_ORDER,
        lambda gmm: gmm.initial_reservation("a", 1, 1, 1, OcPolicy.TBD, Priority.LOW),
    ),
    (
        Status.INVALID_PARAMETER,
        lambda gmm: gmm.initial_reservation("c", 1, 0, 1, OcPolicy.TBD, Priority.LOW),
    ),
    (
        Status.INVALID_PARAMETER,
        lambda gmm: gmm.initial_reservation("c", 1, 1, 1, OcPolicy.INVALID, Priority.LOW),
    ),
    (
        Status.INVALID_PARAMETER,
        lambda gmm: gmm.initial_reservation("c", 1, 1, 1, OcPolicy.TBD, Priority.INVALID),
    ),
    (
        Status.MEMORY_RESERVATION_DECLINED,
        lambda gmm: gmm.initial_reservation("c", 7001, 1, 1, OcPolicy.NO_OC, Priority.LOW),
    ),
    (Status.INVALID_PARAMETER, lambda gmm: gmm.update_reservation("a", 0, 1, 1)),
    (Status.INVALID_PARAMETER, lambda gmm: gmm.update_reservation("a", (1 << 40) + 1, 1, 1)),
    (Status.INVALID_PARAMETER, lambda gmm: gmm.update_reservation("a", 5000, 1, 1 << 32)),
    (Status.WRONG_ORDER, lambda gmm: gmm.forbid_allocation("c", "why")),
    (Status.WRONG_ORDER, lambda gmm: gmm.update_reservation("c", 1, 1, 1)),
    (Status.WRONG_ORDER, lambda gmm: gmm.charge_pages("c", 1, Account.BASE)),
    (Status.INVALID_PARAMETER, lambda gmm: gmm.charge_pages("a", 0, Account.BASE)),
    (Status.INVALID_PARAMETER, lambda gmm: gmm.charge_pages("a", 1, Account.INVALID)),
    (Status.HIT_GLOBAL_LIMIT, lambda gmm: gmm.charge_pages("b", 7001, Account.BASE)),
    (Status.HIT_VM_ACCOUNT_LIMIT, lambda gmm: gmm.charge_pages("a", 1001, Account.BASE)),
    (Status.HIT_VM_ACCOUNT_LIMIT, lambda gmm: gmm.charge_pages("a", 11, Account.SHADOW)),
    (Status.HIT_VM_ACCOUNT_LIMIT, lambda gmm: gmm.adopt_pages("a", 1001, Account.BASE)),
    (Status.ATTEMPT_TO_FREE_TOO_MUCH, lambda gmm: gmm.release_pages("a", 3001, Account.BASE)),
    (Status.ATTEMPT_TO_FREE_TOO_MUCH, lambda gmm: gmm.release_pages("a", 1, Account.FIXED)),
    (Status.INVALID_PARAMETER, lambda gmm: gmm.release_pages("a", 0, Account.BASE)),
    (
        Status.ATTEMPT_TO_FREE_TOO_MUCH,
        lambda gmm: gmm.ballooned_pages("a", BalloonAction.INFLATE, 1001),
    ),
    (
        Status.ATTEMPT_TO_DEFLATE_TOO_MUCH,
        lambda gmm: gmm.ballooned_pages("a", BalloonAction.DEFLATE, 1001),
    ),
    (Status.WRONG_ORDER, lambda gmm: gmm.ballooned_pages("c", BalloonAction.INFLATE, 1)),
    (Status.INVALID_PARAMETER, lambda gmm: gmm.ballooned_pages("a", BalloonAction.INVALID, 0)),
    (Status.INVALID_PARAMETER, lambda gmm: gmm.ballooned_pages("a", BalloonAction.INFLATE, -1)),
    (Status.WRONG_ORDER, lambda gmm: gmm.cleanup_vm("c")),
    (Status.WRONG_ORDER, lambda gmm: gmm.query_memory_stats("c")),
]


@pytest.mark.parametrize(("code", "call"), REFUSED)
def test_a_refused_call_says_why_and_changes_nothing(
    code: Status, call: Callable[[GlobalMemoryManager], object]
) -> None:
    gmm = books()
    before = pickle.dumps(gmm)
    with pytest.raises(GmmError, match=f"{code.name} {code.value}") as refused:
        call(gmm)
    assert refused.value.code is code
    assert pickle.dumps(gmm) == before


@pytest.mark.parametrize("vm", ["c", "a"], ids=["initial", "update"])
def test_a_reservation_that_cannot_be_backed_is_declined_with_its_numbers(vm: str) -> None:
    gmm = GlobalMemoryManager(10_000)
    gmm.initial_reservation("a", 5000, 10, 20, OcPolicy.NO_OC, Priority.HIGH)
    gmm.initial_reservation("b", 8000, 10, 20, OcPolicy.TBD, Priority.LOW)
    gmm.charge_pages("a", 1000, Account.BASE)
    gmm.charge_pages("b", 3000, Account.BASE)
    before = pickle.dumps(gmm)
    left = 1970 if vm == "c" else 7000  # what it reserved itself is not in its way
    with pytest.raises(GmmError, match=f"{vm} reserves {left + 1} pages, {left} can be backed") as declined:
        reserve(gmm, vm, left - 30 + 1)
    assert declined.value.code is Status.MEMORY_RESERVATION_DECLINED
    if vm == "c":
        assert pickle.dumps(gmm) == before
    reserve(gmm, vm, left - 30)
    assert gmm.reserved(vm) == left - 30


def test_a_vm_whose_update_was_declined_may_not_allocate_until_one_is_accepted() -> None:
    gmm = GlobalMemoryManager(10_000)
    gmm.initial_reservation("a", 5000, 10, 20, OcPolicy.NO_OC, Priority.HIGH)
    gmm.initial_reservation("b", 8000, 10, 20, OcPolicy.TBD, Priority.LOW)
    gmm.charge_pages("a", 1000, Account.BASE)
    gmm.charge_pages("b", 3000, Account.BASE)
    before = gmm.query_statistics("a")
    with pytest.raises(GmmError):
        gmm.update_reservation("a", 7001, 10, 20)
    after = gmm.query_statistics("a")
    assert before.vm is not None
    assert after.vm is not None
    why = after.vm.may_not_allocate_why
    assert "a reserves 7031 pages, 7000 can be backed" in why
    refused_vm = msgspec.structs.replace(before.vm, may_allocate=False, may_not_allocate_why=why)
    assert after == msgspec.structs.replace(before, vm=refused_vm)
    gmm.release_pages("a", 1, Account.BASE)  # that is no reason to allow it again
    with pytest.raises(GmmError, match=r"a may not allocate: .*a reserves 7031 pages") as refused:
        gmm.charge_pages("a", 1, Account.BASE)
    assert refused.value.code is Status.HIT_VM_ACCOUNT_LIMIT
    gmm.charge_pages("b", 1, Account.BASE)
    with pytest.raises(GmmError, match="contains a zero"):
        gmm.update_reservation("a", 0, 10, 20)  # nor is a call that is wrong in itself
    gmm.update_reservation("a", 5000, 10, 20)
    gmm.charge_pages("a", 1, Account.BASE)
    with pytest.raises(GmmError, match="contains a zero"):
        gmm.update_reservation("a", 0, 10, 20)
    gmm.charge_pages("a", 1, Account.BASE)


@pytest.mark.parametrize("account", [Account.BASE, Account.SHADOW, Account.FIXED])
def test_a_reservation_cannot_fall_below_what_any_account_holds(account: Account) -> None:
    gmm = GlobalMemoryManager(10_000)
    gmm.initial_reservation("a", 50, 50, 50, OcPolicy.TBD, Priority.NORMAL)
    gmm.charge_pages("a", 40, account)
    sizes = {each: 39 if each is account else 50 for each in (Account.BASE, Account.SHADOW, Account.FIXED)}
    why = f"a reserves 39 pages in {account.name} and has 40"
    with pytest.raises(GmmError, match=why) as declined:
        gmm.update_reservation("a", *sizes.values())
    assert declined.value.code is Status.MEMORY_RESERVATION_DECLINED
    stats = gmm.verify().query_statistics("a").vm
    assert stats is not None
    assert stats.reserved == VmSizes(50, 50, 50)
    assert not stats.may_allocate
    assert why in stats.may_not_allocate_why
    for each in sizes:
        with pytest.raises(GmmError, match=f"a may not allocate: {why}"):
            gmm.charge_pages("a", 1, each)
    gmm.release_pages("a", 1, account)
    gmm.update_reservation("a", *sizes.values())
    assert gmm.reserved("a", account) == gmm.allocated("a", account) == 39


def test_the_balloon_counts_as_held_when_a_reservation_shrinks() -> None:
    gmm = books()
    with pytest.raises(GmmError, match="a reserves 3999 pages in BASE and has 4000, with those ballooned"):
        gmm.update_reservation("a", 3999, 10, 20)
    gmm.update_reservation("a", 4000, 10, 20)


def test_a_vm_that_is_forbidden_to_allocate_is_given_the_reason_until_that_is_lifted() -> None:
    gmm = books()
    gmm.forbid_allocation("a", "it is about to be saved")
    gmm.update_reservation("a", 5000, 10, 20)  # that lifts nothing
    with pytest.raises(GmmError, match="a may not allocate: it is about to be saved") as refused:
        gmm.charge_pages("a", 1, Account.SHADOW)
    assert refused.value.code is Status.HIT_VM_ACCOUNT_LIMIT
    stats = gmm.query_statistics("a").vm
    assert stats is not None
    assert (stats.may_allocate, stats.may_not_allocate_why) == (False, "it is about to be saved")
    gmm.adopt_pages("a", 1, Account.BASE)  # a fact asks nobody
    gmm.charge_pages("b", 1, Account.BASE)
    gmm.forbid_allocation("a", "")
    gmm.charge_pages("a", 1, Account.SHADOW)


def reserve(gmm: GlobalMemoryManager, vm: str, base_pages: int) -> None:
    if vm in gmm:
        gmm.update_reservation(vm, base_pages, 10, 20)
    else:
        gmm.initial_reservation(vm, base_pages, 10, 20, OcPolicy.NO_OC, Priority.NORMAL)


def test_a_reservation_beyond_the_limit_is_for_those_who_may_overcommit() -> None:
    gmm = GlobalMemoryManager(100)
    gmm.initial_reservation("a", 1000, 1, 1, OcPolicy.TBD, Priority.LOW)
    assert gmm.query_statistics().over_committed_pages == 902
    with pytest.raises(GmmError, match="HIT_GLOBAL_LIMIT"):
        gmm.charge_pages("a", 101, Account.BASE)


@pytest.mark.parametrize("account", [Account.BASE, Account.SHADOW, Account.FIXED])
def test_each_account_is_filled_up_to_its_own_reservation_and_no_further(account: Account) -> None:
    sizes = {Account.BASE: 50, Account.SHADOW: 60, Account.FIXED: 70}
    gmm = GlobalMemoryManager(10_000)
    gmm.initial_reservation("a", 50, 60, 70, OcPolicy.TBD, Priority.NORMAL)
    gmm.charge_pages("a", sizes[account], account)
    with pytest.raises(GmmError, match=f"{sizes[account]} in {account.name}; 1 more do not fit") as refused:
        gmm.charge_pages("a", 1, account)
    assert refused.value.code is Status.HIT_VM_ACCOUNT_LIMIT
    for each, most in sizes.items():
        assert gmm.allocated("a", each) == (most if each is account else 0)
    for each in set(sizes) - {account}:
        gmm.charge_pages("a", sizes[each], each)
    stats = gmm.verify().query_statistics("a").vm
    assert stats is not None
    assert stats.allocated == stats.reserved == VmSizes(50, 60, 70)
    gmm.release_pages("a", 1, account)
    assert gmm.allocated("a", account) == sizes[account] - 1


def test_the_balloon_grows_and_shrinks_by_what_it_is_told_and_takes_from_what_may_be_allocated() -> None:
    gmm = books()
    gmm.ballooned_pages("a", BalloonAction.INFLATE, 500)
    assert gmm.query_memory_stats("a").ballooned_pages == 1500
    with pytest.raises(GmmError, match="HIT_VM_ACCOUNT_LIMIT"):
        gmm.charge_pages("a", 501, Account.BASE)
    gmm.ballooned_pages("a", BalloonAction.DEFLATE, 1)
    assert gmm.query_memory_stats("a").ballooned_pages == 1499
    gmm.charge_pages("a", 501, Account.BASE)
    assert gmm.verify().query_statistics().ballooned_pages == 1499


def test_statistics_name_everything_that_is_booked() -> None:
    stats = books().query_statistics("a")
    assert (stats.max_pages, stats.reserved_pages, stats.allocated_pages) == (10_000, 13_060, 3000)
    assert (stats.over_committed_pages, stats.ballooned_pages, stats.vms) == (3060, 1000, 2)
    assert stats.vm is not None
    assert stats.vm.reserved.total == 5030
    assert stats.vm.allocated.base_pages == stats.vm.private_pages == 3000
    assert (stats.vm.ballooned_pages, stats.vm.max_ballooned_pages) == (1000, 5000)
    assert (stats.vm.policy, stats.vm.priority, stats.vm.may_allocate) == (OcPolicy.TBD, Priority.HIGH, True)


def test_memory_statistics_of_all_and_of_one() -> None:
    gmm = books()
    everything = gmm.query_hypervisor_memory_stats()
    # 3000 pages lie in six chunks of 512.
    assert (everything.allocated_pages, everything.free_pages, everything.shared_pages) == (3000, 72, 0)
    assert (everything.ballooned_pages, everything.max_pages) == (1000, 10_000)
    gmm.charge_pages("a", 3, Account.SHADOW)
    gmm.charge_pages("a", 4, Account.FIXED)
    assert gmm.query_memory_stats("a") == MemoryStats(3000, 2000, 5000, 1000)  # the base account alone
    gmm.update_reservation("a", 4000, 10, 20)
    assert gmm.query_memory_stats("a") == MemoryStats(3000, 1000, 4000, 1000)


def test_a_reset_punctures_the_balloon() -> None:
    gmm = books()
    gmm.ballooned_pages("a", BalloonAction.RESET, 0)
    gmm.charge_pages("a", 2000, Account.BASE)
    assert gmm.query_memory_stats("a").ballooned_pages == 0


def test_everything_that_a_vm_held_is_free_after_it_ends() -> None:
    gmm = books()
    gmm.charge_pages("a", 5, Account.FIXED)
    assert gmm.cleanup_vm("a") == 3005
    stats = gmm.verify().query_statistics()
    assert (stats.allocated_pages, stats.ballooned_pages, stats.chunks, stats.vms) == (0, 0, 0, 1)
    assert (stats.freed_chunks, stats.reserved_pages) == (6, 8030)
    gmm.initial_reservation("a", 10, 1, 1, OcPolicy.NO_OC, Priority.NORMAL)


def test_a_fact_is_booked_beyond_the_limit_and_shows_as_a_shortage() -> None:
    gmm = books(4000)
    gmm.adopt_pages("b", 2500, Account.BASE)
    assert gmm.shortage().missing_pages == 1500
    with pytest.raises(GmmError, match="0 are left"):
        gmm.charge_pages("a", 1, Account.BASE)
    gmm.release_pages("b", 1500, Account.BASE)
    assert gmm.shortage().missing_pages == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("reserve", "update", "allocate", "adopt", "free", "balloon", "cleanup")),
            st.sampled_from("abc"),
            st.integers(0, 3000),
            st.sampled_from(Account),
            st.sampled_from(BalloonAction),
        ),
        max_size=60,
    )
)
def test_totals_are_the_sum_of_the_vms_whatever_is_called(
    calls: list[tuple[str, str, int, Account, BalloonAction]],
) -> None:
    gmm = GlobalMemoryManager(5000)
    for call, vm, pages, account, action in calls:
        before = pickle.dumps(gmm)
        try:
            perform(gmm, call, vm, pages, account, action)
        except GmmError as error:
            if error.code is not Status.MEMORY_RESERVATION_DECLINED:  # from then on it may not allocate
                assert pickle.dumps(gmm) == before
        gmm.verify()


def perform(
    gmm: GlobalMemoryManager, call: str, vm: str, pages: int, account: Account, action: BalloonAction
) -> None:
    match call:
        case "reserve":
            gmm.initial_reservation(vm, pages, 5, 5, OcPolicy.TBD, Priority.NORMAL)
        case "update":
            gmm.update_reservation(vm, pages, 5, 5)
        case "allocate":
            gmm.charge_pages(vm, pages, account)
        case "adopt":
            gmm.adopt_pages(vm, pages, account)
        case "free":
            gmm.release_pages(vm, pages, account)
        case "balloon":
            gmm.ballooned_pages(vm, action, pages)
        case _:
            gmm.cleanup_vm(vm)
