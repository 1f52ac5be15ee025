"""Over-commitment: what fully backed means, how far a ratio goes, and the worst case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.gmm.codes import OcPolicy
from dynmem.gmm.overcommit import Backing, Commitments, OvercommitRules

FULL, RATIO = OcPolicy.NO_OC, OcPolicy.TBD


def host(*vms: Backing) -> Commitments:
    commitments = Commitments()
    for vm in vms:
        commitments.add(vm)
    return commitments


def refusal(
    commitments: Commitments,
    asks: Backing,
    rules: OvercommitRules,
    before: Backing | None = None,
) -> str:
    return commitments.admission("new", asks, before, 10_000, rules).refusal


def test_what_a_fully_backed_vm_reserved_is_kept_from_the_next_one_before_it_is_used() -> None:
    commitments = host(Backing(FULL, 6000, 6000, 0))
    assert refusal(commitments, Backing(FULL, 4000, 4000), OvercommitRules()) == ""
    sentence = refusal(commitments, Backing(FULL, 4001, 4001), OvercommitRules())
    assert sentence == (
        "new reserves 4001 pages, 4000 can be backed of 10000 beside a slush of 0,"
        " 6000 guaranteed to others and 0 held"
    )


def test_what_others_hold_backs_no_guarantee() -> None:
    commitments = host(Backing(RATIO, 9000, 100, 3000))
    assert refusal(commitments, Backing(FULL, 7000, 7000), OvercommitRules()) == ""
    assert "7000 can be backed" in refusal(commitments, Backing(FULL, 7001, 7001), OvercommitRules())


def test_what_others_cannot_give_backs_no_guarantee_even_before_they_hold_it() -> None:
    commitments = host(Backing(RATIO, 9000, 4000, 0))
    assert refusal(commitments, Backing(FULL, 6000, 6000), OvercommitRules()) == ""
    assert "4000 that balloons cannot take" in refusal(
        commitments, Backing(FULL, 6001, 6001), OvercommitRules()
    )


def test_the_slush_is_promised_to_nobody() -> None:
    rules = OvercommitRules(100, 500)
    for policy in (FULL, RATIO):
        assert refusal(host(), Backing(policy, 9500, 100), rules) == ""
        assert "a slush of 500" in refusal(host(), Backing(policy, 9501, 100), rules)
    assert host().limit(RATIO, 10_000, rules) == 9500


def test_reservations_by_ratio_exceed_what_there_is_up_to_the_ratio() -> None:
    rules = OvercommitRules(150)
    commitments = host(Backing(FULL, 4000, 4000), Backing(RATIO, 5000, 100))
    assert refusal(commitments, Backing(RATIO, 4000, 100), rules) == ""  # 150 % of 6000 is 9000
    assert "4000 are left at 150 %" in refusal(commitments, Backing(RATIO, 4001, 100), rules)


def test_a_reservation_is_declined_if_every_balloon_filled_is_no_help() -> None:
    rules = OvercommitRules(1000)
    commitments = host(Backing(FULL, 4000, 4000), Backing(RATIO, 20_000, 5000))
    assert refusal(commitments, Backing(RATIO, 20_000, 1000), rules) == ""
    sentence = refusal(commitments, Backing(RATIO, 20_000, 1001), rules)
    assert sentence == (
        "new needs 1001 pages with every balloon filled and every guarantee claimed, 1000 are left then of"
        " 10000 beside a slush of 0, 4000 guaranteed to others and 5000 that balloons cannot take"
    )


def test_without_a_ratio_only_guarantees_and_the_worst_case_are_checked_and_that_only_if_it_is_wanted() -> (
    None
):
    commitments = host(Backing(RATIO, 90_000, 8000, 9000))
    assert refusal(commitments, Backing(RATIO, 90_000, 20_000), OvercommitRules()) == ""
    assert refusal(commitments, Backing(RATIO, 90_000, 2000), OvercommitRules(worst_case=True)) == ""
    assert refusal(commitments, Backing(RATIO, 90_000, 2001), OvercommitRules(worst_case=True))
    assert refusal(commitments, Backing(FULL, 1001, 1001), OvercommitRules())


def test_whoever_asks_for_no_more_than_before_is_not_declined_whatever_became_of_the_host() -> None:
    for policy, rules in ((FULL, OvercommitRules()), (RATIO, OvercommitRules(100))):
        before = Backing(policy, 60_000, 20_000, 100)
        assert refusal(host(before), before, rules, before) == ""
        assert refusal(host(before), Backing(policy, 50_000, 20_000, 100), rules, before) == ""
        assert refusal(host(before), Backing(policy, 60_001, 20_000, 100), rules, before)
    before, rules = Backing(RATIO, 60_000, 20_000, 100), OvercommitRules(worst_case=True)
    assert refusal(host(before), Backing(RATIO, 90_000, 20_000, 100), rules, before) == ""
    assert refusal(host(before), Backing(RATIO, 60_000, 20_001, 100), rules, before)


def test_an_update_is_checked_as_if_the_vm_were_not_there_yet() -> None:
    before = Backing(FULL, 6000, 6000, 1000)
    assert refusal(host(before), Backing(FULL, 10_000, 10_000, 1000), OvercommitRules(), before) == ""
    assert refusal(host(before), Backing(FULL, 10_001, 10_001, 1000), OvercommitRules(), before)


def test_a_vm_by_ratio_allocates_nothing_that_is_guaranteed_and_a_backed_one_always_gets_its_own() -> None:
    backed, other = Backing(FULL, 6000, 6000, 1000), Backing(RATIO, 9000, 0, 3000)
    commitments = host(backed, other)
    assert commitments.limit(RATIO, 10_000, OvercommitRules()) == 4000 + 1000
    assert commitments.limit(FULL, 10_000, OvercommitRules()) == 10_000


BACKINGS = st.builds(
    lambda policy, reserved, part, held: Backing(
        policy, reserved, reserved * part // 100, reserved * held // 100
    ),
    st.sampled_from((FULL, RATIO)),
    st.integers(1, 4000),
    st.integers(0, 100),
    st.integers(0, 100),
)


@given(st.lists(BACKINGS, max_size=12), st.integers(100, 300), st.integers(0, 500))
def test_whatever_was_admitted_survives_the_worst_case(asked: list[Backing], ratio: int, slush: int) -> None:
    """Every guarantee is claimed and every balloon is filled: that is what an admission stands for."""
    rules, commitments, admitted = OvercommitRules(ratio, slush), Commitments(), []
    for vm in asked:
        if not refusal(commitments, vm, rules):
            commitments.add(vm)
            admitted.append(vm)
    worst = sum(vm.reserved_pages if vm.policy is FULL else vm.least_pages for vm in admitted)
    assert worst + slush <= 10_000
    for vm in admitted:
        commitments.remove(vm)
    assert [getattr(commitments, each) for each in Commitments.__slots__] == [0] * 5


@pytest.mark.parametrize("policy", [FULL, RATIO])
def test_the_numbers_of_an_admission_can_be_read_one_by_one(policy: OcPolicy) -> None:
    commitments = host(Backing(FULL, 2000, 2000, 10), Backing(RATIO, 3000, 400, 500))
    made = commitments.admission("new", Backing(policy, 700, 60), None, 10_000, OvercommitRules(200, 100))
    assert (made.asked_pages, made.least_pages, made.max_pages, made.slush_pages) == (700, 60, 10_000, 100)
    assert (made.guaranteed_pages, made.held_pages) == (2000, 500)
    assert (made.others_least_pages, made.others_reserved_pages) == (400, 3000)
    assert (made.room_pages, made.backed_pages, made.worst_pages, made.ratio_pages) == (
        7900,
        7400,
        7500,
        12_800,
    )
