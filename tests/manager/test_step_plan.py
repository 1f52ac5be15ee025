"""One step after another on a host whose guests obey: adoption, shrinking first, measured free, settling."""

import pickle
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rigs.obedient import CALM, ObedientHost

from dynmem.manager.step import Manager
from dynmem.manager.step.facts import Demand, ManagerSettings, VmConfig
from dynmem.manager.step.results import StepResult
from dynmem.manager.step.safeguards import Safeguards
from dynmem.policy import Priority
from dynmem.units import GIB, MIB, NS_PER_S, PAGE_SIZE

HOST = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce")


def config(name: str, priority: Priority = "normal", maximum: int = 512, weight: int = 5000) -> VmConfig:
    return VmConfig(name, 64 * MIB, maximum * MIB, weight=weight, priority=priority)


def host(demands: dict[str, int], **more: object) -> ObedientHost:
    priorities: dict[str, Priority] = {"web": "high", "batch": "low"}
    configs = [config(name, priorities.get(name, "normal")) for name in demands]
    sizes = {name: size * MIB for name, size in demands.items()}
    changed = msgspec.structs.replace(HOST, **more)
    return ObedientHost(changed, configs, sizes)


def targets(result: StepResult) -> dict[str, int]:
    return {command.vm: command.target_bytes // MIB for command in result.commands}


def test_nothing_is_written_before_two_equal_sweeps() -> None:
    rack = host({"web": 100, "db": 100, "batch": 100})
    assert rack.sweep().commands == ()
    rack.sizes["db"] -= 50 * MIB  # somebody else moves it
    result = rack.sweep()
    assert "db" not in targets(result)
    assert set(targets(result)) == {"web", "batch"}


def test_a_restarted_manager_looks_twice_before_it_writes() -> None:
    rack = host({"web": 100, "db": 300, "batch": 100})
    rack.sweep(5)
    restarted = ObedientHost(rack.settings, list(rack.configs.values()), rack.demands)
    restarted.sizes = dict(rack.sizes)
    restarted.demands["db"] = 480 * MIB
    assert restarted.sweep().commands == ()
    assert "db" in targets(restarted.sweep()) | targets(restarted.sweep())


def test_a_grant_in_flight_at_a_crash_is_claimed_after_the_restart() -> None:
    rack = host({"web": 100, "db": 100})
    rack.manager.restore("db", "db.1", 500 * MIB)
    rack.sizes["db"] = 200 * MIB
    rack.sweep(2)
    assert rack.manager.claims.pages("db") * PAGE_SIZE >= 500 * MIB


@pytest.mark.parametrize("killed_after", range(12))
def test_a_kill_at_any_step_ends_where_no_kill_would_have(killed_after: int) -> None:
    def sizes(*, kill: bool) -> dict[str, int]:
        rack = host({"web": 200, "db": 200, "batch": 200})
        for turn in range(24):
            if turn == 6:
                rack.demands["web"] = 420 * MIB
            if kill and turn == killed_after:
                rack.manager = Manager(rack.settings, list(rack.configs.values()), CALM)
                for name, size in rack.sizes.items():
                    rack.manager.restore(name, f"{name}.1", size)
            rack.sweep()
        return rack.sizes

    assert sizes(kill=True) == sizes(kill=False)


def test_shrinks_come_first_and_the_grant_waits_until_the_memory_is_measured_free() -> None:
    rack = host({"web": 200, "db": 200, "batch": 200})
    rack.sweep(8)
    rack.demands["web"] = 420 * MIB
    first = rack.sweep()
    assert first.waiting
    assert {name for name, size in targets(first).items() if size * MIB < 300 * MIB} == {"db", "batch"}
    assert first.commands[-1].target_bytes <= rack.sizes["web"]
    second = rack.sweep()
    assert targets(second) == {"web": 504}
    assert not second.waiting


def test_no_grant_comes_from_memory_that_stays_resident() -> None:
    rack = host({"web": 200, "db": 200, "batch": 200})
    rack.sweep(8)
    rack.demands["web"] = 420 * MIB
    before = dict(rack.sizes)
    for name in ("db", "batch"):
        rack.overrides[name] = {"resident_bytes": before[name]}
    rack.sweep()
    assert targets(rack.sweep()).get("web", 0) * MIB <= before["web"] + 64 * MIB
    rack.overrides.clear()
    assert targets(rack.sweep()) == {"web": 504}


def test_every_grant_names_the_term_that_decided() -> None:
    rack = host({"web": 200, "db": 200, "batch": 200})
    rack.sweep(8)
    rack.demands["web"] = 420 * MIB
    (grant,) = rack.sweep(2).commands
    assert "measured free by the budget: 1 GiB − slush 64 MiB" in grant.measurement
    assert grant.reason.startswith("grown to 504 MiB: demand 420 MiB + 20 % = 504 MiB")


def test_the_hosts_own_free_memory_limits_grants_too() -> None:
    rack = host({"web": 100, "db": 100}, budget_bytes=64 * GIB)
    rack.sizes = {"web": 128 * MIB, "db": 128 * MIB}
    rack.available_bytes = 84 * MIB + 64 * MIB
    rack.sweep(4)
    rack.demands["web"] = 400 * MIB
    rack.overrides["web"] = {"resident_bytes": 128 * MIB}
    result = rack.sweep()
    assert targets(result)["web"] <= 128 + 84
    assert "measured free by the host: available 148 MiB" in result.commands[-1].measurement


def test_a_shrink_says_who_needs_it_and_who_gives_first() -> None:
    rack = host({"web": 100, "batch": 430}, budget_bytes=700 * MIB)
    rack.sweep(6)
    rack.demands["web"] = 400 * MIB
    (shrink, *_) = rack.sweep().commands
    assert shrink.vm == "batch"
    assert re.match(r"shrunk to \d+ MiB: web \(priority high\) needs .* MiB more; ", shrink.reason)
    assert "low gives first" in shrink.reason


def test_only_what_the_guest_has_available_is_asked_of_it() -> None:
    rack = host({"web": 100, "batch": 430}, budget_bytes=700 * MIB)
    rack.sweep(6)
    size = rack.sizes["batch"]
    rack.demands["web"] = 480 * MIB
    rack.overrides["batch"] = {"demand": Demand(430 * MIB, 30 * MIB, "used", 1)}
    result = rack.sweep()
    assert targets(result)["batch"] * MIB >= size - 30 * MIB + 14 * MIB
    assert "its guest has only 30 MiB available" in result.commands[0].reason


def test_what_one_guest_cannot_give_is_asked_of_others_in_the_same_step() -> None:
    def given(safeguards: Safeguards) -> int:
        """Return how much of what a step asks for the guests have, in MiB, when web needs 250 MiB more."""
        rack = host({"web": 100, "db": 100, "batch": 150})
        rack.manager = Manager(rack.settings, tuple(rack.configs.values()), safeguards)
        rack.sweep(6)
        spare = {"db": rack.sizes["db"] - 100 * MIB, "batch": 20 * MIB}
        before = dict(rack.sizes)
        rack.demands["web"] = 350 * MIB
        rack.overrides["batch"] = {"demand": Demand(150 * MIB, spare["batch"], "used", 1)}
        asked = {name: mib * MIB for name, mib in targets(rack.sweep()).items() if name in spare}
        return sum(min(before[name] - size, spare[name]) for name, size in asked.items()) // MIB

    assert given(CALM) > 1.3 * given(msgspec.structs.replace(CALM, guest_cushion=False)) > 0


@settings(max_examples=60)
@given(st.data())
def test_constant_demand_settles_within_five_periods_and_then_nothing_is_sent(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    names = [f"vm{index}" for index in range(count)]
    priority: st.SearchStrategy[Priority] = st.sampled_from(("low", "normal", "high"))
    configs = [
        config(name, data.draw(priority), data.draw(st.integers(80, 700)), data.draw(st.integers(1, 10_000)))
        for name in names
    ]
    budget = data.draw(st.integers(64 * count + 64, 500 * count + 200)) * MIB
    demand = st.integers(10 * MIB, 600 * MIB)
    changed = msgspec.structs.replace(HOST, budget_bytes=budget)
    rack = ObedientHost(changed, configs, {name: data.draw(demand) for name in names})
    rack.sweep(2 + 5)
    assert rack.sweep().commands == ()
    rack.demands = {name: data.draw(demand) for name in names}
    rack.sweep(5)
    for _ in range(3):
        assert rack.sweep().commands == ()


def test_small_differences_are_left_alone_but_a_short_vm_is_served() -> None:
    rack = host({"web": 100, "db": 100}, budget_bytes=700 * MIB)
    rack.sweep(8)
    rack.demands["web"] += 3 * MIB
    assert rack.sweep().commands == ()
    rack.demands["web"] = rack.sizes["web"] - 1 * MIB
    assert "web" in targets(rack.sweep(2)) or rack.sizes["web"] > rack.demands["web"]
    assert rack.sizes["web"] >= rack.demands["web"] * 6 // 5 // MIB * MIB


def test_observe_mode_decides_the_same_and_sends_nothing() -> None:
    rack = host({"web": 300, "db": 300, "batch": 300}, mode="observe")
    first = rack.sweep()
    assert first.commands == ()
    assert not first.waiting
    assert first.changes
    for line in first.changes:
        assert re.search(r": would (shrink|grow) to .* \(not sent: observe\)$", line)
    assert rack.sweep().changes == ()
    assert {vm.change.sent for vm in rack.manager.status().vms if vm.change} == {False}
    assert rack.manager.claims.pages("web") * PAGE_SIZE == 512 * MIB


def test_a_manager_and_all_it_remembers_can_be_pickled() -> None:
    rack = host({"web": 300, "db": 300, "batch": 300})
    rack.sweep(3)
    rack.manager.reserve("new", 100 * MIB, rack.now_ns, rack.now_ns + NS_PER_S)
    copy = pickle.loads(pickle.dumps(rack.manager))
    assert copy.step(rack.facts()) == rack.manager.step(rack.facts())
    assert copy.status() == rack.manager.status()


def test_without_the_dead_band_a_settled_host_is_not_silent() -> None:
    def commands(safeguards: Safeguards) -> int:
        rack = host({"web": 160, "db": 160, "batch": 160}, budget_bytes=700 * MIB)
        rack.manager = Manager(rack.settings, list(rack.configs.values()), safeguards)
        rack.sweep(8)
        sent = 0
        for turn in range(20):
            change = 3 * MIB if turn % 2 else -3 * MIB
            rack.demands["web"] += change
            rack.demands["db"] -= change
            sent += len(rack.sweep().commands)
        return sent

    assert commands(CALM) == 0
    assert commands(msgspec.structs.replace(CALM, dead_band=False)) > 0


def test_a_command_that_never_left_is_decided_again() -> None:
    rack = host({"web": 200, "db": 200, "batch": 200})
    rack.sweep(8)
    rack.demands["web"] = 420 * MIB
    rack.sweep()
    before = dict(rack.sizes)
    lost = targets(rack.sweep())
    rack.sizes = before
    rack.manager.not_sent(lost)
    web = rack.manager.status().vm("web")
    assert web.change is None
    assert web.last_change is None or web.last_change.target_bytes != lost["web"] * MIB
    assert targets(rack.sweep()) == lost == {"web": 504}


def test_what_observe_mode_planned_is_not_called_sent_when_the_mode_changes() -> None:
    rack = host({"web": 300, "db": 300, "batch": 300}, mode="observe")
    rack.sweep(3)
    rack.manager.configure(
        msgspec.structs.replace(rack.settings, mode="enforce"), list(rack.configs.values())
    )
    before = rack.manager.status()
    assert {vm.last_change.sent for vm in before.vms if vm.last_change} == {False}
    rack.sweep(3)
    after = rack.manager.status()
    assert {vm.last_change.sent for vm in after.vms if vm.last_change} == {True}


def test_a_vm_that_somebody_else_has_grown_is_shrunk_again_and_called_no_floor() -> None:
    rack = host({"web": 300, "db": 60, "batch": 300})
    rack.sweep(20)
    small = rack.sizes["db"]
    rack.sizes["db"] = rack.configs["db"].maximum_bytes  # another client's balloon command
    lines = [line for _ in range(20) for line in rack.sweep().changes]
    assert [line for line in lines if "another program" in line]
    assert not [line for line in lines if "floor met" in line]
    assert rack.sizes["db"] < small + 64 * MIB
    assert min(rack.sizes["web"], rack.sizes["batch"]) >= 300 * MIB


def trickling(safeguards: Safeguards, sweeps: int) -> tuple[ObedientHost, list[str]]:
    """web needs more; lazy, asked first, gives 1 MiB in two sweeps; db has plenty."""
    configs = [config(name, maximum=2048) for name in ("web", "lazy", "db")]
    demands = {"web": 400 * MIB, "lazy": 100 * MIB, "db": 100 * MIB}
    changed = msgspec.structs.replace(HOST, budget_bytes=2112 * MIB)
    rack = ObedientHost(changed, configs, demands, safeguards=safeguards)
    rack.sizes = {"web": 500 * MIB, "lazy": 1100 * MIB, "db": 448 * MIB}
    rack.sweep(4)
    size = rack.sizes["lazy"]
    rack.demands["web"] = 600 * MIB
    lines: list[str] = []
    for turn in range(sweeps):
        rack.sizes["lazy"] = size - turn // 2 * MIB
        lines += rack.sweep().changes
    return rack, lines


def test_what_is_owed_and_late_is_room_for_nobody_and_others_are_asked_instead() -> None:
    rack, lines = trickling(CALM, 12)
    assert rack.sizes["web"] >= 720 * MIB
    assert rack.sizes["db"] < 300 * MIB
    assert sum(line.startswith("lazy: late: ") for line in lines) == 1
    assert "late: it owes 2" in rack.manager.status().vm("lazy").reason


def test_without_deadlines_a_vm_waits_for_one_that_gives_next_to_nothing() -> None:
    rack, _ = trickling(msgspec.structs.replace(CALM, deadlines=False), 60)
    assert rack.sizes["web"] < 620 * MIB
    assert rack.sizes["db"] == 448 * MIB


def test_a_sweep_does_not_hurry_for_what_is_short_by_a_few_pages_or_late() -> None:
    rack, _ = trickling(CALM, 12)
    rack.demands["web"] = 1500 * MIB  # more than there is
    rack.sweep(8)
    rack.sizes["lazy"] = rack.sizes["db"] + 4096
    rack.overrides["db"] = {"actual_bytes": rack.sizes["db"] + 3 * PAGE_SIZE}
    assert not rack.sweep().waiting
