"""Whom the kernel takes memory from, by priority: what is set, recorded before, left alone and undone."""

import shutil
import signal
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec
import pytest
from tests.rigs.managers import ObedientVm, configured, managing
from tests.rigs.monitored import listening
from tests.rigs.proc_tree import ProcTree
from tests.rigs.scenes import play

from dynmem.manager import protections
from dynmem.manager.config import Config, load
from dynmem.manager.journal.journal import Journal
from dynmem.manager.journal.writer import JournalWriter
from dynmem.manager.protections import Protections
from dynmem.manager.step.facts import RUNNING, Facts, HostFacts, VmFacts, between_sweeps
from dynmem.manager.step.protection import Setting
from dynmem.manager.sweep.measuring import Measuring
from dynmem.manager.sweep.process import Process
from dynmem.manager.sweep.protection import write
from dynmem.sockets import listener
from dynmem.units import MIB

START = 555
MINIMUM, MAXIMUM = 64 * MIB, 256 * MIB


class Host:
    """A folder like /proc with a VM of each priority, their cgroups, a journal and a configuration."""

    def __init__(self, root: Path) -> None:
        self.root, self.tree, self.groups = root, ProcTree(root / "proc"), root / "cgroup"
        self.lines: list[str] = []
        (self.tree.root / "self").mkdir()
        mounts = f"30 1 0:26 / {self.groups} rw - cgroup2 cgroup2 rw\n"
        (self.tree.root / "self" / "mountinfo").write_text(mounts)
        self.pids = {"low": 101, "normal": 102, "high": 103}
        for name, pid in self.pids.items():
            self.begin(name, pid)
        self.journal = Journal(root)

    def begin(self, name: str, pid: int, start: int = START) -> None:
        self.pids[name] = pid
        stat = f"{pid} (kvm (1)) S {' '.join('0' * 18)} {start} 0 0\n"
        self.tree.process(pid, ["kvm"], stat=stat, oom_score_adj="0\n", cgroup=f"0::/{name}.scope\n")
        folder = self.groups / f"{name}.scope"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.procs").write_text(f"{pid}\n")
        (folder / "memory.low").write_text("0\n")

    def config(self, mode: str = "enforce", *, score: bool = True, low: bool = False) -> Config:
        lines = [f'[host]\nbudget = "1GiB"\n[manager]\nmode = "{mode}"\nstate = "{self.root}"']
        lines += [f"oom_score = {str(score).lower()}\nmemory_low = {str(low).lower()}"]
        lines += [
            f'[[vm]]\nname = "{name}"\nqmp = "/{name}.qmp"\nminimum = "64MiB"\nmaximum = "256MiB"\n'
            f'priority = "{name}"'
            for name in ("low", "normal", "high")
        ]
        path = self.root / "hosts.toml"
        path.write_text("\n".join(lines))
        return load(path)

    def manager(self, config: Config) -> Protections:
        writer = JournalWriter(self.journal, self.lines.append)
        return Protections(config, writer, self.lines.append, Measuring(), self.tree.root)

    async def sweep(
        self,
        manager: Protections,
        *,
        released: Collection[str] = (),
        paused: Collection[str] = (),
        facts: Mapping[str, Mapping[str, object]] | None = None,
        absent: Collection[str] = (),
    ) -> dict[str, str]:
        """Sweep twice; return what the facts say was set of each VM."""
        vms = tuple(
            msgspec.structs.replace(
                VmFacts(name, "" if name in absent else f"{pid}@{START}", RUNNING),
                **(facts or {}).get(name, {}),
            )
            for name, pid in self.pids.items()
        )
        for _ in range(2):
            manager.look(vms, released, paused)
            await manager.close()
        return {vm.name: vm.protection for vm in manager.named(vms)}

    def scores(self) -> list[int]:
        return [int((self.tree.root / str(pid) / "oom_score_adj").read_text()) for pid in self.pids.values()]

    def lows(self) -> list[int]:
        return [int((self.groups / f"{name}.scope" / "memory.low").read_text()) // MIB for name in self.pids]

    def set_score(self, name: str, value: int) -> None:
        (self.tree.root / str(self.pids[name]) / "oom_score_adj").write_text(f"{value}\n")


def test_scores_are_raised_by_priority_and_put_back_by_release(tmp_path: Path) -> None:
    host = Host(tmp_path)

    async def scenario() -> None:
        manager = host.manager(host.config())
        said = await host.sweep(manager)
        assert host.scores() == [500, 250, 0]
        assert said["low"] == "oom_score_adj is 500, and was 0"
        assert said["high"] == ""
        assert len(host.journal.protections()) == 2
        await host.sweep(manager, released={"low"})
        assert host.scores() == [0, 250, 0]
        await host.sweep(manager)
        assert host.scores() == [500, 250, 0]
        manager.configure(host.config(score=False))
        await host.sweep(manager)
        assert host.scores() == [0, 0, 0]
        assert host.journal.protections() == []

    play(scenario())


def test_what_a_cgroup_keeps_is_raised_by_priority_and_put_back(tmp_path: Path) -> None:
    host = Host(tmp_path)

    async def scenario() -> None:
        manager = host.manager(host.config(score=False, low=True))
        said = await host.sweep(manager)
        assert host.lows() == [0, 64, 256]
        assert said["high"] == "memory.low is 256 MiB, and was 0"
        await host.sweep(manager, released={"normal", "high"})
        assert host.lows() == [0, 0, 0]

    play(scenario())


def test_a_vm_that_was_started_again_between_two_sweeps_is_set_again(tmp_path: Path) -> None:
    host = Host(tmp_path)

    async def scenario() -> None:
        manager = host.manager(host.config())
        await host.sweep(manager)
        shutil.rmtree(host.tree.root / "101")
        host.begin("low", 201)
        await host.sweep(manager)
        assert host.scores() == [500, 250, 0]
        assert [each.life for each in host.journal.protections()] == [f"201@{START}", f"102@{START}"]

    play(scenario())


@pytest.mark.parametrize("mode", ["observe", "advise"])
def test_nothing_is_set_and_nothing_put_back_in_other_modes(mode: str, tmp_path: Path) -> None:
    host = Host(tmp_path)

    async def scenario() -> None:
        await host.sweep(host.manager(host.config(mode, low=True)))
        assert (host.scores(), host.lows()) == ([0, 0, 0], [0, 0, 0])
        manager = host.manager(host.config())
        await host.sweep(manager)
        manager.configure(host.config(mode))
        assert (await host.sweep(manager))["low"] == "oom_score_adj is 500, and was 0"
        assert host.scores() == [500, 250, 0]

    play(scenario())


def test_without_the_operators_leave_nothing_is_set(tmp_path: Path) -> None:
    host = Host(tmp_path)

    async def scenario() -> None:
        await host.sweep(host.manager(host.config(score=False)))
        assert (host.scores(), host.lows()) == ([0, 0, 0], [0, 0, 0])

    play(scenario())


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.set_score("low", 600)
    host.set_score("normal", -900)  # somebody protects it

    async def scenario() -> None:
        manager = host.manager(host.config())
        said = await host.sweep(manager)
        assert host.scores() == [600, -900, 0]
        assert said["normal"] == "oom_score_adj is left as it is: it is -900 already"
        assert len(host.lines) == 2  # said once
        await host.sweep(manager, released={"low", "normal"})
        assert host.scores() == [600, -900, 0]

    play(scenario())


def test_what_another_program_set_meanwhile_is_not_put_back(tmp_path: Path) -> None:
    host = Host(tmp_path)

    async def scenario() -> None:
        manager = host.manager(host.config())
        host.set_score("low", 100)
        await host.sweep(manager)
        assert host.scores()[0] == 500
        host.set_score("low", 700)
        await host.sweep(manager, released={"low"})
        assert host.scores()[0] == 700
        host.set_score("low", 100)
        await host.sweep(manager)
        await host.sweep(manager, released={"low"})
        assert host.scores()[0] == 100  # as it was found

    play(scenario())


def test_it_is_recorded_before_it_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path)
    seen: list[tuple[bool, list[int]]] = []

    def watch(setting: Setting, value: int, expected: int, proc: Path) -> bool:
        seen.append((setting in host.journal.protections(), host.scores()))
        return write(setting, value, expected, proc)

    monkeypatch.setattr(protections, "write", watch)
    play(host.sweep(host.manager(host.config())))
    assert seen == [(True, [0, 0, 0]), (True, [500, 0, 0])]


def test_nothing_is_set_while_it_cannot_be_recorded(tmp_path: Path) -> None:
    host = Host(tmp_path)
    manager = host.manager(host.config())
    host.journal._file.db.execute("PRAGMA query_only=1")
    play(host.sweep(manager))
    assert host.scores() == [0, 0, 0]
    assert any("cannot be written" in line for line in host.lines)
    host.journal._file.db.execute("PRAGMA query_only=0")
    play(host.sweep(manager))
    assert host.scores() == [500, 250, 0]


@pytest.mark.parametrize("score", [True, False])
def test_a_successor_finds_what_a_killed_manager_has_set(tmp_path: Path, *, score: bool) -> None:
    host = Host(tmp_path)
    play(host.sweep(host.manager(host.config())))
    assert host.scores() == [500, 250, 0]
    successor = host.manager(host.config(score=score))
    play(host.sweep(successor))
    assert host.scores() == ([500, 250, 0] if score else [0, 0, 0])
    play(host.sweep(successor, released=set(host.pids)))
    assert host.scores() == [0, 0, 0]


def test_a_manager_that_was_killed_before_it_could_set_what_it_recorded_has_set_nothing(
    tmp_path: Path,
) -> None:
    host = Host(tmp_path)
    host.journal.protect(Setting("low", "oom_score_adj", f"101@{START}", "", 0, 500))
    play(host.sweep(host.manager(host.config())))
    assert host.scores() == [500, 250, 0]
    host.set_score("low", 0)
    host.journal.protect(Setting("low", "oom_score_adj", f"101@{START}", "", 0, 500))
    play(host.sweep(host.manager(host.config(score=False))))
    assert host.scores() == [0, 0, 0]
    assert host.journal.protections() == []


def test_a_process_that_has_the_number_of_another_is_not_touched(tmp_path: Path) -> None:
    host = Host(tmp_path)
    manager = host.manager(host.config())
    play(host.sweep(manager))
    stat = host.tree.root / "101" / "stat"
    stat.write_text(stat.read_text().replace(str(START), "777"))  # its id is used again
    play(host.sweep(manager, released={"low"}))
    assert host.scores()[0] == 500
    assert [each.vm for each in host.journal.protections()] == ["normal"]


def test_a_vm_that_has_ended_or_left_the_configuration_is_forgotten_or_put_back(tmp_path: Path) -> None:
    host = Host(tmp_path)
    manager = host.manager(host.config())
    play(host.sweep(manager))
    del host.pids["normal"]
    play(host.sweep(manager, absent={"low"}))
    assert host.journal.protections() == []
    assert int((host.tree.root / "102" / "oom_score_adj").read_text()) == 0


@pytest.mark.parametrize("held", [{"run_state": "migrating"}, {"lock": "Proxmox has locked it"}, {}])
def test_a_vm_that_is_paused_or_locked_is_left_as_it_is(held: dict[str, object], tmp_path: Path) -> None:
    host = Host(tmp_path)

    async def scenario() -> None:
        facts, paused = {"low": held} if held else {}, set() if held else {"low"}
        manager = host.manager(host.config())
        await host.sweep(manager, facts=facts, paused=paused)
        assert host.scores() == [0, 250, 0]
        await host.sweep(manager)
        await host.sweep(manager, facts=facts, paused=paused, released={"low"})
        assert host.scores() == [500, 250, 0]

    play(scenario())


def test_a_cgroup_that_is_not_the_vms_own_is_left_alone_and_one_without_effect_is_named(
    tmp_path: Path,
) -> None:
    host = Host(tmp_path)
    (host.groups / "high.scope" / "cgroup.procs").write_text("103\n7\n")
    (host.groups / "memory.low").write_text("0\n")  # a hierarchy whose root is below a group
    manager = host.manager(host.config(score=False, low=True))
    said = play(host.sweep(manager))
    assert host.lows() == [0, 64, 0]
    assert said["normal"] == f"memory.low is 64 MiB, and was 0 (without effect: {host.groups} keeps less)"
    assert "is not its own: other processes are in it" in said["high"]
    (host.groups / "normal.scope" / "memory.low").unlink()
    host.lines.clear()
    other = Host(tmp_path / "v1")
    for name in other.pids:
        (other.groups / f"{name}.scope" / "memory.low").unlink()
    said = play(other.sweep(other.manager(other.config(score=False, low=True))))
    assert (
        said["high"] == "memory.low is left as it is: its cgroup has no memory.low: that is of version 2 only"
    )


def test_whatever_stands_in_a_file_is_no_reason_to_set_something(tmp_path: Path) -> None:
    for number, text in enumerate(("", "x", "max", "9" * 30, "-")):
        (tmp_path / str(number)).mkdir()
        host = Host(tmp_path / str(number))
        (host.tree.root / "101" / "oom_score_adj").write_text(text)
        said = play(host.sweep(host.manager(host.config())))
        assert (host.tree.root / "101" / "oom_score_adj").read_text() == text
        assert said["low"].startswith("oom_score_adj is left as it is: ")


def test_a_setting_that_cannot_be_read_is_named_once_and_the_others_are_made(tmp_path: Path) -> None:
    host = Host(tmp_path)
    score = host.tree.root / "101" / "oom_score_adj"
    score.unlink()
    score.mkdir()
    manager = host.manager(host.config())
    said = play(host.sweep(manager))
    play(host.sweep(manager))
    assert said["low"] == "oom_score_adj is left as it is: Is a directory"
    assert sum(line.startswith("low: ") for line in host.lines) == 1
    assert said["normal"] == "oom_score_adj is 250, and was 0"


def score_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_a_real_process_gets_its_score_and_has_it_back(tmp_path: Path) -> None:
    host = Host(tmp_path)

    async def scenario(pid: int) -> None:
        process = Process.of(pid)
        assert process is not None
        vm = VmFacts("low", process.incarnation, RUNNING)
        process.close()
        writer = JournalWriter(host.journal, host.lines.append)
        manager = Protections(host.config(), writer, host.lines.append, Measuring())
        before = score_of(pid)
        for released, expected in ((set(), max(before, 500)), ({"low"}, before)):
            manager.look((vm,), released, ())
            await manager.close()
            assert score_of(pid) == expected

    with subprocess.Popen(["sleep", "60"]) as child:
        play(scenario(child.pid))
        child.kill()


def test_a_manager_sets_the_score_of_a_vms_process_and_its_successor_puts_it_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = configured(tmp_path, "enforce", web="")
        text = config.read_text()
        async with listening(tmp_path / "web.qmp", ObedientVm().serve):
            pid = listener(tmp_path / "web.qmp")
            before = score_of(pid)
            config.write_text(text.replace("[manager]", "[manager]\noom_score = true"))
            async with managing(config) as manager:
                status = await manager.until(lambda status: status.vms[0].protection)
                assert status.vms[0].protection == f"oom_score_adj is 250, and was {before}"
                assert score_of(pid) == 250
                await manager.end(signal.SIGKILL)
            assert score_of(pid) == 250
            config.write_text(text)
            async with managing(config) as manager:
                await manager.until(lambda _: score_of(pid) == before)

    play(scenario())


def test_a_look_between_two_sweeps_keeps_what_the_kernel_was_told() -> None:
    web = VmFacts("web", "101@4242", RUNNING)
    told = msgspec.structs.replace(web, protection="oom_score_adj is 250, and was 0")
    before = Facts(0, HostFacts(MIB, MIB), (told,))
    assert between_sweeps(before, 1, before.host, {"web": web}).vms == (told,)


def test_where_a_vm_has_moved_to_another_cgroup_neither_is_written_to(tmp_path: Path) -> None:
    host = Host(tmp_path)
    manager = host.manager(host.config(score=False, low=True))
    play(host.sweep(manager))
    other = host.groups / "other.scope"
    other.mkdir()
    (other / "cgroup.procs").write_text("103\n")
    (other / "memory.low").write_text(f"{MAXIMUM}\n")  # as much as the manager set where the VM was
    (host.tree.root / "103" / "cgroup").write_text("0::/other.scope\n")
    play(host.sweep(manager, released={"high"}))
    assert host.lows() == [0, 64, 256]
    assert (other / "memory.low").read_text() == f"{MAXIMUM}\n"
    assert [each.vm for each in host.journal.protections()] == ["normal"]


def test_no_sweep_sets_more_than_a_few_and_all_have_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protections, "AT_ONCE", 1)
    host = Host(tmp_path)
    manager = host.manager(host.config())
    vms = tuple(VmFacts(name, f"{pid}@{START}", RUNNING) for name, pid in host.pids.items())

    async def scenario() -> None:
        for expected in (1, 2):
            manager.look(vms, (), ())
            await manager.close()
            assert len(host.journal.protections()) == expected

    play(scenario())
