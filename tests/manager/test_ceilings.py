"""What the limits of cgroups leave a VM: no grant takes it above one, alone or with others below the same."""

from pathlib import Path

import pytest
from tests.rigs.obedient import ObedientHost
from tests.rigs.proc_tree import ProcTree

from dynmem.discovery.qemu_options import started_as
from dynmem.discovery.surroundings import bound_to, look_around, numbers_of
from dynmem.manager.step.facts import GroupLimit, ManagerSettings, VmConfig
from dynmem.units import GIB, MIB, NS_PER_S

HOST = ManagerSettings(4 * GIB, 0, NS_PER_S, "enforce")


def rack_of(*names: str) -> ObedientHost:
    vms = [VmConfig(name, 64 * MIB, 512 * MIB) for name in names]
    return ObedientHost(HOST, vms, dict.fromkeys(names, 100 * MIB))


def limited(rack: ObedientHost, name: str, *sizes: int, file: str = "", process: int = 0) -> None:
    limits = tuple(GroupLimit(size * MIB, file or f"/{name}/memory.max") for size in sizes)
    rack.overrides[name] = {"limits": limits, "resident_overhead_bytes": process * MIB}


@pytest.mark.parametrize(("limit", "process", "most"), [(300, 0, 300), (300, 60, 240), (9999, 60, 512)])
def test_a_vm_is_grown_no_further_than_the_limit_of_its_cgroup_leaves_it(
    limit: int, process: int, most: int
) -> None:
    rack = rack_of("web", "db")
    rack.sizes["web"] = 150 * MIB
    limited(rack, "web", limit, process=process)
    rack.demands["web"] = 140 * MIB
    rack.sweep(4)
    rack.demands["web"] = 500 * MIB
    for _ in range(20):
        rack.sweep()
        assert rack.sizes["web"] <= most * MIB
    assert rack.sizes["web"] >= (most - 4) * MIB
    view = rack.manager.status().vm("web")
    assert (view.limit_bytes, view.limit_file) == (limit * MIB, "/web/memory.max")
    assert (f"the limit of its cgroup leaves {most} MiB" in view.reason) == (most < 512)


def test_a_vm_that_is_above_the_limit_is_not_shrunk_for_it() -> None:
    rack = rack_of("web", "db")
    limited(rack, "web", 200)
    rack.demands["web"] = 400 * MIB
    rack.sweep(10)
    assert rack.sizes["web"] == 512 * MIB


def test_vms_below_one_limit_share_what_it_leaves_whichever_is_the_tightest_of_each() -> None:
    rack = rack_of("one", "two", "free")
    for name in ("one", "two"):
        rack.sizes[name] = 150 * MIB
        own, shared = (
            GroupLimit(450 * MIB, f"/{name}/memory.max"),
            GroupLimit(600 * MIB, "/slice/memory.high"),
        )
        rack.overrides[name] = {"limits": (own, shared)}
    rack.sweep(4)
    for name in ("one", "two", "free"):
        rack.demands[name] = 500 * MIB
    for _ in range(20):
        rack.sweep()
        assert rack.sizes["one"] + rack.sizes["two"] <= 600 * MIB
    assert rack.sizes["one"] + rack.sizes["two"] >= 590 * MIB
    assert rack.sizes["free"] > 500 * MIB


def test_reserved_huge_pages_are_not_counted_by_the_limit_of_a_cgroup() -> None:
    rack = rack_of("web", "db")
    rack.sizes["web"] = 150 * MIB
    limited(rack, "web", 200)
    rack.overrides["web"] |= {"huge_bytes": 512 * MIB}
    rack.sweep(4)
    rack.demands["web"] = 400 * MIB
    rack.sweep(10)
    assert rack.sizes["web"] > 400 * MIB


def test_all_limits_above_a_process_are_read_and_its_nodes(tmp_path: Path) -> None:
    tree = ProcTree(tmp_path / "proc")
    tree.process(7, ["kvm"], cgroup="0::/a.slice/b.scope\n", status="Mems_allowed_list:\t0-1,3\n")
    mounts = tmp_path / "cgroup"
    (tree.root / "self").mkdir()
    (tree.root / "self" / "mountinfo").write_text(f"30 1 0:26 / {mounts} rw - cgroup2 cgroup2 rw\n")
    (mounts / "a.slice" / "b.scope").mkdir(parents=True)
    (mounts / "a.slice" / "memory.high").write_text("2000\n")
    (mounts / "a.slice" / "b.scope" / "memory.max").write_text("3000\n")
    (mounts / "a.slice" / "b.scope" / "memory.high").write_text("max\n")
    seen = look_around(7, tree.root)
    assert [limit.size for limit in seen.limits] == [2000, 3000]
    assert seen.limit is seen.limits[0]
    assert seen.nodes == (0, 1, 3)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0", (0,)), ("0-2,5", (0, 1, 2, 5)), ("", ()), ("x", ()), ("1-", ()), ("3-1", ()), ("9" * 9, ())],
)
def test_a_list_of_numbers_that_is_none_has_none(text: str, numbers: tuple[int, ...]) -> None:
    assert numbers_of(text) == numbers


def test_the_nodes_that_memory_was_bound_to_are_on_the_command_line() -> None:
    libvirts = '{"qom-type":"memory-backend-ram","id":"ram","host-nodes":[1],"policy":"bind"}'
    assert bound_to(started_as(["kvm", "-object", libvirts])) == (1,)
    by_hand = "memory-backend-ram,id=m,size=1G,host-nodes=0-1,policy=bind"
    assert bound_to(started_as(["kvm", "-object", by_hand])) == (0, 1)
    preferred = "memory-backend-ram,id=m,size=1G,host-nodes=0,policy=preferred"
    assert bound_to(started_as(["kvm", "-object", preferred])) == ()
