"""A whole scan, over a folder that looks like /proc and monitors that this process plays."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from tests.rigs.monitored import FakeVm
from tests.rigs.proc_tree import QEMU, ProcTree

from dynmem.discovery.find import Found, FoundMonitor, FoundVm, find_vms
from dynmem.discovery.qemu_options import started_as
from dynmem.discovery.unix_sockets import UnixSockets, unix_sockets
from dynmem.scan.report import ScanReport, VmReport
from dynmem.scan.scan import AT_ONCE, scan

pytestmark = pytest.mark.usefixtures("slow_machine")

MIB = 1 << 20
STATUS = "State:\tS (sleeping)\nRssAnon:\t409600 kB\nVmSwap:\t102400 kB\n"


def monitor(size_mib: int = 512) -> FakeVm:
    stats = {"stat-free-memory": 300 * MIB, "stat-available-memory": 400 * MIB}
    devices = [{"name": "b", "type": "child<virtio-balloon-pci>"}]
    return FakeVm(
        {
            "query-balloon": {"actual": size_mib * MIB},
            "query-memory-size-summary": {"base-memory": size_mib * MIB},
            "qom-list": lambda arguments: devices if arguments["path"] == "/machine/peripheral" else [],
            "qom-get guest-stats": {"last-update": int(time.time()), "stats": stats},
            "qom-get guest-stats-polling-interval": 2,
            "qom-get free-page-reporting": False,
        }
    )


@contextlib.asynccontextmanager
async def served(vms: Sequence[tuple[Path, FakeVm]]) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for path, vm in vms:
            server = await asyncio.start_unix_server(vm.serve, path)
            stack.callback(server.close)
        yield


def scanned(
    tree: ProcTree,
    *vms: tuple[Path, FakeVm],
    once_found: Callable[[], None] = lambda: None,
    visits_s: float = 100.0,
    walks_s: float = 100.0,
) -> ScanReport:
    async def play() -> ScanReport:
        async with served(vms):
            found = find_vms(proc=tree.root, proxmox=Path("/nonexistent"))
            once_found()
            return await scan(found, proc=tree.root, visits_s=visits_s, walks_s=walks_s)

    return asyncio.run(play())


def only(report: ScanReport) -> VmReport:
    (vm,) = report.vms
    return vm


@pytest.fixture(name="tree")
def _tree(tmp_path: Path) -> ProcTree:
    tree = ProcTree(tmp_path / "proc")
    (tree.root / "self").mkdir()
    (tree.root / "self" / "mountinfo").write_text(f"30 1 0:26 / {tmp_path}/cgroup rw - cgroup2 cgroup2 rw\n")
    (tree.root / "meminfo").write_text(
        "MemTotal: 4096000 kB\nMemAvailable: 2048000 kB\nSwapTotal: 1024 kB\nSwapFree: 512 kB\n"
    )
    return tree


def add(tree: ProcTree, path: Path, status: str = STATUS) -> None:
    """Add a QEMU of 512 MiB that this very process stands for, so that its monitor has the right listener."""
    line = [QEMU, "-name", "web", "-m", "512", "-qmp", f"unix:{path},server=on"]
    tree.process(os.getpid(), line, status=status, cgroup="0::/vm/web.scope\n", maps="", smaps="")


def test_a_vm_is_shown_with_the_figures_of_its_guest_its_host_and_its_cgroup(
    tree: ProcTree, tmp_path: Path
) -> None:
    add(tree, tmp_path / "qmp")
    group = tmp_path / "cgroup" / "vm" / "web.scope"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{256 * MIB}\n")
    report = scanned(tree, (tmp_path / "qmp", monitor()))
    vm = only(report)
    assert (vm.name, vm.assigned_bytes, vm.guest_uses_bytes) == ("web", 512 * MIB, 112 * MIB)
    assert (vm.resident_bytes, vm.swapped_bytes) == (400 * MIB, 100 * MIB)
    # 500 MiB are held, of which 128 may be the process's own, and 212 are not free in the guest
    assert vm.stranded_bytes == 160 * MIB
    assert (vm.could_give_bytes, vm.knob) == (260 * MIB, "balloon")
    assert (vm.driver, vm.discards, vm.free_page_reporting) == ("live", "effective", False)
    assert (vm.limit_bytes, vm.worst) == (256 * MIB, "limit")
    assert "systemctl set-property web.scope MemoryMax=" in vm.change
    assert report.host_swap_used_bytes == MIB // 2


@pytest.mark.parametrize("state", ["02", "03"])
def test_a_monitor_that_serves_another_client_is_left_alone(
    tree: ProcTree, tmp_path: Path, state: str
) -> None:
    add(tree, tmp_path / "qmp")
    tree.socket(tmp_path / "qmp", 5, state=state)
    fake = monitor()
    vm = only(scanned(tree, (tmp_path / "qmp", fake)))
    assert fake.writers == []
    assert (vm.worst, vm.monitor) == ("monitor-taken", None)
    assert "another client holds its monitor" in vm.unseen[0]
    assert vm.resident_bytes == 400 * MIB


def test_a_client_that_came_after_the_vms_were_found_is_left_alone_as_well(
    tree: ProcTree, tmp_path: Path
) -> None:
    add(tree, tmp_path / "qmp")
    fake = monitor()
    report = scanned(
        tree,
        (tmp_path / "qmp", fake),
        once_found=lambda: tree.socket(tmp_path / "qmp", 5, state="03"),
    )
    assert only(report).worst == "monitor-taken"
    assert fake.writers == []


@pytest.mark.parametrize("is_passed", [False, True])
def test_a_monitor_at_which_another_process_listens_is_asked_only_if_it_was_passed_on(
    tree: ProcTree, tmp_path: Path, is_passed: bool
) -> None:
    line = [QEMU, "-name", "web", "-m", "512"]
    if is_passed:
        line += ["-chardev", "socket,id=c,fd=22,server=on", "-mon", "chardev=c,mode=control"]
    else:
        line += ["-qmp", f"unix:{tmp_path}/qmp,server=on"]
    tree.process(7, line, fds={22: "socket:[5]"}, status=STATUS, cgroup="0::/\n", maps="", smaps="")
    tree.socket(tmp_path / "qmp", 5, listens=True)
    fake = monitor()
    vm = only(scanned(tree, (tmp_path / "qmp", fake)))
    assert (vm.assigned_bytes, bool(fake.asked)) == ((512 * MIB, True) if is_passed else (None, False))
    assert any("another process" in each for each in vm.unseen) is not is_passed


def test_a_long_list_of_sockets_takes_no_time_from_the_visits_of_others(
    tree: ProcTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[threading.Thread] = []

    def read(proc: Path) -> UnixSockets:
        readers.append(threading.current_thread())
        return unix_sockets(proc)

    add(tree, tmp_path / "qmp")
    monkeypatch.setattr("dynmem.scan.scan.unix_sockets", read)
    assert only(scanned(tree, (tmp_path / "qmp", monitor()))).monitor
    assert len(readers) == 1
    assert threading.main_thread() not in readers


def test_a_path_that_would_write_to_the_terminal_is_shown_without_its_controls(
    tree: ProcTree, tmp_path: Path
) -> None:
    add(tree, tmp_path / "\x1b[2J\udcff")
    vm = only(scanned(tree))
    assert "no such socket" in vm.finding
    assert vm.finding.isprintable()
    assert msgspec.json.encode(vm)


def test_a_stopped_process_is_not_asked(tree: ProcTree, tmp_path: Path) -> None:
    add(tree, tmp_path / "qmp", STATUS.replace("S (sleeping)", "T (stopped)"))
    fake = monitor()
    vm = only(scanned(tree, (tmp_path / "qmp", fake)))
    assert fake.writers == []
    assert "stopped" in vm.unseen[0]
    assert vm.worst == "stopped"


@pytest.mark.parametrize("name", ["VmLck", "VmPin"])
def test_of_a_vm_whose_memory_is_locked_a_balloon_returns_nothing(
    tree: ProcTree, tmp_path: Path, name: str
) -> None:
    add(tree, tmp_path / "qmp", STATUS + f"{name}:\t  524288 kB\n")
    vm = only(scanned(tree, (tmp_path / "qmp", monitor())))
    assert (vm.discards, vm.discards_evidence) == ("ineffective", "512 MiB of its memory is locked or pinned")


def test_a_vm_that_vanishes_is_left_out_and_the_others_are_shown(tree: ProcTree, tmp_path: Path) -> None:
    add(tree, tmp_path / "qmp")
    tree.process(8, [QEMU, "-name", "gone"])  # nothing else can be read of it any more
    assert [vm.name for vm in scanned(tree, (tmp_path / "qmp", monitor())).vms] == ["web"]


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(tree: ProcTree, tmp_path: Path) -> None:
    add(tree, tmp_path / "qmp")
    (tree.root / str(os.getpid()) / "cgroup").unlink()
    (tree.root / "meminfo").unlink()
    report = scanned(tree, (tmp_path / "qmp", monitor()))
    assert (only(report).limit_bytes, report.host_total_bytes) == (None, None)
    assert any("cgroups cannot be read" in each for each in only(report).unseen)


@pytest.mark.parametrize(
    "text", ["0::/../../other/web\n", "0::/elsewhere\n7:memory:/x\n", "::\n", "nonsense"]
)
def test_a_limit_that_cannot_be_seen_is_not_known(tree: ProcTree, tmp_path: Path, text: str) -> None:
    add(tree, tmp_path / "qmp")
    (tree.root / str(os.getpid()) / "cgroup").write_text(text)
    mounts = "30 1 0:26 /pod /nonexistent rw - cgroup2 cgroup2 rw\n"
    (tree.root / "self" / "mountinfo").write_text(mounts)
    vm = only(scanned(tree, (tmp_path / "qmp", monitor())))
    assert (vm.limit_bytes, vm.limit_is_known) == (None, False)
    assert any("its cgroups" in each for each in vm.unseen)


def test_sixty_vms_are_visited_a_few_at_a_time(tree: ProcTree, tmp_path: Path) -> None:
    class Counting(FakeVm):
        now = most = 0

        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            Counting.now += 1
            Counting.most = max(Counting.most, Counting.now)
            await asyncio.sleep(0.001)
            writer.close()
            Counting.now -= 1

    vms = [(tmp_path / f"{number}.qmp", Counting()) for number in range(60)]
    found = Found(
        tuple(FoundVm(0, path.stem, "qemu", started_as(()), (FoundMonitor(path, False),)) for path, _ in vms)
    )

    async def play() -> ScanReport:
        async with served(vms):
            return await scan(found, visits_s=100, walks_s=0)

    report = asyncio.run(play())
    assert len(report.vms) == 60
    assert 1 < Counting.most <= AT_ONCE


def test_after_the_time_for_it_no_monitor_is_visited_and_no_mapping_is_walked_and_that_is_said(
    tree: ProcTree, tmp_path: Path
) -> None:
    add(tree, tmp_path / "qmp")
    fake = monitor()
    vm = only(scanned(tree, (tmp_path / "qmp", fake), visits_s=-1, walks_s=-1))
    assert fake.writers == []
    assert [each.rpartition(": ")[2] for each in vm.unseen] == ["there was no time left"] * 2
    assert vm.resident_bytes == 400 * MIB
