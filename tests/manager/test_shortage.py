"""When what the guests use does not fit: who waits, who is squeezed, and what is said."""

from tests.rigs.obedient import CALM, ObedientHost

from dynmem.manager.step.facts import Demand, ManagerSettings, VmConfig
from dynmem.policy import OnShortage
from dynmem.units import GIB, MIB, NS_PER_S


def crowded(on_shortage: OnShortage, web: int = 700) -> tuple[ObedientHost, list[str]]:
    """A guest of high priority grows until it would use more than one of low priority leaves of 1 GiB."""
    settings = ManagerSettings(1 * GIB, 0, NS_PER_S, "enforce")
    configs = [
        VmConfig("web", 64 * MIB, 1 * GIB, priority="high"),
        VmConfig("batch", 64 * MIB, 1 * GIB, priority="low", on_shortage=on_shortage),
    ]
    host = ObedientHost(settings, configs, {"web": 100 * MIB, "batch": 600 * MIB}, safeguards=CALM)
    lines: list[str] = []

    def sweep(times: int) -> None:
        for _ in range(times):
            spare = max(0, host.sizes["batch"] - 600 * MIB)
            host.overrides["batch"] = {"demand": Demand(600 * MIB, spare, "used", 1)}
            lines.extend(host.sweep().changes)

    sweep(8)
    host.demands["web"] = web * MIB
    sweep(12)
    return host, lines


def test_a_guest_keeps_what_it_uses_while_one_of_higher_priority_lacks_what_it_uses() -> None:
    host, lines = crowded("wait")
    assert host.sizes["batch"] >= 600 * MIB
    assert host.sizes["web"] < 500 * MIB
    (said,) = (line for line in lines if line.startswith("shortage"))
    assert said.startswith("shortage: what the guests use does not fit: web lacks ")


def test_a_guest_whose_operator_wants_it_is_squeezed_for_one_of_higher_priority() -> None:
    host, _ = crowded("squeeze")
    assert host.sizes["web"] >= 700 * MIB
    assert 64 * MIB <= host.sizes["batch"] <= 324 * MIB


def test_nobody_is_squeezed_for_comfort() -> None:
    host, _ = crowded("squeeze", web=410)
    assert host.sizes["batch"] >= 600 * MIB
    assert host.sizes["web"] >= 410 * MIB


def test_the_end_of_a_shortage_is_said_once() -> None:
    host, lines = crowded("wait")
    host.demands["web"] = 100 * MIB
    for _ in range(4):
        lines.extend(host.sweep().changes)
    assert [line for line in lines if "shortage" in line][1:] == [
        "shortage over: what the guests use fits again"
    ]
