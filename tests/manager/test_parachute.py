"""A guest takes memory back from its balloon without an order (deflate-on-oom): it counts, and as its own."""

from tests.rigs.obedient import ObedientHost

from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.manager.step.thrash import KEPT_NS
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE

BUDGET, SLUSH = 768 * MIB, 64 * MIB
TAKEN = 48 * MIB


def shrunk() -> ObedientHost:
    """Two VMs of 512 MiB that share 768, one of them shrunk."""
    settings = ManagerSettings(BUDGET, SLUSH, NS_PER_S, "enforce")
    configs = [VmConfig(name, 64 * MIB, 512 * MIB) for name in ("web", "db")]
    host = ObedientHost(settings, configs, {"web": 100 * MIB, "db": 400 * MIB})
    for name in host.sizes:
        host.overrides[name] = {"device": "virtio-balloon", "deflates_on_oom": True}
    host.sweep(8)
    assert host.sizes["web"] < 300 * MIB
    return host


def claim(host: ObedientHost, name: str) -> int:
    return host.manager.claims.pages(name) * PAGE_SIZE


def test_what_a_guest_takes_back_counts_in_the_sweep_that_sees_it() -> None:
    host = shrunk()
    before = host.manager.status().measured_free
    size = host.sizes["web"] = host.sizes["web"] + TAKEN
    host.demands["web"] = size - 4 * MIB
    host.sweep()
    after = host.manager.status().measured_free
    assert claim(host, "web") >= size
    assert before is not None
    assert after is not None
    assert after.held_bytes >= before.held_bytes + TAKEN
    assert after.bytes <= before.bytes - TAKEN


def test_what_a_guest_took_back_is_granted_to_nobody_else() -> None:
    host = shrunk()
    host.demands["db"] = 500 * MIB  # which would take all that there is
    host.sizes["web"] += TAKEN
    host.demands["web"] = host.sizes["web"] - 4 * MIB
    for _ in range(20):
        host.sweep()
        assert host.sizes["web"] + host.sizes["db"] <= BUDGET
        assert claim(host, "web") + claim(host, "db") <= BUDGET


def test_what_a_guest_took_back_is_said_and_stays_with_it_for_a_while() -> None:
    host = shrunk()
    before = host.sizes["web"]
    host.sizes["web"] += TAKEN
    lines = host.sweep().changes
    assert (
        f"web: took back 48 MiB by its parachute: it ran out of memory at {before // MIB} MiB"
        in "\n".join(lines)
    )
    host.demands["db"] = 500 * MIB  # which needs what web has spare, and does not get that
    host.sweep(6)
    assert host.sizes["web"] >= before + TAKEN
    host.now_ns += KEPT_NS
    host.sweep(6)
    assert host.sizes["web"] < before + TAKEN
