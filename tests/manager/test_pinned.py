"""VMs whose pages stay on the host are never ballooned: what is looked at, and what a step makes of it."""

import os
from pathlib import Path

import pytest
from tests.rigs.monitored import FakeVm, look, watched
from tests.rigs.obedient import ObedientHost
from tests.rigs.proc_tree import ProcTree
from tests.rigs.scenes import play, plays

from dynmem.discovery.surroundings import look_around
from dynmem.manager.step.facts import ManagerSettings, Pinned, VmConfig
from dynmem.manager.sweep import surroundings
from dynmem.manager.sweep.measuring import Measuring
from dynmem.manager.sweep.surroundings import Found, Surroundings
from dynmem.units import GIB, MIB, NS_PER_S

HOST = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce")
VFIO = Pinned("VFIO: a device that was passed through pins all of its memory", leaves_virtio_mem=True)


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_vm_with_an_assigned_device_is_never_ballooned_and_the_status_names_it(*, is_seen: bool) -> None:
    vms = [VmConfig(name, 64 * MIB, 512 * MIB) for name in ("web", "db", "gpu")]
    rack = ObedientHost(HOST, vms, {"web": 100 * MIB, "db": 300 * MIB, "gpu": 100 * MIB})
    rack.overrides["gpu"] = {"pinned": VFIO if is_seen else None}
    rack.sweep(4)
    rack.demands["web"] = 500 * MIB
    asked = {each.vm for _ in range(8) for each in rack.sweep().commands}
    assert ("gpu" in asked) is not is_seen
    view = rack.manager.status().vm("gpu")
    assert view.pinned == (VFIO.reason if is_seen else None)
    assert view.reason.startswith("frozen: it is never ballooned: VFIO") is is_seen
    # Released, too: it has all its memory.
    rack.manager.release("gpu")
    assert ("gpu" in {each.vm for _ in range(4) for each in rack.sweep().commands}) is not is_seen


def test_a_device_that_is_plugged_in_is_seen_within_ten_looks(tmp_path: Path) -> None:
    async def scenario() -> None:
        devices = [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}]
        vm = FakeVm({"qom-list": devices})
        async with watched(vm, tmp_path) as connection:
            assert (await look(connection)).pinned is None
            devices.append({"name": "gpu0", "type": "child<vfio-pci>"})
            found = [(await look(connection)).pinned for _ in range(11)]
            assert found[-1] == VFIO

    play(scenario())


def test_a_monitor_that_lists_nonsense_pins_nothing_and_ends_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = FakeVm({"query-hv-balloon-status-report": {"committed": 1, "available": 1}})
        vm.answers["qom-list"] = [{"type": 7}, {"type": "vfio-pci"}, {}]
        async with watched(vm, tmp_path) as connection:
            facts = await look(connection)
            assert (facts.run_state, facts.pinned) == ("running", None)

    play(scenario())


def test_what_a_process_has_open_and_locked_is_read_from_proc(tmp_path: Path) -> None:
    tree = ProcTree(tmp_path / "proc")
    status = "Name:\tkvm\nVmLck:\t    1024 kB\nVmPin:\t 4194304 kB\nVmRSS: x kB\n"
    tree.process(7, ["kvm"], fds={3: "/dev/vfio/vfio"}, status=status, cgroup="0::/\n")
    (tree.root / "self").mkdir()
    (tree.root / "self" / "mountinfo").write_text("")
    seen = look_around(7, tree.root)
    assert (seen.links, seen.locked_bytes) == (("/dev/vfio/vfio",), 4 * GIB)
    assert look_around(8, tree.root).locked_bytes == 0  # it has ended
    tree.process(9, ["kvm"], status="VmLck:\t    2048 kB\nVmPin:\t       0 kB\n")
    assert look_around(9, tree.root).locked_bytes == 2 * MIB


def test_this_process_has_nothing_locked() -> None:
    seen = look_around(os.getpid())
    assert seen.links is not None
    assert seen.locked_bytes < GIB


@plays
async def test_after_the_first_sweep_vms_are_looked_around_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[int] = []

    def seen(pid: int, *_: object) -> Found:
        looked.append(pid)
        return Found()

    monkeypatch.setattr(surroundings, "_around", seen)
    threads, vms = Measuring(), {pid: Surroundings() for pid in range(100, 110)}
    for sweep in range(1, 22):
        looked.clear()
        for pid, each in vms.items():
            each.begin(sweep)
            await each.look(pid, GIB, threads)
        assert len(looked) == (len(vms) if sweep == 1 else 1)
