"""The status as other programs read it: frozen, documented field by field, unchanged by JSON."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tests.rigs.obedient import ObedientHost

from dynmem.manager.step.facts import ManagerSettings, VmConfig, VmFacts
from dynmem.manager.step.view import SCHEMA, StatusView
from dynmem.manager.sweep.demand import DEMAND_SOURCES
from dynmem.policy.levels import LEVELS
from dynmem.units import GIB, MIB, NS_PER_S, PAGE_SIZE

ROOT = Path(__file__).resolve().parent.parent.parent


def rack() -> ObedientHost:
    settings = ManagerSettings(GIB, 64 * MIB, NS_PER_S, "enforce")
    configs = [VmConfig(name, 64 * MIB, 512 * MIB) for name in ("web", "db", "away")]
    return ObedientHost(settings, configs, {"web": 400 * MIB, "db": 100 * MIB})


def test_the_status_document_is_what_the_classes_say() -> None:
    command = [sys.executable, "-m", "scripts.status", "--print"]
    made = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert made == (ROOT / "docs" / "status.md").read_text(), "run python -m scripts.status"


def test_the_status_document_lists_the_values_of_closed_sets() -> None:
    page = (ROOT / "docs" / "status.md").read_text()
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    sets = {
        "cut": [level.name for level in LEVELS],
        "device": DEMAND_SOURCES,
        "demand_source": [each.formula for each in DEMAND_SOURCES.values()],
    }
    for field, values in sets.items():
        for value in values:
            assert f'"{value}"' in rows[field]


def test_a_status_is_the_same_after_a_journey_through_json() -> None:
    host = rack()
    for sweeps in (0, 1, 5):
        if sweeps:
            host.sweep(sweeps)
        view = host.manager.status()
        assert msgspec.json.decode(msgspec.json.encode(view), type=StatusView) == view
        assert view.schema == SCHEMA


def test_a_status_does_not_change_when_the_manager_goes_on() -> None:
    host = rack()
    host.sweep(5)
    view = host.manager.status()
    before = msgspec.json.encode(view)
    host.demands["db"] = 400 * MIB
    host.manager.release("web")
    host.sweep(5)
    assert msgspec.json.encode(view) == before
    assert msgspec.json.encode(host.manager.status()) != before


def test_an_absent_vm_has_its_configuration_and_the_reason_why_it_is_absent() -> None:
    host = rack()
    away = host.manager.status().vm("away")
    assert (away.there, away.run_state, away.maximum_bytes) == (False, "absent", 512 * MIB)
    assert away.problem == "no sweep has looked at it yet"
    facts = host.facts()
    gone = VmFacts("away", "", "absent", problem="no such socket")
    host.manager.step(msgspec.structs.replace(facts, vms=(*facts.vms[:2], gone)))
    away = host.manager.status().vm("away")
    assert (away.there, away.actual_bytes, away.problem) == (False, None, "no such socket")


def test_a_status_knows_only_the_vms_that_are_configured() -> None:
    view = rack().manager.status()
    assert [vm.name for vm in view.vms] == ["web", "db", "away"]
    with pytest.raises(KeyError, match="batch"):
        view.vm("batch")


def test_of_two_changes_of_one_vm_in_a_step_a_sample_has_the_last_as_that_is_what_is_sent() -> None:
    host = rack()
    while not host.sweep().commands:
        assert host.now_ns < 60 * NS_PER_S
    manager = host.manager
    seen = manager._seen
    assert seen is not None
    (last, *_) = seen.changes
    first = msgspec.structs.replace(last, target=last.target - 1)
    manager._seen = msgspec.structs.replace(seen, changes=(first, last))
    sample = manager.sample()
    assert sample is not None
    assert [move.target_bytes for move in sample.moves] == [last.target * PAGE_SIZE]
