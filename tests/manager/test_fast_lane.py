"""Looks between two sweeps: at whom, and what a step makes of them."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import msgspec
import pytest

from dynmem.manager import fast_lane
from dynmem.manager.fast_lane import FastLane
from dynmem.manager.step import Manager
from dynmem.manager.step.attention import TIGHT_BYTES
from dynmem.manager.step.facts import (
    RUNNING,
    Demand,
    Facts,
    HostFacts,
    ManagerSettings,
    VmConfig,
    VmFacts,
    between_sweeps,
)
from dynmem.manager.step.results import StepResult
from dynmem.manager.sweep.connection import VmConnection
from dynmem.policy import Plan
from dynmem.units import GIB, MIB, NS_PER_S, PAGE_SIZE

HOST = HostFacts(64 * GIB, 64 * GIB)
SETTINGS = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce")
NAMES = ("web", "db", "batch")


def vm(name: str, used: int, size: int, *, age_ns: int = 1) -> VmFacts:
    demand = Demand(used * MIB, (size - used) * MIB, "used", age_ns, reserve_bytes=64 * MIB)
    return VmFacts(
        name=name,
        incarnation=f"{name}.1",
        run_state=RUNNING,
        device="virtio-balloon",
        boot_bytes=512 * MIB,
        actual_bytes=size * MIB,
        resident_bytes=(used + 20) * MIB,
        resident_source="st_blocks",
        demand=demand,
    )


def result(*, moving: tuple[str, ...] = (), tight: tuple[str, ...] = ()) -> StepResult:
    plan = Plan((), 0, 0, "")
    return StepResult(plan, (), (), waiting=False, moving=frozenset(moving), tight=frozenset(tight))


class Seen:
    """A connection of which only what the fast lane asks is there."""

    def __init__(self, facts: VmFacts) -> None:
        self.facts: VmFacts | None = facts
        self.incarnation = facts.incarnation
        self.held: int | None = facts.resident_bytes
        self.busy = False
        self.glances = self.watched = 0

    def resident_now(self) -> int | None:
        return self.held

    def was_busy(self) -> bool:
        self.watched += 1
        return self.busy

    async def glance(self, now_ns: int, *, ask: bool = False) -> VmFacts | None:
        assert ask
        assert now_ns > 0
        self.glances += 1
        return self.facts


class Rig:
    """A lane after a sweep of three VMs."""

    def __init__(self, **marks: tuple[str, ...]) -> None:
        self.lane = FastLane(lambda: HOST)
        self.seen = {name: Seen(vm(name, 100, 200)) for name in NAMES}
        facts = Facts(1, HOST, tuple(vm(name, 100, 200) for name in NAMES))
        self.lane.stepped(facts, result(**cast("dict[str, Any]", marks)))

    def look(self) -> Facts | None:
        connections = cast("Mapping[str, VmConnection]", self.seen)
        return asyncio.run(self.lane.look(connections))

    def watched_in_one_look(self) -> set[str]:
        """Return whose process was looked at in one look."""
        for each in self.seen.values():
            each.watched = 0
        self.look()
        return {name for name, each in self.seen.items() if each.watched}

    @property
    def glances(self) -> dict[str, int]:
        return {name: each.glances for name, each in self.seen.items() if each.glances}


def test_nobody_is_watched_where_nobody_is_tight_or_moves() -> None:
    rig = Rig()
    rig.seen["web"].busy, rig.seen["web"].held = True, 512 * MIB
    assert not rig.lane.is_wanted
    assert (rig.look(), rig.glances) == (None, {})


def test_of_tight_guests_those_are_asked_that_do_something_or_touch_memory() -> None:
    rig = Rig(tight=NAMES)
    assert rig.lane.is_wanted
    assert rig.look() is None
    rig.seen["web"].busy = True
    held = rig.seen["db"].held
    assert held is not None
    rig.seen["db"].held = held + 9 * MIB
    facts = rig.look()
    assert rig.glances == {"web": 1, "db": 1}
    assert facts is not None
    assert facts.looked == frozenset({"web", "db"})


def test_of_very_many_tight_guests_each_has_its_turn_and_a_look_costs_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fast_lane, "WATCHED_MAX", 2)
    rig = Rig(tight=NAMES)
    looks = [rig.watched_in_one_look() for _ in range(3)]
    assert [len(each) for each in looks] == [2, 2, 2]
    assert set.union(*looks[:2]) == set(NAMES)
    rig = Rig(tight=("web", "db"), moving=("batch",))
    assert all("batch" in rig.watched_in_one_look() for _ in range(3))


def test_those_that_move_are_looked_at_each_time() -> None:
    rig = Rig(moving=("batch",))
    assert rig.look() is not None
    assert rig.look() is not None
    assert rig.glances == {"batch": 2}


def test_a_vm_that_cannot_be_looked_at_is_left_to_the_next_sweep() -> None:
    rig = Rig(moving=("batch", "gone"))
    rig.seen["batch"].facts = None
    assert rig.look() is None
    rig = Rig(moving=("batch",))
    facts = rig.seen["batch"].facts
    assert facts is not None
    rig.seen["batch"].facts = msgspec.structs.replace(facts, run_state="paused")
    assert rig.look() is None


def test_a_vm_that_grows_and_whose_monitor_is_late_is_known_by_what_the_host_measures() -> None:
    rig = Rig(tight=NAMES)
    web = rig.seen["web"]
    assert web.held is not None
    web.facts, web.held = None, web.held + 40 * MIB
    facts = rig.look()
    assert facts is not None
    assert (facts.looked, facts.measured) == (frozenset(), frozenset({"web"}))
    assert [each.guest_bytes for each in facts.vms if each.name == "web"] == [web.held]
    assert (facts.is_new("web"), facts.may_grow("web"), facts.may_grow("db")) == (False, True, False)


def test_the_hosts_figure_stands_in_for_no_other_life_and_no_vm_that_is_known_to_be_paused() -> None:
    rig = Rig(tight=NAMES)
    for each in rig.seen.values():
        assert each.held is not None
        each.held += 40 * MIB
    web, db, batch = (rig.seen[name] for name in NAMES)
    web.facts, web.incarnation = None, "web.2"
    db.facts = msgspec.structs.replace(db.facts, run_state="paused") if db.facts else None
    batch.facts, batch.held = None, None
    assert rig.look() is None


def test_what_was_not_looked_at_is_as_the_sweep_saw_it_and_older() -> None:
    before = Facts(NS_PER_S, HOST, (vm("web", 100, 200), vm("db", 100, 200)))
    after = between_sweeps(before, 3 * NS_PER_S, HOST, {"web": vm("web", 150, 200)})
    web, db = after.vms
    assert (web.demand and web.demand.committed_bytes) == 150 * MIB
    assert (db.demand and db.demand.age_ns) == 2 * NS_PER_S + 1
    assert (after.is_new("web"), after.is_new("db")) == (True, False)


def settled() -> tuple[Manager, Facts, dict[str, int]]:
    """Return a manager after some sweeps, the last of them, and the sizes that the VMs have by then. MiB."""
    manager = Manager(SETTINGS, [VmConfig(name, 64 * MIB, 512 * MIB) for name in NAMES])
    sizes = dict.fromkeys(NAMES, 320)
    facts = Facts(0, HOST, ())
    for second in range(1, 8):
        facts = Facts(second * NS_PER_S, HOST, tuple(vm(name, 100, sizes[name]) for name in NAMES))
        for command in manager.step(facts).commands:
            manager.was_sent(command.vm)
            sizes[command.vm] = command.target_bytes // MIB
    return manager, facts, sizes


def grown(*, looks: tuple[str, ...]) -> tuple[Manager, StepResult]:
    """web uses up all it has between two sweeps; these VMs are looked at."""
    manager, facts, sizes = settled()
    now = {name: vm(name, 100, sizes[name]) for name in NAMES}
    now["web"] = vm("web", sizes["web"] - 10, sizes["web"])
    seen = {name: now[name] for name in looks}
    return manager, manager.step(between_sweeps(facts, facts.now_ns + NS_PER_S // 5, HOST, seen))


def test_a_step_between_two_sweeps_serves_the_guest_that_grows_and_changes_nobody_it_has_not_seen() -> None:
    _, step = grown(looks=("web",))
    assert {command.vm for command in step.commands} == {"web"}
    assert step.commands[0].measurement
    assert step.moving >= {"web", "db", "batch"}  # those that could give are to be looked at next


def test_donors_that_were_looked_at_are_asked_in_the_same_step() -> None:
    _, step = grown(looks=NAMES)
    assert {command.vm for command in step.commands} == set(NAMES)


def test_a_guest_with_much_available_is_not_tight() -> None:
    manager = Manager(SETTINGS, [VmConfig(name, 64 * MIB, 512 * MIB) for name in ("web", "db")])
    step = result()
    for second in range(1, 4):
        vms = (vm("web", 100, 100 + TIGHT_BYTES // MIB), vm("db", 100, 200))
        step = manager.step(Facts(second * NS_PER_S, HOST, vms))
    assert step.tight == {"db"}


def test_in_observe_mode_nobody_is_watched() -> None:
    settings = msgspec.structs.replace(SETTINGS, mode="observe")
    manager = Manager(settings, [VmConfig("web", 64 * MIB, 512 * MIB)])
    step = result()
    for second in range(1, 4):
        step = manager.step(Facts(second * NS_PER_S, HOST, (vm("web", 190, 200),)))
    assert (step.moving, step.tight) == (frozenset(), frozenset())


def test_a_step_by_the_hosts_figure_alone_grows_a_guest_and_shrinks_nobody() -> None:
    manager, facts, sizes = settled()
    booked = {name: manager.claims.pages(name) for name in NAMES}
    held = {"web": (sizes["web"] - 10) * MIB, "db": 20 * MIB, "batch": 20 * MIB}
    step = manager.step(between_sweeps(facts, facts.now_ns + NS_PER_S // 5, HOST, {}, held))
    assert {command.vm for command in step.commands} == {"web"}
    assert manager.claims.pages("web") > booked["web"]
    assert all(manager.claims.pages(name) == booked[name] for name in ("db", "batch"))


def test_a_target_that_was_refused_late_is_taken_back_unless_another_was_sent_since() -> None:
    manager, facts, sizes = settled()
    look = {"web": vm("web", sizes["web"] - 10, sizes["web"])}
    (command,) = manager.step(between_sweeps(facts, facts.now_ns + NS_PER_S // 5, HOST, look)).commands
    before = manager.target_before("web")
    assert before is not None
    manager.refused_late("web", command.target_bytes + MIB, before)  # another one by now
    assert target_of(manager, "web") == command.target_bytes
    manager.refused_late("web", command.target_bytes, before)
    assert target_of(manager, "web") == before * PAGE_SIZE


def target_of(manager: Manager, name: str) -> int | None:
    (found,) = [each for each in manager.status().vms if each.name == name]
    return found.assigned_bytes


def test_the_books_of_a_vm_that_was_not_looked_at_are_not_lowered_by_what_was_seen_before() -> None:
    manager = Manager(SETTINGS, [VmConfig(name, 64 * MIB, 512 * MIB) for name in NAMES])
    facts = Facts(0, HOST, ())
    for second in range(1, 4):
        facts = Facts(second * NS_PER_S, HOST, tuple(vm(name, 100, 200) for name in NAMES))
        manager.step(facts)
    booked = manager.claims.pages("web")
    look = {"web": vm("web", 190, 200)}
    facts = between_sweeps(facts, facts.now_ns + NS_PER_S // 5, HOST, look)
    assert "web" in {command.vm for command in manager.step(facts).commands}
    granted = manager.claims.pages("web")
    assert granted > booked
    manager.not_sent(["web"])  # or so it seemed: its monitor did not say what became of it
    for more in (2, 3):
        seen = {"db": vm("db", 100, 200)}
        manager.step(between_sweeps(facts, facts.now_ns + more * NS_PER_S // 5, HOST, seen))
        assert manager.claims.pages("web") == granted
    manager.step(Facts(facts.now_ns + NS_PER_S, HOST, tuple(vm(name, 100, 200) for name in NAMES)))
    assert manager.claims.pages("web") < granted
