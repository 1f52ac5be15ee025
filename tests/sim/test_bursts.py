"""Greedy loads that burst: what a guest does not get in time, its kernel takes by killing its programs."""

from random import Random

import pytest

from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.manager.step.safeguards import Safeguards
from dynmem.sim.guest import KERNEL_PAGES, MIB_PAGES, TICKS_PER_S, Character, Curve
from dynmem.sim.world import Part, World
from dynmem.units import MIB, NS_PER_S

GUESTS = 4
MAXIMUM = 512
BUDGET = 1000
SLUSH = 64
BASE = 100  # what each load uses when it does not burst
RESERVE = 64 * MIB_PAGES  # as for virtio-balloon
SECONDS = 100


def bursting(starts: list[tuple[int, int, int]]) -> Curve:
    """BASE, and more from a second to another one: (from, to, MiB more)."""

    def curve(now: int) -> int:
        second = now // TICKS_PER_S
        more = max((mib for start, end, mib in starts if start <= second < end), default=0)
        return (BASE + more) * MIB_PAGES

    return curve


def burst_world(
    seed: int, rate_mib: int, safeguards: Safeguards, budget: int = BUDGET, give: int = 1000
) -> World:
    """Seven bursts of 200 to 300 MiB in turn, one after the other, while the others hold idle memory."""
    random = Random(seed)
    starts: dict[int, list[tuple[int, int, int]]] = {index: [] for index in range(GUESTS)}
    for number in range(7):
        begin = 20 + 11 * number + random.randrange(3)
        more = random.randrange(200, 301)
        starts[random.randrange(GUESTS)].append((begin, begin + 6, more))
    character = Character(
        "bursting",
        answers=True,
        greedy=True,
        give_per_tick=give * MIB_PAGES // TICKS_PER_S,
        grow_per_tick=rate_mib * MIB_PAGES // TICKS_PER_S,
        reserve_pages=RESERVE,
    )
    parts = [
        Part(
            VmConfig(f"vm{index}", 128 * MIB, MAXIMUM * MIB),
            character,
            bursting(starts[index]),
            Random(index),
        )
        for index in range(GUESTS)
    ]
    settings = ManagerSettings(budget * MIB, SLUSH * MIB, NS_PER_S, "enforce")
    return World(parts, settings, random=Random(seed), safeguards=safeguards, admit=False)


def kills(
    rate_mib: int,
    safeguards: Safeguards,
    *,
    watches: bool = True,
    late: bool = False,
    serves_late: bool = True,
    budget: int = BUDGET,
    give: int = 1000,
) -> int:
    """Return how many programs are killed in three runs."""
    found = 0
    for seed in range(3):
        world = burst_world(seed, rate_mib, safeguards, budget, give)
        world.watches, world.has_late_monitors, world.serves_late = watches, late, serves_late
        world.run(SECONDS)
        found += sum(guest.kills for guest in world.guests.values())
    return found


def test_the_use_of_all_guests_fits_at_every_moment() -> None:
    most = GUESTS * (BASE + KERNEL_PAGES // MIB_PAGES) + 300
    assert most < BUDGET - SLUSH


@pytest.mark.parametrize("rate_mib", [64, 128, 256])
def test_no_guest_is_killed_while_what_all_use_fits(rate_mib: int) -> None:
    assert kills(rate_mib, Safeguards()) == 0


@pytest.mark.parametrize(("rate_mib", "give"), [(64, 20), (128, 20), (256, 50)])
def test_no_guest_is_killed_beside_neighbours_that_give_slowly(rate_mib: int, give: int) -> None:
    assert kills(rate_mib, Safeguards(), budget=1300, give=give) == 0


def test_without_an_eye_on_growth_between_reports_guests_are_killed() -> None:
    assert kills(128, Safeguards(growth=False)) > 0
    assert kills(128, Safeguards(), watches=False) > 0


def test_hardly_a_guest_is_killed_where_every_monitor_is_too_late_between_two_sweeps() -> None:
    """One that grows into memory which it had touched before is not seen to grow by the host."""
    assert kills(64, Safeguards(), late=True, budget=1300) == 0
    served = kills(128, Safeguards(), late=True, budget=1300)
    assert served * 3 < kills(128, Safeguards(), late=True, serves_late=False, budget=1300)


def test_without_memory_that_is_kept_ready_guests_are_killed_beside_neighbours_that_give_slowly() -> None:
    assert kills(128, Safeguards(ready=False), budget=1300, give=20) > 0


def test_a_burst_takes_a_few_dozen_commands_and_then_there_is_silence() -> None:
    world = burst_world(0, 128, Safeguards())
    world.run(SECONDS)
    assert world.commands < 7 * 40
    sent = world.commands
    world.run(30)
    assert world.commands == sent
