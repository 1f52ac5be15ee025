"""A target is sent to QEMU's hv-balloon only when it crosses no message of the guest: or else QEMU aborts."""

import asyncio
from pathlib import Path

import pytest
from tests.rigs.monitored import MEBIBYTE, OURS, QEMUS, FakeVm, look, watched
from tests.rigs.scenes import play, until

from dynmem.manager.sweep import quiet
from dynmem.manager.sweep.quiet import NotSentError

REPORT = "HV_BALLOON_STATUS_REPORT"
STATUS = {"committed": 50 * MEBIBYTE, "available": 9 * MEBIBYTE}
HV_BALLOON: dict[str, object] = {"query-hv-balloon-status-report": STATUS, "balloon": {}}
VIRTIO_BALLOON: dict[str, object] = {
    "qom-list": [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}],
    "balloon": {},
}


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report is a moment ago for as long as the test takes, and a guest may take as long to answer."""
    for name in ("QUIET_S", "ANSWER_S", "PATIENCE_S"):
        monkeypatch.setattr(quiet, name, 300.0)


def sent(vm: FakeVm) -> list[int]:
    return [int(str(values["value"])) // MEBIBYTE for name, values in vm.asked if name == "balloon"]


async def is_idle(vm: FakeVm) -> bool:
    """Return whether nothing is sent for a while."""
    await asyncio.sleep(3 * quiet._LOOK_S)
    return not sent(vm)


def test_a_target_waits_until_the_guests_report_has_been_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = FakeVm(HV_BALLOON, package=QEMUS)
        async with watched(vm, tmp_path, may_write=True) as connection:
            await look(connection)
            order = asyncio.create_task(connection.set_balloon(48 * MEBIBYTE))
            assert await is_idle(vm)
            vm.event(REPORT)
            await order
            assert sent(vm) == [48]

    play(scenario())


def test_after_a_report_the_next_one_has_to_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        vm = FakeVm(HV_BALLOON, package=QEMUS)
        async with watched(vm, tmp_path, may_write=True) as connection:
            await look(connection)
            vm.event(REPORT)
            moment = connection._quiet
            assert moment is not None
            await until(lambda: moment._reported_s > 0)
            await asyncio.sleep(0.2)
            monkeypatch.setattr(quiet, "QUIET_S", 0.1)  # so the next one may be on its way by now
            order = asyncio.create_task(connection.set_balloon(48 * MEBIBYTE))
            assert await is_idle(vm)
            monkeypatch.setattr(quiet, "QUIET_S", 300.0)
            vm.event(REPORT)
            await order

    play(scenario())


def test_a_guest_that_was_asked_is_not_asked_again_before_it_has_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        vm = FakeVm(HV_BALLOON, package=QEMUS)
        async with watched(vm, tmp_path, may_write=True) as connection:
            await look(connection)
            order = asyncio.create_task(connection.set_balloon(48 * MEBIBYTE))
            await asyncio.sleep(0)
            vm.event(REPORT)
            await order
            vm.asked.clear()
            order = asyncio.create_task(connection.set_balloon(40 * MEBIBYTE))
            vm.event(REPORT)
            assert await is_idle(vm)
            vm.answers["query-balloon"] = {"actual": 48 * MEBIBYTE}
            await look(connection)
            await order
            vm.asked.clear()
            order = asyncio.create_task(connection.set_balloon(44 * MEBIBYTE))
            assert await is_idle(vm)
            monkeypatch.setattr(quiet, "ANSWER_S", 0.0)  # one that never gives all that is asked of it
            await order
            assert sent(vm) == [44]

    play(scenario())


def test_a_target_that_waits_is_replaced_by_a_later_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = FakeVm(HV_BALLOON, package=QEMUS)
        async with watched(vm, tmp_path, may_write=True) as connection:
            await look(connection)
            first = asyncio.create_task(connection.set_balloon(48 * MEBIBYTE))
            await asyncio.sleep(0)
            second = asyncio.create_task(connection.set_balloon(56 * MEBIBYTE))
            with pytest.raises(NotSentError, match="a later target has replaced this one"):
                await first
            vm.event(REPORT)
            await second
            assert sent(vm) == [56]

    play(scenario())


def test_a_guest_that_does_not_report_is_sent_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        vm = FakeVm(HV_BALLOON, package=QEMUS)
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
