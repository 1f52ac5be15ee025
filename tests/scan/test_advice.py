"""The worst line of a VM, and a command that would change it, fit to be typed."""

import re
from pathlib import Path

import pytest

from dynmem.cgroups import Limit
from dynmem.discovery.find import FoundMonitor, FoundVm
from dynmem.discovery.pins import LOCKED
from dynmem.discovery.qemu_options import started_as
from dynmem.scan.advice import CHANGES, ORDER, Case, advise, raise_limit
from dynmem.scan.judge import Give, Verdict
from dynmem.scan.monitored import Monitored, VirtioMem

MIB = 1 << 20
GIB = 1 << 30
SIZE = 4 * GIB
LIVE, YES, NO = Verdict("live", ""), Verdict("effective", ""), Verdict("ineffective", "VFIO")
NOTHING = Give(0, "none", "")
BALLOON = Monitored(
    is_known=True,
    actual_bytes=SIZE,
    devices=("virtio-balloon-pci",),
    balloons=("virtio-balloon",),
    balloon_path="/machine/peripheral/b",
    interval_s=2,
)
PLUGLESS = Monitored(is_known=True, devices=("virtio-mem-pci",), virtio_mems=(VirtioMem(0, GIB, MIB),))


def case(
    told: Monitored = BALLOON,
    *,
    keeper: str = "qemu",
    name: str = "web",
    state: Verdict = LIVE,
    back: Verdict = YES,
    gives: Give = NOTHING,
    stranded: int | None = None,
    limit: Limit | None = None,
    monitors: tuple[FoundMonitor, ...] = (FoundMonitor(Path("/run/q"), is_taken=False),),
) -> Case:
    vm = FoundVm(7, name, keeper, started_as(["qemu", "-id", "100"]), monitors)
    return Case(vm, told, SIZE, state, back, gives, stranded, limit, "")


@pytest.mark.parametrize(
    ("wrong", "kind", "change"),
    [
        (
            case(limit=Limit(GIB, Path("/c/a.scope/memory.max"))),
            "limit",
            "systemctl set-property a.scope Mem",
        ),
        (case(back=NO), "pinned", "virtio-mem-pci"),
        (case(back=Verdict("ineffective", LOCKED)), "pinned", "leave out `mem-lock=on`"),
        (case(back=Verdict("ineffective", f"VFIO; {LOCKED}")), "pinned", ""),
        (case(back=Verdict("ineffective", "vhost-vdpa pins")), "pinned", ""),
        (case(PLUGLESS, state=Verdict("absent", "x")), "not-plugged", "memhp_default_state"),
        (case(state=Verdict("absent", "x")), "no-driver", "modprobe virtio_balloon"),
        (case(stranded=GIB), "stranded", "free-page-reporting=on"),
        (case(stranded=GIB, keeper="libvirt"), "stranded", "virsh edit web"),
        (case(stranded=GIB // 8), "none", ""),
        (case(gives=Give(GIB, "balloon", "")), "spare", '"value": 3221225472'),
        (
            case(gives=Give(GIB, "balloon", ""), keeper="proxmox"),
            "spare",
            "`qm monitor 100`, then `balloon 3072`",
        ),
        (case(gives=Give(GIB, "balloon", ""), keeper="libvirt"), "spare", "virsh setmem web 3145728K --live"),
        (case(Monitored(is_known=True, devices=())), "no-device", "-device virtio-balloon-pci"),
        (
            case(Monitored(is_known=True, devices=()), keeper="proxmox"),
            "no-device",
            "qm set 100 --balloon 2048",
        ),
        (case(BALLOON._replace(interval_s=0)), "no-statistics", '"/machine/peripheral/b"'),
        (
            case(BALLOON._replace(interval_s=0), keeper="libvirt"),
            "no-statistics",
            "dommemstat web --period 2",
        ),
        (
            case(Monitored(), keeper="proxmox"),
            "monitor-taken",
            "qm set 100 --args '-qmp unix:/run/dynmem-web",
        ),
        (case(Monitored())._replace(is_stopped=True), "stopped", "kill -CONT 7"),
        (case(Monitored())._replace(is_forbidden=True), "not-permitted", "sudo dynmem scan"),
        (case(Monitored(), monitors=()), "no-monitor", "-qmp unix:/run/dynmem-web.qmp"),
        (case(BALLOON._replace(balloons=("hv-balloon",), interval_s=0)), "none", ""),
        (case(monitors=()), "none", ""),  # libvirt has answered for it
        (case(), "none", ""),
    ],
)
def test_each_fault_has_the_command_of_whoever_runs_the_vm(wrong: Case, kind: str, change: str) -> None:
    advice = advise(wrong)
    assert advice.kind == kind
    assert change in advice.change
    assert bool(advice.finding) == (kind != "none")


def test_the_worst_of_several_comes_first() -> None:
    wrong = case(stranded=GIB, gives=Give(GIB, "balloon", ""), limit=Limit(GIB, Path("/c/memory.max")))
    assert advise(wrong).kind == "limit"
    assert advise(wrong._replace(limit=None)).kind == "stranded"
    assert advise(wrong._replace(limit=None, stranded=0)).kind == "spare"


def test_where_free_page_reporting_is_on_stranded_memory_is_taken_by_the_balloon() -> None:
    told = BALLOON._replace(reports_free_pages=True)
    assert advise(case(told, stranded=GIB, gives=Give(GIB, "balloon", ""))).kind == "spare"


def test_virtio_mem_is_shrunk_by_its_requested_size() -> None:
    told = BALLOON._replace(virtio_mems=(VirtioMem(2 * GIB, 2 * GIB, MIB),))
    gives = Give(GIB, "virtio-mem", "")
    assert f"requested-size of its virtio-mem to {GIB}" in advise(case(told, gives=gives)).change
    change = advise(case(told, gives=gives, keeper="libvirt")).change
    assert change == "`virsh update-memory-device web --requested-size 1048576K --live`"


@pytest.mark.parametrize("keeper", ["qemu", "libvirt", "proxmox", "dynmem vm"])
def test_a_name_that_is_a_command_is_quoted_wherever_it_stands(keeper: str) -> None:
    name = "x; reboot `id` $(id) {name}"
    wrongs = [
        case(stranded=GIB, keeper=keeper, name=name),
        case(gives=Give(GIB, "balloon", ""), keeper=keeper, name=name),
        case(BALLOON._replace(interval_s=0), keeper=keeper, name=name),
        case(Monitored(), keeper=keeper, name=name),
        case(Monitored(), monitors=(), keeper=keeper, name=name),
    ]
    for wrong in wrongs:
        rest = advise(wrong).change.replace(f"'{name}'", "")
        assert not re.search(r"reboot ;|; reboot|\$\(|\bid`", rest)


def test_a_name_that_virsh_would_take_for_an_option_is_in_no_command() -> None:
    assert advise(case(stranded=GIB, keeper="libvirt", name="--all")).change == ""


def test_a_limit_is_raised_to_what_the_vm_needs_and_its_path_is_quoted() -> None:
    wanted = SIZE + SIZE // 16 + 512 * MIB
    assert raise_limit(Limit(1, Path("/c/a b/memory.max")), SIZE) == f"`echo {wanted} > '/c/a b/memory.max'`"
    assert raise_limit(Limit(1, Path("/c/x.slice/memory.high")), SIZE).endswith(f"MemoryHigh={wanted}`")


def test_every_kind_of_fault_has_its_place_in_the_order() -> None:
    assert set(CHANGES) <= set(ORDER)
    assert len(ORDER) == len(set(ORDER)) == 13
