"""The manager's hold on one VM: real QEMUs that live, hang and die, and servers that talk nonsense."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.rigs.monitored import (
    BALLOON,
    MEBIBYTE,
    MEMFD,
    FakeVm,
    kill,
    listening,
    look,
    look_until,
    qemu,
    stop,
)
from tests.rigs.scenes import play

from dynmem.errors import LocalProtocolError, UnreachableError
from dynmem.manager.step.facts import ABSENT, RUNNING, SILENT, VmFacts
from dynmem.manager.sweep import connection as connection_module
from dynmem.manager.sweep.connection import VmConnection
from dynmem.manager.sweep.demand import VIRTIO_RESERVE_BYTES
from dynmem.manager.sweep.monitor import Monitor
from dynmem.qmp.client import QmpClient

README = Path(__file__).resolve().parent.parent.parent / "README.md"


@contextlib.asynccontextmanager
async def hold(path: Path, *, may_write: bool = False) -> AsyncIterator[VmConnection]:
    connection = VmConnection("web", path, may_write=may_write, period_s=0.1)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.qemu
def test_a_real_qemu_is_known_by_its_process_its_device_and_its_sizes(tmp_path: Path) -> None:
    async def scenario() -> None:
        with qemu(tmp_path / "qmp", *BALLOON, *MEMFD) as process:
            async with hold(tmp_path / "qmp") as connection:
                facts = await look(connection)
                assert facts.incarnation.startswith(f"{process.pid}@")
                assert (facts.run_state, facts.device) == ("prelaunch", "virtio-balloon")
                assert facts.boot_bytes == facts.actual_bytes == 64 * MEBIBYTE
                assert facts.resident_source == "blocks of its RAM files"
                assert facts.resident_bytes is not None
                assert facts.resident_bytes - facts.resident_overhead_bytes <= 4 * MEBIBYTE
                assert facts.resident_overhead_bytes > 10 * MEBIBYTE  # QEMU's own memory, by every source

    play(scenario())


@pytest.mark.qemu
def test_success_means_nothing_without_a_driver_and_no_demand_is_made_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        with qemu(tmp_path / "qmp", *BALLOON, paused=False):
            async with hold(tmp_path / "qmp", may_write=True) as connection:
                await look(connection)
                await connection.set_balloon(32 * MEBIBYTE)
                for _ in range(5):
                    facts = await look(connection)
                    assert facts.run_state == RUNNING
                    assert facts.actual_bytes == 64 * MEBIBYTE
                    assert facts.demand is None
                assert facts.problem is not None
                assert "load the virtio_balloon driver" in facts.problem
                assert facts.resident_source == "Pss and swap of its process"
                # QEMU's own memory is told from its guest's, of which next to nothing was touched.
                assert facts.resident_bytes is not None
                assert facts.resident_overhead_bytes > 10 * MEBIBYTE
                assert facts.resident_bytes - facts.resident_overhead_bytes < 32 * MEBIBYTE

    play(scenario())


@pytest.mark.qemu
def test_the_options_of_the_readme_give_observe_mode_the_statistics_that_it_does_not_turn_on(
    tmp_path: Path,
) -> None:
    shown = README.read_text().replace("\\\n", " ").replace("/run/vm/web.qmp", f"{tmp_path}/readme")
    (line,) = (line for line in shown.splitlines() if line.strip().startswith("-device virtio-balloon"))

    async def scenario() -> None:
        with qemu(tmp_path / "qmp", *line.split(), paused=False):
            async with (
                hold(tmp_path / "readme") as connection,
                await QmpClient.connect(tmp_path / "qmp") as operator,
            ):
                facts = await look(connection)
                assert "load the virtio_balloon driver" in (facts.problem or "")
                deflates = {"path": "/machine/peripheral/balloon0", "property": "deflate-on-oom"}
                assert await operator.execute("qom-get", deflates) is True

    play(scenario())


@pytest.mark.qemu
def test_a_vm_without_a_balloon_device_is_told_what_it_lacks(tmp_path: Path) -> None:
    async def scenario() -> None:
        with qemu(tmp_path / "qmp"):
            async with hold(tmp_path / "qmp") as connection:
                facts = await look(connection)
                assert facts.device is None
                assert "virtio-balloon-pci,id=balloon0" in (facts.problem or "")

    play(scenario())


@pytest.mark.qemu
def test_a_reset_is_counted_and_a_closed_monitor_is_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        options = (*BALLOON, "-qmp", f"unix:{tmp_path / 'other'},server=on,wait=off")
        with qemu(tmp_path / "qmp", *options):
            async with hold(tmp_path / "qmp") as connection:
                assert (await look(connection)).resets == 0
                other = await QmpClient.connect(tmp_path / "other")
                await other.execute("system_reset")
                facts = await look_until(connection, lambda facts: facts.resets > 0)
                assert facts.resets == 1
                await other.close()
                await connection._hang_up()
                again = await look(connection)
                assert (again.resets, again.incarnation) == (1, facts.incarnation)

    play(scenario())


def test_a_size_that_rose_unasked_while_nobody_listened_is_a_reset(tmp_path: Path) -> None:
    async def scenario() -> None:
        size = {"actual": 40 * MEBIBYTE}
        status = {"committed": 50 * MEBIBYTE, "available": 9 * MEBIBYTE}
        vm = FakeVm({"query-hv-balloon-status-report": status, "query-balloon": size, "balloon": {}})
        async with (
            listening(tmp_path / "qmp", vm.serve),
            hold(tmp_path / "qmp", may_write=True) as connection,
        ):
            assert (await look(connection)).resets == 0
            await connection.set_balloon(48 * MEBIBYTE)
            await connection._hang_up()
            size["actual"] = 48 * MEBIBYTE  # what was granted
            assert (await look(connection)).resets == 0
            size["actual"] = 64 * MEBIBYTE  # somebody else's doing, and we listened: no RESET came
            assert (await look(connection)).resets == 0
            size["actual"] = 40 * MEBIBYTE
            await look(connection)
            await connection._hang_up()
            size["actual"] = 64 * MEBIBYTE
            assert (await look(connection)).resets == 1

    play(scenario())


@pytest.mark.qemu
def test_a_killed_vm_is_gone_and_its_successor_is_another_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hold(tmp_path / "qmp") as connection:
            with qemu(tmp_path / "qmp", *BALLOON) as process:
                first = await look(connection)
                kill(process)
                dead = await look(connection)
                assert (dead.incarnation, dead.run_state, dead.actual_bytes) == ("", ABSENT, None)
                assert dead.problem is not None
            with qemu(tmp_path / "qmp", *BALLOON):
                second = await look_until(connection, lambda facts: facts.run_state == "prelaunch")
                assert second.incarnation not in ("", first.incarnation)
                assert (second.resets, second.problem is None) == (0, False)

    play(scenario())


@pytest.mark.qemu
def test_a_stopped_vm_keeps_its_last_size_says_so_and_delays_one_look_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        with qemu(tmp_path / "qmp", *BALLOON, *MEMFD) as process:
            async with hold(tmp_path / "qmp", may_write=True) as connection:
                first = await look(connection)
                stop(process)
                facts = await look(connection, patience_s=0.05)
                assert (facts.run_state, facts.incarnation) == (SILENT, first.incarnation)
                assert facts.actual_bytes == 64 * MEBIBYTE
                assert facts.resident_bytes is not None
                assert "is stopped (by SIGSTOP or a debugger)" in (facts.problem or "")
                # A patience of a minute would run into the test's time limit if it were waited for again.
                assert (await look(connection, patience_s=60)).run_state == SILENT
                with pytest.raises(UnreachableError, match="web does not reply"):
                    await connection.set_balloon(32 * MEBIBYTE)
                os.kill(process.pid, signal.SIGCONT)
                again = await look_until(connection, lambda facts: facts.run_state == "prelaunch")
                assert again.incarnation == first.incarnation

    play(scenario())


@pytest.mark.parametrize(("turns", "heard"), [(12, True), (10_000, False)])
def test_a_loop_that_is_late_makes_no_vm_silent_and_one_that_does_not_reply_is_waited_for_no_longer(
    turns: int, heard: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn of the loop takes longer than the whole patience: only turns can be counted."""

    async def scenario() -> None:
        connection = VmConnection("web", tmp_path / "qmp", may_write=False, period_s=0.1)
        taken = 0

        async def replies(_: int) -> VmFacts:
            nonlocal taken
            for _turn in range(turns):
                taken += 1
                await asyncio.sleep(0)
            return VmFacts("web", "web.1", RUNNING)

        monkeypatch.setattr(connection, "_look_at_it", replies)
        facts = await look(connection, patience_s=1e-6)
        assert (facts.run_state == RUNNING) is heard
        assert taken < 200
        await connection.close()

    play(scenario())


@pytest.mark.qemu
def test_a_monitor_that_another_client_holds_is_named_and_taken_when_it_is_free(tmp_path: Path) -> None:
    async def scenario() -> None:
        with qemu(tmp_path / "qmp", *BALLOON) as process:
            holder = await QmpClient.connect(tmp_path / "qmp")
            async with hold(tmp_path / "qmp") as connection:
                facts = await look(connection)
                assert facts.run_state == SILENT
                assert facts.incarnation.startswith(f"{process.pid}@")
                held = "another client holds this monitor"
                facts = await look_until(connection, lambda facts: held in (facts.problem or ""))
                assert facts.run_state == SILENT
                facts = await look_until(connection, lambda facts: facts.resident_bytes is not None)
                assert facts.run_state == SILENT  # its memory counts although it does not talk to us
                await holder.close()
                facts = await look_until(connection, lambda facts: facts.run_state == "prelaunch")
                assert facts.resets == 0

    play(scenario())


def test_nobody_listening_is_absent_and_says_what_to_do(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hold(tmp_path / "qmp") as connection:
            facts = await look(connection)
            assert (facts.incarnation, facts.run_state) == ("", ABSENT)
            assert "no such socket" in (facts.problem or "")
            assert "start it, or correct its qmp" in (facts.problem or "")

    play(scenario())


@pytest.mark.parametrize(
    "noise",
    [
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"\x00\xff" * 1000 + b"\n",
        b"[1, 2, 3]\r\n",
        b"[" * 100_000 + b"\n",
        b"x" * 10_000_000,
    ],
)
def test_garbage_is_named_as_such_and_hung_up_on(noise: bytes, tmp_path: Path) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(noise)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            await reader.read()

    async def scenario() -> None:
        async with listening(tmp_path / "qmp", babble), hold(tmp_path / "qmp") as connection:
            facts = await look(connection)
            assert facts.run_state == SILENT
            assert "does not speak QMP" in (facts.problem or "")

    play(scenario())


WRONG_ANSWERS: list[tuple[str, object]] = [
    ("query-status", []),
    ("query-status", {"status": "\x1b[2Jrunning"}),
    ("query-status", {"status": "r" * 1000}),
    ("query-balloon", {"actual": -1}),
    ("query-balloon", {"actual": (1 << 64) - 1}),
    ("query-memory-size-summary", {"base-memory": "much"}),
    ("query-memory-size-summary", {"base-memory": 1}),
    ("query-memory-size-summary", {"base-memory": 1 << 63}),
    ("query-hv-balloon-status-report", []),
]


@pytest.mark.parametrize(("command", "answer"), WRONG_ANSWERS)
def test_an_answer_of_the_wrong_form_or_size_is_never_believed(
    command: str, answer: object, tmp_path: Path
) -> None:
    async def scenario() -> None:
        good: dict[str, object] = {"query-hv-balloon-status-report": {"committed": 1, "available": 1}}
        vm = FakeVm(good | {command: answer})
        async with listening(tmp_path / "qmp", vm.serve), hold(tmp_path / "qmp") as connection:
            facts = await look(connection)
            assert facts.run_state == SILENT
            assert "its monitor sent what no monitor sends" in (facts.problem or "")

    play(scenario())


IMPOSSIBLE: list[object] = [(1 << 64) - 1, -1, True, 1.5, "much", None, [1], 1 << 200]


@pytest.mark.parametrize("name", ["committed", "available"])
def test_an_impossible_figure_of_a_guest_is_no_demand_and_its_vm_is_kept(name: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = FakeVm()
        async with listening(tmp_path / "qmp", vm.serve), hold(tmp_path / "qmp") as connection:
            for figure in IMPOSSIBLE:
                vm.answers["query-hv-balloon-status-report"] = {"committed": 1, "available": 5, name: figure}
                facts = await look(connection)
                assert (facts.run_state, facts.demand) == (RUNNING, None), figure
                assert f"its guest reports impossible sizes: {name} is " in (facts.problem or "")
        assert len(vm.writers) == 1

    play(scenario())


@pytest.mark.parametrize("name", ["stat-available-memory", "stat-free-memory", "stat-disk-caches"])
def test_an_impossible_statistic_of_a_guest_is_no_demand_and_its_vm_is_kept(
    name: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        vm = virtio_vm(**{"qom-get guest-stats-polling-interval": 1})
        async with listening(tmp_path / "qmp", vm.serve), hold(tmp_path / "qmp") as connection:
            for figure in IMPOSSIBLE:
                if figure not in ((1 << 64) - 1, -1):  # which say that the guest never reported it
                    statistics = {"stat-free-memory": 1, name: figure}
                    vm.answers["qom-get guest-stats"] = {"stats": statistics, "last-update": 1}
                    facts = await look(connection)
                    assert (facts.run_state, facts.demand) == (RUNNING, None), figure
                    assert f"its guest reports impossible sizes: {name} is " in (facts.problem or "")
        assert len(vm.writers) == 1

    play(scenario())


def test_a_vm_that_hangs_in_the_middle_is_hung_up_on_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "COMMAND_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        vm = FakeVm()
        vm.silent_on = "query-balloon"
        vm.answers["query-hv-balloon-status-report"] = {"committed": 1, "available": 1}
        async with listening(tmp_path / "qmp", vm.serve), hold(tmp_path / "qmp") as connection:
            facts = await look(connection)
            assert facts.run_state == SILENT
            assert "no reply to query-balloon" in (facts.problem or "")
            vm.silent_on = ""
            assert (await look_until(connection, lambda facts: facts.run_state == RUNNING)).problem is None

    play(scenario())


def test_a_monitor_that_always_hangs_is_tried_ever_more_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "COMMAND_TIMEOUT_S", 0.01)

    async def scenario() -> None:
        vm = FakeVm()
        vm.silent_on = "query-status"
        async with listening(tmp_path / "qmp", vm.serve), hold(tmp_path / "qmp") as connection:
            for step in range(80):
                monkeypatch.setattr(connection_module, "time", SimpleNamespace(monotonic=lambda: step / 100))  # noqa: B023
                await look(connection)
            assert 2 <= len(vm.writers) <= 5

    play(scenario())


def test_a_migrating_vm_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = FakeVm({"query-migrate": {"status": "active"}})
        async with listening(tmp_path / "qmp", vm.serve), hold(tmp_path / "qmp") as connection:
            assert (await look(connection)).run_state == "migrating"
            vm.answers["query-migrate"] = {"status": "completed"}
            assert (await look(connection)).run_state == RUNNING

    play(scenario())


def test_demand_on_hv_balloon_leaves_out_what_is_ballooned(tmp_path: Path) -> None:
    async def scenario() -> None:
        status: dict[str, object] = {"committed": 50 * MEBIBYTE, "available": 9 * MEBIBYTE}
        vm = FakeVm({"query-hv-balloon-status-report": status, "query-balloon": {"actual": 40 * MEBIBYTE}})
        async with listening(tmp_path / "qmp", vm.serve), hold(tmp_path / "qmp") as connection:
            facts = await look(connection)
            assert facts.device == "hv-balloon"
            assert facts.demand is None  # it may be any age
            vm.event("HV_BALLOON_STATUS_REPORT", status)
            facts = await look_until(connection, lambda facts: facts.demand is not None)
            assert facts.demand is not None
            assert facts.demand.committed_bytes == (50 - 24) * MEBIBYTE
            assert facts.demand.available_bytes == 9 * MEBIBYTE
            assert facts.demand.source == "committed - ballooned"
            before = facts.demand
            status["committed"] = 1 << 44
            vm.event("HV_BALLOON_STATUS_REPORT", status)
            facts = await look_until(connection, lambda facts: facts.demand != before)
            assert facts.demand is not None
            assert facts.demand.committed_bytes == 64 * MEBIBYTE  # more than that it cannot have
            vm.event("RESET")
            facts = await look_until(connection, lambda facts: facts.resets == 1)
            assert facts.demand is None

    play(scenario())


def test_demand_grows_old_until_the_guest_reports_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        statistics = {"stats": {"stat-available-memory": 20 * MEBIBYTE}, "last-update": 100}
        vm = FakeVm(
            {
                "qom-list": [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}],
                "qom-get guest-stats": lambda _: statistics,
                "qom-get guest-stats-polling-interval": 1,
            }
        )
        async with listening(tmp_path / "qmp", vm.serve), hold(tmp_path / "qmp") as connection:
            assert (await look(connection, now_ns=1000)).demand is None
            statistics["last-update"] = 101
            ages = [(await look(connection, now_ns=now)).demand for now in (2000, 3000, 4000)]
            assert [demand.age_ns for demand in ages if demand is not None] == [0, 1000, 2000]
            statistics["last-update"] = 102
            fresh = (await look(connection, now_ns=5000)).demand
            assert fresh is not None
            assert (fresh.age_ns, fresh.committed_bytes) == (0, 44 * MEBIBYTE)
            assert fresh.reserve_bytes == VIRTIO_RESERVE_BYTES

    play(scenario())


def virtio_vm(**answers: object) -> FakeVm:
    return FakeVm(
        {
            "qom-list": [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}],
            "qom-get guest-stats": {"stats": {"stat-available-memory": 20 * MEBIBYTE}, "last-update": 1},
            "qom-get guest-stats-polling-interval": 0,
            "qom-set": {},
            "balloon": {},
            **answers,
        }
    )


def test_in_enforce_mode_statistics_are_switched_on_after_two_looks(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = virtio_vm()
        async with (
            listening(tmp_path / "qmp", vm.serve),
            hold(tmp_path / "qmp", may_write=True) as connection,
        ):
            for _ in range(2):
                facts = await look(connection)
                assert "qom-set" not in [name for name, _ in vm.asked]
                assert facts.problem == "its guest statistics are being turned on"
            await look(connection)
            sent = [arguments for name, arguments in vm.asked if name == "qom-set"]
            path, name = "/machine/peripheral/balloon0", "guest-stats-polling-interval"
            assert sent == [{"path": path, "property": name, "value": 1}]

    play(scenario())


def test_in_observe_mode_nothing_is_set_and_missing_statistics_are_explained(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = virtio_vm()
        async with listening(tmp_path / "qmp", vm.serve), hold(tmp_path / "qmp") as connection:
            for _ in range(30):
                facts = await look(connection)
            assert "are off, and only enforce mode changes that" in (facts.problem or "")
            with pytest.raises(LocalProtocolError):
                await connection.set_balloon(32 * MEBIBYTE)
            allowed = {
                "query-status",
                "query-uuid",
                "query-balloon",
                "query-memory-size-summary",
                "query-migrate",
                "query-jobs",
            }
            allowed |= {"query-hv-balloon-status-report", "query-memory-devices", "qom-list", "qom-get"}
            assert {name for name, _ in vm.asked} <= allowed

    play(scenario())


@pytest.mark.parametrize(
    "command", ["quit", "stop", "device_del", "human-monitor-command", "balloon", "qom-set"]
)
def test_nothing_outside_the_allow_list_can_be_asked(command: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = FakeVm()
        async with listening(tmp_path / "qmp", vm.serve):
            client = await QmpClient.connect(tmp_path / "qmp")
            monitor = Monitor(client, may_write=True, timeout_s=1.0)
            with pytest.raises(LocalProtocolError):
                await monitor.query(command)
            assert vm.asked == []
            await client.close()

    play(scenario())
