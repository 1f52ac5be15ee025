"""The script that the trial played to real guests, simulated: who dies, and what is moved, is much the same.

docs/trial.md has what was measured: seed 1, 128 MiB/s, four guests of Linux.
"""

import pytest
from bench.trial.script import Script, write

from dynmem.simulation.described import RESERVE_BYTES
from dynmem.simulation.figures import Outcome
from dynmem.simulation.load import Load, VmLoad
from dynmem.simulation.play import simulate
from dynmem.simulation.stage import Guests
from dynmem.units import MIB, PAGE_SIZE

RATE = 128
MIB_PAGES = MIB // PAGE_SIZE


def played(script: Script) -> Load:
    """Return the load of a script; without the guest that starts again, and the page cache."""
    end = int(script.duration_s * 10)
    vms = []
    for guest in range(script.guests):
        vm = VmLoad(guest + 1, script.minimum_bytes, script.maximum_bytes, reserve_bytes=RESERVE_BYTES)
        own = [burst for burst in script.bursts if burst.guest == guest]
        times = sorted({0, *(int(at * 10) for burst in own for at in (burst.begins_s, burst.falls_s))})
        for at, then in zip(times, [*times[1:], end], strict=True):
            more = sum(
                burst.size_bytes for burst in own if int(burst.begins_s * 10) <= at < int(burst.falls_s * 10)
            )
            pages = (script.use_bytes(guest, -1.0) + more) // PAGE_SIZE
            vm.add(at, then - at, pages, pages, pages)
        vms.append(vm)
    return Load(script.budget_bytes, script.slush_bytes, end, vms)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    load = played(write(1, rate_bytes=RATE * MIB, page_cache=False))
    guests = Guests(RATE * MIB_PAGES // 10, 100 * MIB_PAGES)
    found = simulate(load, ("dynmem", "proxmox", "mom", "static"), guests, 1)
    return {each.rule: each for each in found}


def test_under_dynmem_nobody_dies_and_the_budget_is_kept_as_with_real_guests(
    outcomes: dict[str, Outcome],
) -> None:
    found = outcomes["dynmem"]
    assert (found.kills, found.above_ratio) == (0, 0)
    commands = found.moves_per_hour * found.seconds / 3600
    assert commands == pytest.approx(152, rel=0.35)
    assert found.moved_mib_per_hour * found.seconds / 3600 == pytest.approx(5108, rel=0.35)


def test_under_the_rules_of_others_guests_die_or_the_budget_is_exceeded_as_with_real_guests(
    outcomes: dict[str, Outcome],
) -> None:
    proxmox, mom = outcomes["proxmox"], outcomes["mom"]
    assert proxmox.kills >= 1
    assert proxmox.above_ratio > 0.2
    assert proxmox.moves_per_hour * proxmox.seconds / 3600 == pytest.approx(25, rel=0.35)
    assert mom.above_ratio > 0.5
    assert mom.kills < proxmox.kills < outcomes["static"].kills
