"""Mode advise: each change with the command that an operator would type, and nothing is sent."""

import asyncio
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.rigs.managers import ObedientVm, configured, managing
from tests.rigs.monitored import FakeVm, listening, look
from tests.rigs.obedient import ObedientHost
from tests.rigs.scenes import play

from dynmem.manager.journal.journal import Journal
from dynmem.manager.step.advice import Announcements, command_for
from dynmem.manager.step.chatter import LINES_MAX, WINDOW_NS, Chatter
from dynmem.manager.step.facts import ManagerSettings as Settings
from dynmem.manager.step.facts import Mode, Owner, VmConfig
from dynmem.manager.sweep import connection, life
from dynmem.manager.sweep.owner import owner_by, owner_of
from dynmem.units import GIB, MIB, NS_PER_S

QEMU = ("/usr/bin/qemu-system-x86_64",)
LIBVIRT_FILE = "file=/var/lib/libvirt/qemu/domain-3-web/monitor.sock"


def one_too_many(mode: Mode = "advise", **overrides: object) -> ObedientHost:
    """Three VMs of 512 MiB, 1 GiB for all: some have to shrink."""
    configs = [VmConfig(name, 64 * MIB, 512 * MIB) for name in ("web", "db", "batch")]
    host = ObedientHost(
        Settings(GIB, 64 * MIB, NS_PER_S, mode), configs, {each.name: 200 * MIB for each in configs}
    )
    host.overrides = {each.name: dict(overrides) for each in configs}
    return host


def commands(lines: tuple[str, ...]) -> dict[str, str]:
    """Return the command of each line of advice, by VM."""
    return {
        line.partition(":")[0]: line.partition(" (not sent: advise); to do it: ")[2]
        for line in lines
        if "not sent" in line
    }


def test_without_an_owner_the_command_is_a_qmp_line_and_nothing_is_sent() -> None:
    host = one_too_many()
    result = host.sweep()
    assert result.commands == ()
    found = commands(result.changes)
    assert found
    for vm in host.manager.status().vms:
        if vm.change is not None:
            assert vm.change.command == found[vm.name]
            line = {"execute": "balloon", "arguments": {"value": vm.change.target_bytes}}
            assert json.loads(found[vm.name]) == line
            assert not vm.change.sent
            assert vm.change.reason.endswith("(not sent: advise)")


@pytest.mark.parametrize(
    ("owner", "device", "expected"),
    [
        (Owner("libvirt", "web"), "virtio-balloon", ["virsh", "setmem", "web", "{kib}KiB", "--live"]),
        (Owner("libvirt", "w; rm -rf $HOME"), "virtio-balloon", ["virsh", "setmem", "w; rm -rf $HOME"]),
        (Owner("libvirt", "web"), "hv-balloon", ["virsh", "qemu-monitor-command", "web", "{qmp}"]),
        (Owner("proxmox", "104"), "virtio-balloon", ["echo", "balloon {mib}", "|", "qm", "monitor", "104"]),
    ],
)
def test_the_command_is_that_of_the_program_which_runs_the_vm(
    owner: Owner, device: str, expected: list[str]
) -> None:
    host = one_too_many(owner=owner, device=device)
    found = commands(host.sweep().changes)
    for vm in host.manager.status().vms:
        if vm.change is not None:
            size = vm.change.target_bytes
            qmp = json.dumps({"execute": "balloon", "arguments": {"value": size}})
            words = [
                word.replace("{kib}", str(size // 1024))
                .replace("{mib}", str(-(-size // MIB)))
                .replace("{qmp}", qmp)
                for word in expected
            ]
            assert shlex.split(found[vm.name])[: len(words)] == words
    assert found


def test_the_same_advice_is_printed_once_until_the_vm_has_come_there() -> None:
    host = one_too_many()
    first = commands(host.sweep().changes)
    assert commands(host.sweep(5).changes) == {}
    for vm in host.manager.status().vms:
        if vm.change is not None:
            host.sizes[vm.name] = vm.change.target_bytes  # the operator has typed it
    assert commands(host.sweep(3).changes) == {}
    host.sizes = dict.fromkeys(host.sizes, 512 * MIB)  # and somebody has undone it
    again = [commands(host.sweep().changes) for _ in range(4)]
    assert [each for each in again if each] == [first]


def test_what_was_said_in_observe_mode_is_said_again_with_its_command_when_the_mode_changes() -> None:
    host = one_too_many("observe")
    said = [line for _ in range(3) for line in host.sweep().changes if "not sent: observe" in line]
    host.manager.configure(replace(host.settings, mode="advise"), list(host.configs.values()))
    assert set(commands(host.sweep().changes)) == {line.partition(":")[0] for line in said}


def test_what_a_full_log_left_out_is_said_later_and_the_command_still_ends_its_line() -> None:
    host = one_too_many()
    host.sweep()
    seen = host.manager._seen
    assert seen is not None
    change, said, chatter = seen.changes[0], Announcements(), Chatter()
    for now_ns in range(LINES_MAX + 5):
        chatter.line(change.record.name, "reset", now_ns)
    assert said.lines([change], "advise", chatter, 100) == []
    (line,) = said.lines([change], "advise", chatter, WINDOW_NS)
    assert "(6 more lines about it were left out)" in line
    assert line.endswith(f"; to do it: {command_for(change)}")


def test_a_guest_that_is_reset_again_and_again_fills_no_log_with_advice() -> None:
    host = one_too_many()
    lines = 0
    for resets in range(200):
        for override in host.overrides.values():
            override["resets"] = resets
        host.sweep()
        lines += len(commands(host.sweep().changes))
    assert lines <= 3 * LINES_MAX * 8  # 400 s, three VMs


def test_in_observe_and_enforce_mode_there_is_no_command() -> None:
    for mode in ("observe", "enforce"):
        host = one_too_many(mode)
        lines = host.sweep(4).changes
        assert not any("to do it" in line for line in lines)
        assert {vm.change.command for vm in host.manager.status().vms if vm.change} <= {""}


@pytest.mark.parametrize(
    ("words", "owner"),
    [
        ((*QEMU, "-name", "guest=web,debug-threads=on", "-chardev", LIBVIRT_FILE), Owner("libvirt", "web")),
        ((*QEMU, "-name", "guest=a,,b,process=x", "-chardev", LIBVIRT_FILE), Owner("libvirt", "a,b")),
        (
            (
                *QEMU,
                "-id",
                "104",
                "-name",
                "web,debug-threads=on",
                "-pidfile",
                "/var/run/qemu-server/104.pid",
            ),
            Owner("proxmox", "104"),
        ),
        ((*QEMU, "-id", "104", "-pidfile", "/var/run/qemu-server/1042.pid"), None),
        ((*QEMU, "-id", "104;reboot", "-pidfile", "/var/run/qemu-server/104;reboot.pid"), None),
        ((*QEMU, "-name", "guest=web"), None),
        ((*QEMU, "-name", "guest=--live", "-chardev", LIBVIRT_FILE), None),
        ((*QEMU, "-name", "guest=\x1b[2Jweb", "-chardev", LIBVIRT_FILE), None),
        ((*QEMU, "-name", "guest=w\ufffdb", "-chardev", LIBVIRT_FILE), None),
        ((*QEMU, "-chardev", LIBVIRT_FILE, "-name"), None),
        ((), None),
    ],
)
def test_who_runs_a_vm_is_read_from_its_command_line(words: tuple[str, ...], owner: Owner | None) -> None:
    assert owner_by(words) == owner


def test_the_command_line_of_a_running_process_says_who_runs_it() -> None:
    words = (sys.executable, "-c", "input()", "-id", "104", "-pidfile", "/var/run/qemu-server/104.pid")
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        while not Path(f"/proc/{process.pid}/cmdline").read_bytes():  # it has only just begun
            assert process.poll() is None
        assert owner_of(process.pid) == Owner("proxmox", "104")
    assert owner_of(process.pid) is None


def test_a_look_at_a_vm_finds_who_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        asked: list[int] = []

        def owner(pid: int) -> Owner:
            asked.append(pid)
            return Owner("libvirt", "w")

        monkeypatch.setattr(life, "owner_of", owner)
        watched = connection.VmConnection("web", tmp_path / "qmp", may_write=False, period_s=0.1)
        async with listening(tmp_path / "qmp", FakeVm().serve):
            assert (await look(watched)).owner == Owner("libvirt", "w")
            await look(watched)
            await watched.close()
        assert len(asked) == 1  # once for each life

    play(scenario())


def test_a_manager_in_advise_mode_prints_commands_and_writes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        web, db = ObedientVm(), ObedientVm()
        config = configured(tmp_path, "advise", "300MiB", web="", db="")
        async with (
            listening(tmp_path / "web.qmp", web.serve),
            listening(tmp_path / "db.qmp", db.serve),
            managing(config) as manager,
        ):
            await manager.until(lambda status: any(vm.change for vm in status.vms))
            await manager.sweeps(3)
            await asyncio.sleep(0)
            assert any("(not sent: advise); to do it: {" in line for line in manager.lines)
        assert web.targets == db.targets == []
        assert {name for name, _ in web.asked + db.asked} & {"balloon", "qom-set"} == set()
        assert Journal(tmp_path / "state").recent() == []

    play(scenario())
