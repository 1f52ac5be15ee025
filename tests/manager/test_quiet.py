"""A target is sent to QEMU's hv-balloon only when it crosses no message of the guest: or else QEMU aborts."""

import asyncio
from pathlib import Path

import pytest
from tests.rigs.monitored import MEBIBYTE, OURS, QEMUS, FakeVm, listening, look, watched
from tests.rigs.obedient import ObedientHost
from tests.rigs.scenes import play, until

from dynmem.errors import LocalProtocolError
from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.manager.sweep import quiet
from dynmem.manager.sweep.connection import VmConnection
from dynmem.manager.sweep.monitor import Monitor
from dynmem.manager.sweep.quiet import NotSentError
from dynmem.qmp.client import QmpClient
from dynmem.qmp.errors import QmpCommandError
from dynmem.units import GIB, NS_PER_S

REPORT = "HV_BALLOON_STATUS_REPORT"
STATUS = {"committed": 50 * MEBIBYTE, "available": 9 * MEBIBYTE}
HV_BALLOON: dict[str, object] = {"query-hv-balloon-status-report": STATUS, "balloon": {}}
VIRTIO_BALLOON: dict[str, object] = {
    "qom-list": [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}],
    "balloon": {},
}


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest may take as long to report and to answer as the test takes."""
    for name in ("SAME_S", "ANSWER_S", "PATIENCE_S"):
        monkeypatch.setattr(quiet, name, 300.0)


class ReportingVm(FakeVm):
    """A VM on QEMU's hv-balloon; `report` has its guest report other figures than before."""

    def __init__(self) -> None:
        self.reports = 0
        answers: dict[str, object] = {"query-hv-balloon-status-report": self._status}
        super().__init__(answers | {"stop": {}, "balloon": {}, "cont": {}}, package=QEMUS)

    def _status(self, _: object) -> dict[str, int]:
        return {"committed": 50 * MEBIBYTE + 4096 * self.reports, "available": 9 * MEBIBYTE}

    def report(self) -> None:
        self.reports += 1


def sent(vm: FakeVm) -> list[int]:
    return [int(str(values["value"])) // MEBIBYTE for name, values in vm.asked if name == "balloon"]


async def waits(vm: FakeVm) -> bool:
    """Return whether nothing is sent although the guest's figures are read many times."""

    def read() -> int:
        return [name for name, _ in vm.asked].count("query-hv-balloon-status-report")

    before = read()
    await until(lambda: read() >= before + 5)
    return not sent(vm)


async def ordering(vm: ReportingVm, connection: VmConnection, mib: int) -> asyncio.Task[None]:
    """Order a size, which waits."""
    order = asyncio.create_task(connection.set_balloon(mib * MEBIBYTE))
    assert await waits(vm)
    return order


def test_a_target_waits_until_the_guests_report_has_been_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = ReportingVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await look(connection)
            vm.report()  # when, nobody knows by now
            order = await ordering(vm, connection, 48)
            vm.event(REPORT)  # which can be late
            assert await waits(vm)
            vm.report()
            await order
            assert sent(vm) == [48]
            assert [name for name, _ in vm.asked][-3:] == ["stop", "balloon", "cont"]

    play(scenario())


def test_a_guest_that_somebody_else_has_stopped_is_not_continued(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = ReportingVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await look(connection)
            order = await ordering(vm, connection, 48)
            vm.answers["query-status"] = {"status": "paused", "running": False}
            with pytest.raises(NotSentError, match="has been stopped by somebody else"):
                await order
            assert "cont" not in [name for name, _ in vm.asked]

    play(scenario())


def test_a_guest_continues_also_after_a_target_that_was_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = ReportingVm()
        vm.answers["balloon"] = RuntimeError("no")
        async with watched(vm, tmp_path, may_write=True) as connection:
            await look(connection)
            order = await ordering(vm, connection, 48)
            vm.report()
            with pytest.raises(QmpCommandError, match="no"):
                await order
            await until(lambda: [name for name, _ in vm.asked][-3:] == ["stop", "balloon", "cont"])

    play(scenario())


@pytest.mark.parametrize("may_stop", [False, True])
def test_without_leave_to_stop_it_such_a_vm_is_watched_and_left_as_it_is(may_stop: bool) -> None:
    settings = ManagerSettings(1 * GIB, 64 * MEBIBYTE, NS_PER_S, "enforce")
    configs = [
        VmConfig("web", 64 * MEBIBYTE, GIB, may_stop=may_stop),
        VmConfig("db", 64 * MEBIBYTE, GIB),
    ]
    host = ObedientHost(settings, configs, {"web": 100 * MEBIBYTE, "db": 100 * MEBIBYTE})
    host.overrides["web"] = {"needs_stop": True}
    host.sweep(5)
    (standing,) = [vm.reason for vm in host.manager.status().vms if vm.name == "web"]
    assert ("may_stop = true" in standing) is not may_stop
    assert (host.sizes["web"] < GIB) is may_stop
    assert host.sizes["db"] < GIB


def test_a_guest_whose_figures_do_not_change_is_known_to_report_by_the_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        vm = ReportingVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await look(connection)
            order = asyncio.create_task(connection.set_balloon(48 * MEBIBYTE))
            vm.event(REPORT)
            assert await waits(vm)
            monkeypatch.setattr(quiet, "SAME_S", 0.0)
            assert await waits(vm)
            vm.event(REPORT)
            await order

    play(scenario())


def test_a_guest_that_was_asked_or_whose_size_moves_is_left_alone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        vm = ReportingVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await look(connection)
            order = await ordering(vm, connection, 48)
            vm.report()
            await order
            vm.answers["query-balloon"] = {"actual": 48 * MEBIBYTE}  # it has that, and may yet answer
            vm.asked.clear()
            order = await ordering(vm, connection, 40)
            vm.report()
            assert await waits(vm)
            monkeypatch.setattr(quiet, "ANSWER_S", 0.0)
            vm.report()
            await order
            vm.asked.clear()
            order = await ordering(vm, connection, 44)
            monkeypatch.setattr(quiet, "ANSWER_S", 300.0)
            vm.answers["query-balloon"] = {"actual": 44 * MEBIBYTE}  # on its way to the target before
            assert await waits(vm)
            monkeypatch.setattr(quiet, "ANSWER_S", 0.0)
            vm.report()
            await order
            assert sent(vm) == [44]

    play(scenario())


def test_a_guest_whose_size_moves_is_left_alone_however_long_ago_it_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        vm = ReportingVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await look(connection)
            order = await ordering(vm, connection, 48)
            vm.answers["query-balloon"] = {"actual": 60 * MEBIBYTE}
            assert await waits(vm)
            vm.report()
            assert await waits(vm)
            monkeypatch.setattr(quiet, "ANSWER_S", 0.0)
            vm.report()
            await order

    play(scenario())


def test_where_nothing_may_be_sent_no_guest_is_stopped(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = ReportingVm()
        async with listening(tmp_path / "qmp", vm.serve), await QmpClient.connect(tmp_path / "qmp") as client:
            monitor = Monitor(client, may_write=False, timeout_s=100)
            for send in (monitor.set_balloon, monitor.set_balloon_stopped):
                with pytest.raises(LocalProtocolError, match="nothing may be sent to"):
                    await send(48 * MEBIBYTE)
            assert vm.asked == []

    play(scenario())


def test_a_target_that_waits_is_replaced_by_a_later_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = ReportingVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await look(connection)
            first = await ordering(vm, connection, 48)
            second = asyncio.create_task(connection.set_balloon(56 * MEBIBYTE))
            with pytest.raises(NotSentError, match="a later target has replaced this one"):
                await first
            assert await waits(vm)
            vm.report()
            await second
            assert sent(vm) == [56]

    play(scenario())


def test_a_target_that_waits_is_not_sent_to_a_vm_that_is_paused_meanwhile_which_stays_connected(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        vm = ReportingVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await look(connection)
            order = await ordering(vm, connection, 48)
            connection.is_paused = True
            connection.configure(may_write=True, period_s=0.1)
            await look(connection)
            vm.report()
            with pytest.raises(NotSentError, match="not to be changed now"):
                await order
            assert sent(vm) == []
            connection.is_paused = False
            assert (await look(connection)).run_state == "running"
            assert len(vm.writers) == 1

    play(scenario())


def test_a_guest_that_does_not_report_is_sent_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        vm = ReportingVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await look(connection)
            monkeypatch.setattr(quiet, "PATIENCE_S", 0.2)
            with pytest.raises(NotSentError, match="would end QEMU"):
                await connection.set_balloon(48 * MEBIBYTE)
            assert sent(vm) == []

    play(scenario())


@pytest.mark.parametrize(
    "vm", [FakeVm(HV_BALLOON, package=OURS), FakeVm(VIRTIO_BALLOON, package=QEMUS)], ids=["ours", "virtio"]
)
def test_our_own_monitor_and_virtio_balloon_take_a_target_at_any_time(vm: FakeVm, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with watched(vm, tmp_path, may_write=True) as connection:
            await look(connection)
            await connection.set_balloon(48 * MEBIBYTE)
            await connection.set_balloon(40 * MEBIBYTE)
            assert sent(vm) == [48, 40]

    play(scenario())
