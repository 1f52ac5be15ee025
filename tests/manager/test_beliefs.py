"""A VM's monitor alone takes nothing from others: what it says counts up to what operator and host know."""

import msgspec
import pytest
from tests.rigs.obedient import CALM, ObedientHost

from dynmem.manager.step.facts import Demand, ManagerSettings, VmConfig
from dynmem.manager.step.safeguards import Safeguards
from dynmem.policy import Priority
from dynmem.units import GIB, MIB, NS_PER_S, PAGE_SIZE

HOST = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce")
HUGE = 1 << 59


def config(name: str, maximum: int = 512, priority: Priority = "normal") -> VmConfig:
    return VmConfig(name, 64 * MIB, maximum * MIB, priority=priority)


def rack(
    configs: list[VmConfig], demands: dict[str, int], safeguards: Safeguards | None = None, **more: object
) -> ObedientHost:
    changed = msgspec.structs.replace(HOST, **more)
    sizes = {name: size * MIB for name, size in demands.items()}
    return ObedientHost(changed, configs, sizes, safeguards=safeguards or CALM)


def caches(host: ObedientHost, *names: str) -> None:
    """Let guests report that they could do at once with much less than they need."""
    for name in names:
        host.overrides[name] = {"demand": Demand(host.demands[name], 300 * MIB, "committed", 1)}


def claim(host: ObedientHost, name: str) -> int:
    return host.manager.claims.pages(name) * PAGE_SIZE // MIB


@pytest.mark.parametrize(
    ("says", "resident", "counted"),
    [
        (300 * MIB, 100 * MIB, 300),  # up to its maximum: what it says
        (HUGE, 100 * MIB, 512),  # more than its maximum: that
        (HUGE, 700 * MIB, 700),  # the host measures more: that
        (600 * MIB, 700 * MIB, 600),  # but not more than it says: the rest is no memory of its guest
        (HUGE, None, 512),  # nothing can be measured: its maximum
    ],
)
def test_a_claim_is_what_the_monitor_says_as_far_as_operator_and_host_know_it(
    says: int, resident: int | None, counted: int
) -> None:
    host = rack([config("web")], {"web": 100})
    host.sizes["web"] = says
    host.overrides["web"] = {"boot_bytes": says, "resident_bytes": resident}
    host.sweep()
    assert claim(host, "web") == counted


def test_a_maximum_above_the_memory_of_the_host_counts_no_further_than_that() -> None:
    host = rack([config("web", maximum=1 << 20)], {"web": 100})
    host.available_bytes = 4 * GIB
    host.overrides["web"] = {"actual_bytes": HUGE, "boot_bytes": HUGE}
    host.sweep()
    assert claim(host, "web") == 4096


def boaster(safeguards: Safeguards, released: str = "") -> ObedientHost:
    """A monitor that says that its VM is 2^59 bytes large, beside two VMs of which one needs more."""
    host = rack([config("web"), config("liar", 256), config("db")], {"web": 100, "db": 100}, safeguards)
    host.demands["liar"] = 100 * MIB
    host.overrides["liar"] = {"boot_bytes": HUGE, "actual_bytes": HUGE}
    if released:
        host.manager.release(released)
    host.sweep(8)
    host.demands["web"] = 400 * MIB
    host.sweep(12)
    return host


@pytest.mark.parametrize("released", ["", "liar"])
def test_a_monitor_that_says_that_its_vm_is_larger_than_any_host_starves_nobody(released: str) -> None:
    host = boaster(CALM, released)
    assert host.sizes["web"] >= 480 * MIB
    assert host.sizes["db"] >= 120 * MIB
    assert host.manager.status().books.ballooned_bytes < GIB


def test_a_vm_whose_size_is_not_believed_is_named_once_and_by_those_who_are_short() -> None:
    host = rack([config("web"), config("liar", 256)], {"web": 100, "liar": 100}, budget_bytes=600 * MIB)
    host.overrides["liar"] = {"boot_bytes": HUGE, "actual_bytes": HUGE}
    lines = [line for _ in range(8) for line in host.sweep().changes]
    host.demands["web"] = 400 * MIB
    lines += [line for _ in range(8) for line in host.sweep().changes]
    assert len([line for line in lines if line.startswith("liar: its VMM reports a size beyond")]) == 1
    assert "liar keeps 256 MiB that cannot be taken from it now" in host.manager.status().vm("web").reason
    assert "it counts as 256 MiB" in host.manager.status().vm("liar").reason


def orders_to_a_boaster(release: bool) -> tuple[list[int], list[str], str]:
    """Targets of a VM whose monitor says 2^51 bytes on a host of 16 GiB, what was reported, and why."""
    host = rack([config("web"), config("liar", 256)], {"web": 100, "liar": 100})
    host.available_bytes = 16 * GIB
    host.overrides["liar"] = {"boot_bytes": 1 << 51, "actual_bytes": 1 << 51}
    targets: list[int] = []
    for sweep in range(12):
        if release and sweep == 6:
            host.manager.release("liar")
        targets += [each.target_bytes for each in host.sweep().commands if each.vm == "liar"]
    return targets, host.news, host.manager.status().vm("liar").reason


@pytest.mark.parametrize("release", [False, True])
def test_no_target_is_larger_than_what_the_host_could_give_and_who_says_more_is_named(release: bool) -> None:
    targets, news, reason = orders_to_a_boaster(release)
    assert targets
    assert max(targets) <= 16 * GIB
    of_it = [line for line in news if line.startswith("liar: ")]
    assert len(of_it) == len(targets)
    assert all(
        "(its VMM reports 2048 TiB, more than this host has: that is not believed)" in x for x in of_it
    )
    assert not [line for line in of_it if "to 2048 TiB" in line or "full size, 2048 TiB" in line]
    assert "its VMM reports" in reason


@pytest.mark.parametrize(
    ("host_mib", "resident", "due"),
    [
        (16384, 100, 2048),  # no more than the host has: all that it booted with, whatever its maximum is
        (2000, 100, 2000),  # a little more than the host has: as much as that
        (512, 700, 700),  # the host measures more: that
        (512, 100, 512),
    ],
)
def test_a_released_vm_gets_what_it_booted_with_as_far_as_the_host_has_it(
    host_mib: int, resident: int, due: int
) -> None:
    host = rack([config("big", 256)], {"big": 100})
    host.available_bytes = host_mib * MIB
    host.sizes["big"] = 200 * MIB
    host.overrides["big"] = {"boot_bytes": 2 * GIB, "resident_bytes": resident * MIB}
    host.manager.release("big")
    host.sweep(12)
    assert host.sizes["big"] == due * MIB


def test_a_target_of_a_manager_before_counts_no_further_than_the_host_could_give() -> None:
    host = rack([config("web", 256)], {"web": 100})
    host.available_bytes = 16 * GIB
    host.manager.restore("web", "web.1", 1 << 51)
    host.manager.release("web")
    targets = [each.target_bytes for _ in range(6) for each in host.sweep().commands]
    assert max(targets, default=0) <= 16 * GIB
    assert "2048 TiB" not in host.manager.status().vm("web").reason


def test_without_two_sources_that_monitor_starves_the_others() -> None:
    assert boaster(msgspec.structs.replace(CALM, two_sources=False)).sizes["web"] < 400 * MIB


def test_a_vm_that_booted_with_more_than_its_maximum_is_brought_there_and_counted_as_measured() -> None:
    host = rack([config("web"), config("big", 256)], {"web": 400, "big": 100})
    host.sizes["big"] = 2 * GIB
    host.overrides["big"] = {"boot_bytes": 2 * GIB, "resident_bytes": 600 * MIB}
    host.sweep()
    assert claim(host, "big") == 600
    host.sweep(3)
    assert host.sizes["big"] <= 256 * MIB
    host.overrides["big"]["resident_bytes"] = 200 * MIB
    host.sweep(8)
    assert claim(host, "big") <= 256
    assert host.sizes["web"] >= 480 * MIB


def test_a_vm_above_its_maximum_stays_there_while_what_is_free_covers_it() -> None:
    host = rack([config("web"), config("big", 256)], {"web": 100, "big": 100}, budget_bytes=8 * GIB)
    host.sizes["big"] = 1 * GIB
    host.overrides["big"] = {"boot_bytes": 1 * GIB, "resident_bytes": 300 * MIB}
    for _ in range(6):
        assert "big" not in {each.vm for each in host.sweep().commands}


def taker(safeguards: Safeguards) -> tuple[ObedientHost, list[str]]:
    """A guest took 1 GiB of a maximum of 256 MiB beside two VMs that need 200 MiB each."""
    host = rack([config("web"), config("taker", 256), config("db")], {"web": 200, "db": 200}, safeguards)
    host.demands["taker"] = 100 * MIB
    host.sweep(8)
    host.overrides["taker"] = {"resident_bytes": GIB}
    caches(host, "web", "db")
    lines = [line for _ in range(10) for line in host.sweep().changes]
    return host, lines


def test_nobody_gives_what_it_needs_for_a_vm_above_its_own_maximum_and_that_vm_is_named() -> None:
    host, lines = taker(CALM)
    assert host.manager.status().emergency
    assert min(host.sizes["web"], host.sizes["db"]) >= 200 * MIB
    named = [line for line in lines if line.startswith("taker: holds 1 GiB, its maximum is 256 MiB")]
    assert len(named) == 1
    assert "its maximum is 256 MiB" in host.manager.status().vm("taker").reason
    host.overrides.clear()
    assert "taker: no longer above its maximum" in host.sweep().changes


def test_without_sparing_the_neighbours_of_a_vm_above_its_maximum_give_what_they_need() -> None:
    host, _ = taker(msgspec.structs.replace(CALM, sparing=False))
    assert host.sizes["web"] < 200 * MIB


def started(safeguards: Safeguards, priority: Priority = "normal") -> ObedientHost:
    """A VM starts beside two that use most of the budget, and does not report for a while."""
    configs = [config("web", priority="high"), config("batch", priority="low"), config("new", 512, priority)]
    host = rack(configs, {"web": 350, "batch": 350}, safeguards)
    host.sweep(8)
    host.demands["new"] = 100 * MIB
    caches(host, "web", "batch")
    host.overrides["new"] = {"demand": None, "resident_bytes": 60 * MIB, "boot_bytes": 4 * GIB}
    for _ in range(8):
        host.sizes["new"] = 4 * GIB
        host.sweep()
    return host


def test_a_start_takes_no_more_from_running_vms_than_a_reservation_could() -> None:
    host = started(CALM)
    assert host.sizes["web"] >= 350 * MIB  # a higher priority gives no more than its buffer
    assert host.sizes["batch"] < 350 * MIB  # a lower one gives what it needs, too
    assert started(CALM, "low").sizes["batch"] >= 350 * MIB


def test_a_start_takes_from_nobody_what_a_vm_of_its_own_priority_needs() -> None:
    assert started(CALM, "low").sizes["batch"] >= 350 * MIB
    assert started(msgspec.structs.replace(CALM, sparing=False), "low").sizes["batch"] < 350 * MIB


def beginning(safeguards: Safeguards) -> ObedientHost:
    """A manager begins beside VMs that fill its budget; web reports first, the others a little later."""
    host = rack([config(name, 450) for name in ("web", "db", "batch")], {"web": 80}, safeguards)
    host.sizes["web"] = 160 * MIB
    for name in ("db", "batch"):
        host.demands[name] = 80 * MIB
        host.sizes[name] = 380 * MIB
        host.overrides[name] = {"demand": None}
    host.sweep(3)
    return host


def test_a_manager_that_begins_shrinks_nobody_for_vms_that_have_not_reported_yet() -> None:
    assert beginning(CALM).sizes["web"] == 160 * MIB
    assert beginning(msgspec.structs.replace(CALM, sparing=False)).sizes["web"] < 160 * MIB


def test_nothing_is_granted_that_a_start_may_still_take() -> None:
    host = started(CALM)
    free = host.manager.status().measured_free
    assert free is not None
    assert free.held_bytes >= 512 * MIB + host.sizes["web"]
    host.demands["batch"] = 500 * MIB
    assert not [each for each in host.sweep().commands if each.measurement and each.vm == "batch"]
