"""`dynmem run` as a process: it observes, manages, survives kill -9, and serves all while one misbehaves."""

import asyncio
import contextlib
import os
import re
import resource
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rigs.managers import MANAGER, ObedientVm, RunningManager, configured, managing
from tests.rigs.monitored import BALLOON, MEBIBYTE, kill, listening, qemu, stop
from tests.rigs.scenes import play, until

from dynmem.manager.api.messages import StatusReply
from dynmem.manager.journal.journal import FILE_NAME, Journal
from dynmem.qmp.client import QmpClient

READS = {
    "query-status",
    "query-uuid",
    "query-balloon",
    "query-memory-devices",
    "query-memory-size-summary",
    "query-migrate",
    "query-jobs",
    "query-hv-balloon-status-report",
    "qom-list",
    "qom-get",
}
TIGHT = "300MiB"  # two VMs of 256 MiB do not fit


def test_in_observe_mode_a_shortage_is_planned_for_and_nothing_is_sent(tmp_path: Path) -> None:
    async def scenario() -> None:
        web, db = ObedientVm(), ObedientVm()
        config = configured(tmp_path, "observe", TIGHT, web="", db="")
        async with (
            listening(tmp_path / "web.qmp", web.serve),
            listening(tmp_path / "db.qmp", db.serve),
            managing(config) as manager,
        ):
            status = await manager.until(lambda status: any(vm.change for vm in status.vms))
            change = next(vm.change for vm in status.vms if vm.change)
            assert change.sent is False
            assert "not sent" in change.reason
            await manager.sweeps(5)
            assert any("not sent" in line for line in manager.lines)
        assert web.targets == db.targets == []
        assert {name for name, _ in web.asked + db.asked} <= READS
        assert Journal(tmp_path / "state").recent() == []

    play(scenario())


def test_in_enforce_mode_two_vms_are_fitted_into_the_budget_and_each_step_is_journalled(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        web, db = ObedientVm(), ObedientVm()
        config = configured(tmp_path, "enforce", TIGHT, web="", db="")
        async with (
            listening(tmp_path / "web.qmp", web.serve),
            listening(tmp_path / "db.qmp", db.serve),
            managing(config) as manager,
        ):
            await manager.until(lambda _: web.actual + db.actual <= (300 - 16) * MEBIBYTE)
            # constant demand: in the end nothing more is sent
            before = len(await manager.stays(lambda: web.targets + db.targets, 8))
            assert any(
                re.match(r"[\d-]{10}T[\d:.]{12}[+-]\d\d:\d\d (web|db): ", line) for line in manager.lines
            )
        for vm in (web, db):
            assert vm.sweeps_before_first_target() >= 2
            assert {name for name, _ in vm.asked} <= READS | {"balloon"}
        rows = Journal(tmp_path / "state").recent(100)
        assert len(rows) == before
        assert {row.outcome for row in rows} == {"sent"}
        assert all(row.reason for row in rows)

    play(scenario())


def is_last_change_sent(status: StatusReply) -> bool:
    change = status.vm("web").last_change
    return change is not None and change.sent


def test_a_grant_names_its_measurement_in_status_and_journal(tmp_path: Path) -> None:
    async def scenario() -> None:
        web, db = ObedientVm(), ObedientVm(32)
        config = configured(tmp_path, "enforce", TIGHT, web="", db="")
        async with (
            listening(tmp_path / "web.qmp", web.serve),
            listening(tmp_path / "db.qmp", db.serve),
            managing(config) as manager,
        ):
            await manager.until(lambda _: web.actual + db.actual <= (300 - 16) * MEBIBYTE)
            web.demand = 170 * MEBIBYTE
            smaller = web.actual
            await manager.until(lambda _: web.actual > smaller)
            # "sent" is recorded when the VM has replied, a moment after it has grown
            status = await manager.until(is_last_change_sent)
            change = status.vm("web").last_change
            assert change is not None
            assert change.sent is True
            assert "measured free by the" in change.measurement
        grants = [row for row in Journal(tmp_path / "state").recent(100) if row.measurement]
        assert grants
        assert "measured free by the" in grants[0].measurement

    play(scenario())


def test_after_kill_9_the_open_intent_is_resolved_and_two_sweeps_pass_before_the_first_write(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        web, db = ObedientVm(), ObedientVm()
        web.silent_on = db.silent_on = "balloon"
        config = configured(tmp_path, "enforce", TIGHT, web="", db="")
        async with (
            listening(tmp_path / "web.qmp", web.serve),
            listening(tmp_path / "db.qmp", db.serve),
        ):
            async with managing(config) as first:
                await asyncio.sleep(0)
                while not _open_intents(tmp_path):  # noqa: ASYNC110 - another process writes it
                    await asyncio.sleep(0.02)
                await first.end(signal.SIGKILL)
            assert first.socket.exists()  # left behind; the next one takes its place
            opened = len(_open_intents(tmp_path))
            web.silent_on = db.silent_on = ""
            seen = len(web.asked), len(db.asked)
            async with managing(config) as second:
                await second.until(lambda _: web.actual + db.actual <= (300 - 16) * MEBIBYTE)
                await second.end()  # in order: killed, it could leave intents of its own
                told = [line for line in second.lines if "was left open in the journal" in line]
                assert len(told) == opened
                assert "not reached yet, its size is 256 MiB" in told[0]
            assert _open_intents(tmp_path) == []
            for vm, begin in zip((web, db), seen, strict=True):
                if "balloon" in [name for name, _ in vm.asked[begin:]]:
                    assert vm.sweeps_before_first_target(begin) >= 2

    play(scenario())


def test_a_command_that_is_never_answered_does_not_count_as_failed(tmp_path: Path) -> None:
    async def scenario() -> None:
        web, db = ObedientVm(), ObedientVm()
        web.silent_on = db.silent_on = "balloon"
        config = configured(tmp_path, "enforce", TIGHT, web="", db="")
        async with (
            listening(tmp_path / "web.qmp", web.serve),
            listening(tmp_path / "db.qmp", db.serve),
            managing(config) as manager,
        ):
            await manager.until(lambda _: any("no reply to balloon" in line for line in manager.lines))
            await manager.end()
        with contextlib.closing(sqlite3.connect(tmp_path / "state" / FILE_NAME)) as journal:
            outcomes = [row[0] for row in journal.execute("SELECT outcome FROM action")]
        assert any("no reply to balloon" in outcome for outcome in outcomes)
        assert all(outcome.startswith("unknown: ") for outcome in outcomes if "no reply to" in outcome)

    play(scenario())


def _open_intents(folder: Path) -> list[str]:
    try:
        with contextlib.closing(sqlite3.connect(folder / "state" / FILE_NAME)) as db:
            return [row[0] for row in db.execute("SELECT vm FROM action WHERE outcome IS NULL")]
    except sqlite3.OperationalError:
        return []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_leaves_targets_as_they_are_and_says_so(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    async def scenario() -> None:
        web, db = ObedientVm(), ObedientVm()
        config = configured(tmp_path, "enforce", TIGHT, web="", db="")
        async with (
            listening(tmp_path / "web.qmp", web.serve),
            listening(tmp_path / "db.qmp", db.serve),
            managing(config) as manager,
        ):
            await manager.until(lambda _: web.actual + db.actual <= (300 - 16) * MEBIBYTE)
            before = await manager.stays(lambda: (web.targets, db.targets), 5)
            assert await manager.end(number) == code
            assert (web.targets, db.targets) == before
            assert f"stopped by {number.name}: every VM keeps its target" in manager.lines[-1]
            assert f"web {web.actual // MEBIBYTE} MiB" in manager.lines[-1]
            assert not manager.socket.exists()

    play(scenario())


def test_a_manager_whose_lines_nobody_reads_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        web, db = ObedientVm(), ObedientVm()
        config = configured(tmp_path, "enforce", TIGHT, web="", db="")
        ours, theirs = os.pipe()
        os.close(ours)
        process = await asyncio.create_subprocess_exec(*MANAGER, "run", "--config", config, stdout=theirs)
        os.close(theirs)
        manager = RunningManager(process, tmp_path)
        try:
            async with listening(tmp_path / "web.qmp", web.serve), listening(tmp_path / "db.qmp", db.serve):
                while not manager.socket.exists():  # noqa: ASYNC110 - another process makes it
                    await asyncio.sleep(0.02)
                await manager.until(lambda _: web.actual + db.actual <= (300 - 16) * MEBIBYTE)
            assert await manager.end() == 0
        finally:
            await manager.end(signal.SIGKILL)

    play(scenario())


@pytest.mark.parametrize("same", ["state", "socket"])
def test_a_second_manager_on_one_state_or_socket_is_refused(same: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with managing(configured(tmp_path, "observe", web="")) as first:
            (tmp_path / "second").mkdir()
            path = configured(tmp_path / "second", "observe", web="")
            old = {"state": '/second/state"', "socket": "/second/run/api.sock"}[same]
            path.write_text(path.read_text().replace(old, old.replace("/second", "")))
            async with managing(path) as second:
                assert await asyncio.wait_for(second.process.wait(), 100) == 5
                assert "is in use by another `dynmem run`" in second.lines[0]
                assert str(first.process.pid) in second.lines[0]
            await first.sweeps(2)

    play(scenario())


def are_known(status: StatusReply) -> bool:
    """Whether the manager has found out what is wrong with each of the VMs, and that web is well.

    Only when a greeting has not come for some time is it known that another client has the monitor.
    """
    problems = {
        "hangs": "stopped (by SIGSTOP",
        "babbles": "does not speak QMP",
        "held": "another client holds this monitor",
        "absent": "no such socket",
    }
    return (
        all(words in (status.vm(name).problem or "") for name, words in problems.items())
        and status.vm("web").run_state == "running"
        and status.vm("hangs").actual_bytes == 64 * MEBIBYTE
        and not status.vm("dies").there
    )


@pytest.mark.qemu
def test_while_others_hang_die_babble_and_are_held_the_rest_is_served_each_period(tmp_path: Path) -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def scenario() -> None:
        web = ObedientVm()
        names = {"web": "", "hangs": "", "dies": "", "babbles": "", "held": "", "absent": ""}
        config = configured(tmp_path, "enforce", **names)
        with (
            qemu(tmp_path / "hangs.qmp", *BALLOON) as hangs,
            qemu(tmp_path / "dies.qmp", *BALLOON) as dies,
            qemu(tmp_path / "held.qmp", *BALLOON),
        ):
            holder = await QmpClient.connect(tmp_path / "held.qmp")
            async with (
                listening(tmp_path / "web.qmp", web.serve),
                listening(tmp_path / "babbles.qmp", babble),
                managing(config) as manager,
            ):
                await manager.until(lambda status: status.vm("hangs").actual_bytes is not None)
                stop(hangs)
                kill(dies)
                await manager.until(lambda status: status.vm("hangs").run_state == "silent")

                async def is_served_and_quiet() -> bool:
                    """Whether it is looked at in ten sweeps, and troubles are not told in each of them."""
                    said, asked = len(manager.lines), len(web.asked)
                    await manager.sweeps(10)
                    looks = [name for name, _ in web.asked[asked:]].count("query-balloon")
                    return looks >= 9 and len(manager.lines) - said <= 4

                await until(is_served_and_quiet)
                await manager.until(are_known)
            await holder.close()

    play(scenario())


def test_a_released_vm_gets_everything_back_and_stays_alone_over_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        web, db = ObedientVm(), ObedientVm()
        config = configured(tmp_path, "enforce", TIGHT, web="", db="")
        async with (
            listening(tmp_path / "web.qmp", web.serve),
            listening(tmp_path / "db.qmp", db.serve),
        ):
            async with managing(config) as first:
                await first.until(lambda _: web.actual + db.actual <= (300 - 16) * MEBIBYTE)
                reply = await first.ask(command="release", vm="web")
                assert (reply["ok"], reply["released"], reply["sent"]) == (True, ["web"], True)
                assert not any("released earlier" in line for line in first.lines)
                await first.until(lambda _: web.actual == 256 * MEBIBYTE)
                await first.end(signal.SIGKILL)
            targets = web.targets
            async with managing(config) as second:
                await second.until(lambda status: status.vm("web").standing == "released")
                await second.sweeps(5)
                assert web.targets == targets
                assert len([line for line in second.lines if "released earlier: web" in line]) == 1
                assert f"dynmem release web --undo --socket {second.socket}" in second.lines[1]
                assert (await second.ask(command="take-up", vm="web"))["taken_up"] == ["web"]
                await second.until(lambda _: web.actual < 256 * MEBIBYTE)

    play(scenario())


@contextlib.contextmanager
def locked_journal(state: Path) -> Iterator[sqlite3.Connection]:
    """Keep a manager's journal from being written, until ROLLBACK."""
    with contextlib.closing(sqlite3.connect(state / FILE_NAME, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def test_a_journal_that_cannot_be_written_stops_the_commands_and_not_the_manager(tmp_path: Path) -> None:
    async def scenario() -> None:
        web, db = ObedientVm(), ObedientVm()
        config = configured(tmp_path, "enforce", TIGHT, web="", db="")
        async with managing(config) as manager:
            with locked_journal(tmp_path / "state") as journal:
                async with (
                    listening(tmp_path / "web.qmp", web.serve),
                    listening(tmp_path / "db.qmp", db.serve),
                ):
                    status = await manager.until(lambda status: status.manager.journal_problem)
                    assert "until it can be, no VM is shrunk" in (status.manager.journal_problem or "")
                    assert web.targets == db.targets == []
                    assert not [line for line in manager.lines if "shrunk to" in line]
                    journal.execute("ROLLBACK")
                    await manager.until(lambda _: web.actual + db.actual <= (300 - 16) * MEBIBYTE)
                    await manager.until(
                        lambda _: any("can be written again" in line for line in manager.lines)
                    )

    play(scenario())


def test_while_the_journal_cannot_be_written_vms_grow_from_what_is_free_and_none_is_shrunk(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        web, db = ObedientVm(100), ObedientVm(64)
        web.actual = 64 * MEBIBYTE
        config = configured(tmp_path, "enforce", "400MiB", web="", db="")
        async with managing(config) as manager:
            with locked_journal(tmp_path / "state") as journal:
                async with contextlib.AsyncExitStack() as stack:
                    await stack.enter_async_context(listening(tmp_path / "db.qmp", db.serve))
                    await manager.until(lambda status: status.vm("db").there)  # or web could have its memory
                    await stack.enter_async_context(listening(tmp_path / "web.qmp", web.serve))
                    await manager.until(lambda _: web.actual >= 100 * MEBIBYTE)
                    web.demand = 200 * MEBIBYTE  # for which db would have to give
                    await manager.until(lambda status: status.vm("web").short_bytes == 0)
                    await manager.sweeps(3)
                    assert web.actual < 200 * MEBIBYTE
                    assert db.actual == 256 * MEBIBYTE
                    assert [line for line in manager.lines if "web: grown to" in line]
                    assert not [line for line in manager.lines if "shrunk to" in line]
                    journal.execute("ROLLBACK")
                    await manager.until(lambda _: web.actual >= 200 * MEBIBYTE)
                    grown = web.targets[0] * MEBIBYTE
                    await manager.end()  # in order: killed, it could leave an outcome open
        rows = Journal(tmp_path / "state").recent(100)
        assert [row for row in rows if row.vm == "web" and row.target_bytes >= grown]
        assert {row.outcome for row in rows} == {"sent"}

    play(scenario())


def test_a_manager_that_may_open_nothing_more_decides_nothing_and_lives_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        web = ObedientVm()
        config = configured(tmp_path, "enforce", web="", db="")
        async with listening(tmp_path / "web.qmp", web.serve), managing(config) as manager:
            await manager.sweeps(2)
            before = resource.prlimit(manager.process.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(manager.process.pid, resource.RLIMIT_NOFILE, (4, before[1]))
            while not any("nothing is decided until it can" in line for line in manager.lines):
                assert manager.process.returncode is None, manager.lines
                await asyncio.sleep(0.02)
            resource.prlimit(manager.process.pid, resource.RLIMIT_NOFILE, before)
            await manager.sweeps(2)
            assert len([line for line in manager.lines if "can be read again" in line]) == 1

    play(scenario())


def test_room_is_made_for_a_vm_that_is_about_to_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        web = ObedientVm(32)
        config = configured(tmp_path, "enforce", TIGHT, web="", db="")
        async with listening(tmp_path / "web.qmp", web.serve), managing(config) as manager:
            await manager.until(lambda status: status.vm("web").assigned_bytes is not None)
            reply = await manager.ask(
                command="reserve", name="db", size_bytes=200 * MEBIBYTE, wait_ns=60 * 10**9
            )
            assert reply["ok"], reply
            assert web.actual <= (300 - 16 - 200) * MEBIBYTE
            status = await manager.status()
            (reservation,) = status.reservations
            assert (reservation.name, reservation.state) == ("db", "ready")
            await manager.end(signal.SIGKILL)
            async with managing(config) as second:  # a promise outlives the manager that made it
                status = await second.status()
                assert [each.name for each in status.reservations] == ["db"]

    play(scenario())


def test_room_that_is_no_longer_asked_for_is_not_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        web = ObedientVm(200)
        config = configured(tmp_path, "enforce", TIGHT, web="")
        async with listening(tmp_path / "web.qmp", web.serve), managing(config) as manager:
            await manager.until(lambda status: status.vm("web").assigned_bytes is not None)
            late = await manager.ask(
                command="reserve", name="db", size_bytes=200 * MEBIBYTE, wait_ns=3 * 10**8
            )
            assert (late["ok"], late["exit_code"]) == (False, 7)
            assert "no room after 0.3 s" in late["error"]
            never = await manager.ask(command="reserve", name="db", size_bytes=1 << 40)
            assert (never["ok"], never["exit_code"]) == (False, 5)
            _, writer = await asyncio.open_unix_connection(manager.socket)
            writer.write(b'{"command": "reserve", "name": "db", "size_bytes": 209715200}\n')
            await manager.until(lambda status: status.reservations)
            writer.close()
            await manager.until(lambda status: not status.reservations)

    play(scenario())


def test_a_reservation_that_nobody_waits_for_any_more_does_not_come_back_after_a_restart(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        web = ObedientVm(200)
        config = configured(tmp_path, "enforce", TIGHT, web="")
        async with listening(tmp_path / "web.qmp", web.serve):
            async with managing(config) as manager:
                await manager.until(lambda status: status.vm("web").assigned_bytes is not None)
                request = {"command": "reserve", "name": "db", "size_bytes": 200 << 20, "wait_ns": 30 * 10**9}
                asking = asyncio.create_task(manager.ask(**request))
                await manager.until(lambda status: status.reservations)
                await manager.end(signal.SIGINT)
                asking.cancel()
                await asyncio.wait((asking,))
            async with managing(config) as second:
                await second.sweeps(2)
                assert (await second.status()).reservations == ()

    play(scenario())
