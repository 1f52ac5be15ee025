"""When memory is out: whose command runs, when, for whom, and what never runs."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from tests.rigs.managers import ObedientVm, configured, managing
from tests.rigs.monitored import listening
from tests.rigs.obedient import CALM, ObedientHost
from tests.rigs.scenes import play

from dynmem.errors import ConfigError
from dynmem.manager import config
from dynmem.manager.last_resort import LastResort
from dynmem.manager.step.facts import RUNNING, Demand, ManagerSettings, Mode, VmConfig
from dynmem.manager.step.last_resort import GOING_NS, OUT_NS
from dynmem.manager.step.results import Interrupt
from dynmem.policy import Priority
from dynmem.units import GIB, MIB, NS_PER_S

SAVE = ("/usr/bin/virsh", "managedsave")
SWEEPS = OUT_NS // NS_PER_S


class Crowd:
    """A guest of high priority uses more than the others leave of 1 GiB, and these have nothing to spare."""

    def __init__(
        self,
        first: Priority = "low",
        second: Priority = "low",
        *,
        command: tuple[str, ...] = SAVE,
        mode: Mode = "enforce",
        squeezes: bool = False,
    ) -> None:
        configs = [
            VmConfig("web", 64 * MIB, 1 * GIB, priority="high"),
            VmConfig(
                "one",
                64 * MIB,
                1 * GIB,
                priority=first,
                on_out_of_memory=command,
                on_shortage="squeeze" if squeezes else "wait",
            ),
            VmConfig("two", 64 * MIB, 1 * GIB, priority=second, on_out_of_memory=command),
        ]
        settings = ManagerSettings(1 * GIB, 0, NS_PER_S, mode)
        self.used = {"web": 200, "one": 300, "two": 350}
        demands = {name: size * MIB for name, size in self.used.items()}
        self.host = ObedientHost(settings, configs, demands, safeguards=CALM)
        self.lives: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.lines: list[str] = []
        self.interrupts: list[Interrupt] = []
        self.sweep(8)

    def sweep(self, times: int) -> list[str]:
        """Sweep; return whose command was run."""
        before = len(self.interrupts)
        for _ in range(times):
            for name in ("one", "two"):
                if name in self.host.demands:
                    used = self.used[name] * MIB
                    spare = max(0, self.host.sizes[name] - used)
                    self.host.overrides[name] = {
                        "demand": Demand(used, spare, "used", 1),
                        "incarnation": self.lives.get(name, f"{name}.1"),
                        "run_state": self.states.get(name, RUNNING),
                    }
            result = self.host.sweep()
            self.lines += result.changes
            if result.interrupt is not None:
                self.interrupts.append(result.interrupt)
        return [each.vm for each in self.interrupts[before:]]

    def fill(self, mib: int = 700) -> None:
        self.host.demands["web"] = mib * MIB

    def end(self, name: str) -> None:
        del self.host.demands[name], self.host.sizes[name], self.host.overrides[name]


def test_nothing_is_interrupted_while_all_that_is_used_fits() -> None:
    crowd = Crowd()
    assert crowd.sweep(3 * SWEEPS) == []


def test_when_memory_has_been_out_for_a_while_the_command_of_the_largest_low_vm_is_run_once() -> None:
    crowd = Crowd()
    crowd.fill()
    assert crowd.sweep(SWEEPS) == []
    assert crowd.sweep(3) == ["two"]
    (interrupt,) = crowd.interrupts
    assert interrupt.command == SAVE
    assert "memory is out: web (high) lacks" in interrupt.reason
    (said,) = (line for line in crowd.lines if "interrupted" in line)
    assert said.startswith("two: interrupted: memory is out")
    assert said.endswith("running /usr/bin/virsh managedsave two")
    assert crowd.sweep(3 * SWEEPS) == []  # it is on its way out: nobody else is interrupted meanwhile


def test_a_vm_that_is_still_there_after_its_time_is_passed_over_until_its_next_life() -> None:
    crowd = Crowd()
    crowd.fill(1000)
    assert crowd.sweep(SWEEPS + 6) == ["two"]
    times = GOING_NS // NS_PER_S + SWEEPS
    assert crowd.sweep(times) == ["one"]  # two has had its time
    assert crowd.sweep(times) == []  # each once
    crowd.lives["two"] = "two.2"
    assert crowd.sweep(times) == ["two"]


@pytest.mark.parametrize("state", ["migrating", "backup", "inmigrate"])
def test_a_vm_whose_memory_or_disks_another_program_copies_is_never_interrupted(state: str) -> None:
    crowd = Crowd()
    crowd.fill()
    crowd.states["two"] = state
    assert crowd.sweep(SWEEPS + 3) == ["one"]


@pytest.mark.parametrize("state", ["paused", "guest-panicked", "io-error"])
def test_a_vm_that_only_does_not_run_may_be_interrupted(state: str) -> None:
    crowd = Crowd()
    crowd.fill()
    crowd.states["two"] = state
    assert crowd.sweep(SWEEPS + 3) == ["two"]


def test_one_that_was_saved_is_enough_if_what_is_used_fits_then() -> None:
    crowd = Crowd()
    crowd.fill()
    crowd.sweep(SWEEPS + 3)
    crowd.end("two")
    assert crowd.sweep(4 * SWEEPS) == []
    assert crowd.host.sizes["web"] >= 700 * MIB


@pytest.mark.parametrize("squeezes", [False, True])
def test_nobody_is_interrupted_where_squeezing_another_is_enough(*, squeezes: bool) -> None:
    crowd = Crowd(squeezes=squeezes)
    crowd.fill(500)
    assert crowd.sweep(2 * SWEEPS) == ([] if squeezes else ["two"])
    watched = Crowd(mode="observe", squeezes=squeezes)  # where nobody is squeezed, however long it would help
    watched.host.sizes["web"] = 300 * MIB
    watched.fill(500)
    watched.sweep(2 * SWEEPS)
    assert any("interrupted" in line for line in watched.lines) is not squeezes


def test_normal_is_interrupted_only_after_low_and_high_never() -> None:
    crowd = Crowd("low", "normal")
    crowd.fill()
    assert crowd.sweep(SWEEPS + 3) == ["one"]
    crowd.end("one")
    crowd.fill(1000)
    assert crowd.sweep(SWEEPS + 6) == ["two"]
    high = Crowd("high", "high")  # which a configuration refuses
    high.fill()
    assert high.sweep(3 * SWEEPS) == []


def test_without_a_command_nobody_is_interrupted() -> None:
    crowd = Crowd(command=())
    crowd.fill()
    assert crowd.sweep(4 * SWEEPS) == []
    assert crowd.host.sizes["one"] >= 300 * MIB
    assert not any("interrupted" in line for line in crowd.lines)


def test_in_observe_mode_it_is_said_and_not_run() -> None:
    crowd = Crowd(mode="observe")
    crowd.host.sizes["web"] = 300 * MIB
    crowd.fill()
    assert crowd.sweep(3 * SWEEPS) == []
    assert [line for line in crowd.lines if "interrupted" in line and "(not run: observe)" in line]


def test_in_advise_mode_the_command_ends_its_line_as_an_operator_would_type_it() -> None:
    crowd = Crowd(mode="advise", command=("/usr/bin/save", "a b"))
    crowd.host.sizes["web"] = 300 * MIB
    crowd.fill()
    assert crowd.sweep(3 * SWEEPS) == []
    said = [line.partition("; to do it: ")[2] for line in crowd.lines if "interrupted: memory is out" in line]
    assert set(said) <= {"/usr/bin/save 'a b' one", "/usr/bin/save 'a b' two"}
    assert said


def ran(folder: Path, script: str, *, limit_s: float = 20.0) -> list[str]:
    """Run a command that is this script; return what was reported."""
    program = folder / "save"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    return reported((str(program), "an argument; with spaces"), limit_s)


def reported(command: tuple[str, ...], limit_s: float = 20.0) -> list[str]:
    """Run a command for the VM `web`; return what was reported until the first line was."""
    lines: list[str] = []

    async def scenario() -> None:
        is_reported = asyncio.Event()

        def report(line: str) -> None:
            lines.append(line)
            is_reported.set()

        resort = LastResort(report, limit_s)
        resort.run(Interrupt("web", command, "memory is out"))
        async with asyncio.timeout(30):
            await is_reported.wait()
        await resort.close()

    asyncio.run(scenario())
    return lines


def test_the_command_is_run_without_a_shell_with_the_name_as_its_last_argument(tmp_path: Path) -> None:
    told = tmp_path / "told"
    assert ran(tmp_path, f'printf "%s\\n" "$@" > {told}') == [f"web: {tmp_path}/save is done"]
    assert told.read_text() == "an argument; with spaces\nweb\n"


def test_a_command_that_fails_or_hangs_is_reported(tmp_path: Path) -> None:
    assert ran(tmp_path, "exit 3") == [f"web: {tmp_path}/save failed with exit code 3: see its own log"]
    pid = tmp_path / "pid"
    lines = ran(tmp_path, f"sleep 1000 & echo $! > {pid}.new; mv {pid}.new {pid}; wait", limit_s=1.0)
    assert lines == [f"web: {tmp_path}/save had 1 s and is ended: it has not finished"]
    with pytest.raises((ProcessLookupError, FileNotFoundError)):
        _gone(int(pid.read_text()))  # what it had started is ended with it


def test_a_command_that_is_not_there_is_reported(tmp_path: Path) -> None:
    (line,) = reported((str(tmp_path / "nothing"),))
    assert line.startswith(f"web: {tmp_path}/nothing cannot be run (")
    assert line.endswith("correct its on_out_of_memory")


def _gone(pid: int) -> None:
    for _ in range(1000):
        os.kill(pid, 0)
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            raise ProcessLookupError
        time.sleep(0.01)


FILE = """
[host]
budget = "8GiB"
[[vm]]
name = "web"
qmp = "/run/vm/web.qmp"
minimum = "512MiB"
maximum = "4GiB"
"""


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ('priority = "high"\non_out_of_memory = ["/bin/true"]', "priority high is never interrupted"),
        ('on_out_of_memory = ["true"]', "is not an absolute path"),
        ('on_out_of_memory = ["/bin/true", "a\\u0000b"]', "cannot be an argument"),
        ('on_out_of_memory = "/bin/true web"', "is text in quotes: write a list"),
        (f"on_out_of_memory = {['/bin/true'] * 40}", "40 words; at most 32 are run"),
    ],
)
def test_a_command_that_cannot_be_run_is_refused_when_the_file_is_read(
    tmp_path: Path, lines: str, sentence: str
) -> None:
    path = tmp_path / "hosts.toml"
    path.write_text(FILE + lines)
    with pytest.raises(ConfigError, match=f"web'.on_out_of_memory.*{sentence}"):
        config.load(path)


def test_the_command_arrives_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "hosts.toml"
    path.write_text(f'{FILE}priority = "low"\non_out_of_memory = ["/usr/bin/virsh", "managedsave"]')
    assert config.load(path).vms[0].on_out_of_memory == SAVE
    path.write_text(FILE)
    assert config.load(path).vms[0].on_out_of_memory == ()


@pytest.mark.soak
def test_a_running_manager_runs_the_command_of_a_low_vm_and_says_what_came_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        web, batch = ObedientVm(32), ObedientVm(200)
        save, told = tmp_path / "save", tmp_path / "told"
        save.write_text(f'#!/bin/sh\necho "$@" > {told}\n')
        save.chmod(0o700)
        sizes = 'minimum = "32MiB"\nmaximum = "256MiB"\n'
        config = configured(
            tmp_path,
            "enforce",
            "300MiB",
            web=f'{sizes}priority = "high"',
            batch=f'{sizes}priority = "low"\non_out_of_memory = ["{save}", "now"]',
        )
        async with (
            listening(tmp_path / "web.qmp", web.serve),
            listening(tmp_path / "batch.qmp", batch.serve),
            managing(config) as manager,
        ):
            await manager.until(lambda status: all(vm.demand_bytes for vm in status.vms))
            web.demand = 200 * MIB
            await manager.until(lambda _: any(f"{save} is done" in line for line in manager.lines))
            status = await manager.status()
            books = status.vm("batch").books
            assert books is not None
            assert books.may_not_allocate_why.endswith("it is to be saved or ended")
            (said,) = (
                line for line in manager.lines if "batch: interrupted: memory is out: web (high)" in line
            )
            assert said.endswith(f"running {save} now batch")
        assert told.read_text() == "now batch\n"

    play(scenario())
