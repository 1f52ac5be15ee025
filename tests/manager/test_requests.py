"""What an operator asks of a running manager: room, releases, and what is refused of that."""

import signal
import time
from datetime import datetime
from pathlib import Path

from tests.rigs.managers import ObedientVm, cli, configured, managing
from tests.rigs.monitored import MEBIBYTE, listening
from tests.rigs.scenes import play

from dynmem.dates import parse_date


def test_room_that_is_there_is_given_without_a_wait_and_held_for_as_long_as_was_asked(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        config = configured(tmp_path, "enforce", "300MiB", db="")
        async with managing(config) as manager:
            await manager.sweeps(1)
            request = {"command": "reserve", "name": "db", "size_bytes": 200 * MEBIBYTE}
            asked_ns = time.monotonic_ns()
            reply = await manager.ask(**request, wait_ns=0, hold_ns=60 * 10**9)
            assert reply["ok"], reply
            status = await manager.status()
            (held,) = status.reservations
            now_ns = time.time_ns()
            assert held.until is not None
            assert abs(parse_date(held.until) - now_ns - 60 * 10**9) < 30 * 10**9
            for date in (status.swept_at, status.manager.at):
                assert date is not None
                assert abs(parse_date(date) - now_ns) < 30 * 10**9
            assert all(datetime.fromisoformat(line.split()[0]).tzinfo for line in manager.lines)
            assert held.deadline_ns - asked_ns >= 60 * 10**9
            reply = await manager.ask(**request, wait_ns=3600 * 10**9, hold_ns=60 * 10**9)
            assert reply["ok"], reply
            (held,) = (await manager.status()).reservations
            assert held.deadline_ns <= time.monotonic_ns() + 60 * 10**9
            for size in (0, -1, 1 << 60, 10**400):
                wrong = await manager.ask(**{**request, "size_bytes": size})
                assert (wrong["ok"], wrong["exit_code"]) == (False, 2), wrong

    play(scenario())


def test_a_reservation_that_its_vm_took_over_does_not_come_back_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = configured(tmp_path, "enforce", "300MiB", db="")
        request = {"command": "reserve", "name": "db", "size_bytes": 200 * MEBIBYTE, "hold_ns": 10**12}
        async with managing(config) as first:
            assert (await first.ask(**request))["ok"]
            async with listening(tmp_path / "db.qmp", ObedientVm(32).serve):
                await first.until(lambda status: not status.reservations)
                await first.sweeps(1)
                await first.end(signal.SIGKILL)
        async with managing(config) as second:
            assert (await second.status()).reservations == ()

    play(scenario())


def test_the_life_that_was_there_when_room_was_asked_for_does_not_take_it_over_after_a_restart(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        config = configured(tmp_path, "enforce", "600MiB", db="")
        request = {"command": "reserve", "name": "db", "size_bytes": 256 * MEBIBYTE, "hold_ns": 10**12}
        async with listening(tmp_path / "db.qmp", ObedientVm(32).serve):
            async with managing(config) as first:
                await first.until(lambda status: status.vm("db").demand_bytes is not None)
                assert (await first.ask(**request))["ok"]
                await first.end(signal.SIGKILL)
            async with managing(config) as second:
                await second.until(lambda status: status.vm("db").demand_bytes is not None)
                await second.sweeps(2)
                assert [each.name for each in (await second.status()).reservations] == ["db"]

    play(scenario())


def test_a_vm_that_is_not_there_to_be_released_or_was_not_released_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with managing(configured(tmp_path, "enforce", web="", db="")) as manager:
            at = ("--socket", manager.socket)
            code, _, err = await cli("release", "wbe", *at)
            assert code == 2
            assert err.endswith("has no VM 'wbe': did you mean web?\n")
            assert await cli("release", "web", "--undo", *at) == (
                0,
                "web was not released: nothing is changed\n",
                "",
            )
            await manager.ask(command="release", vm="db")
            assert await cli("release", "--all", "--undo", *at) == (0, "managed again: db\n", "")

    play(scenario())
