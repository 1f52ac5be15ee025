"""A shortage: who is asked, in which order, and who may be interrupted when nobody can give."""

from hypothesis import given
from hypothesis import strategies as st

from dynmem.gmm.codes import Account, Priority, Status
from dynmem.gmm.shortage import Ask, Giver, interruptible, shortage_of

LOW, NORMAL, HIGH = Priority.LOW, Priority.NORMAL, Priority.HIGH
VMS = (
    Giver("high", HIGH, 3000, 1000),
    Giver("low", LOW, 900, 400),
    Giver("normal", NORMAL, 800, 500),
)


def asked(needed: int, *vms: Giver, free: int = 0) -> list[tuple[str, int]]:
    return [(ask.vm, ask.pages) for ask in shortage_of(needed, free, vms).asks]


def test_low_is_asked_to_its_maximum_first_normal_at_once_and_high_last() -> None:
    assert asked(300, *VMS) == [("low", 300)]
    assert asked(700, *VMS) == [("low", 500), ("normal", 200)]
    assert asked(900, *VMS) == [("low", 500), ("normal", 300), ("high", 100)]


def test_what_is_free_is_asked_of_nobody() -> None:
    shortage = shortage_of(300, 300, VMS)
    assert shortage.is_over
    assert shortage.status is Status.SUCCESS
    assert shortage.asks == ()
    assert asked(301, *VMS, free=300) == [("low", 1)]


def test_while_pages_are_on_their_way_nobody_is_asked_for_them_again() -> None:
    low = Giver("low", LOW, 900, 400, requested_pages=500)
    shortage = shortage_of(500, 0, (low, *VMS[2:]))
    assert shortage.status is Status.OVERCOMMITTED_TRY_AGAIN_IN_A_BIT
    assert shortage.asks == ()
    assert shortage.under_way_pages == 500
    assert asked(600, low, *VMS[2:]) == [("normal", 100)]


def test_a_vm_that_was_given_up_on_is_expected_to_give_nothing() -> None:
    low = Giver("low", LOW, 900, 400, requested_pages=500, is_stuck=True)
    assert asked(500, low, *VMS[2:]) == [("normal", 300)]
    shortage = shortage_of(500, 0, (low, *VMS[2:]))
    assert shortage.lacking_pages == 200
    assert shortage.status is Status.OUT_OF_MEMORY


def test_shadow_accounts_are_squeezed_before_any_guest_gives() -> None:
    vms = (
        Giver("high", HIGH, 3000, 1000, shadow_pages=50),
        Giver("low", LOW, 900, 400, shadow_pages=30, squeezing_pages=10),
    )
    assert shortage_of(85, 0, vms).asks == (  # ten are on their way
        Ask("low", Account.SHADOW, 20),
        Ask("high", Account.SHADOW, 50),
        Ask("low", Account.BASE, 5),
    )


def test_what_nobody_can_give_is_lacking() -> None:
    shortage = shortage_of(3000, 100, VMS)
    assert shortage.lacking_pages == 3000 - 100 - 2000 - 500 - 300
    assert shortage.status is Status.OUT_OF_MEMORY


def test_low_is_interrupted_before_normal_the_largest_first_and_high_never() -> None:
    vms = (*VMS, Giver("larger", LOW, 901, 400))
    assert interruptible(vms, HIGH) == ("larger", "low", "normal")
    assert interruptible(vms, NORMAL) == ("larger", "low")
    assert interruptible(vms, LOW) == ()
    assert interruptible((*vms, Giver("with shadow", LOW, 900, 400, 2)), NORMAL)[0] == "with shadow"


GIVERS = st.lists(
    st.builds(
        Giver,
        st.text("abc", max_size=3),
        st.sampled_from((LOW, NORMAL, HIGH)),
        st.integers(0, 1000),
        st.integers(0, 1000),
        st.integers(0, 100),
        st.integers(0, 300),
        st.integers(0, 50),
        st.booleans(),
    ),
    max_size=10,
    unique_by=lambda vm: vm.vm,
)


@given(GIVERS, st.integers(0, 5000), st.integers(0, 1000))
def test_every_missing_page_is_asked_for_on_its_way_or_lacking_and_nobody_gives_what_it_has_not(
    vms: list[Giver], needed: int, free: int
) -> None:
    shortage = shortage_of(needed, free, vms)
    by_name = {vm.vm: vm for vm in vms}
    given = sum(ask.pages for ask in shortage.asks)
    on_its_way = min(shortage.under_way_pages, shortage.missing_pages)
    assert given + on_its_way + shortage.lacking_pages == shortage.missing_pages
    for ask in shortage.asks:
        assert 0 < ask.pages <= by_name[ask.vm].can_give(ask.account)
        assert not by_name[ask.vm].is_stuck
    if shortage.lacking_pages:
        assert given == sum(vm.can_give(each) for vm in vms for each in (Account.SHADOW, Account.BASE))
