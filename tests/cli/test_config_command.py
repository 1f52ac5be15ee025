"""`dynmem config init`: what it writes can be loaded, and says where each figure comes from."""

import asyncio
import re
import tomllib
from pathlib import Path

import pytest
from tests.rigs.managers import cli
from tests.rigs.monitored import FakeVm, listening
from tests.rigs.proc_tree import QEMU, ProcTree
from tests.rigs.scenes import play

from dynmem.cli.config_text import Sized, initial
from dynmem.discovery.find import find_vms
from dynmem.manager.config import Config, load
from dynmem.units import GIB, MIB

DATE = "2026-11-27"
PROXMOX_MONITORS = ("-qmp", "unix:/run/qemu-server/104.qmp,server=on,wait=off")
OUR_MONITOR = ("-qmp", "unix:/run/qemu-server/104-dynmem.qmp,server=on,wait=off")


@pytest.fixture(name="tree")
def _tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path / "proc")


def written(tree: ProcTree, host_bytes: int = 64 * GIB, *, proxmox: str = "") -> str:
    """Return the file for the VMs of a folder like /proc, and for Proxmox's VM 104."""
    folder = tree.root.parent / "qemu-server"
    if proxmox:
        folder.mkdir()
        (folder / "104.conf").write_text(proxmox)
    found = find_vms(proc=tree.root, proxmox=folder)
    sized = [Sized(vm, vm.started.memory_bytes) for vm in found.vms]
    return initial(sized, found.unseen, host_bytes, DATE)


def loaded(tree: ProcTree, text: str) -> Config:
    path = tree.root.parent / "hosts.toml"
    path.write_text(text)
    return load(path)


def uncommented(text: str) -> dict[str, object]:
    """Return the last table that stands behind `#`."""
    lines = text[text.rindex("# [[vm]]") :].splitlines()
    (table,) = tomllib.loads("\n".join(line.removeprefix("# ") for line in lines))["vm"]
    assert isinstance(table, dict)
    return table


def test_a_vm_with_a_free_monitor_is_written_and_every_line_has_a_comment(tree: ProcTree) -> None:
    tree.process(7, [QEMU, "-name", "web", "-m", "4G", "-qmp", "unix:/run/web.qmp,server=on,wait=off"])
    text = written(tree)
    (vm,) = loaded(tree, text).vms
    assert (vm.name, vm.minimum_bytes, vm.maximum_bytes) == ("web", GIB, 4 * GIB)
    config = loaded(tree, text)
    assert config.monitors == {"web": Path("/run/web.qmp")}
    assert (config.settings.mode, config.settings.budget_bytes) == ("observe", 56 * GIB)
    for line in text.splitlines():
        assert re.fullmatch(r"|\[.*\]|#.*|\w+ = .* # .+", line), line


def test_what_virtio_mem_can_plug_is_a_part_of_the_maximum_and_not_of_the_minimum(tree: ProcTree) -> None:
    """A maximum of the boot size would take from a VM what it has plugged already."""
    backend = "memory-backend-memfd,id=more,size=8G,share=on"
    device = "virtio-mem-pci,id=vm0,memdev=more,requested-size=1G"
    options = ["-object", backend, "-device", device, "-qmp", "unix:/run/web.qmp,server=on,wait=off"]
    tree.process(7, [QEMU, "-name", "web", "-m", "4G,maxmem=12G", *options])
    text = written(tree)
    (vm,) = loaded(tree, text).vms
    assert (vm.minimum_bytes, vm.maximum_bytes) == (GIB, 12 * GIB)
    assert "what it boots with, 4 GiB, and what its virtio-mem can plug" in text


@pytest.mark.parametrize("taken", [True, False])
def test_proxmoxs_own_monitor_is_borrowed_and_its_figures_are_used(taken: bool, tree: ProcTree) -> None:
    tree.process(9, ["kvm", "-id", "104", "-name", "shop,debug-threads=on", "-m", "8192", *PROXMOX_MONITORS])
    tree.socket("/run/qemu-server/104.qmp", 71, listens=True)
    if taken:
        tree.socket("/run/qemu-server/104.qmp", 72, state="03")
    text = written(tree, proxmox="balloon: 2048\nmemory: 8192\nname: shop\nshares: 2000\n")
    assert 'monitor = "borrowed"               # Proxmox\'s own: visited when nobody is connected' in text
    assert "takeover = false                   # Proxmox changes its size, too; true: enforce" in text
    config = loaded(tree, text)
    (vm,) = config.vms
    assert (vm.minimum_bytes, vm.maximum_bytes, vm.weight) == (2 * GIB, 8 * GIB, 10000)
    assert config.ways == {"shop": "monitor /run/qemu-server/104.qmp (borrowed)"}


def test_a_vm_of_proxmox_without_a_monitor_is_given_one_for_dynmem(tree: ProcTree) -> None:
    tree.process(9, ["kvm", "-id", "104", "-name", "shop", "-m", "8192"])
    text = written(tree, proxmox="memory: 8192\nname: shop\n")
    assert loaded(tree, text).vms == ()
    assert "qm set 104 --args '-chardev socket,id=dynmem,path=/run/qemu-server/104-dynmem.qmp" in text
    assert uncommented(text)["qmp"] == "/run/qemu-server/104-dynmem.qmp"


def test_a_vm_of_proxmox_with_a_monitor_for_dynmem_is_written(tree: ProcTree) -> None:
    tree.process(9, ["kvm", "-id", "104", "-name", "shop", "-m", "8192", *PROXMOX_MONITORS, *OUR_MONITOR])
    config = loaded(tree, written(tree, proxmox="memory: 8192\nname: shop\n"))
    assert config.ways == {"shop": "monitor /run/qemu-server/104-dynmem.qmp (own)"}


def test_a_vm_without_a_balloon_or_a_monitor_stands_behind_a_remark_with_what_to_do(tree: ProcTree) -> None:
    tree.process(9, ["kvm", "-id", "104", "-name", "shop", "-m", "8192", *PROXMOX_MONITORS, *OUR_MONITOR])
    tree.process(10, [QEMU, "-name", "lone", "-m", "1G"])
    text = written(tree, proxmox="memory: 8192\nname: shop\nballoon: 0\n")
    assert loaded(tree, text).vms == ()
    assert "# shop cannot be managed yet: it has no balloon device: run `qm set 104 --delete balloon`" in text
    assert re.search(r"# lone cannot be managed yet: .*: start it with -qmp unix:PATH", text)


def test_libvirts_own_monitor_is_never_used_and_one_beside_it_is(tree: ProcTree) -> None:
    path = "/var/lib/libvirt/qemu/domain-1-web/monitor.sock"
    theirs = ("-chardev", "socket,id=c,fd=22,server=on", "-mon", "chardev=c,mode=control")
    tree.process(7, [QEMU, "-name", "guest=web", "-m", "1G", *theirs], fds={22: "socket:[4711]"})
    tree.socket(path, 4711, listens=True)  # libvirt has lost it, and will come back
    text = written(tree)
    assert loaded(tree, text).vms == ()
    assert "# web cannot be managed yet: its monitor is libvirt's, and it was started without a UUID" in text
    ours = ("-qmp", "unix:/run/web-dynmem.qmp,server=on,wait=off")
    tree.process(8, [QEMU, "-name", "guest=db", "-m", "1G", *theirs, *ours], fds={22: "socket:[4711]"})
    assert loaded(tree, written(tree)).monitors == {"db": Path("/run/web-dynmem.qmp")}


def test_a_domain_of_libvirt_is_written_with_its_uuid_and_its_libvirt(tree: ProcTree) -> None:
    theirs = ("-chardev", "socket,id=c,fd=22,server=on", "-mon", "chardev=c,mode=control", "-m", "1G")
    for pid, name, place in (
        (7, "web", "/var/lib/libvirt/qemu/domain-1-web/monitor.sock"),
        (8, "mine", "/users/kim/.config/libvirt/qemu/lib/domain-2-mine/monitor.sock"),
    ):
        uuid = f"c7a5fdbd-cdaf-9455-926a-d65c16db180{pid}"
        words = [QEMU, "-name", f"guest={name}", "-uuid", uuid, *theirs]
        tree.process(pid, words, fds={22: f"socket:[471{pid}]"})
        tree.socket(place, 4710 + pid, listens=True)
        tree.socket(place, 5710 + pid, state="03")
    text = written(tree)
    config = loaded(tree, text)
    assert (config.libvirt, config.monitors) == ("qemu:///system", {})
    assert config.domains == {"web": "c7a5fdbd-cdaf-9455-926a-d65c16db1807"}
    assert "# mine cannot be managed yet: it is of qemu:///session, and one libvirt can be managed" in text
    assert uncommented(text)["libvirt"] == "c7a5fdbd-cdaf-9455-926a-d65c16db1808"


def test_a_vm_of_dynmem_serves_several_clients_and_is_written_also_where_one_is_connected(
    tree: ProcTree,
) -> None:
    qmp = "unix:/run/own.qmp,server=on,wait=off"
    tree.process(7, ["/usr/bin/dynmem", "vm", "--name", "own", "-m", "512M", "--qmp", qmp])
    tree.socket("/run/own.qmp", 71, listens=True)
    tree.socket("/run/own.qmp", 72, state="03")
    assert [vm.name for vm in loaded(tree, written(tree)).vms] == ["own"]


def test_names_are_made_plain_and_told_apart(tree: ProcTree) -> None:
    for pid, name in ((7, "web"), (8, "web"), (9, "my shop"), (10, "..."), (11, "x" * 64), (12, "x" * 64)):
        monitor = ("-qmp", f"unix:/run/{pid}.qmp,server=on,wait=off")
        tree.process(pid, [QEMU, "-name", name, "-m", "1G", *monitor])
    text = written(tree)
    names = [vm.name for vm in loaded(tree, text).vms]
    assert names == ["web", "web-8", "my-shop", "vm-10", "x" * 64, f"{'x' * 53}-12"]
    assert "it calls itself my shop" in text


@pytest.mark.parametrize("host_bytes", [0, 200 * MIB, 600 * MIB, 3 * GIB, 7 * GIB + 12345])
def test_on_a_small_host_too_the_file_is_right_or_says_what_is_missing(
    host_bytes: int, tree: ProcTree
) -> None:
    tree.process(7, [QEMU, "-name", "web", "-m", "8G", "-qmp", "unix:/run/web.qmp,server=on,wait=off"])
    text = written(tree, host_bytes)
    if host_bytes >= 600 * MIB:
        assert [vm.name for vm in loaded(tree, text).vms] == ["web"]
    else:
        assert "# web cannot be managed yet" in text


def test_nothing_that_a_socket_is_called_becomes_a_line_of_the_file(tree: ProcTree) -> None:
    tree.process(7, [QEMU, "-name", "web", "-m", "1G"])
    (vm,) = find_vms(proc=tree.root, proxmox=tree.root / "none").vms
    problem = "nobody replies at /run/a\n[host]\nbudget = 1 " + "x" * 5000
    text = initial([Sized(vm, GIB, problem)], ["a\n[x]"], 64 * GIB, DATE)
    assert loaded(tree, text).vms == ()
    assert max(map(len, text.splitlines())) < 400


def test_on_a_host_without_vms_a_table_is_shown_and_the_file_is_right(tree: ProcTree) -> None:
    text = written(tree)
    assert loaded(tree, text).vms == ()
    assert uncommented(text)["name"] == "web"


def test_a_folder_of_sockets_becomes_a_file_that_run_accepts(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = tmp_path / "vms"
        folder.mkdir()
        (folder / "notes.txt").write_text("no socket")
        web, config = FakeVm(), tmp_path / "hosts.toml"
        hostile = folder / 'a"\n[host]\nbudget="1".qmp'
        async with (
            listening(folder / "web.qmp", web.serve),
            listening(folder / "log.sock", lambda reader, writer: writer.write(b"hello\n")),
            listening(hostile, FakeVm().serve),
        ):
            code, out, err = await cli("config", "init", folder, "-o", config)
            assert (code, err) == (0, "") or "note" in err
            assert out.startswith(f"{config}: 3 VMs")
            assert [name for name, _ in web.asked] == ["query-memory-size-summary"]
            found = await asyncio.to_thread(load, config)
            assert found.monitors == {"web": folder / "web.qmp"}
            assert found.vms[0].maximum_bytes == 64 * MIB
            text = config.read_text()
            assert "# log cannot be managed yet: nobody replies at" in text
            assert "the path of its monitor cannot stand in this file" in text
            assert (await cli("run", "--config", config, "--check"))[0] == 0
            code, _, err = await cli("config", "init", folder, "-o", config)
            assert (code, "there is such a file already" in err) == (2, True)
            assert config.read_text() == text

    play(scenario())


def test_a_folder_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    async def scenario() -> None:
        code, out, err = await cli("config", "init", tmp_path / "none")
        assert (code, out, err.count("\n")) == (3, "", 1)

    play(scenario())
