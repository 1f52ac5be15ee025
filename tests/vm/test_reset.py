"""A reset: the guest's process is ended and another one starts; what it gave up is its successor's."""

import asyncio
import functools
import sys
from pathlib import Path
from typing import Any

from tests.rigs.processes import is_there
from tests.rigs.scenes import play, until
from tests.rigs.vms import MIB, Vm, running

FULL = 256 * MIB
LOW = 128 * MIB
ATTACKER = Path(__file__).parents[1] / "rigs" / "hostile_guest.py"


async def reset(vm: Vm, client: Any) -> int:
    """Reset the machine: the new guest's process."""
    (old,) = vm.guest_pids()
    with client.listener("RESET") as listener:
        assert await client.execute("system_reset") == {}
        event = await listener.get()
        assert event["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
    assert not is_there(old)
    (new,) = vm.guest_pids()
    assert new != old
    return new


def has_more(vm: Vm, lines: int) -> bool:
    return len(vm.console()) > lines


async def device(client: Any) -> dict[str, Any]:
    return dict(await client.execute("x-query-hv-balloon"))


def test_another_guest_starts_with_all_of_its_memory_and_can_be_shrunk_again(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path, memory="256M") as (vm, client):

            async def is_size(size: int) -> bool:
                return bool(await client.execute("query-balloon") == {"actual": size})

            for resets in (1, 2):
                await client.execute("balloon", {"value": LOW})
                await until(lambda: is_size(LOW))
                lines = len(vm.console())
                await reset(vm, client)
                assert (await device(client))["resets"] == resets
                await until(functools.partial(has_more, vm, lines))  # it goes on in the same file
                assert await is_size(FULL)
            await client.execute("balloon", {"value": LOW})
            await until(lambda: is_size(LOW))
            assert vm.console()[-1]["wrong_bytes"] == 0
            assert await client.execute("query-status") == {"status": "running", "running": True}

    play(scene())


def test_a_paused_machine_stays_paused_over_a_reset(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path, memory="64M") as (vm, client):
            await client.execute("stop")
            guest = await reset(vm, client)
            assert await client.execute("query-status") == {"status": "prelaunch", "running": False}
            stat = Path(f"/proc/{guest}/stat")
            await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
            lines = len(vm.console())
            await client.execute("cont")
            await until(lambda: len(vm.console()) > lines)

    play(scene())


def test_many_resets_at_once_leave_one_guest_that_works(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path, memory="64M") as (vm, client):
            others = [await vm.client() for _ in range(3)]
            asked = [each.execute("system_reset") for each in (client, *others) for _ in range(3)]
            assert await asyncio.gather(*asked) == [{}] * 12
            lines = len(vm.console())
            await until(lambda: len(vm.console()) > lines and len(vm.guest_pids()) == 1)
            for other in others:
                await other.disconnect()
            await client.execute("quit")
            assert await vm.exit_code() == 0

    play(scene())


def test_a_guest_that_takes_no_part_is_reset_like_any_other(tmp_path: Path) -> None:
    program = tmp_path / "guest"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ATTACKER} "$@"\n')
    program.chmod(0o755)

    async def scene() -> None:
        guest = f"embedded,program={program},workload=deaf"
        async with running(tmp_path, memory="64M", guest=guest) as (vm, client):
            await until(vm.console)
            await reset(vm, client)
            await until(lambda: len(vm.console()) > 1)

    play(scene())


def test_a_guest_that_cannot_be_started_again_ends_the_machine(tmp_path: Path) -> None:
    program = tmp_path / "guest"
    has_begun = tmp_path / "begun"
    program.write_text(f"#!/bin/sh\ntouch {has_begun}\nexec sleep 1000\n")
    program.chmod(0o755)

    async def scene() -> None:
        guest = f"embedded,program={program}"
        async with running(tmp_path, memory="64M", guest=guest) as (vm, client):
            await until(has_begun.exists)  # or the first guest could not be started
            program.unlink()
            with client.listener("SHUTDOWN") as listener:
                await client.execute("system_reset")
                assert (await listener.get())["data"] == {"guest": False, "reason": "host-error"}
            assert await vm.exit_code() == 1
            assert "the guest cannot be started" in vm.log.read_text()

    play(scene())
