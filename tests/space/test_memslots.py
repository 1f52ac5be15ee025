"""Memory slots: who has how many left, and how many a device may decide to use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.space.devices import Consumer

from dynmem.space.memslots import Memslots, SlotUse, decide_limit
from dynmem.space.region import MemoryDeviceError
from dynmem.units import GIB


def registry(*consumers: Consumer) -> Memslots:
    memslots = Memslots()
    for consumer in consumers:
        memslots.add(consumer)
    return memslots


def test_without_a_consumer_slots_are_unlimited() -> None:
    memslots = Memslots()
    assert memslots.slots_max is memslots.slots_free is None
    memslots.check_free(1_000_000)


def test_the_poorest_consumer_counts() -> None:
    many, few = Consumer(1000, taken=950), Consumer(100, taken=20)
    memslots = registry(many)
    memslots.add(few, is_vhost=True)
    assert (memslots.slots_max, memslots.slots_free) == (100, 50)
    assert memslots.consumers == (many, few)
    memslots.remove(many)
    assert (memslots.slots_max, memslots.slots_free) == (100, 80)
    memslots.remove(few)
    assert not memslots.consumers
    with pytest.raises(ValueError, match="not in list"):
        memslots.remove(few)


def test_too_few_slots_are_refused_in_qemus_words_for_each_kind_of_consumer() -> None:
    hypervisor, backend = Consumer(10), Consumer(10, taken=5)
    memslots = registry(hypervisor)
    memslots.add(backend, is_vhost=True)
    memslots.check_free(5)
    with pytest.raises(
        MemoryDeviceError, match=r"^a used vhost backend has not enough free memory slots left$"
    ):
        memslots.check_free(6)
    with pytest.raises(MemoryDeviceError, match=r"^hypervisor has not enough free memory slots left$"):
        memslots.check_free(11)


def test_what_is_required_and_not_used_is_reserved() -> None:
    assert SlotUse(3, 10).reserved == 7
    assert SlotUse(12, 10).reserved == 0


@pytest.mark.parametrize(
    ("slots_max", "taken", "use", "size", "used", "limit"),
    [
        (509, 1, SlotUse(0, 0), 64, 0, 256),  # all that memory devices may have at all
        (508, 1, SlotUse(0, 0), 64, 0, 1),  # fewer slots than every hypervisor has
        (509, 0, SlotUse(0, 0), 16, 0, 64),  # a quarter of the space, a quarter of the slots
        (509, 0, SlotUse(0, 0), 1, 0, 4),
        (509, 0, SlotUse(56, 56), 32, 32, 200),  # all that is left of the space
        (509, 0, SlotUse(0, 56), 8, 32, 50),
        (509, 0, SlotUse(0, 255), 63, 1, 1),
        (509, 0, SlotUse(0, 256), 63, 1, 1),  # the soft limit is used up
        (509, 0, SlotUse(0, 300), 63, 1, 1),
        (509, 409, SlotUse(0, 0), 64, 0, 100),  # others have taken more than was thought
        (509, 409, SlotUse(0, 60), 32, 32, 40),  # and what is reserved is not theirs nor ours
        (509, 409, SlotUse(0, 100), 32, 32, 1),
        (509, 409, SlotUse(0, 120), 32, 32, 1),
        (32764, 1, SlotUse(0, 0), 63, 0, 252),
    ],
)
def test_a_device_may_decide_on_its_share_of_the_soft_limit(
    slots_max: int, taken: int, use: SlotUse, size: int, used: int, limit: int
) -> None:
    memslots = registry(Consumer(slots_max, taken))
    assert decide_limit(memslots, use, size=size * GIB, space=64 * GIB, space_used=used * GIB) == limit


@given(
    slots_max=st.integers(0, 1000),
    taken=st.integers(0, 1000),
    used=st.integers(0, 300),
    required=st.integers(0, 300),
    size=st.integers(1, 100),
    space=st.integers(0, 100),
    share=st.integers(0, 100),
)
def test_a_decision_never_takes_what_is_not_there(
    slots_max: int, taken: int, used: int, required: int, size: int, space: int, share: int
) -> None:
    taken = min(taken, slots_max)
    use = SlotUse(used, required)
    space_used = space * share // 100
    limit = decide_limit(
        registry(Consumer(slots_max, taken)), use, size=size, space=space, space_used=space_used
    )
    assert limit >= 1
    if limit > 1:
        assert slots_max >= 509
        assert required + limit <= 256
        assert limit + use.reserved <= slots_max - taken
