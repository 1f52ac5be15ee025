"""The standing pool: a reservation out of it is ready at once, and no running VM goes short for it."""

from tests.rigs.obedient import ObedientHost

from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.manager.step.pool import WHOSE
from dynmem.units import GIB, MIB, NS_PER_S

NAMES = ("web", "db", "new")
POOL = 256


def host(pool_mib: int, **demands: int) -> ObedientHost:
    settings = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce", pool_bytes=pool_mib * MIB)
    configs = [VmConfig(name, 64 * MIB, 512 * MIB) for name in NAMES]
    made = ObedientHost(settings, configs, {name: size * MIB for name, size in demands.items()})
    made.sweep(8)
    return made


def states(rack: ObedientHost, mib: int) -> list[str]:
    """Return the states of a reservation after the next two sweeps."""
    rack.manager.reserve("new", mib * MIB, rack.now_ns, rack.now_ns + 60 * NS_PER_S)
    found: list[str] = []
    for _ in range(2):
        rack.sweep()
        found.append(rack.manager.reservation_state("new")[0])
    return found


def used_mib(rack: ObedientHost) -> int:
    return sum(rack.sizes.values()) // MIB


def test_a_reservation_out_of_the_pool_is_ready_at_once_and_without_it_others_have_to_give_first() -> None:
    assert states(host(POOL, web=100, db=100), POOL) == ["ready", "ready"]
    assert states(host(0, web=100, db=100), POOL) == ["waiting", "ready"]


def test_the_pool_comes_out_of_headroom_and_is_shown_as_reserved() -> None:
    rack = host(POOL, web=100, db=100)
    assert used_mib(rack) <= 1024 - 64 - POOL
    free = rack.manager.status().measured_free
    assert free is not None
    assert free.reserved_bytes == POOL * MIB


def test_a_reservation_takes_its_part_out_of_the_pool_which_is_filled_again_once_its_vm_runs() -> None:
    rack = host(POOL, web=100, db=100)
    before = used_mib(rack)
    assert states(rack, 128) == ["ready", "ready"]
    assert used_mib(rack) == before  # nobody gave anything for it
    rack.demands["new"], rack.sizes["new"] = 64 * MIB, 128 * MIB
    rack.sweep(8)
    assert rack.manager.reservation_state("new")[1] == "taken over by the VM"
    assert used_mib(rack) <= 1024 - 64 - POOL


def test_no_running_vm_lacks_what_it_needs_for_the_pool() -> None:
    rack = host(POOL, web=420, db=420)
    for vm in rack.manager.status().vms[:2]:
        assert vm.demand_bytes is not None
        assert vm.planned_bytes is not None
        assert vm.planned_bytes >= vm.demand_bytes
        assert f"is reserved for {WHOSE}" in vm.reason
    free = rack.manager.status().measured_free
    assert free is not None
    assert free.reserved_bytes < POOL * MIB
    assert min(rack.sizes["web"], rack.sizes["db"]) >= 420 * MIB
