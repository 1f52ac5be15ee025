"""A scan of real QEMU processes without a guest: found by /proc, asked, and left as they were."""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.rigs.monitored import BALLOON, MEBIBYTE, MEMFD, kill, qemu, stop
from tests.rigs.scans import found, scanned
from tests.rigs.scenes import PATIENCE_S

from dynmem.scan.report import VmReport
from dynmem.scan.scan import scan

pytestmark = pytest.mark.qemu


def asked(pid: int) -> VmReport:
    """A scan in which the monitor said everything: on a busy machine 100 ms can be too short for it, and a
    client that has left is only noticed later.
    """
    deadline = time.monotonic() + PATIENCE_S
    while (vm := scanned(pid)).unseen:
        assert time.monotonic() < deadline, vm.unseen
    return vm


class Client:
    """Somebody else's connection to a monitor."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("r")
        self.greeting = json.loads(self.lines.readline())
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: object) -> object:
        request = {"execute": command, "arguments": arguments, "id": 7}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while "id" not in (reply := json.loads(self.lines.readline())):
            continue
        return reply.get("return")

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


def test_a_qemu_is_shown_as_it_is_and_its_monitor_is_free_again(tmp_path: Path) -> None:
    path = tmp_path / "web.qmp"
    with qemu(path, "-name", "web", *BALLOON, *MEMFD) as process:
        vm = asked(process.pid)
        assert (vm.name, vm.keeper, vm.monitor) == ("web", "qemu", str(path))
        assert (vm.assigned_bytes, vm.configured_bytes) == (64 * MEBIBYTE, 64 * MEBIBYTE)
        assert (vm.devices, vm.free_page_reporting, vm.run_state) == (("virtio-balloon",), False, "prelaunch")
        assert (vm.driver, vm.discards, vm.worst) == ("unknown", "effective", "no-statistics")
        assert vm.resident_bytes
        assert vm.resident_bytes < 512 * MEBIBYTE
        client = Client(path)  # at once: nobody holds it
        held = scanned(process.pid)
        assert (held.worst, held.monitor) == ("monitor-taken", None)
        assert held.resident_bytes
        assert client.ask("query-balloon") == {"actual": 64 * MEBIBYTE}
        assert client.ask("qom-get", path=BALLOON_PATH, property=INTERVAL) == 0
        client.close()
        Client(path).close()  # and the scan has left nobody in the queue before it


BALLOON_PATH, INTERVAL = "/machine/peripheral/balloon0", "guest-stats-polling-interval"


def test_a_running_qemu_whose_guest_never_replies_has_no_driver(tmp_path: Path) -> None:
    with qemu(tmp_path / "q", *BALLOON, paused=False) as process:
        client = Client(tmp_path / "q")
        client.ask("qom-set", path=BALLOON_PATH, property=INTERVAL, value=1)
        client.close()
        vm = asked(process.pid)
        assert (vm.driver, vm.worst, vm.could_give_bytes) == ("absent", "no-driver", None)


@pytest.mark.parametrize(("fault", "count"), [(stop, 1), (kill, 0)])
def test_a_qemu_that_is_stopped_or_killed_meanwhile_holds_nobody_up(
    tmp_path: Path, fault: Callable[[object], None], count: int
) -> None:
    with qemu(tmp_path / "q", *BALLOON) as process:
        before = found(process.pid)
        fault(process)
        vms = asyncio.run(scan(before)).vms
        assert len(vms) == count
        assert all(vm.worst == "stopped" and "stopped its process" in vm.unseen[0] for vm in vms)
