"""The configuration is read again on SIGHUP: what changes takes effect, what is wrong changes nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.rigs.managers import ObedientVm, RunningManager, cli, configured, managing
from tests.rigs.monitored import MEBIBYTE, listening
from tests.rigs.obedient import ObedientHost
from tests.rigs.scenes import play, until

from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.units import GIB, MIB, NS_PER_S

SMALL = 'minimum = "32MiB"\nmaximum = "128MiB"'


def hang_up(manager: RunningManager) -> None:
    os.kill(manager.process.pid, signal.SIGHUP)


def test_sighup_puts_limits_vms_and_mode_in_force_and_leaves_a_removed_vm_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        web, old, new = ObedientVm(), ObedientVm(), ObedientVm()
        async with (
            listening(tmp_path / "web.qmp", web.serve),
            listening(tmp_path / "old.qmp", old.serve),
            listening(tmp_path / "new.qmp", new.serve),
            managing(configured(tmp_path, "observe", web="", old="")) as manager,
        ):
            await manager.until(lambda status: status.vm("old").demand_bytes is not None)
            configured(tmp_path, "enforce", "300MiB", web=SMALL, new=SMALL)
            hang_up(manager)
            status = await manager.until(lambda status: status.mode == "enforce")
            assert [vm.name for vm in status.vms] == ["web", "new"]
            assert status.budget_bytes == 300 * MIB
            asked_of_old = len(old.asked)
            await until(lambda: web.actual + new.actual <= (300 - 16) * MEBIBYTE)
            assert old.targets == []
            assert old.actual == 256 * MEBIBYTE
            assert len(old.asked) == asked_of_old
            said = "\n".join(manager.lines)
            for words in (
                "configuration read again: budget 4 GiB -> 300 MiB",
                "configuration read again: mode observe -> enforce",
                "configuration read again: web: maximum 256 MiB -> 128 MiB",
                "configuration read again: new: added",
                "configuration read again: old: no longer in the file: left alone at the size it has",
            ):
                assert words in said, said
            assert await manager.end() == 0

    play(scenario())


def test_a_wrong_file_changes_nothing_and_a_changed_one_is_said_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = configured(tmp_path, "observe", web="")
        async with managing(config) as manager:
            await manager.sweeps(1)
            assert (await manager.status()).manager.config_problem is None
            config.write_text(config.read_text().replace("4GiB", "5GiB"))
            status = await manager.until(lambda status: status.manager.config_problem)
            assert f"kill -HUP {manager.process.pid}" in str(status.manager.config_problem)
            await manager.sweeps(3)
            assert sum("has changed since it was read" in line for line in manager.lines) == 1
            config.write_text(config.read_text().replace("5GiB", "5Gibs"))
            hang_up(manager)
            status = await manager.until(lambda status: "'5Gibs'" in str(status.manager.config_problem))
            assert status.budget_bytes == 4 * GIB
            _, shown, _ = await cli("status", "--socket", manager.socket)
            assert "CONFIGURATION: " in shown
            assert not any("note: " in line for line in manager.lines)
            right = config.read_text().replace("5Gibs", "6GiB").replace(f"{tmp_path}/state", "/elsewhere")
            right = right.replace('"256MiB"', '"7GiB"')
            config.write_text(right)
            hang_up(manager)
            status = await manager.until(lambda status: status.budget_bytes == 6 * GIB)
            assert status.manager.state == f"{tmp_path}/state"
            said = "maximum is 7 GiB, above the budget less slush"
            await until(lambda: said in " ".join(manager.lines))
            assert "manager.state stays" in str(status.manager.config_problem)
            hang_up(manager)
            await until(lambda: sum("manager.state stays" in line for line in manager.lines) == 2)

    play(scenario())


def test_a_hangup_while_the_manager_starts_is_a_reload_and_not_its_end(tmp_path: Path) -> None:
    early = (
        "import os, signal; from dynmem.manager import config; load = config.load;"
        "config.load = lambda path: (load(path), os.kill(os.getpid(), signal.SIGHUP))[0];"
        "from dynmem.cli import main; main()"
    )
    config = configured(tmp_path, "observe", web="")
    command = [sys.executable, "-c", early, "run", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as manager:
        assert manager.stdout is not None
        # the first sweep, which finds no VM, comes after it
        said = next((line for line in manager.stdout if "read again" in line or "absent" in line), "")
        manager.terminate()
    assert "configuration read again: nothing has changed" in said
    assert manager.returncode == 0


def test_a_reload_keeps_what_is_known_of_the_vms_and_the_sums_of_the_books() -> None:
    host = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce")
    configs = [VmConfig(name, 64 * MIB, 512 * MIB) for name in ("web", "db", "old")]
    rack = ObedientHost(host, configs, {"web": 100 * MIB, "db": 100 * MIB, "old": 100 * MIB})
    rack.sweep(8)
    before = {vm.name: vm.claim_bytes for vm in rack.manager.status().vms}
    smaller = ManagerSettings(512 * MIB, 32 * MIB, 2 * NS_PER_S, "enforce")
    rack.manager.configure(
        smaller, [VmConfig("web", 64 * MIB, 512 * MIB, priority="high"), VmConfig("db", 64 * MIB, 128 * MIB)]
    )
    status = rack.manager.status()
    assert [(vm.name, vm.claim_bytes) for vm in status.vms] == [("web", before["web"]), ("db", before["db"])]
    assert status.books.max_bytes == 480 * MIB
    assert status.books.allocated_bytes == sum(vm.claim_bytes or 0 for vm in status.vms)
    rack.sweep(8)
    assert rack.sizes["db"] <= 128 * MIB
    assert rack.sizes["web"] + rack.sizes["db"] <= 480 * MIB
