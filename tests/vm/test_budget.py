"""A turn ends after so many bytes or so much time, whatever the guest has sent."""

from dynmem.limits import VM_BYTES_PER_TURN, VM_TURN_NS
from dynmem.vm.budget import Budget


class Clock:
    def __init__(self) -> None:
        self.now = 5

    def __call__(self) -> int:
        return self.now


def test_a_turn_ends_when_its_time_is_over_and_the_next_one_has_all_of_it_again() -> None:
    clock = Clock()
    budget = Budget(clock)
    for _ in range(2):
        budget.begin()
        clock.now += VM_TURN_NS - 1
        assert not budget.is_spent
        clock.now += 1
        assert budget.is_spent


def test_a_turn_ends_when_its_bytes_are_spent_and_the_next_one_has_all_of_them_again() -> None:
    budget = Budget(Clock())
    for _ in range(2):
        budget.begin()
        budget.spend(VM_BYTES_PER_TURN - 1)
        assert not budget.is_spent
        budget.spend(1)
        assert budget.is_spent
