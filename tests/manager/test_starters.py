"""What a VM that has just started may take is missing to the others, so it is asked early what it needs."""

from random import Random

import pytest
from tests.rigs.obedient import ObedientHost

from dynmem.manager.step import manager as manager_module
from dynmem.manager.step.attention import STARTS_NS
from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.manager.step.record import Record
from dynmem.manager.step.results import StepResult
from dynmem.manager.step.safeguards import EQUAL_SWEEPS, REPORT_PATIENCE_NS
from dynmem.sim.guest import MIB_PAGES, TICKS_PER_S, Character, Curve
from dynmem.sim.world import Part, World
from dynmem.units import GIB, MIB, NS_PER_S

HOST = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce")


def with_a_starter() -> tuple[ObedientHost, StepResult]:
    """Return a host on which a VM that does not report yet was just found, and that step."""
    configs = [VmConfig(name, 64 * MIB, 512 * MIB) for name in ("web", "new")]
    host = ObedientHost(HOST, configs, {"web": 100 * MIB})
    assert not host.sweep(8).waiting
    host.demands["new"] = 100 * MIB
    host.sizes["new"] = 512 * MIB
    host.overrides["new"] = {"demand": None}
    return host, host.sweep()


def test_a_vm_that_has_just_come_is_looked_at_twice_more_in_quick_succession() -> None:
    host, result = with_a_starter()
    seen = [result.waiting, *(host.sweep().waiting for _ in range(4))]
    assert seen == [True] * EQUAL_SWEEPS + [False] * (5 - EQUAL_SWEEPS)


def test_one_whose_size_never_settles_keeps_nobody_awake_for_long() -> None:
    host, _ = with_a_starter()
    for number in range(REPORT_PATIENCE_NS // NS_PER_S + 1):
        host.overrides["new"]["actual_bytes"] = (400 + number) * MIB
        result = host.sweep()
    assert not result.waiting


def test_a_starter_is_glanced_at_until_it_reports() -> None:
    host, result = with_a_starter()
    assert "new" in result.moving
    assert "new" in host.sweep(5).moving
    host.overrides["new"] = {}
    host.sweep(2)
    host.demands["new"] += 1
    assert "new" not in host.sweep(3).moving


def test_one_that_never_reports_is_glanced_at_for_a_while_only() -> None:
    host, _ = with_a_starter()
    assert "new" not in host.sweep(STARTS_NS // NS_PER_S).moving


def bursts_beside_a_restart() -> int:
    """Return how many programs are killed that grow by 256 MiB/s while another guest restarts."""
    found = 0
    for seed in range(10):
        world = _world(seed)
        world.run(20)
        guest = world.parts[3].guest
        assert guest is not None
        guest.reset()
        world.run(10)
        found += sum(each.kills for each in world.guests.values())
    return found


def _world(seed: int) -> World:
    character = Character(
        "bursting",
        answers=True,
        greedy=True,
        first_report_ticks=3,
        give_per_tick=100 * MIB_PAGES,
        grow_per_tick=256 * MIB_PAGES // TICKS_PER_S,
        reserve_pages=64 * MIB_PAGES,
    )
    random = Random(seed)
    begin = 20 * TICKS_PER_S + random.randrange(TICKS_PER_S)
    parts = [
        Part(
            VmConfig(f"vm{index}", 128 * MIB, 512 * MIB),
            character,
            _curve(begin if index == 0 else None),
            Random(10 * seed + index),
        )
        for index in range(4)
    ]
    settings = ManagerSettings(1000 * MIB, 64 * MIB, NS_PER_S, "enforce")
    return World(parts, settings, random=random, admit=False)


def _curve(begin: int | None) -> Curve:
    return lambda now: (350 if begin is not None and now >= begin else 100) * MIB_PAGES


def test_fewer_guests_are_killed_beside_one_that_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = bursts_beside_a_restart()

    def nobody(records: object, now_ns: int) -> frozenset[str]:
        return frozenset()

    def never(record: Record, now_ns: int) -> bool:
        return False

    monkeypatch.setattr(manager_module, "starting", nobody)
    monkeypatch.setattr(manager_module, "is_unsettled", never)
    assert 2 * asked <= bursts_beside_a_restart()
