"""`dynmem explain`: every figure of one VM, so that its size can be computed again by hand."""

import re

import msgspec
from tests.rigs.daemon import DAEMON
from tests.rigs.obedient import ObedientHost

from dynmem.cli.explain_text import explained
from dynmem.manager.api.messages import StatusReply
from dynmem.manager.step.facts import Demand, ManagerSettings, VirtioMem, VmConfig
from dynmem.manager.step.safeguards import Safeguards
from dynmem.units import GIB, MIB, NS_PER_S, parse_size


def host(demands: dict[str, int]) -> ObedientHost:
    settings = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce")
    configs = [VmConfig(name, 64 * MIB, 512 * MIB) for name in demands]
    sizes = {name: size * MIB for name, size in demands.items()}
    return ObedientHost(settings, configs, sizes, safeguards=Safeguards())


def text_of(rack: ObedientHost, name: str) -> str:
    status = StatusReply(**msgspec.structs.asdict(rack.manager.status()), manager=DAEMON)
    return explained(status, status.vm(name))


def figures(text: str, title: str) -> dict[str, int]:
    """Return the figures of a table; of two with one name, the first."""
    lines = text.split(title + "\n")[1].split("\n\n", maxsplit=1)[0].splitlines()
    found: dict[str, int] = {}
    for line in lines:
        match = re.match(r"  (\w+(?: \w+)?) +[-+=]? +([\d.]+ \w+)  ", line)
        assert match, line
        found.setdefault(match[1], parse_size(match[2]))
    return found


def close(one: int, other: int) -> bool:
    return abs(one - other) < MIB


def test_the_sums_can_be_computed_again_by_hand() -> None:
    rack = host({"web": 200, "db": 100})
    rack.sweep(6)
    text = text_of(rack, "web")
    wants, has = figures(text, "What it wants"), figures(text, "What the host has")
    assert close(wants["uses"] + wants["at hand"], wants["wanted"])
    left = has["budget"] - has["slush"] - has["VMs"] - has["reserved"]
    assert close(left, has["left"])
    assert has["ready"] > 0


def test_a_vm_that_does_not_fit_is_told_so_in_a_line_and_why_below() -> None:
    rack = host({"web": 100, "db": 100})
    rack.manager.configure(rack.settings, [VmConfig(name, 500 * MIB, 512 * MIB) for name in ("web", "db")])
    rack.sweep(6)
    web, db = text_of(rack, "web"), text_of(rack, "db")
    assert "does not fit" not in web
    assert db.startswith("db: uses 100 MiB, has 500 MiB: does not fit, and is not grown\n")
    assert "its minimum is 500 MiB, those of the others (500 MiB) leave 460 MiB of 960 MiB: end a VM," in db


def test_growth_and_a_reserve_are_terms_of_the_sum() -> None:
    rack = host({"web": 100, "db": 100})
    rack.sweep(6)
    size = rack.sizes["web"]
    for used in (140, 180, 220):
        demand = Demand(used * MIB, size - used * MIB, "used", 1, reserve_bytes=64 * MIB)
        rack.overrides["web"] = {"demand": demand}
        rack.sweep()
    text = text_of(rack, "web")
    assert re.search(r"  uses +220 MiB", text)
    grows = re.search(r"  grows +\+ +([\d.]+ MiB)", text)
    wanted = re.search(r"  wanted +=  *([\d.]+ MiB)", text)
    assert grows
    assert wanted
    assert re.search(r"  at hand +\+ +(64|[\d.]+) MiB", text)
    assert parse_size(wanted[1]) >= 220 * MIB + parse_size(grows[1]) + 60 * MIB


def test_what_is_known_of_an_absent_vm_is_said() -> None:
    rack = host({"web": 100})
    rack.sweep(2)
    rack.demands.clear()
    rack.sweep()
    assert text_of(rack, "web").startswith("web: it is not running")


def test_what_is_plugged_and_what_of_that_is_offline_has_its_place_and_each_ability_its_evidence() -> None:
    rack = host({"web": 100})
    rack.overrides["web"] = {
        "device": "virtio-balloon",
        "boot_bytes": 256 * MIB,
        "limit_bytes": 512 * MIB,
        "virtio_mems": (VirtioMem("/machine/peripheral/m", 2 * MIB, 256 * MIB, 256 * MIB, 256 * MIB),),
        "offline_bytes": 64 * MIB,
    }
    rack.sweep(4)
    text = text_of(rack, "web")
    assert re.search(r"  plugged +256 MiB  the part of that by virtio-mem, which has 256 MiB", text)
    assert re.search(r"  uses +100 MiB  committed, less 64 MiB that is not online, reported", text)
    assert "balloon driver: proven (its guest has reported since it started)" in text
    assert "virtio-mem driver: proven (its guest has plugged memory; now it is 256 MiB)" in text
