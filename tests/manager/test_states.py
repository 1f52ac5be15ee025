"""What each state of a VM allows: every row of the table, in a step and at a real socket."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.rigs.monitored import MEBIBYTE, FakeVm, look, watched
from tests.rigs.obedient import ObedientHost
from tests.rigs.scenes import play

from dynmem.discovery.proxmox import ProxmoxLock
from dynmem.manager.step.facts import ABSENT, RUNNING, SILENT, Demand, ManagerSettings, VmConfig
from dynmem.manager.step.states import STATES, Allows, allows, may_send
from dynmem.manager.sweep.connection import VmConnection
from dynmem.units import GIB, MIB, NS_PER_S, PAGE_SIZE

HOST = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce")
# The two that no monitor reports.
REPORTED = [*sorted(set(STATES) - {SILENT, ABSENT}), "a-state-of-next-year"]
SET_INTERVAL = "qom-set"


def rack_with_one_in_need() -> ObedientHost:
    """A host on which "batch" would be shrunk for "web" at once."""
    vms = [VmConfig(name, 64 * MIB, 512 * MIB) for name in ("web", "db", "batch")]
    rack = ObedientHost(HOST, vms, {"web": 100 * MIB, "db": 300 * MIB, "batch": 100 * MIB})
    rack.sweep(8)
    rack.demands["web"] = 500 * MIB
    return rack


def claim(rack: ObedientHost, name: str) -> int:
    return rack.manager.claims.pages(name) * PAGE_SIZE // MIB


def asked_of_batch(rack: ObedientHost, sweeps: int = 6) -> list[int]:
    return [each.target_bytes for _ in range(sweeps) for each in rack.sweep().commands if each.vm == "batch"]


@pytest.mark.parametrize("state", [*REPORTED, SILENT])
def test_a_state_allows_to_send_or_not_and_says_as_what_the_vm_counts(state: str) -> None:
    rack = rack_with_one_in_need()
    before = claim(rack, "batch")
    rack.overrides["batch"] = {"run_state": state}
    asked = asked_of_batch(rack)
    assert bool(asked) == allows(state).sending == (state == RUNNING)
    if allows(state).another_guest:
        assert claim(rack, "batch") == 512 > before
    elif state != RUNNING:
        assert claim(rack, "batch") == before
    else:
        assert claim(rack, "batch") < before
    if state not in (RUNNING, SILENT):
        assert f"frozen: its state is {state}" in rack.manager.status().vm("batch").reason


def test_a_row_of_the_table_is_what_keeps_a_target_from_a_vm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STATES, "migrating", Allows(sending=True))
    rack = rack_with_one_in_need()
    rack.overrides["batch"] = {"run_state": "migrating"}
    assert asked_of_batch(rack)


@pytest.mark.parametrize("state", [state for state, row in STATES.items() if row.another_guest])
def test_the_guest_that_comes_counts_at_full_size_until_it_reports_and_its_size_is_adopted(
    state: str,
) -> None:
    rack = rack_with_one_in_need()
    rack.demands["web"] = 100 * MIB
    rack.overrides["batch"] = {"run_state": state}
    rack.sweep(3)
    # It runs, with a balloon as it was where it comes from, and its last report is from before.
    stale = Demand(100 * MIB, 100 * MIB, "committed", 5 * NS_PER_S)
    rack.overrides["batch"] = {"actual_bytes": 200 * MIB, "resident_bytes": 200 * MIB, "demand": stale}
    for _ in range(2):
        assert "batch" not in {each.vm for each in rack.sweep().commands}
        assert claim(rack, "batch") == 512
    rack.overrides.clear()
    rack.sizes["batch"] = 200 * MIB
    rack.sweep()
    assigned = rack.manager.status().vm("batch").assigned_bytes or 0
    assert claim(rack, "batch") == assigned // MIB < 300  # adopted, and grown a little from there


@pytest.mark.parametrize("state", [state for state, row in STATES.items() if row.another_guest])
def test_sweeps_before_a_guest_comes_are_none_of_the_two_that_find_its_size(state: str) -> None:
    rack = rack_with_one_in_need()
    rack.overrides["batch"] = {"run_state": state}
    rack.sweep(3)
    rack.overrides.clear()
    rack.sweep()
    assert rack.manager.status().vm("batch").reason.startswith("adopting: two equal sweeps are needed")
    rack.sweep()
    assert rack.manager.status().vm("batch").standing == "movable"


@pytest.mark.parametrize("restored", [1, 0])
def test_a_snapshot_that_was_loaded_ends_the_target_that_was_sent(restored: int) -> None:
    rack = rack_with_one_in_need()
    rack.overrides["batch"] = {"device": "virtio-balloon"}
    rack.sweep(4)
    sent = rack.sizes["batch"]
    # It has all its memory again, and its VMM knows nothing of the target.
    rack.sizes["batch"] = 512 * MIB
    rack.overrides["batch"] |= {"resets": 1, "restored": restored, "demand": None}
    rack.sweep(2)
    assert claim(rack, "batch") == 512
    del rack.overrides["batch"]["demand"]
    asked = {each.target_bytes for each in rack.sweep().commands if each.vm == "batch"}
    assert bool(asked) == bool(restored)  # without that, the target of before is believed to be on its way
    assert all(target < 512 * MIB for target in asked)
    assert sent < 512 * MIB


@pytest.mark.parametrize("mode", ["observe", "advise"])
def test_what_was_assigned_before_does_not_count_for_ever_where_nothing_is_sent(mode: str) -> None:
    settings = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, mode)  # type: ignore[arg-type]
    rack = ObedientHost(settings, [VmConfig("web", 64 * MIB, 512 * MIB)], {"web": 100 * MIB})
    rack.sweep(3)
    rack.overrides["web"] = {"run_state": "inmigrate"}
    rack.sweep(2)
    rack.overrides.clear()
    rack.sizes["web"] = 200 * MIB
    rack.sweep(3)
    assert claim(rack, "web") == 200


def test_a_lock_of_another_program_does_what_a_state_does() -> None:
    assert may_send(RUNNING, "")
    assert not may_send(RUNNING, "Proxmox has locked it (backup)")
    rack = rack_with_one_in_need()
    before = claim(rack, "batch")
    rack.overrides["batch"] = {"lock": "Proxmox has locked it (backup)"}
    assert asked_of_batch(rack) == []
    assert claim(rack, "batch") == before
    view = rack.manager.status().vm("batch")
    assert (view.standing, view.lock) == ("frozen", "Proxmox has locked it (backup)")
    rack.overrides.clear()
    assert asked_of_batch(rack)


# at a socket


class VirtioVm(FakeVm):
    """A VM with a virtio-balloon whose statistics are off."""

    def __init__(self) -> None:
        self.interval = 0
        super().__init__(
            {
                "qom-list": [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}],
                "qom-get guest-stats": {"stats": {}, "last-update": 0},
                "qom-get guest-stats-polling-interval": lambda _: self.interval,
                SET_INTERVAL: self._set,
                "balloon": {},
            }
        )

    def _set(self, arguments: Mapping[str, object]) -> dict[str, object]:
        assert isinstance(arguments["value"], int)
        self.interval = arguments["value"]
        return {}

    @property
    def was_told(self) -> bool:
        """Whether anything was sent that changes something."""
        return any(not name.startswith(("query-", "qom-get", "qom-list")) for name, _ in self.asked)


async def looks(connection: VmConnection, count: int) -> None:
    for _ in range(count):
        await look(connection)


@pytest.mark.parametrize("state", REPORTED)
def test_no_setting_is_sent_in_a_state_that_forbids_it_and_at_once_afterwards(
    state: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        vm = VirtioVm()
        if state in ("migrating", "backup"):
            vm.answers["query-migrate"] = {"status": "active" if state == "migrating" else "completed"}
            vm.answers["query-jobs"] = [{"id": "j", "type": state, "status": "running"}]
        else:
            vm.answers["query-status"] = {"status": state}
        async with watched(vm, tmp_path, may_write=True) as connection:
            await looks(connection, 4)
            facts = await look(connection)
            assert facts.run_state == state
            assert vm.was_told == allows(state).sending
            assert "enforce mode" not in (facts.problem or "")  # which it is
            vm.answers["query-status"] = {"status": RUNNING}
            vm.answers["query-migrate"] = {"status": "completed"}
            vm.answers["query-jobs"] = []
            assert (await look(connection)).run_state == RUNNING
            assert vm.interval == 1
            vm.interval = 0  # what a migration makes of it at the other end
            vm.answers["query-migrate"] = {"status": "active"}
            await looks(connection, 1)
            vm.answers["query-migrate"] = {"status": "failed"}
            await looks(connection, 1)
            assert vm.interval == 1

    play(scenario())


@pytest.mark.parametrize(
    ("jobs", "state"),
    [
        ([{"id": "b", "type": "backup", "status": "running"}], "backup"),
        ([{"id": "b", "type": "backup", "status": "paused"}], "backup"),
        ([{"id": "b", "type": "backup", "status": "concluded"}], RUNNING),  # until its owner dismisses it
        ([{"id": "s", "type": "snapshot-save", "status": "running"}], "save-vm"),
        (
            [{"type": "backup", "status": "ready"}, {"type": "snapshot-load", "status": "running"}],
            "restore-vm",
        ),
        ([{"id": "m", "type": "mirror", "status": "ready"}], RUNNING),  # disks alone, perhaps for weeks
        ([{"id": "c", "type": "commit", "status": "running"}], RUNNING),
        ([{"type": 7, "status": {}}], RUNNING),
    ],
)
def test_jobs_that_are_about_the_whole_vm_are_its_state(jobs: object, state: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = FakeVm({"query-jobs": jobs})
        async with watched(vm, tmp_path) as connection:
            assert (await look(connection)).run_state == state

    play(scenario())


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize(
    ("event", "mib", "restored"),
    [("RESUME", 64, 1), ("RESUME", 32, 0), ("RESUME", 16, 0), ("STOP", 64, 0)],
)
def test_a_vm_that_runs_again_with_more_than_it_was_sent_has_another_guest(
    event: str, mib: int, restored: int, tmp_path: Path, *, late: bool
) -> None:
    async def scenario() -> None:
        vm = VirtioVm()
        vm.answers["query-balloon"] = {"actual": 32 * MEBIBYTE}
        async with watched(vm, tmp_path) as connection:
            await looks(connection, 2)
            vm.answers["query-balloon"] = {"actual": mib * MEBIBYTE}
            if late:
                await looks(connection, 1)
            vm.event(event)
            found = [await look(connection) for _ in range(3)]
            assert (found[-1].run_state, found[-1].actual_bytes) == (RUNNING, mib * MEBIBYTE)
            assert (found[-1].resets, found[-1].restored) == (restored, restored)
            assert not found[-1].is_actual_former

    play(scenario())


def test_jobs_are_asked_for_again_when_one_has_changed_and_while_one_runs(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = FakeVm({"query-jobs": []})
        async with watched(vm, tmp_path) as connection:
            await looks(connection, 5)
            assert [name for name, _ in vm.asked].count("query-jobs") == 1
            vm.answers["query-jobs"] = [{"id": "b", "type": "backup", "status": "running"}]
            vm.event("JOB_STATUS_CHANGE", {"id": "b", "status": "running"})
            await looks(connection, 1)  # the event may come behind the first reply of this look
            assert (await look(connection)).run_state == "backup"
            vm.answers["query-jobs"] = []
            assert (await look(connection)).run_state == RUNNING

    play(scenario())


@pytest.mark.parametrize("reply", ["none", [1]])
def test_a_reply_about_jobs_that_no_monitor_sends_is_said_to_be_that(reply: object, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with watched(FakeVm({"query-jobs": reply}), tmp_path) as connection:
            facts = await look(connection)
            assert facts.run_state == SILENT
            assert "query-jobs" in (facts.problem or "")

    play(scenario())


@pytest.mark.parametrize("status", ["inmigrate", "paused", "finish-migrate"])
def test_a_vm_that_waits_for_its_memory_is_not_taken_for_one_that_sends_it(
    status: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        vm = FakeVm({"query-status": {"status": status}, "query-migrate": {"status": "active"}})
        async with watched(vm, tmp_path) as connection:
            assert (await look(connection)).run_state == ("migrating" if status == "paused" else status)

    play(scenario())


def test_a_lock_in_proxmoxs_file_is_seen_at_the_next_look_and_nothing_is_sent(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm, folder = VirtioVm(), tmp_path / "pve" / "qemu-server"
        folder.mkdir(parents=True)
        (folder / "100.conf").write_text("memory: 64\nlock: backup\n")
        async with watched(vm, tmp_path, may_write=True) as connection:
            await look(connection)
            assert connection._life is not None
            connection._life.proxmox = ProxmoxLock(100, folder)
            await looks(connection, 4)
            facts = await look(connection)
            assert (facts.run_state, facts.lock) == (RUNNING, "Proxmox has locked it (backup)")
            assert not vm.was_told
            with pytest.raises(Exception, match="is not to be changed now"):
                await connection.set_balloon(32 * MEBIBYTE)
            (folder / "100.conf").write_text("memory: 64\n")
            assert (await look(connection)).lock == ""
            assert vm.interval == 1
            await connection.set_balloon(32 * MEBIBYTE)

    play(scenario())
