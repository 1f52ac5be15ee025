"""The VMs of a host and their monitors, found in folders that look like /proc."""

import socket
from pathlib import Path

import pytest
from tests.rigs.proc_tree import QEMU, ProcTree

from dynmem.discovery.find import BY_HAND, LIBVIRT, OURS, PROXMOX, FoundMonitor, FoundVm, find_vms
from dynmem.errors import UnreachableError

BY_DESCRIPTOR = ("-chardev", "socket,id=c,fd=22,server=on", "-mon", "chardev=c,mode=control")
NO_PROXMOX = Path("/nonexistent/qemu-server")


def only(tree: ProcTree, proxmox: Path = NO_PROXMOX) -> FoundVm:
    (vm,) = find_vms(proc=tree.root, proxmox=proxmox).vms
    return vm


@pytest.fixture(name="tree")
def _tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path / "proc")


def test_a_qemu_has_its_name_and_the_monitor_of_its_command_line(tree: ProcTree) -> None:
    tree.process(7, [QEMU, "-name", "web", "-qmp", "unix:/run/web.qmp,server=on,wait=off"])
    vm = only(tree)
    assert (vm.pid, vm.name, vm.keeper) == (7, "web", BY_HAND)
    assert vm.monitors == (FoundMonitor(Path("/run/web.qmp"), is_taken=False),)


@pytest.mark.parametrize("state", ["02", "03"])
def test_a_monitor_that_serves_a_client_is_known_without_a_connection(tree: ProcTree, state: str) -> None:
    tree.process(7, [QEMU, "-qmp", "unix:/run/web.qmp,server=on", "-qmp", "unix:/run/own.qmp,server=on"])
    tree.socket("/run/web.qmp", 71, listens=True)
    tree.socket("/run/web.qmp", 72, state=state)
    tree.socket("/run/own.qmp", 73, listens=True)
    assert [(each.path.name, each.is_taken) for each in only(tree).monitors] == [
        ("own.qmp", False),
        ("web.qmp", True),
    ]


def test_libvirts_monitor_is_found_by_the_descriptor_that_it_passed(tree: ProcTree) -> None:
    path = "/var/lib/libvirt/qemu/domain-1-web/monitor.sock"
    tree.process(
        7,
        [QEMU, "-name", "guest=web", *BY_DESCRIPTOR],
        fds={22: "socket:[4711]"},
    )
    tree.socket(path, 4711, listens=True)
    tree.socket(path, 4712, state="03")
    vm = only(tree)
    assert (vm.keeper, vm.monitors) == (LIBVIRT, (FoundMonitor(Path(path), is_taken=True),))


@pytest.mark.parametrize(
    ("file", "keeper"),
    [
        ("/var/lib/libvirt/qemu/domain-1-web/master-key.aes", LIBVIRT),
        ("/home/u/.config/libvirt/qemu/lib/domain-1-web/master-key.aes", LIBVIRT),
        ("/var/lib/libvirt/images/web.qcow2", BY_HAND),
    ],
)
def test_libvirt_runs_whom_it_gave_a_file_of_its_own_and_not_everybody_on_an_image_of_its_pool(
    tree: ProcTree, file: str, keeper: str
) -> None:
    tree.process(7, [QEMU, "-name", "guest=web", "-drive", f"file={file}"])
    assert only(tree).keeper == keeper


@pytest.mark.parametrize("target", ["/dev/null", "socket:[9]", "socket:[x]", "socket:[" + "9" * 4000])
def test_a_descriptor_that_leads_to_no_monitor_is_a_sentence(tree: ProcTree, target: str) -> None:
    tree.process(7, [QEMU, *BY_DESCRIPTOR], fds={22: target})
    vm = only(tree)
    assert (vm.monitors, vm.problem.startswith(("its monitor's descriptor", "where its monitor"))) == (
        (),
        True,
    )


def test_a_relative_socket_is_below_the_folder_of_its_process(tree: ProcTree, tmp_path: Path) -> None:
    folder = tree.process(7, [QEMU, "-qmp", "unix:web.qmp,server=on"])
    (folder / "cwd").symlink_to(tmp_path)
    tree.socket("web.qmp", 71, state="03")
    assert only(tree).monitors == (FoundMonitor(tmp_path / "web.qmp", is_taken=True),)


def test_a_vm_of_proxmox_has_the_figures_of_its_file(tree: ProcTree, tmp_path: Path) -> None:
    tree.process(7, ["/usr/bin/kvm", "-id", "100"])
    (tmp_path / "100.conf").write_text("name: shop\nmemory: 4096\nballoon: 1024\n")
    vm = only(tree, tmp_path)
    assert (vm.keeper, vm.name) == (PROXMOX, "shop")
    assert vm.proxmox is not None
    assert vm.proxmox.minimum_bytes == 1 << 30


def test_our_own_vms_are_found_like_the_others(tree: ProcTree) -> None:
    tree.process(
        7, ["python3", "-m", "dynmem", "vm", "--name=web", "--qmp=unix:/run/w,server=on", "-m", "64M"]
    )
    vm = only(tree)
    assert (vm.keeper, vm.name, len(vm.monitors)) == (OURS, "web", 1)


def test_of_more_vms_than_can_be_looked_at_the_first_are_shown_and_that_is_said(
    tree: ProcTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynmem.discovery.find.SCAN_VMS_MAX", 2)
    for pid in (7, 8, 9):
        tree.process(pid, [QEMU])
    found = find_vms(proc=tree.root, proxmox=NO_PROXMOX)
    assert [vm.pid for vm in found.vms] == [7, 8]
    assert found.unseen == ("there are more than 2 VMs: only the first 2 are shown",)


def test_what_hides_processes_and_sockets_is_named(tmp_path: Path) -> None:
    tree = ProcTree(tmp_path / "proc", hides_others=True)
    (tree.root / "net" / "unix").unlink()
    found = find_vms(proc=tree.root, proxmox=NO_PROXMOX)
    assert len(found.unseen) == 2
    assert "net/unix cannot be read" in found.unseen[0]
    assert "hidepid" in found.unseen[1]


def test_processes_whose_command_lines_are_hidden_count_as_hidden(tree: ProcTree) -> None:
    (tree.root / "1" / "cmdline").unlink()  # hidepid=1: the folder is there, and nothing in it can be read
    assert "hidepid" in find_vms(proc=tree.root, proxmox=NO_PROXMOX).unseen[0]


def test_lines_that_the_kernel_does_not_write_are_left_out(tree: ProcTree) -> None:
    tree.process(7, [QEMU, "-qmp", "unix:/run/web.qmp,server=on"])
    with (tree.root / "net" / "unix").open("ab") as file:
        file.write(b"\xff\xfe\n: : : 0001 03 x /run/web.qmp\na b c zz 0001 01 9 /run/web.qmp\n")
    assert only(tree).monitors == (FoundMonitor(Path("/run/web.qmp"), is_taken=False),)


def test_a_folder_of_sockets_adds_only_what_no_command_line_names(tree: ProcTree, tmp_path: Path) -> None:
    folder = tmp_path / "monitors"
    folder.mkdir()
    (folder / "notes").write_text("")
    with socket.socket(socket.AF_UNIX) as web, socket.socket(socket.AF_UNIX) as shop:
        for each, name in ((web, "web.qmp"), (shop, "shop.qmp")):
            each.bind(str(folder / name))
            each.listen()
        tree.process(7, [QEMU, "-name", "web", "-qmp", f"unix:{folder}/web.qmp,server=on"])
        found = find_vms([folder], proc=tree.root, proxmox=NO_PROXMOX)
    assert [vm.name for vm in found.vms] == ["web", "shop"]


def test_a_folder_that_is_not_there_is_named(tree: ProcTree, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="nosuch: cannot be read"):
        find_vms([tmp_path / "nosuch"], proc=tree.root, proxmox=NO_PROXMOX)
