"""A host looks full while its VMs want less: a lower budget frees memory, and no VM lacks what it wants."""

import msgspec
import pytest
from tests.rigs.obedient import ObedientHost

from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.units import GIB, MIB, NS_PER_S

TOTAL, BUDGET = 10 * GIB, 8 * GIB
# Sizes are whole pages of the guest, so a budget to the byte would be a page short.
ROUNDING = 8 * MIB
DEMANDS = {"web": GIB, "db": 2 * GIB, "mail": GIB // 2}


def sweep(host: ObedientHost, times: int = 10) -> None:
    """Sweep a host whose guests touch all that they get: with a page cache, for instance."""
    for _ in range(times):
        for name, size in host.sizes.items():
            host.overrides[name] = {"resident_bytes": size}
        host.available_bytes = TOTAL - sum(host.sizes.values())
        host.sweep()


def wanted(host: ObedientHost) -> dict[str, int]:
    return {vm.name: vm.wanted_bytes or 0 for vm in host.manager.status().vms}


@pytest.fixture
def host() -> ObedientHost:
    settings = ManagerSettings(BUDGET, 256 * MIB, NS_PER_S, "enforce")
    configs = [VmConfig(name, 256 * MIB, 4 * GIB) for name in DEMANDS]
    made = ObedientHost(settings, configs, DEMANDS)
    made.sizes = dict.fromkeys(DEMANDS, 2 * GIB)
    sweep(made)
    return made


def test_in_enforce_what_no_vm_wants_stays_with_the_guests(host: ObedientHost) -> None:
    assert sum(host.sizes.values()) == BUDGET - 256 * MIB
    assert sum(wanted(host).values()) < 0.6 * BUDGET
    assert host.available_bytes < 0.25 * TOTAL  # the host looks full


def test_a_lower_budget_makes_memory_free_and_no_vm_falls_below_what_it_wants(host: ObedientHost) -> None:
    before = wanted(host)
    idle = sum(host.sizes.values()) - sum(before.values())
    lower = msgspec.structs.replace(host.settings, budget_bytes=BUDGET - idle + ROUNDING)
    host.manager.configure(lower, list(host.configs.values()))
    sweep(host)
    assert host.available_bytes >= TOTAL - sum(before.values()) - ROUNDING
    assert wanted(host) == before
    assert all(host.sizes[name] >= before[name] for name in DEMANDS)
    # Raised again, the guests get it back.
    host.manager.configure(host.settings, list(host.configs.values()))
    sweep(host)
    assert sum(host.sizes.values()) >= BUDGET - 256 * MIB - ROUNDING


def test_with_a_budget_below_what_is_wanted_vms_do_lack_something(host: ObedientHost) -> None:
    lower = msgspec.structs.replace(host.settings, budget_bytes=sum(wanted(host).values()))
    host.manager.configure(lower, list(host.configs.values()))
    sweep(host)
    assert any(host.sizes[vm.name] < (vm.wanted_bytes or 0) for vm in host.manager.status().vms)
