"""Loads that only tremble: memory stays where it is, and whoever lacks demand is served all the same."""

from random import Random

from tests.rigs.obedient import ObedientHost

from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.manager.step.safeguards import Safeguards
from dynmem.sim.cast import character
from dynmem.sim.guest import MIB_PAGES, Curve
from dynmem.sim.world import World, draw_world
from dynmem.units import GIB, MIB, NS_PER_S

TREMBLE = 8 * MIB_PAGES
SEEDS = (13, 17, 18, 20, 22)  # headroom or buffers are scarce
SETTLING, WATCHED = 40, 60


def trembling(level: int, random: Random) -> Curve:
    offsets = [random.randrange(-TREMBLE, TREMBLE + 1) for _ in range(997)]

    def curve(now: int) -> int:
        return level + offsets[now // 5 % len(offsets)]

    return curve


def steady_world(seed: int, safeguards: Safeguards) -> World:
    world = draw_world(seed, safeguards=safeguards, cast=tuple(map(character, ("normal", "growing", "slow"))))
    for index, part in enumerate(world.parts):
        share = 15 + (seed * 7 + 39 + index * 11) % 40
        part.curve = trembling(part.config.maximum_bytes // 4096 * share // 100, Random(31 * seed + index))
    return world


def watched(safeguards: Safeguards) -> tuple[int, int]:
    """Commands, and pages of demand that were not met (times ticks), when all have settled."""
    commands = unmet = 0
    for seed in SEEDS:
        world = steady_world(seed, safeguards)
        world.run(SETTLING)
        sent, missed = world.commands, world.unmet_page_ticks
        world.run(WATCHED)
        commands += world.commands - sent
        unmet += world.unmet_page_ticks - missed
    return commands, unmet


def test_loads_that_tremble_move_next_to_nothing_and_miss_no_more_than_if_everything_moved() -> None:
    commands, unmet = watched(Safeguards())
    restless, unmet_then = watched(Safeguards(dead_band=False))
    assert commands <= 60  # 294 when any part of a buffer and any band of headroom was moved
    assert restless > 10 * commands
    assert unmet <= unmet_then + unmet_then // 20


def tight_host(demand: int, size: int, other: int) -> ObedientHost:
    """web has `size`, db the rest of 1 GiB; `demand` and `other` is what they need."""
    settings = ManagerSettings(1 * GIB, 0, NS_PER_S, "enforce")
    configs = [VmConfig("web", 64 * MIB, 1 * GIB), VmConfig("db", 64 * MIB, 1 * GIB)]
    host = ObedientHost(settings, configs, {"web": demand, "db": other})
    host.sizes = {"web": size, "db": 1 * GIB - size}
    return host


def test_demand_that_is_not_met_is_met_at_once_however_little_is_missing() -> None:
    host = tight_host(400 * MIB, 398 * MIB, 100 * MIB)
    host.sweep(4)
    assert host.sizes["web"] >= 400 * MIB


def test_a_small_part_of_a_buffer_moves_nothing_and_a_larger_one_does() -> None:
    host = tight_host(400 * MIB, 470 * MIB, 462 * MIB)  # 10 of 80 MiB are missing
    host.sweep(6)
    assert host.sizes["web"] == 470 * MIB
    host.demands["web"] = 430 * MIB  # 46 of 86 MiB
    host.sweep(4)
    assert 490 * MIB <= host.sizes["web"] <= 500 * MIB  # both keep the same of their buffers
