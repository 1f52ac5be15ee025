"""What a VM is charged does not depend on what its memory is made of, and huge pages are charged once."""

import pytest
from tests.rigs.obedient import ObedientHost

from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.manager.step.measured import Charge, charge
from dynmem.units import GIB, MIB, NS_PER_S

HOST = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce")


def host(**demands_mib: int) -> ObedientHost:
    configs = [VmConfig(name, 64 * MIB, 512 * MIB) for name in demands_mib]
    return ObedientHost(HOST, configs, {name: size * MIB for name, size in demands_mib.items()})


def test_the_memory_of_a_process_besides_its_guest_is_the_hosts_account() -> None:
    """QEMU's own memory is not the guest's: not in the budget, and not available to anybody."""
    rack = host(web=100, db=100)
    rack.sweep(3)
    before = rack.manager.status()
    assert before.measured_free is not None
    for name, size in rack.sizes.items():
        rack.overrides[name] = {
            "resident_bytes": size + 80 * MIB,
            "resident_overhead_bytes": 80 * MIB,
        }
    rack.sweep(8)
    after = rack.manager.status()
    assert after.measured_free is not None
    assert after.measured_free.held_bytes == before.measured_free.held_bytes
    assert after.vm("web").resident_bytes == rack.sizes["web"]
    assert after.vm("web").process_bytes == 80 * MIB
    assert "resident" not in after.vm("web").reason


@pytest.mark.parametrize(
    ("claim", "guest", "huge", "expected"),
    [
        (100, 40, 0, Charge(held=100, untouched=60, occupied=40)),
        (100, 40, 100, Charge(held=100, untouched=0, occupied=100)),  # set aside: gone from MemAvailable
        (100, 40, 70, Charge(held=100, untouched=30, occupied=70)),  # a DIMM of huge pages, say
        (100, 120, 100, Charge(held=120, untouched=0, occupied=120)),
        (100, None, 0, Charge(held=100, untouched=100, occupied=100)),
        (100, None, 100, Charge(held=100, untouched=0, occupied=100)),
    ],
)
def test_huge_pages_of_the_pool_are_not_taken_from_what_the_host_has_available(
    claim: int, guest: int | None, huge: int, expected: Charge
) -> None:
    assert charge(claim, guest, huge) == expected


def test_a_vm_on_huge_pages_is_not_shrunk_for_others_and_says_why() -> None:
    rack = host(web=100, db=100)
    rack.overrides["web"] = {"huge_bytes": 512 * MIB, "resident_bytes": 512 * MIB}
    rack.sweep(3)
    rack.demands["db"] = 500 * MIB
    rack.sweep(10)
    assert rack.sizes["web"] == 512 * MIB
    assert "huge pages" in rack.manager.status().vm("web").reason
    assert rack.manager.claims.pages("web") << 12 == 512 * MIB


def test_what_a_guest_on_huge_pages_gave_in_pieces_is_not_booked_free() -> None:
    rack = host(web=100, db=100)
    rack.overrides["web"] = {"huge_bytes": 512 * MIB, "resident_bytes": 512 * MIB}
    rack.sweep(3)
    rack.sizes["web"] = 300 * MIB  # another program filled its balloon, and the pool got nothing back
    rack.sweep(5)
    assert rack.manager.claims.pages("web") << 12 == 512 * MIB
