"""A hundred simulated hosts with guests that behave and guests that don't; every step is checked."""

import pytest

from dynmem.sim.cast import CAST
from dynmem.sim.world import draw_world

SEEDS = 100
SECONDS = 45


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_no_invariant_breaks_in_any_seed(first: int) -> None:
    for seed in range(first, first + 20):
        world = draw_world(seed)
        world.run(SECONDS)
        assert world.commands > 0, f"seed {seed} never sent anything"


def test_the_same_seed_writes_the_same_log_byte_for_byte() -> None:
    logs = []
    for _ in range(2):
        world = draw_world(7)
        world.run(SECONDS)
        logs.append("\n".join(world.log))
    assert logs[0] == logs[1]
    assert draw_world(8).settings != draw_world(7).settings


def test_the_whole_cast_plays_in_a_hundred_seeds() -> None:
    playing = {part.character.name for seed in range(SEEDS) for part in draw_world(seed).parts}
    assert playing == {character.name for character in CAST}


@pytest.mark.parametrize("seed", range(5))
def test_a_manager_that_is_killed_again_and_again_breaks_nothing(seed: int) -> None:
    world = draw_world(seed)
    for _ in range(12):
        world.run(7)
        world.restart_manager()
    world.run(30)
    assert world.commands > 0


def test_without_reservations_claims_pass_the_budget_and_grants_wait_until_they_fit() -> None:
    for seed in range(5):
        world = draw_world(seed, admit=False)
        world.run(60)
        assert world.commands > 0
