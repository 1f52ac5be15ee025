"""Negative controls: a safeguard is turned off alone, and something breaks that holds with it on."""

import pytest

from dynmem.manager.step.safeguards import Safeguards
from dynmem.sim.cast import character, constant
from dynmem.sim.guest import MIB_PAGES
from dynmem.sim.invariants import InvariantError
from dynmem.sim.world import World, draw_world

SEEDS = range(6)
SECONDS = 60


def broken(safeguards: Safeguards) -> list[str]:
    """What broke, in a few seeds."""
    found = []
    for seed in SEEDS:
        world = draw_world(seed, safeguards=safeguards)
        try:
            world.run(SECONDS)
        except InvariantError as error:
            found.append(str(error))
    return found


def test_with_all_safeguards_on_nothing_breaks() -> None:
    assert broken(Safeguards()) == []


@pytest.mark.parametrize(
    ("safeguards", "sentence"),
    [
        (Safeguards(shrink_first=False), "with the slush more than the budget"),
        (Safeguards(measured_free=False), "with the slush more than the budget"),
        (Safeguards(claims=False), "with the slush more than the budget"),
        (Safeguards(slush=False), "with the slush more than the budget"),
        (Safeguards(two_sweeps=False), "before two equal sweeps"),
    ],
    ids=["shrink_first", "measured_free", "claims", "slush", "two_sweeps"],
)
def test_without_this_safeguard_an_invariant_breaks(safeguards: Safeguards, sentence: str) -> None:
    found = broken(safeguards)
    assert any(sentence in each for each in found)


def pressed(safeguards: Safeguards) -> int:
    """Ticks in which a balloon took so much that its guest would begin to kill."""
    ticks = 0
    for seed in SEEDS:
        world = draw_world(seed, safeguards=safeguards)
        world.run(SECONDS)
        ticks += sum(guest.pressed for guest in world.guests.values())
    return ticks


def test_without_fresh_reports_and_without_a_cushion_guests_are_pressed() -> None:
    safe = pressed(Safeguards())
    assert pressed(Safeguards(fresh_demand=False)) > 10 * safe + 10
    assert pressed(Safeguards(guest_cushion=False)) > 5 * safe + 5


def stubborn_world(safeguards: Safeguards) -> World:
    """Two guests that give nothing beside one that needs more; all loads are constant."""
    world = draw_world(11, safeguards=safeguards, cast=(character("stubborn"),))
    for part in world.parts:
        part.curve = constant(40 * MIB_PAGES)
    world.run(90)
    return world


def test_without_floor_met_a_target_is_left_pulling_at_a_guest_for_ever() -> None:
    assert all(guest.target == guest.size for guest in stubborn_world(Safeguards()).guests.values())
    left = stubborn_world(Safeguards(floor_met=False)).guests.values()
    assert any(guest.target < guest.size for guest in left)


def test_constant_loads_of_obedient_guests_end_in_silence() -> None:
    for seed in SEEDS:
        world = draw_world(seed, cast=(character("normal"), character("growing")))
        for part in world.parts:
            part.curve = constant(part.config.maximum_bytes // 4096 * (20 + 7 * seed) // 100)
        world.run(60)
        commands = world.commands
        world.run(60)
        assert world.commands == commands
