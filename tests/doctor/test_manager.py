"""What `dynmem doctor` says to a manager: kernel, cgroups, rights, monitors, locks, QEMU's hv-balloon."""

import errno
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.rigs.proc_tree import QEMU, ProcTree

from dynmem.discovery.find import Found, find_vms
from dynmem.doctor import hv_balloon, manager
from dynmem.findings import Verdict

HAS_IT, HAS_IT_NOT = 'name "hv-balloon", bus vmbus\n', 'name "virtio-balloon-pci", bus PCI\n'
V2 = "30 1 0:26 / {0} rw - cgroup2 cgroup2 rw\n"
V1 = "31 1 0:27 / {0} rw - cgroup cgroup rw,memory\n"


def rig(root: Path, *vms: Sequence[str], hides_others: bool = False) -> ProcTree:
    tree = ProcTree(root / "proc", hides_others=hides_others)
    for number, options in enumerate(vms):
        tree.process(100 + number, [QEMU, "-name", f"vm{number}", *options])
    return tree


def monitor(root: Path, name: str) -> list[str]:
    return ["-qmp", f"unix:{root}/{name}.qmp,server=on,wait=off"]


def test_a_kernel_that_shows_no_end_of_a_process_cannot_be_managed_on() -> None:
    assert manager.kernel().verdict is Verdict.OK

    def refuse(_: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    found = manager.kernel(refuse)
    assert found.verdict is Verdict.MISSING
    assert "pidfd_open fails (Function not implemented)" in found.detail
    assert "5.3 or later" in found.step


@pytest.mark.parametrize(
    ("mounts", "verdict", "detail"),
    [
        (V2, Verdict.OK, "version 2: limits"),
        (V1, Verdict.OK, "version 1: limits"),
        (V1 + V2, Verdict.OK, "version 1 and version 2: limits"),
        ("", Verdict.LIMITED, "none are mounted"),
        ("nonsense\n", Verdict.LIMITED, "not in the kernel's form"),
    ],
)
def test_memory_cgroups_are_named_by_version(
    mounts: str, verdict: Verdict, detail: str, tmp_path: Path
) -> None:
    tree, folder = rig(tmp_path), tmp_path / "cgroup"
    (folder / "dynmem.service").mkdir(parents=True)
    (folder / "cgroup.controllers").write_text("cpu memory io\n")
    (tree.root / "self").mkdir()
    (tree.root / "self" / "mountinfo").write_text(mounts.format(folder))
    (tree.root / "self" / "cgroup").write_text("0::/dynmem.service\n")
    found = manager.groups(tree.root)
    assert found.verdict is verdict
    assert detail in found.detail
    if mounts == V2:
        (folder / "dynmem.service" / "memory.max").write_text(f"{32 << 20}\n")
        found = manager.groups(tree.root)
        assert found.verdict is Verdict.LIMITED
        assert "dynmem itself may use 32 MiB" in found.detail


def test_a_limit_in_a_group_whose_name_is_no_text_is_seen_and_can_be_shown(tmp_path: Path) -> None:
    tree, folder = rig(tmp_path), tmp_path / "cgroup"
    (folder / "\udcff").mkdir(parents=True)
    (folder / "\udcff" / "memory.max").write_text(f"{32 << 20}\n")
    (folder / "cgroup.controllers").write_text("memory\n")
    (tree.root / "self").mkdir()
    (tree.root / "self" / "mountinfo").write_text(V2.format(folder))
    (tree.root / "self" / "cgroup").write_bytes(b"0::/\xff\n")
    found = manager.groups(tree.root)
    assert f"may use 32 MiB ({folder}/?/memory.max)" in found.detail


def test_cgroups_that_cannot_be_read_are_a_limit_and_not_none(tmp_path: Path) -> None:
    found = manager.groups(rig(tmp_path).root)
    assert found.verdict is Verdict.LIMITED
    assert "cannot be read (No such file or directory)" in found.detail


def test_processes_that_are_hidden_are_a_limit_and_what_to_do_is_said(tmp_path: Path) -> None:
    seen = rig(tmp_path / "a", [])
    assert manager.processes(find_vms(proc=seen.root), seen.root).verdict is Verdict.OK
    hidden = rig(tmp_path / "b", [], hides_others=True)
    found = manager.processes(find_vms(proc=hidden.root), hidden.root)
    assert found.verdict is Verdict.LIMITED
    assert "hidepid" in found.detail
    assert "as root" in found.step


def test_what_other_users_processes_have_open_is_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = rig(tmp_path, [])
    vms = find_vms(proc=tree.root)
    real = os.scandir

    def refuse(path: Path) -> object:
        if str(path).endswith("/fd"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = manager.processes(vms, tree.root)
    assert (found.verdict, found.detail[:20]) == (Verdict.LIMITED, "what vm0 has open ca")


def test_each_vm_without_a_monitor_to_connect_to_is_named_with_what_helps(tmp_path: Path) -> None:
    tree = rig(
        tmp_path, [], monitor(tmp_path, "held"), monitor(tmp_path, "closed"), monitor(tmp_path, "fine")
    )
    tree.socket(tmp_path / "held.qmp", 7, state="03")
    vms = find_vms(proc=tree.root)
    found = manager.monitors(vms, lambda path: path.name != "closed.qmp")
    assert found.verdict is Verdict.LIMITED
    assert found.detail == (
        "vm0: no QMP monitor at a unix socket; vm2: this user may not connect to the monitor;"
        " vm1: another client is connected to every monitor"
    )
    assert 'monitor = "borrowed"' in found.step
    only_fine = Found(tuple(vm for vm in vms.vms if vm.name == "vm3"))
    assert manager.monitors(only_fine, lambda _: True).verdict is Verdict.OK
    assert manager.monitors(Found(())).detail == "no VM runs"


def test_many_names_are_cut_and_none_writes_to_the_terminal(tmp_path: Path) -> None:
    tree = rig(tmp_path, *[[] for _ in range(7)])
    found = manager.monitors(find_vms(proc=tree.root))
    assert "vm4 and 2 more: no QMP monitor" in found.detail


def test_a_host_of_proxmox_says_whether_locks_can_be_read(tmp_path: Path) -> None:
    tree = rig(tmp_path, ["-id", "100"])
    folder = tmp_path / "pve" / "qemu-server"

    def look() -> list[tuple[Verdict, str]]:
        vms = find_vms(proc=tree.root, proxmox=folder)
        return [(each.verdict, each.detail) for each in manager.locks(vms, folder)]

    assert look() == []  # not Proxmox
    folder.mkdir(parents=True)
    assert look()[0][0] is Verdict.LIMITED
    (folder / "100.conf").write_text("lock: backup\n")
    assert look() == [(Verdict.OK, "vm0 locked now, and left alone")]
    (folder / "100.conf").write_text("memory: 512\n")
    assert look() == [(Verdict.OK, "none is locked now")]


# QEMU's hv-balloon


def all_there(_: int, __: int, ___: int) -> int:
    return 1


def examined(
    root: Path, *vms: Sequence[str], says: str = HAS_IT, has_kvm: bool = True
) -> tuple[Verdict, str]:
    tree, kvm = rig(root, *vms), root / "kvm"
    if has_kvm:
        kvm.write_text("")
    vms_found = find_vms(proc=tree.root)
    found = hv_balloon.examine(vms_found, program="/bin/qemu", ask=lambda _: says, kvm=kvm, ioctl=all_there)
    return found.verdict, found.detail


def test_hv_balloon_needs_a_qemu_that_has_it_and_kvm(tmp_path: Path) -> None:
    assert examined(tmp_path / "a") == (Verdict.OK, "/bin/qemu has it, and KVM has what it needs")
    assert examined(tmp_path / "b", says=HAS_IT_NOT) == (Verdict.LIMITED, "/bin/qemu does not have it")
    verdict, detail = examined(tmp_path / "c", has_kvm=False)
    assert verdict is Verdict.LIMITED
    assert "kvm cannot be opened (No such file or directory)" in detail
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "kvm").write_text("")
    for answer, said in (
        (0, "lacks KVM_CAP_HYPERV_SYNIC2, KVM_CAP_HYPERV_VP_INDEX"),
        (None, "does not answer"),
    ):

        def ioctl(_: int, __: int, ___: int, answer: int | None = answer) -> int:
            if answer is None:
                raise OSError(errno.ENOTTY, "Inappropriate ioctl")
            return answer

        found = hv_balloon.examine(
            Found(()), program="/bin/qemu", ask=lambda _: HAS_IT, kvm=tmp_path / "d" / "kvm", ioctl=ioctl
        )
        assert said in found.detail


def test_a_vm_whose_hv_balloon_reports_nothing_is_named(tmp_path: Path) -> None:
    verdict, detail = examined(tmp_path / "a", ["-device", "hv-balloon,id=hv0"])
    assert (verdict, detail) == (Verdict.LIMITED, "vm0: it does not report what its guest needs")
    assert examined(tmp_path / "b", ["-device", "hv-balloon,status-report=on"])[0] is Verdict.OK


def test_our_own_vms_are_none_of_qemus(tmp_path: Path) -> None:
    tree = rig(tmp_path, ["-device", "hv-balloon"])
    for number in (7, 8):
        ours = ["python3", "-m", "dynmem", "vm", f"--name=ours{number}", "--device=hv-balloon"]
        tree.process(number, ours)
    found = find_vms(proc=tree.root)
    assert len(found.vms) == 3
    said = hv_balloon.examine(found, program="")
    assert said.detail == "vm0: it does not report what its guest needs"
    mine = found._replace(vms=tuple(vm for vm in found.vms if vm.started.is_ours))
    assert all(vm.started.devices for vm in mine.vms)
    assert hv_balloon.examine(mine, program="").verdict is Verdict.OK


def test_without_a_qemu_there_is_nothing_to_say_and_one_that_fails_is_named() -> None:
    assert hv_balloon.examine(Found(()), program="").verdict is Verdict.OK

    def fail(_: str) -> str:
        raise subprocess.CalledProcessError(1, "qemu")

    found = hv_balloon.examine(Found(()), program="/bin/qemu", ask=fail)
    assert found.verdict is Verdict.LIMITED
    assert "does not say which devices it has" in found.detail
