"""Who may be moved: starts, resets, silence, pauses, stale reports, guests that stop, memory that stays."""

from itertools import pairwise
from typing import Any

import pytest
from tests.rigs.obedient import ObedientHost

from dynmem.manager.step.facts import Demand, Facts, ManagerSettings, Pinned, VmConfig
from dynmem.manager.step.results import StepResult
from dynmem.policy import Priority
from dynmem.units import GIB, MIB, NS_PER_S, PAGE_SIZE

HOST = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce")


def config(name: str, priority: Priority = "normal", minimum: int = 64) -> VmConfig:
    return VmConfig(name, minimum * MIB, 512 * MIB, priority=priority)


def settled(demands: dict[str, int], sweeps: int = 8) -> ObedientHost:
    rack = ObedientHost(HOST, [config(name) for name in demands], {n: d * MIB for n, d in demands.items()})
    rack.sweep(sweeps)
    return rack


def targets(result: StepResult) -> dict[str, int]:
    return {command.vm: command.target_bytes // MIB for command in result.commands}


def claim(rack: ObedientHost, name: str) -> int:
    return rack.manager.claims.pages(name) * PAGE_SIZE // MIB


def reason_of(rack: ObedientHost, name: str) -> str:
    return rack.manager.status().vm(name).reason


def test_a_vm_counts_its_full_size_until_its_first_fresh_report() -> None:
    rack = settled({"web": 100, "db": 100})
    rack.configs["new"] = config("new")
    rack = ObedientHost(HOST, [config("web"), config("new")], {"web": 100 * MIB})
    rack.sweep(4)
    rack.demands["new"] = 50 * MIB
    rack.sizes["new"] = 200 * MIB
    rack.overrides["new"] = {"demand": None}
    rack.sweep(3)
    assert claim(rack, "new") == 512
    assert "counted at its full size until its first report" in reason_of(rack, "new")
    rack.overrides.clear()
    rack.sweep()
    assert claim(rack, "new") < 512


def test_a_reset_books_the_full_size_until_a_report_that_is_younger() -> None:
    rack = settled({"web": 100, "db": 300, "batch": 300})
    small = claim(rack, "web")
    assert small < 512
    old = Demand(100 * MIB, 100 * MIB, "committed", NS_PER_S)
    rack.overrides["web"] = {"resets": 1, "demand": old, "actual_bytes": rack.sizes["web"]}
    result = rack.sweep()
    assert claim(rack, "web") == 512
    assert any("web: reset" in line for line in result.changes)
    rack.overrides["web"] = {"resets": 1}
    rack.sweep()
    assert claim(rack, "web") < 512


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"run_state": "silent", "actual_bytes": None, "demand": None}, "does not reply"),
        ({"run_state": "paused"}, "its state is paused"),
        ({"run_state": "finish-migrate"}, "its state is finish-migrate"),
        ({"lock": "Proxmox has locked it (backup)"}, "frozen: Proxmox has locked it (backup)"),
        ({"pinned": Pinned("VFIO: a device", leaves_virtio_mem=True)}, "never ballooned: VFIO: a device"),
        (
            {"device": None, "problem": "it has no balloon device: add one"},
            "frozen: it has no balloon device: add",
        ),
        ({"actual_bytes": None}, "does not report its size"),
        ({"demand": None}, "no fresh report"),
        ({"demand": Demand(1, 1, "old", 60 * NS_PER_S)}, "no fresh report"),
        ({"resident_bytes": None}, "cannot be measured"),
    ],
)
def test_a_vm_that_can_not_be_judged_is_frozen_and_keeps_its_claim(
    facts: dict[str, Any], reason: str
) -> None:
    rack = settled({"web": 100, "db": 300, "batch": 300})
    size = claim(rack, "batch")
    rack.overrides["batch"] = facts
    rack.demands["web"] = 500 * MIB
    for _ in range(6):
        assert "batch" not in targets(rack.sweep())
    assert claim(rack, "batch") == size
    assert reason in reason_of(rack, "batch")
    assert targets(rack.sweep()) == {}


def test_a_gone_process_frees_its_books_and_a_new_life_begins_anew() -> None:
    rack = settled({"web": 100, "db": 300})
    del rack.demands["web"]
    result = rack.sweep()
    assert any("web: gone" in line for line in result.changes)
    assert claim(rack, "web") == 0
    rack.demands["web"] = 50 * MIB
    rack.overrides["web"] = {"incarnation": "web.2", "actual_bytes": 512 * MIB}
    rack.sweep()
    assert claim(rack, "web") == 512


def test_a_vm_is_not_shrunk_on_a_report_older_than_its_size() -> None:
    rack = settled({"web": 100, "db": 300, "batch": 200})
    rack.demands["web"] = 500 * MIB
    rack.overrides["batch"] = {
        "actual_bytes": rack.sizes["batch"] - 4 * MIB,
        "demand": Demand(10 * MIB, 200 * MIB, "committed", NS_PER_S // 2),
    }
    assert "batch" not in targets(rack.sweep())


def test_a_guest_at_its_floor_is_asked_once_and_its_memory_given_to_nobody() -> None:
    rack = settled({"web": 100, "db": 100, "batch": 100})
    size = rack.sizes["batch"]
    rack.demands["web"] = 500 * MIB
    rack.demands["db"] = 500 * MIB
    lines: list[str] = []
    asked = []
    for _ in range(60):
        rack.overrides["batch"] = {"actual_bytes": size, "resident_bytes": size}
        result = rack.sweep()
        lines += [line for line in result.changes if "floor met" in line]
        asked += [command.target_bytes for command in result.commands if command.vm == "batch"]
        total = sum(max(rack.sizes[name], rack.manager.claims.pages(name) * PAGE_SIZE) for name in rack.sizes)
        assert total <= HOST.budget_bytes - HOST.slush_bytes
    # Asked, brought back, and again after ten and twenty more seconds.
    assert len(asked) <= 8
    assert asked[-1] == size
    assert f"gives no more at {size // MIB} MiB" in lines[0]
    assert "floor met" in reason_of(rack, "batch")


def test_a_guest_that_stopped_is_asked_again_when_its_demand_falls() -> None:
    rack = settled({"web": 100, "db": 400})
    size = rack.sizes["db"]
    rack.demands["web"] = 500 * MIB
    for _ in range(6):
        rack.overrides["db"] = {"actual_bytes": size, "resident_bytes": size}
        rack.sweep()
    rack.demands["db"] = 200 * MIB
    result = rack.sweep()
    assert targets(result)["db"] < size // MIB


def test_a_guest_that_takes_no_more_is_not_offered_more_each_period() -> None:
    rack = settled({"web": 100, "db": 400})
    rack.sizes["web"] = size = 120 * MIB
    rack.demands["web"] = 300 * MIB
    sent = []
    for _ in range(40):
        rack.overrides["web"] = {"actual_bytes": size, "resident_bytes": size}
        sent += [each for each in rack.sweep().commands if each.vm == "web"]
    assert len(sent) <= 8
    assert any("takes no more at 120 MiB" in each.reason for each in sent)


@pytest.mark.parametrize("mib", [0, 20, 600])
def test_a_guest_that_stops_outside_its_bounds_is_never_sent_a_target_outside_them(mib: int) -> None:
    rack = settled({"web": 100, "db": 400})
    sent = [mib]
    for turn in range(60):
        rack.demands["db"] = (400 if turn // 20 % 2 else 500) * MIB
        rack.overrides["web"] = {"actual_bytes": mib * MIB, "resident_bytes": mib * MIB}
        sent += [each.target_bytes // MIB for each in rack.sweep().commands if each.vm == "web"]
    assert len(sent) > 1
    assert all(min(64, before) <= target <= max(512, before) for before, target in pairwise(sent))
    assert all(64 <= target <= 512 for target in sent[-1:])


def test_what_a_guest_keeps_above_its_maximum_is_never_asked_for() -> None:
    rack = settled({"web": 100, "db": 400})
    rack.demands["db"] = 500 * MIB
    for _ in range(8):  # it is seen to stop far above what it may have
        rack.overrides["web"] = {"actual_bytes": 600 * MIB, "resident_bytes": 300 * MIB}
        rack.sweep()
    rack.demands["web"] = 900 * MIB
    sent = []
    for mib in (300, 300, 200, 200, 100, 100, 100):
        rack.overrides["web"] = {"actual_bytes": mib * MIB, "resident_bytes": mib * MIB}
        sent += [each.target_bytes // MIB for each in rack.sweep().commands if each.vm == "web"]
    assert all(target <= 512 for target in sent)


def test_resident_memory_that_stays_above_what_was_assigned_marks_the_vm() -> None:
    rack = settled({"web": 100, "db": 100, "batch": 100})
    kept = rack.sizes["batch"] + 100 * MIB
    rack.overrides["batch"] = {"resident_bytes": kept}
    rack.sweep(8)
    assert "100 MiB more is resident than was assigned to it" in reason_of(rack, "batch")
    rack.demands["web"] = rack.demands["db"] = 500 * MIB
    for _ in range(6):
        assert "batch" not in targets(rack.sweep())
    others = rack.sizes["web"] + rack.sizes["db"]
    assert others + kept <= HOST.budget_bytes - HOST.slush_bytes


def test_an_emergency_is_said_and_stops_every_grant() -> None:
    rack = settled({"web": 100, "db": 100, "batch": 100})
    rack.overrides["batch"] = {"resident_bytes": 900 * MIB}
    rack.demands["web"] = 500 * MIB
    result = rack.sweep()
    assert any(line.startswith("emergency: the VMs occupy") for line in result.changes)
    assert all(command.target_bytes <= rack.sizes[command.vm] for command in result.commands)
    assert all(command.measurement == "" for command in result.commands)
    rack.overrides.clear()
    assert any(line.startswith("emergency over") for line in rack.sweep().changes)


def test_a_guest_is_never_asked_below_its_own_floor() -> None:
    rack = settled({"web": 100, "db": 100})
    rack.demands["web"] = 512 * MIB
    rack.overrides["db"] = {"demand": Demand(10 * MIB, 300 * MIB, "committed", 1, floor_bytes=300 * MIB)}
    for _ in range(5):
        assert targets(rack.sweep()).get("db", 512) >= 300


def test_a_vm_that_a_sweep_does_not_mention_is_silent_not_gone() -> None:
    rack = settled({"web": 100, "db": 300})
    size = claim(rack, "web")
    facts = rack.facts()
    alone = Facts(facts.now_ns + NS_PER_S, facts.host, tuple(vm for vm in facts.vms if vm.name == "db"))
    result = rack.manager.step(alone)
    assert claim(rack, "web") == size
    assert any("web: frozen at its last size" in line for line in result.changes)
