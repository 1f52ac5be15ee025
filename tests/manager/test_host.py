"""The host's memory: each source as it is, absent, forbidden and full of nonsense; and what of it decides."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.rigs.obedient import ObedientHost

from dynmem.cli.host_text import host_lines, nodes_line
from dynmem.errors import RemoteProtocolError
from dynmem.manager.step.facts import HostFacts, ManagerSettings, NodeFacts, VmConfig
from dynmem.manager.step.measured import measure
from dynmem.manager.sweep.host import HostMeter
from dynmem.units import GIB, KIB, MIB, NS_PER_S, pages_of

MEMINFO = (
    "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 4194304 kB\nSwapTotal: 2048 kB\nSwapFree: 512 kB\n"
)
EVICTABLE = "".join(
    f"{state}_evictable_{kind} 4 {268435456}\n" for state in ("mru", "mfu") for kind in ("data", "metadata")
)
ARC = f"13 1 0x01 96 26112 1 2\nname type data\nc_min 4 {GIB}\nc_max 4 {4 * GIB}\nsize 4 {3 * GIB}\n"
FILES = {
    "proc/meminfo": MEMINFO,
    "proc/spl/kstat/zfs/arcstats": ARC,
    "proc/pressure/memory": (
        "some avg10=1.50 avg60=0.10 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    ),
    "sys/block/zram0/mm_stat": "4096 1024 2097152 0 2097152 0 0 0\n",
    "sys/block/sda/size": "7\n",
    "sys/kernel/mm/ksm/pages_sharing": "256\n",
    "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "8\n",
    "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "5\n",
    "sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages": "1\n",
    "sys/devices/system/node/node10/meminfo": "Node 10 MemTotal: 2048 kB\nNode 10 MemFree: 1024 kB\n",
    "sys/devices/system/node/node2/meminfo": (
        "Node 2 MemTotal: 4096 kB\nNode 2 MemFree: 1024 kB\nNode 2 Inactive(file): 512 kB\n"
    ),
    "sys/devices/system/node/has_cpu": "0\n",
}
WHOLE = HostFacts(
    mem_available_bytes=4 * GIB,
    mem_total_bytes=8 * GIB,
    arc_bytes=2 * GIB,
    swap_total_bytes=2 * MIB,
    swap_free_bytes=512 * KIB,
    zram_bytes=2 * MIB,
    ksm_saved_bytes=MIB,
    huge_bytes=16 * MIB,
    huge_free_bytes=8 * MIB,
    pressure_some_percent=1.5,
    pressure_full_percent=0.0,
    nodes=(NodeFacts(2, 4 * MIB, 1536 * KIB), NodeFacts(10, 2 * MIB, MIB)),
)


def tree(root: Path, **changes: str) -> HostMeter:
    for name, text in (FILES | changes).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return HostMeter(root / "proc", root / "sys")


def test_every_source_is_read_as_the_kernel_writes_it(tmp_path: Path) -> None:
    assert tree(tmp_path).measure() == WHOLE


def test_no_program_has_waited_for_longer_than_there_was_time(tmp_path: Path) -> None:
    found = tree(tmp_path, **{"proc/pressure/memory": "some avg10=250.00 x\nfull avg10=100.01 x\n"}).measure()
    assert (found.pressure_some_percent, found.pressure_full_percent) == (100.0, 100.0)


def test_what_is_not_there_is_not_known_and_is_no_zero(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
    found = HostMeter(tmp_path / "proc", tmp_path / "sys").measure()
    assert found == HostFacts(4 * GIB, 8 * GIB)
    assert found.pressure_some_percent is None
    assert "pressure not known (no PSI)" in next(host_lines(found))
    for wrong in ("MemTotal: 8388608 kB\n", "MemTotal: x kB\nMemAvailable: 1 kB\n"):
        (tmp_path / "proc" / "meminfo").write_text(wrong)
        with pytest.raises(RemoteProtocolError):
            HostMeter(tmp_path / "proc", tmp_path / "sys").measure()


def forbid(path: Path) -> None:
    """Make reading fail otherwise than by absence, also for root."""
    path.unlink()
    path.mkdir()


def garble(path: Path) -> None:
    path.write_bytes(b"\xff\x00 9e99 -1 0x10 \n some avg10=x full avg10=\n" + b"7" * 70_000)


@pytest.mark.parametrize("harm", [forbid, garble])
@pytest.mark.parametrize(
    "name", [each for each in FILES if each not in ("proc/meminfo", "sys/block/sda/size")]
)
def test_a_file_that_cannot_be_used_is_named_and_the_others_are_read(
    name: str, harm: Callable[[Path], None], tmp_path: Path
) -> None:
    if name.endswith("has_cpu"):
        return
    meter = tree(tmp_path)
    harm(tmp_path / name)
    found = meter.measure()
    assert any(str(tmp_path / name) in sentence for sentence in found.unseen), found.unseen
    assert (found.mem_available_bytes, found.swap_free_bytes) == (4 * GIB, 512 * KIB)
    differing = [
        field
        for field in HostFacts.__struct_fields__
        if field != "unseen" and getattr(found, field) != getattr(WHOLE, field)
    ]
    assert 1 <= len(differing) <= 2  # what this file says, and nothing else
    assert any(line.startswith("HOST: ") for line in host_lines(found))


def test_what_vanishes_between_two_measurements_is_gone_and_what_decides_is_read_each_time(
    tmp_path: Path,
) -> None:
    meter = tree(tmp_path)
    assert meter.measure_again() == WHOLE
    (tmp_path / "proc/spl/kstat/zfs/arcstats").unlink()
    (tmp_path / "proc/meminfo").write_text(MEMINFO.replace("4194304", "1048576"))
    (tmp_path / "sys/block/zram0/mm_stat").unlink()
    again = meter.measure_again()
    assert (again.mem_available_bytes, again.arc_bytes, again.zram_bytes) == (GIB, None, 2 * MIB)
    assert meter.measure().zram_bytes is None


def test_only_what_is_in_no_use_of_zfss_cache_counts(tmp_path: Path) -> None:
    name = "proc/spl/kstat/zfs/arcstats"
    assert tree(tmp_path, **{name: ARC + EVICTABLE}).measure().arc_bytes == GIB
    small = ARC.replace(f"size 4 {3 * GIB}", f"size 4 {GIB // 2}")
    assert tree(tmp_path, **{name: small}).measure().arc_bytes == 0


def test_this_host_can_be_measured() -> None:
    found = HostMeter().measure()
    assert 0 < found.mem_available_bytes <= found.mem_total_bytes
    assert [node.total_bytes > 0 for node in found.nodes] == [True] * len(found.nodes)
    assert (found.pressure_some_percent is None) is not os.path.exists("/proc/pressure/memory")  # noqa: PTH110


# what decides


def test_what_zfss_cache_could_give_back_counts_as_available_and_is_named() -> None:
    settings = ManagerSettings(8 * GIB, 0, NS_PER_S)
    free = measure(settings, HostFacts(GIB, 8 * GIB, arc_bytes=2 * GIB), (), 0)
    assert free.pages == pages_of(3 * GIB)
    assert "available 3 GiB (2 GiB of it in ZFS's cache)" in free.text
    without = measure(settings, HostFacts(GIB, 8 * GIB), (), 0)
    assert without.pages == pages_of(GIB)
    assert "ZFS" not in without.text


def test_neither_swap_nor_merged_nor_huge_pages_are_granted() -> None:
    settings = ManagerSettings(8 * GIB, 0, NS_PER_S)
    host = HostFacts(
        GIB, 8 * GIB, swap_total_bytes=GIB, swap_free_bytes=GIB, ksm_saved_bytes=GIB, huge_free_bytes=GIB
    )
    assert measure(settings, host, (), 0).pages == pages_of(GIB)


def test_a_vm_that_is_bound_to_a_node_is_named_with_what_that_has() -> None:
    settings = ManagerSettings(GIB, 0, NS_PER_S, "enforce")
    rack = ObedientHost(settings, [VmConfig("web", 64 * MIB, 512 * MIB)], {"web": 100 * MIB})
    nodes = (NodeFacts(0, GIB, 64 * MIB), NodeFacts(1, GIB, 128 * MIB))
    host = HostFacts(GIB, 2 * GIB, nodes=nodes)
    for numbers, line in [
        ((1,), "its memory comes from NUMA node 1 alone: 128 MiB available there"),
        ((0, 1), ""),
        ((), ""),
    ]:
        rack.overrides["web"] = {"node_numbers": numbers}
        facts = rack.facts()
        rack.now_ns += NS_PER_S
        rack.manager.step(type(facts)(rack.now_ns, host, facts.vms))
        status = rack.manager.status()
        assert nodes_line(status.vm("web"), status.host) == line
        assert status.host == host
