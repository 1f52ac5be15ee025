"""What a scan learns from libvirt, and what it does where libvirt cannot help."""

import sys
import threading
from pathlib import Path
from uuid import uuid4

import pytest
from tests.rigs.libvirts import OTHER, UUID, FakeDomain, FakeLibvirt, mebibytes, xml
from tests.rigs.proc_tree import ProcTree
from tests.rigs.scenes import play

from dynmem.discovery.find import find_vms
from dynmem.doctor import libvirts
from dynmem.doctor.manager import monitors
from dynmem.domains.api import Look
from dynmem.domains.definition import definition_of
from dynmem.domains.errors import LibvirtError, LibvirtMissingError
from dynmem.domains.states import _JOBS, _REASONS, _STATES
from dynmem.findings import Verdict
from dynmem.manager.step.states import STATES
from dynmem.scan.domains import Libvirts, as_monitored
from dynmem.scan.report import ScanReport
from dynmem.scan.scan import AT_ONCE, scan
from dynmem.units import MIB

SOCKET = "/var/lib/libvirt/qemu/domain-1-{}/monitor.sock"
MEMORY = "<memory model='virtio-mem'><target><size unit='KiB'>131072</size>{}</target></memory>"
SIZES = (
    "<block unit='KiB'>2048</block><requested unit='KiB'>65536</requested><current unit='KiB'>32768</current>"
)


def host(folder: Path, *domains: str) -> ProcTree:
    """A host with a process for each domain, whose monitors libvirt holds."""
    tree = ProcTree(folder / "proc")
    for number, uuid in enumerate(domains):
        monitor = ["-chardev", "socket,id=c,fd=22,server=on", "-mon", "chardev=c,mode=control", "-m", "256M"]
        words = ["qemu-system-x86_64", "-name", f"guest=vm{number}", "-uuid", uuid, *monitor]
        tree.process(7 + number, words, fds={22: f"socket:[{4711 + number}]"})
        tree.socket(SOCKET.format(f"vm{number}"), 4711 + number, listens=True)
        tree.socket(SOCKET.format(f"vm{number}"), 5711 + number, state="03")
        status = "State:\tS (sleeping)\nRssAnon:\t200000 kB\n"
        (tree.root / str(7 + number) / "status").write_text(status)
    return tree


def scanned(tree: ProcTree, libvirt: FakeLibvirt, patience_s: float = 60.0) -> ScanReport:
    async def scene() -> ScanReport:
        found = find_vms(proc=tree.root, proxmox=tree.root.parent / "none")
        libvirts = Libvirts(opener=libvirt.open, patience_s=patience_s)
        return await scan(found, proc=tree.root, libvirts=libvirts, visits_s=100, walks_s=100)

    return play(scene())


def test_libvirt_says_what_its_monitor_would(tmp_path: Path) -> None:
    libvirt = FakeLibvirt(FakeDomain(xml()))
    libvirt.all[0].size_kib = 128 * 1024
    libvirt.all[0].usable_kib = 100 * 1024
    (vm,) = scanned(host(tmp_path, UUID), libvirt).vms
    assert (vm.keeper, vm.uuid, vm.run_state, vm.monitor) == ("libvirt", UUID, "running", None)
    assert (mebibytes(vm.configured_bytes), mebibytes(vm.assigned_bytes)) == (256, 128)
    assert (vm.driver, vm.devices) == ("live", ("virtio-balloon",))
    assert not any("client holds" in each for each in vm.unseen)
    assert libvirt.all[0].set == []


def test_a_libvirt_that_cannot_be_asked_is_named_once_and_the_rest_is_shown(tmp_path: Path) -> None:
    libvirt = FakeLibvirt()
    libvirt.is_down = True
    report = scanned(host(tmp_path, *(str(uuid4()) for _ in range(12))), libvirt)
    assert len(report.vms) == 12
    (said,) = [each for each in report.unseen if "libvirt" in each or "qemu:///" in each]
    assert said.startswith("qemu:///system was not asked about its domains: Cannot recv data")
    assert all("another client holds its monitor" in each.unseen[0] for each in report.vms)
    assert libvirt.opened <= AT_ONCE


def test_without_the_module_the_two_ways_to_get_it_are_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)

    async def scene() -> ScanReport:
        tree = host(tmp_path, UUID, OTHER)
        return await scan(find_vms(proc=tree.root, proxmox=tmp_path), proc=tree.root, libvirts=Libvirts())

    (said,) = play(scene()).unseen
    assert "pip install dynmem[libvirt]" in said
    assert LibvirtMissingError.__doc__


def test_a_domain_that_hangs_or_is_another_libvirts_keeps_no_other(tmp_path: Path) -> None:
    hung = FakeDomain(xml("vm0"), "vm0")
    hung.hangs = threading.Event()
    libvirt = FakeLibvirt(hung, FakeDomain(xml("vm1", OTHER), "vm1", OTHER))
    tree = host(tmp_path, UUID, OTHER, str(uuid4()))
    report = scanned(tree, libvirt, patience_s=1.0)
    hung.hangs.set()
    states = {each.name: each.run_state for each in report.vms}
    assert states == {"vm0": "", "vm1": "running", "vm2": ""}
    assert not any("qemu:///system" in each for each in report.unseen)


def test_a_libvirt_that_is_late_for_several_domains_is_asked_no_more(tmp_path: Path) -> None:
    domains = [FakeDomain(xml(f"vm{number}"), f"vm{number}", str(uuid4())) for number in range(4)]
    never = threading.Event()
    for each in domains:
        each.hangs = never
    report = scanned(host(tmp_path, *(each.uuid for each in domains)), FakeLibvirt(*domains), patience_s=0.05)
    never.set()
    assert [each for each in report.unseen if "was not asked about its domains" in each]


def test_libvirt_is_not_asked_about_a_domain_whose_process_is_stopped(tmp_path: Path) -> None:
    libvirt = FakeLibvirt(FakeDomain(xml("vm0"), "vm0"))
    tree = host(tmp_path, UUID)
    (tree.root / "7" / "status").write_text("State:\tT (stopped)\nRssAnon:\t200000 kB\n")
    (vm,) = scanned(tree, libvirt).vms
    assert (vm.worst, libvirt.opened) == ("stopped", 0)


def test_a_domain_whose_look_fails_is_no_reason_to_ask_no_other(tmp_path: Path) -> None:
    libvirt = FakeLibvirt(FakeDomain(xml("vm0"), "vm0"))
    libvirt.all[0].error = LibvirtError("internal error: monitor")
    report = scanned(host(tmp_path, UUID), libvirt)
    assert [each.run_state for each in report.vms] == [""]


def test_virtio_mem_is_shown_and_nonsense_is_not() -> None:
    domain = definition_of(xml(more=MEMORY.format(SIZES)))
    told = as_monitored(
        domain, Look(1, 1, None, 64 << 10, {"actual": 1 << 60, "unused": -5, "last_update": "?"})
    )
    ((size, requested, block),) = told.virtio_mems
    assert (size, requested, block) == (32 * MIB, 64 * MIB, 2 * MIB)
    assert (told.base_bytes, told.actual_bytes) == (128 * MIB, None)
    assert (told.report.free, told.report.available, told.report.updated_s) == (None, None, None)
    old = as_monitored(domain, Look(1, 1, None, 64 << 10, {"unused": 10, "disk_caches": 5}))
    assert (old.report.available, old.actual_bytes) == (15 << 10, 64 * MIB)


def test_every_word_for_a_state_is_in_the_managers_table() -> None:
    assert {*_STATES.values(), *_REASONS.values(), *_JOBS.values()} <= set(STATES)


def test_the_doctor_says_whether_libvirt_answers_for_the_domains_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libvirt = FakeLibvirt(FakeDomain(xml("vm0"), "vm0"))
    found = find_vms(proc=host(tmp_path, UUID).root, proxmox=tmp_path / "none")
    (fine,) = libvirts.examine(found, libvirt.open)
    assert fine.verdict is Verdict.OK
    assert fine.detail == 'qemu:///system answers, and has 1 domain (libvirt = "qemu:///system")'
    assert monitors(found).verdict is Verdict.OK  # libvirt's monitor is not missed
    libvirt.is_down = True
    (down,) = libvirts.examine(found, libvirt.open)
    assert (down.verdict, "does not answer for vm0: Cannot recv" in down.detail) == (Verdict.LIMITED, True)
    monkeypatch.setitem(sys.modules, "libvirt", None)
    (missing,) = libvirts.examine(found)
    assert missing.detail == "vm0 of qemu:///system: libvirt's module for Python is not installed"
    assert missing.step.startswith("run `pip install dynmem[libvirt]`")
    assert libvirts.examine(found._replace(vms=())) == []
