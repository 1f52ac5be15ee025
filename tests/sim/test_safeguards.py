"""Negative controls: a safeguard is turned off alone, and something breaks that holds with it on."""

from random import Random

import pytest

from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.manager.step.safeguards import Safeguards
from dynmem.sim.cast import character, constant
from dynmem.sim.guest import MIB_PAGES, TICKS_PER_S, Curve
from dynmem.sim.invariants import InvariantError
from dynmem.sim.world import Part, World, draw_world
from dynmem.units import MIB, NS_PER_S

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


def hosting(budget: int, safeguards: Safeguards, guests: dict[str, Curve]) -> World:
    """Guests of the cast with these loads, started without reservations."""
    parts = [
        Part(VmConfig(f"vm{index}", 64 * MIB, 768 * MIB), character(name.rstrip("123")), load, Random(index))
        for index, (name, load) in enumerate(guests.items())
    ]
    settings = ManagerSettings(budget * MIB, 64 * MIB, NS_PER_S, "enforce")
    return World(parts, settings, random=Random(1), safeguards=safeguards, admit=False)


IDLE = constant(60 * MIB_PAGES)


def unmet(world: World, first: int, then: int) -> int:
    """Return the demand that is not met in the second part of a run."""
    world.run(first)
    before = world.unmet_page_ticks
    world.run(then)
    return world.unmet_page_ticks - before


def test_without_deadlines_a_guest_waits_for_ever_beside_one_that_gives_next_to_nothing() -> None:
    def waited(safeguards: Safeguards) -> int:
        def growing(now: int) -> int:
            return (60 if now < 300 else 580) * MIB_PAGES

        guests = {"normal1": growing, "trickling": IDLE, "normal2": IDLE}
        return unmet(hosting(1800, safeguards, guests), 60, 30)

    assert waited(Safeguards(ready=False)) == 0
    assert waited(Safeguards(ready=False, deadlines=False)) > 0


def test_without_sparing_a_vm_that_starts_takes_what_running_vms_need() -> None:
    def lacked(safeguards: Safeguards) -> int:
        def swaying(now: int) -> int:
            return (150 + now // 100 % 2 * 60) * MIB_PAGES

        world = hosting(900, safeguards, {"normal1": swaying, "normal2": swaying, "waking": IDLE})
        world.parts[2].away_until = 30 * TICKS_PER_S  # then it counts as 768 MiB until it reports
        return unmet(world, 30, 15)

    assert 2 * lacked(Safeguards()) < lacked(Safeguards(sparing=False))


def test_without_small_offers_a_guest_that_was_slow_waits_for_the_end_of_its_pause() -> None:
    def waited(safeguards: Safeguards) -> int:
        """Ticks until a guest whose driver slept grows again."""

        def growing(now: int) -> int:
            return (60 if now < 200 else 500) * MIB_PAGES

        world = hosting(1000, safeguards, {"normal1": growing, "normal2": IDLE})
        world.run(18)
        sleeper = world.parts[0]
        guest = sleeper.guest
        assert guest is not None
        guest.dozing, sleeper.away_until = True, 30 * TICKS_PER_S
        size = guest.size
        world.run(12)
        ticks = 0
        while guest.size < size + 200 * MIB_PAGES and ticks < 400:
            world.run(1)
            ticks += TICKS_PER_S
        return ticks

    assert waited(Safeguards()) <= 2 * TICKS_PER_S
    assert waited(Safeguards(small_offers=False)) > 4 * TICKS_PER_S
