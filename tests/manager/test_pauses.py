"""A paused VM is left exactly as it is: until its time is over, or until the operator ends the pause."""

import signal
import time
from pathlib import Path

import msgspec
import pytest
from tests.rigs.managers import ObedientVm, cli, configured, managing
from tests.rigs.monitored import listening
from tests.rigs.obedient import ObedientHost
from tests.rigs.scenes import play

from dynmem.limits import PAUSE_NS_MAX
from dynmem.manager.journal.journal import PAUSED, RELEASED, Instruction, Journal
from dynmem.manager.journal.recovery import take_over
from dynmem.manager.step import Manager
from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.units import GIB, MIB, NS_PER_S, PAGE_SIZE

SETTINGS = ManagerSettings(GIB, 64 * MIB, NS_PER_S, "enforce")
NAMES = ("web", "db", "batch")
HOUR_NS = 3600 * NS_PER_S


def settled(**demands: int) -> ObedientHost:
    """Three VMs that have what they need. Sizes in MiB."""
    configs = [VmConfig(name, 64 * MIB, 512 * MIB) for name in NAMES]
    wants = {name: demands.get(name, 200) * MIB for name in NAMES}
    host = ObedientHost(SETTINGS, configs, wants)
    host.sweep(8)
    return host


def sent_to(host: ObedientHost, name: str, sweeps: int) -> int:
    return sum(command.vm == name for _ in range(sweeps) for command in host.sweep().commands)


def view(host: ObedientHost, name: str) -> str:
    return host.manager.status().vm(name).reason


def test_nothing_is_sent_to_a_paused_vm_and_what_it_holds_counts_in_full() -> None:
    host = settled()
    size = host.sizes["batch"]
    host.manager.pause("batch", host.now_ns + HOUR_NS)
    host.demands |= {"web": 450 * MIB, "batch": 70 * MIB}  # it has plenty, and web lacks it
    assert sent_to(host, "batch", 20) == 0
    assert host.sizes["batch"] == size
    assert sum(host.sizes.values()) <= GIB - 64 * MIB
    assert "batch is paused and keeps" in view(host, "web")
    status = host.manager.status().vm("batch")
    assert (status.standing, status.paused_until_ns) == ("paused", host.now_ns - 20 * NS_PER_S + HOUR_NS)
    assert view(host, "batch").startswith("paused: left exactly as it is")
    host.manager.claims.gmm.verify()


def test_without_the_pause_the_same_vm_gives_what_the_other_lacks() -> None:
    host = settled()
    host.demands |= {"web": 450 * MIB, "batch": 70 * MIB}
    assert sent_to(host, "batch", 20) > 0
    assert host.sizes["web"] >= 450 * MIB


@pytest.mark.parametrize("ended", ["by its time", "by the operator"])
def test_when_a_pause_ends_the_size_that_is_there_is_adopted_first(ended: str) -> None:
    host = settled()
    host.manager.pause("batch", host.now_ns + 10 * NS_PER_S)
    host.sweep(3)
    host.sizes["batch"] = 256 * MIB  # the operator worked on it
    host.demands |= {"web": 450 * MIB, "batch": 70 * MIB}
    host.sweep(3)
    if ended == "by the operator":
        host.manager.resume("batch")
    results = [host.sweep() for _ in range(16)]
    lines = [line for result in results for line in result.changes]
    assert ("batch: the time of its pause is over" in lines) == (ended == "by its time")
    assert any(command.vm == "batch" for result in results for command in result.commands)
    assert host.manager.paused == ()


def test_in_an_emergency_too_a_paused_vm_is_left_alone() -> None:
    host = settled()
    host.manager.pause("batch", host.now_ns + HOUR_NS)
    host.manager.configure(
        msgspec.structs.replace(SETTINGS, budget_bytes=400 * MIB), list(host.configs.values())
    )
    host.demands["batch"] = 70 * MIB
    assert sent_to(host, "batch", 10) == 0


def test_when_floors_do_not_fit_beside_a_paused_vm_the_log_names_it_once_and_says_when_it_is_over() -> None:
    configs = [VmConfig(name, 300 * MIB, 512 * MIB) for name in NAMES]
    host = ObedientHost(SETTINGS, configs, dict.fromkeys(NAMES, 250 * MIB))
    host.sweep(8)
    host.sizes["batch"] = 500 * MIB
    host.overrides["batch"] = {"resident_bytes": 500 * MIB}
    host.manager.pause("batch", host.now_ns + HOUR_NS)
    lines = [line for _ in range(6) for line in host.sweep().changes]
    (line,) = [each for each in lines if "the floors of the others do not fit" in each]
    assert "batch holds" in line
    assert line.endswith("dynmem pause batch --undo")
    host.overrides.clear()
    host.sizes["batch"] = 300 * MIB
    host.manager.resume("batch")
    lines = [line for _ in range(6) for line in host.sweep().changes]
    assert "the floors fit beside the paused VMs, or none is paused any more" in lines


def test_memory_that_is_out_interrupts_no_paused_vm() -> None:
    configs = [
        VmConfig("web", 64 * MIB, 1024 * MIB, priority="high"),
        VmConfig("batch", 64 * MIB, 512 * MIB, priority="low", on_out_of_memory=("/bin/true",)),
    ]

    def interrupted(*, paused: bool) -> bool:
        host = ObedientHost(SETTINGS, configs, {"web": 300 * MIB, "batch": 300 * MIB})
        host.sweep(8)
        if paused:
            host.manager.pause("batch", host.now_ns + HOUR_NS)
        host.demands["web"] = 900 * MIB
        return any(host.sweep().interrupt is not None for _ in range(30))

    assert interrupted(paused=False)
    assert not interrupted(paused=True)


def test_a_release_ends_a_pause_and_a_paused_vm_that_starts_counts_in_full() -> None:
    host = settled()
    host.manager.pause("batch", host.now_ns + HOUR_NS)
    host.manager.release("batch")
    assert (host.manager.paused, host.manager.released) == ((), ("batch",))
    host.manager.pause("batch", host.now_ns + HOUR_NS)
    assert (host.manager.paused, host.manager.released) == (("batch",), ())
    host.overrides["batch"] = {"incarnation": "batch.2", "actual_bytes": 512 * MIB}
    assert sent_to(host, "batch", 5) == 0
    assert host.manager.claims.pages("batch") * PAGE_SIZE == 512 * MIB


def test_after_a_restart_a_pause_holds_until_its_date_and_no_longer_than_a_pause_may(tmp_path: Path) -> None:
    journal, wall_ns = Journal(tmp_path), time.time_ns()
    journal.keep(Instruction(PAUSED, "web", until_ns=wall_ns + HOUR_NS), wall_ns)
    journal.keep(Instruction(PAUSED, "db", until_ns=1 << 62), wall_ns)  # the clock was wrong
    journal.keep(Instruction(PAUSED, "gone", until_ns=wall_ns + HOUR_NS), wall_ns)
    journal.keep(Instruction(PAUSED, "batch", until_ns=wall_ns + HOUR_NS), wall_ns)
    journal.keep(Instruction(RELEASED, "batch"), wall_ns)  # which ends the pause
    manager = Manager(SETTINGS, [VmConfig(name, 64 * MIB, 512 * MIB) for name in NAMES])
    take_over(journal, manager, set(NAMES))
    assert (manager.paused, manager.released) == (("web", "db"), ("batch",))
    vms = {vm.name: vm.paused_until_ns for vm in manager.status().vms}
    now_ns = time.monotonic_ns()
    assert HOUR_NS * 9 // 10 < (vms["web"] or 0) - now_ns <= HOUR_NS
    assert (vms["db"] or 0) - now_ns <= PAUSE_NS_MAX
    kept = {(each.kind, each.name) for each in journal.instructions()}
    assert kept == {(PAUSED, "web"), (PAUSED, "db"), (RELEASED, "batch")}
    journal.close()


def test_a_pause_is_asked_for_shown_kept_over_kill_9_and_undone(tmp_path: Path) -> None:
    async def scenario() -> None:
        web, db = ObedientVm(), ObedientVm()
        config = configured(tmp_path, "enforce", "300MiB", web="", db="")
        socket = ("--socket", tmp_path / "run" / "api.sock")
        async with (
            listening(tmp_path / "web.qmp", web.serve),
            listening(tmp_path / "db.qmp", db.serve),
        ):
            async with managing(config) as manager:
                code, out, _ = await cli("pause", "--all", "--for", "2h", *socket)
                assert (code, out[:12], out.strip()[-9:]) == (0, "paused until", ": web, db")
                await manager.sweeps(2)
                before = len(web.targets), len(db.targets)
                await manager.end(signal.SIGKILL)
            async with managing(config) as manager:
                await manager.sweeps(6)
                assert (len(web.targets), len(db.targets)) == before
                assert any("paused earlier: web, db" in line for line in manager.lines)
                _, out, _ = await cli("status", *socket)
                assert out.count("    paused until 2") == 2
                _, out, err = await cli("explain", "web", *socket)
                assert "until then, or until `dynmem pause web --undo`" in out, err
                assert (await cli("release", "db", *socket))[0] == 0
                code, _, err = await cli("pause", "db", "--for", "1h", *socket)
                assert code == 5
                assert "dynmem release db --undo" in err
                code, out, _ = await cli("pause", "web", "--undo", *socket)
                assert (code, out) == (0, "managed again: web\n")
                code, out, _ = await cli("pause", "web", "--undo", *socket)
                assert (code, out) == (0, "web was not paused: nothing is changed\n")
        journal = Journal(tmp_path / "state")
        assert [each.kind for each in journal.instructions()] == [RELEASED]
        journal.close()

    play(scenario())


@pytest.mark.parametrize(
    "arguments", [("web",), (), ("web", "--for", "2h", "--undo"), ("web", "--for", "800h"), ("--for", "x")]
)
def test_a_pause_without_a_vm_or_a_time_is_a_sentence(arguments: tuple[str, ...]) -> None:
    async def scenario() -> None:
        code, _, err = await cli("pause", *arguments)
        assert code == 2
        assert err.startswith("dynmem: ")
        assert err.count("\n") == 1

    play(scenario())
