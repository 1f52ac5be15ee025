"""Simulated guests with the documented habits of Windows under the manager."""

import msgspec

from dynmem.manager.step.safeguards import Safeguards
from dynmem.sim.cast import character
from dynmem.sim.guest import TICKS_PER_S, Guest
from dynmem.sim.world import World, draw_world

WINDOWS = character("windows")
SETTLED = WINDOWS.settles_ticks // TICKS_PER_S + 10  # the VMs of a world start within some seconds
SEEDS = range(4)


def world_of(seed: int, *others: str) -> World:
    return draw_world(seed, cast=(WINDOWS, *map(character, others)))


def resident(world: World) -> int:
    return sum(guest.resident for guest in world.guests.values())


def test_a_guest_that_settles_is_left_as_it_is_and_gives_afterwards() -> None:
    for seed in SEEDS:
        world = world_of(seed)
        world.run(40)
        guests = list(world.guests.values())
        assert guests
        assert all(guest.size == guest.boot == guest.resident for guest in guests)
        before = resident(world)
        world.run(SETTLED)
        assert any(guest.size < guest.boot for guest in world.guests.values())
        assert min(before, resident(world)) <= world.settings.budget_bytes // 4096


def test_a_target_that_it_cannot_reach_gets_nothing_and_the_next_one_it_can_reach_is_given_whole() -> None:
    part = world_of(0).parts[0]
    guest = Guest(part.config, WINDOWS, lambda _: 0, "one", part.random)
    for now in range(WINDOWS.settles_ticks + 1):
        guest.tick(now)
    guest.target = guest.size - guest.free - 1
    guest.tick(0)
    assert guest.size == guest.boot
    guest.target += 1
    for now in range(50):
        guest.tick(now)
    assert guest.size == guest.target


def test_windows_guests_beside_others_break_no_invariant_and_are_moved() -> None:
    for seed in SEEDS:
        world = world_of(seed, "growing", "normal", "mortal")
        world.run(120)
        assert world.commands > 0, f"seed {seed} never sent anything"


def pressed(safeguards: Safeguards) -> int:
    """Ticks in which guests gave though they had next to nothing free, and keep no reserve themselves."""
    exact = msgspec.structs.replace(WINDOWS, report_percent=100)
    ticks = 0
    for seed in range(10):
        world = draw_world(seed, cast=(exact,), safeguards=safeguards)
        world.run(120)
        ticks += sum(guest.pressed for guest in world.guests.values())
    return ticks


def test_the_managers_cushion_stands_in_for_the_reserve_that_such_a_guest_does_not_keep() -> None:
    safe = pressed(Safeguards())
    assert safe <= 2  # of about 60,000
    assert pressed(Safeguards(guest_cushion=False)) > 10 * safe + 10
