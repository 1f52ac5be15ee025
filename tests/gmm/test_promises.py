"""What the books promise, who is asked when that is more than there is, and who may not allocate."""

import pytest

from dynmem.gmm import Account, BalloonAction, GlobalMemoryManager, GmmError, OcPolicy, Priority, Status
from dynmem.gmm.overcommit import OvercommitRules
from dynmem.gmm.shortage import Ask

BASE, SHADOW = Account.BASE, Account.SHADOW
FULL, RATIO = OcPolicy.NO_OC, OcPolicy.TBD


def host(limit: int = 10_000, **vms: int) -> GlobalMemoryManager:
    """VMs of priorities by their names, each with so many base pages and a balloon that leaves it 100."""
    gmm = GlobalMemoryManager(limit)
    for name, pages in vms.items():
        gmm.initial_reservation(name, 9000, 50, 1, RATIO, Priority[name.upper()], least=100)
        gmm.charge_pages(name, pages, BASE)
    return gmm


def refused(gmm: GlobalMemoryManager, vm: str, pages: int, account: Account = BASE) -> tuple[Status, str]:
    with pytest.raises(GmmError) as caught:
        gmm.charge_pages(vm, pages, account)
    return caught.value.code, str(caught.value)


def test_what_is_guaranteed_to_one_vm_is_allocated_by_no_other() -> None:
    gmm = host(low=3000)
    gmm.initial_reservation("full", 5000, 1, 1, FULL, Priority.NORMAL)
    gmm.charge_pages("full", 1000, BASE)
    code, why = refused(gmm, "low", 10_000 - 3000 - 5002 + 1)
    assert code is Status.HIT_GLOBAL_LIMIT
    assert "1998 are left of 10000 beside 4002 that are kept for others" in why
    gmm.charge_pages("low", 1998, BASE)
    gmm.charge_pages("full", 4000, BASE)
    gmm.charge_pages("full", 1, SHADOW)
    gmm.verify()


def test_a_declined_reservation_carries_the_numbers_that_decided_it() -> None:
    gmm = host(low=3000)
    gmm.initial_reservation("full", 5000, 1, 1, FULL, Priority.NORMAL)
    with pytest.raises(GmmError) as declined:
        gmm.initial_reservation("more", 2000, 1, 1, FULL, Priority.NORMAL)
    assert declined.value.code is Status.MEMORY_RESERVATION_DECLINED
    numbers = declined.value.numbers
    assert (numbers["asked_pages"], numbers["backed_pages"]) == (2002, 10_000 - 5002 - 3000)
    assert (numbers["guaranteed_pages"], numbers["held_pages"]) == (5002, 3000)
    with pytest.raises(GmmError) as declined:
        gmm.update_reservation("full", 9000, 1, 1)
    assert declined.value.numbers["asked_pages"] == 9002
    with pytest.raises(GmmError) as other:
        gmm.charge_pages("low", 10_000, BASE)
    assert other.value.numbers == {}


def test_a_guarantee_ends_with_its_vm_and_moves_with_its_reservation() -> None:
    gmm = host(low=1)
    gmm.initial_reservation("full", 5000, 1, 1, FULL, Priority.NORMAL)
    gmm.update_reservation("full", 3000, 1, 1)
    assert gmm.shortage(6997).is_over
    assert not gmm.shortage(6998).is_over
    gmm.cleanup_vm("full")
    assert gmm.shortage(9999).is_over
    gmm.verify()


def test_a_shortage_is_answered_low_first_and_high_last_and_asked_for_once() -> None:
    gmm = host(high=4000, normal=3000, low=2000)
    shortage = gmm.shortage(1000 + 1900 + 2900 + 5)
    assert shortage.asks == (Ask("low", BASE, 1900), Ask("normal", BASE, 2900), Ask("high", BASE, 5))
    assert shortage.status is Status.OVERCOMMITTED_TRY_AGAIN_IN_A_BIT
    for ask in shortage.asks:
        gmm.request_pages(ask.vm, ask.pages, ask.account)
    again = gmm.shortage(1000 + 1900 + 2900 + 5)
    assert again.asks == ()
    assert again.under_way_pages == 1900 + 2900 + 5
    assert gmm.shortage(1000).status is Status.SUCCESS


def test_who_allocates_what_is_on_its_way_is_to_try_again_in_a_bit() -> None:
    gmm = host(high=4000, low=6000)
    assert refused(gmm, "high", 500)[0] is Status.HIT_GLOBAL_LIMIT
    gmm.request_pages("low", 500)
    code, why = refused(gmm, "high", 500)
    assert code is Status.OVERCOMMITTED_TRY_AGAIN_IN_A_BIT
    assert "500 are on their way" in why
    assert refused(gmm, "high", 501)[0] is Status.HIT_GLOBAL_LIMIT
    gmm.give_up("low")
    assert refused(gmm, "high", 500)[0] is Status.HIT_GLOBAL_LIMIT
    gmm.release_pages("low", 500, BASE)
    gmm.ballooned_pages("low", BalloonAction.INFLATE, 500)
    gmm.charge_pages("high", 500, BASE)


def test_what_a_guest_gives_counts_against_what_it_was_asked_for() -> None:
    gmm = host(low=6000)
    gmm.request_pages("low", 500)

    def asked() -> tuple[int, int, int]:
        vm = gmm.query_statistics("low").vm
        assert vm is not None
        return vm.req_ballooned_pages, vm.req_actually_ballooned_pages, vm.req_deflate_pages

    assert asked() == (500, 0, 0)
    gmm.ballooned_pages("low", BalloonAction.INFLATE, 200)
    assert asked() == (300, 200, 0)
    gmm.ballooned_pages("low", BalloonAction.INFLATE, 400)
    assert asked() == (0, 500, 0)  # what it gave unasked is no answer
    gmm.request_deflate("low", 90)
    gmm.ballooned_pages("low", BalloonAction.DEFLATE, 60)
    assert asked() == (0, 500, 30)
    gmm.request_pages("low", 10)
    assert asked() == (10, 0, 30)
    gmm.ballooned_pages("low", BalloonAction.RESET, 0)
    assert asked() == (0, 0, 0)


def test_no_balloon_takes_what_was_left_to_a_vm() -> None:
    gmm = host(low=6000)
    gmm.limit_balloon("low", 5500)
    (ask,) = gmm.shortage(10_000).asks
    assert ask.pages == 500
    assert gmm.shortage(10_000).status is Status.OUT_OF_MEMORY
    vm = gmm.query_statistics("low").vm
    assert vm is not None
    assert vm.max_ballooned_pages == 9000 - 5500
    gmm.verify()


def test_a_fully_backed_vm_is_asked_for_nothing() -> None:
    gmm = host(high=100)
    gmm.initial_reservation("full", 5000, 1, 1, FULL, Priority.LOW)
    gmm.charge_pages("full", 5000, BASE)
    assert gmm.shortage(9000).asks == ()


def test_a_shadow_account_is_squeezed_before_guests_give_and_takes_nothing_meanwhile() -> None:
    gmm = host(high=5000, low=4920)
    gmm.charge_pages("high", 40, SHADOW)
    gmm.charge_pages("low", 30, SHADOW)
    shortage = gmm.shortage(100)
    assert shortage.asks == (Ask("low", SHADOW, 30), Ask("high", SHADOW, 40), Ask("low", BASE, 20))
    gmm.request_pages("high", 40, SHADOW)
    assert refused(gmm, "high", 1, SHADOW)[0] is Status.OVERCOMMITTED_TRY_AGAIN_IN_A_BIT
    assert gmm.shortage(10 + 40).under_way_pages == 40
    gmm.release_pages("high", 30, SHADOW)
    assert gmm.shortage(100).under_way_pages == 10
    gmm.release_pages("high", 10, SHADOW)
    gmm.charge_pages("high", 1, SHADOW)


def test_a_vm_that_runs_already_is_taken_in_and_may_not_allocate_until_it_fits() -> None:
    gmm = host(high=100)
    gmm.rules = OvercommitRules(worst_case=True)
    gmm.limit_balloon("high", 9000)
    why = gmm.take_in("low", 2000, 1, 1, RATIO, Priority.LOW, least=1000)
    assert why.startswith("low needs 1002 pages with every balloon filled")
    gmm.adopt_pages("low", 1500, BASE)  # what it holds is a fact
    assert gmm.may_not_allocate_why("low") == why
    code, sentence = refused(gmm, "low", 1)
    assert code is Status.HIT_VM_ACCOUNT_LIMIT
    assert f"low may not allocate: {why}" in sentence
    gmm.update_reservation("low", 3000, 1, 1)  # no more than before in the worst case, and no reason to fit
    assert gmm.may_not_allocate_why("low")
    with pytest.raises(GmmError, match="MEMORY_RESERVATION_DECLINED"):
        gmm.initial_reservation("third", 1000, 1, 1, RATIO, Priority.LOW, least=1000)
    assert gmm.reconsider("low")
    gmm.cleanup_vm("high")
    assert gmm.reconsider("low") == ""
    gmm.charge_pages("low", 1, BASE)
    gmm.verify()


def test_a_vm_that_is_to_be_ended_is_told_why_it_may_not_allocate() -> None:
    gmm = host(low=100)
    gmm.forbid_allocation("low", "memory is out: it is to be saved")
    assert "low may not allocate: memory is out: it is to be saved" in refused(gmm, "low", 1)[1]
    gmm.release_pages("low", 1, BASE)
    gmm.forbid_allocation("low", "")
    gmm.charge_pages("low", 1, BASE)


def test_who_may_be_interrupted_is_read_off_the_books() -> None:
    gmm = host(high=4000, normal=3000, low=2000)
    assert gmm.interruptible(Priority.HIGH) == ("low", "normal")
    assert gmm.interruptible(Priority.NORMAL) == ("low",)


@pytest.mark.parametrize(
    ("account", "pages"), [(Account.FIXED, 1), (Account.INVALID, 1), (BASE, -1)], ids=str
)
def test_only_base_and_shadow_pages_can_be_asked_for(account: Account, pages: int) -> None:
    gmm = host(low=100)
    with pytest.raises(GmmError, match="INVALID_PARAMETER"):
        gmm.request_pages("low", pages, account)
