"""A real libvirtd with a real guest, under a manager: from its definition to its end."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.rigs.libvirtd import Libvirtd, libvirtd
from tests.rigs.libvirts import OTHER, POLICY, UUID
from tests.rigs.managers import RunningManager, cli, managing
from tests.rigs.scenes import play, until, wait_until

from dynmem.lab.workload import Load
from dynmem.manager.api.messages import StatusReply
from dynmem.manager.domains.roster import processes_of
from dynmem.manager.step.view import VmView
from dynmem.units import MIB, NS_PER_S

# Much is touched at once, and nothing is needed after a few seconds: what is free then, the host still holds.
LOAD = Load(
    curve="steps", high_bytes=100 * MIB, period_ns=3000 * NS_PER_S, phase=0.9988, rate_bytes=4096 * MIB
)
FILE = """
    [host]
    budget = "{budget}"
    slush = "16MiB"
    [manager]
    mode = "{mode}"
    period = "0.5s"
    socket = "{folder}/run/api.sock"
    state = "{folder}/state"
    libvirt = "{uri}"
"""


def configured(folder: Path, running: Libvirtd, mode: str, budget: str) -> Path:
    path = folder / "hosts.toml"
    path.write_text(FILE.format(folder=folder, mode=mode, budget=budget, uri=running.uri))
    return path


def web(status: StatusReply) -> VmView:
    return next(vm for vm in status.vms if vm.name == "web")


def held(status: StatusReply) -> int:
    """What the host holds for its guest, in MiB."""
    return (web(status).resident_bytes or 0) // MIB


@pytest.mark.qemu
def test_a_domain_is_found_shrunk_released_and_gone_and_outlives_its_libvirtd(tmp_path: Path) -> None:
    async def scene(running: Libvirtd) -> None:
        theirs = running.connect()
        domain = theirs.defineXML(running.domain(policy=POLICY.format('minimum="64MiB"'), load=LOAD))
        theirs.defineXML(running.domain("plain", OTHER, load=LOAD))
        async with managing(configured(tmp_path, running, "observe", "1GiB")) as manager:
            status = await manager.until(lambda status: [vm.run_state for vm in status.vms] == ["absent"])
            assert web(status).problem == "the domain is shut off"
            domain.create()
            await manager.until(lambda status: web(status).run_state == "running")
            assert domain.memoryStats()["last_update"] == 0  # nothing is asked of its guest in observe mode
            configured(tmp_path, running, "enforce", "1GiB")
            manager.process.send_signal(signal.SIGHUP)
            before = await manager.until(lambda status: web(status).demand_bytes and held(status) > 120)
            await shows_in_a_scan(running)
            configured(tmp_path, running, "enforce", "112MiB")
            manager.process.send_signal(signal.SIGHUP)
            after = await manager.until(lambda status: (web(status).actual_bytes or 999 * MIB) < 110 * MIB)
            after = await manager.until(lambda status: held(status) < held(before) - 25)
            assert web(after).resident_source == "blocks of its RAM files"
            assert domain.memoryStats()["actual"] < 110 * 1024
            await is_stopped(manager)
            await outlives(running, manager, after)
            await manager.ask(command="release", vm="web")
            await manager.until(lambda status: web(status).actual_bytes == 192 * MIB)
            theirs.close()
            theirs = running.connect()
            again = theirs.lookupByName("web")
            wait_until(lambda: "<stats" not in again.XMLDesc(0), otherwise=lambda: again.XMLDesc(0))
            again.destroy()
            await manager.until(lambda status: web(status).run_state == "absent")
            again.undefine()
            await manager.until(lambda status: not status.vms)
            theirs.close()
            assert "tainted" not in (running.folder / "cache/libvirt/qemu/log/web.log").read_text()

    with libvirtd() as running:
        play(scene(running))


async def shows_in_a_scan(running: Libvirtd) -> None:
    pid = processes_of({UUID: "web"})[UUID]

    async def shown() -> dict[str, Any] | None:
        """What it shows once libvirt has replied in time, which it may not on a busy machine."""
        code, out, err = await cli("scan", str(pid), "--json", "--libvirt", running.uri)
        assert code == 0, err
        (vm,) = json.loads(out)["vms"]
        return vm if vm["run_state"] and vm["guest_uses_bytes"] else None

    vm = await until(shown)
    assert (vm["keeper"], vm["run_state"], vm["driver"]) == ("libvirt", "running", "live")
    assert 20 * MIB < vm["guest_uses_bytes"] < 192 * MIB


async def is_stopped(manager: RunningManager) -> None:
    """Its QEMU hangs for a while, and libvirt with it as far as this domain is concerned."""
    pid = processes_of({UUID: "web"})[UUID]
    os.kill(pid, signal.SIGSTOP)
    hung = await manager.until(
        lambda status: (
            web(status).run_state == "silent" and "its process is stopped" in (web(status).problem or "")
        )
    )
    assert held(hung) > 0
    os.kill(pid, signal.SIGCONT)
    await manager.until(lambda status: web(status).run_state == "running")


async def outlives(running: Libvirtd, manager: RunningManager, before: StatusReply) -> None:
    """Libvirtd hangs, is killed and started again; its domain goes on, and the manager knows it again."""
    lines = len(manager.lines)
    os.kill(running.pid, signal.SIGSTOP)
    silent = await manager.until(lambda status: web(status).run_state == "silent")
    await manager.sweeps(3)  # the manager goes on
    running.kill()
    assert held(silent) > 0
    running.start()
    after = await manager.until(lambda status: web(status).run_state == "running")
    assert (web(after).actual_bytes or 0) <= (web(before).actual_bytes or 0)
    assert not any("absent" in line for line in manager.lines[lines:])
