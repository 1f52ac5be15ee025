"""Why a VM has only so much: the reason names who really holds the memory, and says what is already so."""

import msgspec
import pytest
from tests.rigs.obedient import ObedientHost

from dynmem.manager.step.facts import Demand, ManagerSettings, VmConfig
from dynmem.units import GIB, MIB, NS_PER_S

HOST = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce")


def rack(**demands: int) -> ObedientHost:
    configs = [VmConfig(name, 64 * MIB, 700 * MIB) for name in ("web", "db", "new")]
    host = ObedientHost(HOST, configs, {name: size * MIB for name, size in demands.items()})
    host.sweep(8)
    return host


def reason_of(host: ObedientHost, name: str) -> str:
    return host.manager.status().vm(name).reason


def starting(host: ObedientHost) -> None:
    host.demands["new"] = 100 * MIB
    host.overrides["new"] = {"demand": None}


def frozen(host: ObedientHost) -> None:
    host.overrides["db"] = {"run_state": "paused"}


def released(host: ObedientHost) -> None:
    host.manager.release("db")


def reserved(host: ObedientHost) -> None:
    host.manager.reserve("new", 400 * MIB, host.now_ns, host.now_ns + 60 * NS_PER_S)


def pressed(host: ObedientHost) -> None:
    host.available_bytes = 100 * MIB


def above(host: ObedientHost) -> None:
    host.overrides["db"] = {"resident_bytes": 800 * MIB}


@pytest.mark.parametrize(
    ("happens", "holder"),
    [
        (starting, "new has not reported since it started and counts as 700 MiB"),
        (frozen, "db is frozen and keeps "),
        (released, "db is released and is due 700 MiB"),
        (reserved, "400 MiB is reserved for new"),
        (pressed, "the rest of the host leaves "),
        (above, "db holds 800 MiB, its maximum is 700 MiB"),
    ],
)
def test_a_vm_that_is_short_says_who_holds_the_memory(happens: object, holder: str) -> None:
    host = rack(web=300, db=100)
    assert callable(happens)
    happens(host)
    host.sweep(2)
    host.demands["web"] = 650 * MIB
    host.sweep(6)
    assert holder in reason_of(host, "web")


def test_a_vm_that_has_what_it_wants_names_nobody() -> None:
    host = rack(web=300, db=100)
    frozen(host)
    host.sweep(4)
    assert "frozen" not in reason_of(host, "web")


def test_a_vm_that_waits_says_what_it_has_and_who_still_gives() -> None:
    host = rack(web=300, db=100, new=100)
    host.demands["web"] = 420 * MIB
    size = host.sizes["web"] // MIB
    host.overrides["db"] = {"actual_bytes": host.sizes["db"]}
    host.overrides["new"] = {"actual_bytes": host.sizes["new"]}
    host.sweep()
    reason = reason_of(host, "web")
    assert f"has {size} MiB and waits for {504 - size} MiB more" in reason
    assert "still have" in reason or "still has" in reason
    giver = next(name for name in ("db", "new") if "to give" in reason_of(host, name))
    assert giver in reason


def test_in_observe_mode_no_vm_waits_for_anything() -> None:
    host = rack(web=300, db=100, new=100)
    again = ObedientHost(
        msgspec.structs.replace(HOST, mode="observe"), list(host.configs.values()), host.demands
    )
    again.sizes = dict(host.sizes)
    again.demands["web"] = 420 * MIB
    again.sweep(3)
    assert "waits for" not in reason_of(again, "web")
    changes = [vm.change.reason for vm in again.manager.status().vms if vm.change is not None]
    assert changes
    assert all(reason.startswith("would shrink to ") for reason in changes)


def test_a_vm_that_was_granted_more_says_how_much_it_has_taken() -> None:
    host = rack(web=100, db=100)
    host.demands["web"] = 420 * MIB
    host.sizes["web"] = small = 120 * MIB
    for _ in range(3):
        host.overrides["web"] = {"actual_bytes": small, "demand": Demand(420 * MIB, 8 * MIB, "used", 1)}
        host.sweep()
    assert "has taken 120 MiB of " in reason_of(host, "web")


def test_nothing_is_short_where_nobody_wants_anything() -> None:
    host = rack(web=300, db=100)
    for name in ("web", "db"):
        host.overrides[name] = {"demand": None}
    small = msgspec.structs.replace(HOST, budget_bytes=256 * MIB)
    again = ObedientHost(small, list(host.configs.values()), host.demands)
    again.overrides = host.overrides
    again.sweep(5)
    assert again.manager.status().shortage_bytes == 0


def test_a_vm_that_never_had_a_size_is_not_frozen_at_its_last() -> None:
    host = rack(web=300)
    host.demands["db"] = 100 * MIB
    host.overrides["db"] = {"run_state": "silent", "actual_bytes": None, "demand": None}
    host.sweep()
    assert reason_of(host, "db").startswith("frozen: it has not replied yet, and counts at its full size")
    host.overrides.clear()
    host.sweep(4)
    host.overrides["db"] = {"run_state": "silent", "actual_bytes": None, "demand": None}
    host.sweep()
    assert reason_of(host, "db").startswith("frozen at its last size")
