"""Guests that read back from their disks what they gave."""

import msgspec
import pytest
from tests.rigs.obedient import CALM, ObedientHost

from dynmem.manager.step.facts import Demand, ManagerSettings, VmConfig
from dynmem.manager.step.safeguards import Safeguards
from dynmem.manager.step.thrash import KEPT_NS, THRASH_PER_S, Thrash
from dynmem.units import GIB, MIB, NS_PER_S

MINDLESS = msgspec.structs.replace(CALM, thrash=False)


def test_many_faults_after_a_shrink_bring_a_guest_its_size_back_for_a_while() -> None:
    thrash = Thrash()
    thrash.see(NS_PER_S, 1000, NS_PER_S)
    thrash.shrunk(500, 2 * NS_PER_S)
    thrash.shrunk(400, 3 * NS_PER_S)
    thrash.see(3 * NS_PER_S, 1000 + 2 * THRASH_PER_S, 3 * NS_PER_S)
    assert thrash.needed(4 * NS_PER_S) == 500
    assert thrash.needed(3 * NS_PER_S + KEPT_NS) == 0


@pytest.mark.parametrize(
    ("faults", "shrunk_s"),
    [
        (1000 + 2 * THRASH_PER_S - 2, 2),  # too few
        (900, 2),  # another kernel counts
        (10**9, -40),  # no shrink lately
    ],
)
def test_other_faults_bring_nothing(faults: int, shrunk_s: int) -> None:
    thrash = Thrash()
    thrash.shrunk(500, shrunk_s * NS_PER_S)
    thrash.see(NS_PER_S, 1000, NS_PER_S)
    thrash.see(3 * NS_PER_S, faults, 3 * NS_PER_S)
    assert thrash.needed(4 * NS_PER_S) == 0


def squeezed(safeguards: Safeguards) -> tuple[int, int]:
    """Return the sizes of a guest that needs its caches, in MiB: after it gave, and a little later."""
    settings = ManagerSettings(1 * GIB, 0, NS_PER_S, "enforce")
    configs = [VmConfig(name, 64 * MIB, 1 * GIB) for name in ("web", "db")]
    host = ObedientHost(settings, configs, {"web": 100 * MIB, "db": 100 * MIB}, safeguards=safeguards)
    faults = 0

    def sweep(times: int, per_s: int) -> None:
        nonlocal faults
        for _ in range(times):
            faults += per_s
            used = host.demands["db"]
            demand = Demand(used, host.sizes["db"] - used, "used", 1, faults=faults)
            host.overrides["db"] = {"demand": demand}
            host.sweep()

    sweep(6, 0)
    host.demands["web"] = 600 * MIB
    sweep(4, 0)
    given = host.sizes["db"]
    host.demands["web"] = 300 * MIB
    sweep(6, 10 * THRASH_PER_S)
    return given // MIB, host.sizes["db"] // MIB


def test_a_guest_that_thrashes_gets_back_what_it_gave_and_one_that_does_not_mind_it_does_not() -> None:
    given, later = squeezed(CALM)
    assert later >= given + 80
    given, later = squeezed(MINDLESS)
    assert later < given + 80


def test_a_guest_that_thrashes_at_its_minimum_is_said_to() -> None:
    settings = ManagerSettings(1 * GIB, 0, NS_PER_S, "enforce")
    configs = [VmConfig("web", 64 * MIB, 1 * GIB), VmConfig("db", 128 * MIB, 1 * GIB, priority="low")]
    host = ObedientHost(settings, configs, {"web": 900 * MIB, "db": 100 * MIB}, safeguards=CALM)
    host.sweep(8)
    assert host.sizes["db"] == 128 * MIB
    for turn in range(60, 64):
        host.now_ns += 40 * NS_PER_S
        faults = turn * 100_000
        host.overrides["db"] = {"demand": Demand(100 * MIB, 28 * MIB, "used", 1, faults=faults)}
        host.sweep()
    assert "thrashes at its minimum" in host.manager.status().vm("db").reason
