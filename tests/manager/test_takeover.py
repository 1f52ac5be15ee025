"""A VM of Proxmox has one decider: its own balloon manager, or dynmem after it has taken the VM over."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from tests.rigs.managers import ObedientVm, configured, managing
from tests.rigs.monitored import listening
from tests.rigs.obedient import ObedientHost
from tests.rigs.proxmox import CONF, ProxmoxHost
from tests.rigs.scenes import plays, until

from dynmem.discovery.proxmox import proxmox_vm
from dynmem.manager import takeovers
from dynmem.manager.config import Config
from dynmem.manager.journal.journal import Journal, JournalError
from dynmem.manager.journal.writer import JournalWriter
from dynmem.manager.step.facts import RUNNING, ManagerSettings, Owner, Rival, VmConfig, VmFacts
from dynmem.manager.step.takeover import Move, Said, Taken, next_move, words
from dynmem.manager.sweep.measuring import Measuring
from dynmem.manager.takeovers import Takeovers
from dynmem.units import GIB, NS_PER_S

T = TypeVar("T")
MOVED, LEFT, UNSET = Said(2000, True, False), Said(0, False, False), Said(None, True, False)
RECORD = Taken(104, "shop", 2000)
SHOP = VmFacts("shop", "9@1", RUNNING, owner=Owner("proxmox", "104"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read at each look, however long that takes."""
    monkeypatch.setattr(takeovers, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(takeovers, "PATIENCE_S", 100.0)


@pytest.mark.parametrize(
    ("record", "said", "is_wanted", "move"),
    [
        (None, MOVED, True, "take"),
        (None, UNSET, True, "take"),
        (None, MOVED, False, ""),
        (None, LEFT, True, ""),  # the operator did it: nothing to undo
        (RECORD, MOVED, True, "take"),  # killed before it was set; or somebody has set it again
        (RECORD, LEFT, True, ""),
        (RECORD, LEFT, False, "give back"),
        (RECORD, MOVED, False, "forget"),  # killed before it was set, or before that was forgotten
        (RECORD, Said(2000, False, False), True, ""),  # without `balloon` Proxmox moves nothing
        (RECORD, None, False, "forget"),
        (None, None, True, ""),
        (None, MOVED._replace(is_locked=True), True, ""),
        (RECORD, LEFT._replace(is_locked=True), False, ""),
    ],
)
def test_what_is_done_next_follows_from_the_file_and_the_record(
    record: Taken | None, said: Said | None, is_wanted: bool, move: Move
) -> None:
    assert next_move(record, said, is_wanted=is_wanted) == move


def test_what_was_not_set_is_deleted_again() -> None:
    assert words(104, None) == ("set", "104", "--delete", "shares")
    assert words(104, 2000) == ("set", "104", "--shares", "2000")


@pytest.mark.parametrize(
    ("lines", "said", "is_moved"),
    [
        (CONF.format(shares="shares: 2000\n"), 2000, True),
        (CONF.format(shares=""), None, True),  # and not what a snapshot says
        (CONF.format(shares="shares: 0\n"), 0, False),
        ("memory: 8192\nshares: 2000\n", 2000, False),
        ("memory: 8192\nballoon: 0\n", None, False),
        ("memory: 8192\nballoon: 8192\n", None, True),  # it would be brought back to its full size
    ],
)
def test_whom_proxmox_moves_is_what_its_balloon_manager_goes_by(
    lines: str, said: int | None, is_moved: bool
) -> None:
    vm = proxmox_vm(104, lines)
    assert (vm.said_shares, vm.is_moved) == (said, is_moved)


def driven(rival: Rival | None, mode: str = "enforce", *, takeover: bool = False) -> ObedientHost:
    config = VmConfig("shop", GIB, 4 * GIB, takeover=takeover)
    settings = msgspec.convert(
        {"budget_bytes": 3 * GIB, "slush_bytes": 0, "period_ns": NS_PER_S, "mode": mode}, ManagerSettings
    )
    host = ObedientHost(settings, [config], {"shop": GIB})
    host.overrides["shop"] = {"rival": rival}
    return host


def test_a_vm_that_proxmox_moves_is_not_driven_until_it_no_longer_does() -> None:
    host = driven(Rival("104", 2000, decides=True))
    assert not any(host.sweep().commands for _ in range(6))
    vm = host.manager.status().vm("shop")
    assert vm.standing == "frozen"
    assert "(shares is 2000): run `qm set 104 --shares 0`, or write takeover = true" in vm.reason
    host.overrides["shop"] = {"rival": Rival("104", 0, decides=False, former="its shares were 2000")}
    assert any(host.sweep().commands for _ in range(6))
    assert "taken over from Proxmox (its shares were 2000)" in host.manager.status().vm("shop").reason


def test_with_the_rule_switched_off_two_managers_would_drive_one_vm() -> None:
    host = driven(None)
    assert any(host.sweep().commands for _ in range(6))


def test_observe_mode_plans_and_names_the_conflict() -> None:
    host = driven(Rival("104", 2000, decides=True), "observe")
    host.sweep(4)
    vm = host.manager.status().vm("shop")
    assert vm.standing == "movable"
    assert "Proxmox's balloon manager changes its size, too" in vm.reason


class Scene:
    """The takeovers of one manager after another, over one journal."""

    def __init__(self, folder: Path, *, shares: int | None = 2000, takeover: bool = True) -> None:
        self.host = ProxmoxHost(folder, shares)
        self.lines: list[str] = []
        (folder / "state").mkdir(mode=0o700)
        self._state = folder / "state"
        self.config = Config(
            path=folder / "hosts.toml",
            settings=ManagerSettings(8 * GIB, 0, NS_PER_S, "enforce"),
            vms=(VmConfig("shop", GIB, 4 * GIB, takeover=takeover),),
            monitors={"shop": folder / "qmp"},
            socket=folder / "api.sock",
            state=self._state,
            proxmox_files=self.host.files,
            qm=self.host.qm,
        )
        self.released: set[str] = set()
        self.paused: set[str] = set()
        self.vms: tuple[VmFacts, ...] = (SHOP,)
        self.start()

    def start(self) -> None:
        """A manager starts."""
        self.journal = Journal(self._state)
        self.writer = JournalWriter(self.journal, self.lines.append)
        self.takeovers = Takeovers(self.config, self.writer, self.lines.append, Measuring())

    def want(self, *, takeover: bool, mode: str = "enforce") -> None:
        """Another configuration is put in force."""
        settings = msgspec.structs.replace(self.config.settings, mode=mode)
        vms = tuple(msgspec.structs.replace(vm, takeover=takeover) for vm in self.config.vms)
        self.config = msgspec.structs.replace(self.config, settings=settings, vms=vms)
        self.takeovers.configure(self.config)

    async def sweep(self, times: int = 1) -> VmFacts:
        """A few sweeps, each after what the one before began."""
        for _ in range(times):
            self.found = await self.takeovers.look(self.vms)
            self.takeovers.settle(self.released, self.paused)
            await asyncio.gather(*self.takeovers._running.values())
        return self.found[0]

    async def end(self) -> None:
        """The manager ends."""
        await self.takeovers.close()
        await self.writer.finish()
        self.journal.close()

    async def killed_at(self, name: str) -> None:
        """The manager is killed while `qm` runs, and before it did anything."""
        self.host.switch(name, on=True)
        await self.takeovers.look(self.vms)
        self.takeovers.settle(self.released, self.paused)
        calls = len(self.host.calls)
        await until(lambda: len(self.host.calls) > calls)
        await self.end()
        self.host.switch(name, on=False)
        self.start()


@plays
async def test_a_vm_is_taken_over_and_handed_back_when_it_is_released(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    facts = await scene.sweep()
    assert facts.rival == Rival("104", 2000, decides=True)
    facts = await scene.sweep(3)
    assert facts.rival == Rival("104", 0, decides=False, former="its shares were 2000")
    assert (scene.host.shares, scene.host.calls) == ("0", ["set 104 --shares 0"])
    scene.released = {"shop"}
    facts = await scene.sweep(3)
    assert (scene.host.shares, scene.host.calls[1:]) == ("2000", ["set 104 --shares 2000"])
    assert scene.journal.taken() == []
    assert facts.rival == Rival("104", 2000, decides=True)
    scene.released = set()
    await scene.sweep(3)
    assert scene.host.shares == "0"
    assert [line.split(":")[1] for line in scene.lines] == [
        " taken over from Proxmox",
        " handed back to Proxmox",
        " taken over from Proxmox",
    ]
    await scene.end()


@plays
async def test_shares_that_were_not_set_are_not_set_afterwards(tmp_path: Path) -> None:
    scene = Scene(tmp_path, shares=None)
    await scene.sweep(2)
    assert scene.host.shares == "0"
    scene.want(takeover=False)
    await scene.sweep(2)
    assert scene.host.calls[-1] == "set 104 --delete shares"
    assert "shares" not in scene.host.conf.read_text().split("[before]")[0]
    await scene.end()


@plays
async def test_without_the_operators_word_or_in_observe_mode_or_paused_nothing_is_set(tmp_path: Path) -> None:
    scene = Scene(tmp_path, takeover=False)
    await scene.sweep(3)
    scene.want(takeover=True, mode="observe")
    await scene.sweep(3)
    (line,) = scene.lines
    assert line.startswith("shop: Proxmox's balloon manager changes its size, too (shares is 2000): in enf")
    scene.want(takeover=True)
    scene.paused = {"shop"}
    await scene.sweep(3)
    assert scene.host.calls == []
    scene.paused = set()
    await scene.sweep()
    assert scene.host.calls == ["set 104 --shares 0"]
    await scene.end()


@plays
async def test_a_manager_killed_between_record_and_act_leaves_what_is_done_and_undone_once(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    await scene.killed_at("hang")  # before the file was changed: recorded, and not set
    assert (scene.host.shares, scene.journal.taken()) == ("2000", [RECORD])
    await scene.killed_at("hang")
    assert (scene.host.shares, scene.journal.taken()) == ("2000", [RECORD])
    await scene.sweep(2)
    assert scene.host.shares == "0"
    scene.released = {"shop"}
    await scene.killed_at("hang")  # before it was undone
    assert (scene.host.shares, scene.journal.taken()) == ("0", [RECORD])
    await scene.sweep()  # undone, and the manager ends before that is recorded
    await scene.end()
    scene.start()
    assert (scene.host.shares, scene.journal.taken()) == ("2000", [RECORD])
    await scene.sweep(3)
    assert scene.journal.taken() == []
    undone = [call for call in scene.host.calls if call == "set 104 --shares 2000"]
    assert len(undone) == 2  # the one that was killed, and the one that was made
    await scene.end()


@plays
async def test_a_takeover_that_never_took_place_is_not_undone(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.killed_at("hang")
    scene.want(takeover=False)
    await scene.sweep(2)
    assert (scene.host.shares, scene.journal.taken()) == ("2000", [])
    assert scene.host.calls == ["set 104 --shares 0"]
    await scene.end()


@plays
async def test_what_somebody_else_has_set_since_stays(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.sweep(2)
    scene.host.conf.write_text(CONF.format(shares="shares: 500\n"))
    scene.released = {"shop"}
    await scene.sweep(2)
    assert (scene.host.shares, scene.journal.taken()) == ("500", [])
    scene.released = set()
    for _ in range(6):  # another program insists
        scene.host.conf.write_text(CONF.format(shares="shares: 500\n"))
        facts = await scene.sweep(2)
    assert scene.host.calls.count("set 104 --shares 0") == 3
    assert facts.rival is not None
    assert facts.rival.problem == "another program sets its shares again and again"
    await scene.end()


@plays
async def test_a_qm_that_refuses_or_is_not_there_is_named_and_asked_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeovers, "_PAUSE_S", 1000.0)
    scene = Scene(tmp_path)
    scene.host.switch("fail", on=True)
    facts = await scene.sweep(4)
    assert scene.host.calls == ["set 104 --shares 0"]
    said = f"{scene.host.qm} failed: exit code 1: VM is locked (backup)"
    assert scene.lines == [f"shop: {said}; it is tried again"]
    assert facts.rival == Rival("104", 2000, decides=True, problem=said)
    scene.host.switch("fail", on=False)
    scene.takeovers._pauses.clear()
    assert (await scene.sweep(3)).rival == Rival("104", 0, decides=False, former="its shares were 2000")
    scene.host.qm.unlink()
    scene.released = {"shop"}
    await scene.sweep(2)
    assert "No such file" in scene.lines[-1]
    assert scene.journal.taken() == [RECORD]
    await scene.end()


@plays
async def test_a_qm_that_does_not_end_is_ended_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeovers, "QM_S", 1.0)
    monkeypatch.setattr(takeovers, "_PAUSE_S", 1000.0)
    scene = Scene(tmp_path)
    scene.host.switch("hang", on=True)
    facts = await scene.sweep(2)
    said = f"{scene.host.qm} failed: it had 1 s and was ended"
    assert scene.lines == [f"shop: {said}; it is tried again"]
    assert facts.rival == Rival("104", 2000, decides=True, problem=said)
    await scene.end()


@plays
async def test_what_a_file_said_before_a_move_is_no_reason_for_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_read, may_return = asyncio.Event(), asyncio.Event()

    class Slow(Measuring):
        async def run(self, measurement: Callable[[], T]) -> T:
            found = await super().run(measurement)
            has_read.set()
            await may_return.wait()
            return found

    scene = Scene(tmp_path)
    scene.paused = {"shop"}
    await scene.sweep()
    monkeypatch.setattr(takeovers, "PATIENCE_S", 0.0)
    scene.takeovers._threads = Slow()
    await scene.takeovers.look(scene.vms)
    await has_read.wait()
    scene.paused = set()
    scene.takeovers.settle(set(), set())
    await asyncio.gather(*scene.takeovers._running.values())
    may_return.set()
    assert scene.takeovers._reading is not None
    await scene.takeovers._reading
    scene.takeovers.settle(set(), set())
    await asyncio.gather(*scene.takeovers._running.values())
    assert (scene.host.shares, scene.host.calls) == ("0", ["set 104 --shares 0"])
    await scene.end()


@plays
async def test_nothing_is_set_that_cannot_be_recorded_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise JournalError("the disk is full")

    scene = Scene(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(scene.journal, "take", full)
        await scene.sweep(3)
        assert scene.host.calls == []
    await scene.sweep(2)
    assert scene.host.shares == "0"
    await scene.end()


@plays
async def test_a_vm_that_has_moved_to_another_node_is_forgotten_and_what_to_do_there_is_said(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    await scene.sweep(2)
    scene.host.conf.unlink()
    scene.vms = (VmFacts("shop", "", "absent"),)
    await scene.sweep(2)
    assert scene.journal.taken() == []
    assert scene.lines[-1].endswith("if its shares are still 0, run there: qm set 104 --shares 2000")
    await scene.end()


@plays
async def test_files_that_cannot_be_read_change_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.sweep(2)
    scene.host.files.rename(tmp_path / "away")  # pmxcfs is not mounted
    scene.released = {"shop"}
    await scene.end()
    scene.start()
    await scene.sweep(3)
    assert scene.journal.taken() == [RECORD]
    (tmp_path / "away").rename(scene.host.files)
    await scene.sweep(2)
    assert scene.host.shares == "2000"
    await scene.end()


@plays
async def test_a_manager_takes_a_vm_over_drives_it_and_hands_it_back(tmp_path: Path) -> None:
    host, shop = ProxmoxHost(tmp_path), ObedientVm()
    lines = 'minimum = "32MiB"\nmaximum = "256MiB"\n'
    config = configured(tmp_path, "enforce", budget="160MiB", shop=lines)
    proxmox = f'\n[proxmox]\nfiles = "{host.files}"\nqm = "{host.qm}"\n'
    config.write_text(config.read_text() + proxmox)
    as_proxmox = ("-id", "104", "-chardev", "socket,id=qmp,path=/run/qemu-server/104.qmp")
    async with (
        listening(tmp_path / "shop.qmp", shop.serve, arguments=as_proxmox),
        managing(config) as manager,
    ):
        status = await manager.until(lambda status: "too (shares is 2000)" in status.vm("shop").reason)
        assert status.vm("shop").standing == "frozen"
        await manager.sweeps(3)
        assert (shop.targets, host.calls) == ([], [])
        config.write_text(config.read_text().replace(lines, f"{lines}takeover = true\n"))
        manager.process.send_signal(signal.SIGHUP)
        await manager.until(lambda status: shop.targets and status.vm("shop").takeover)
        assert host.shares == "0"
        await manager.ask(command="release", vm="shop")
        await until(lambda: host.shares == "2000")
        assert host.calls == ["set 104 --shares 0", "set 104 --shares 2000"]
