"""A whole virtual machine: real processes, driven over its monitor by QEMU's own client library."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import EventListener
from qemu.qmp.qmp_client import ExecuteError
from tests.rigs.processes import descriptors, environment, is_there
from tests.rigs.scenes import play, until
from tests.rigs.vms import MIB, Vm, running

from dynmem.dm.habits import balloon_floor

FULL = 512 * MIB
LOW = 256 * MIB


def data_of(event: Any) -> dict[str, Any]:
    return dict(event["data"])


def test_a_guest_that_has_used_its_memory_is_shrunk_and_grown_and_no_byte_is_wrong(tmp_path: Path) -> None:
    async def scene() -> None:
        # 400 MiB are written and let go of again: resident, free in the guest, so the balloon can have them
        wish = tmp_path / "wish"
        wish.write_text("78%")
        async with running(tmp_path, guest=f"embedded,workload=told,path={wish},rate=2GiB") as (vm, client):

            async def size_is(size: int) -> bool:
                return bool(await client.execute("query-balloon") == {"actual": size})

            await until(lambda: vm.resident_bytes() >= 0.7 * FULL)
            wish.write_text("5%")
            await until(lambda: vm.console()[-1]["held_pages"] < 0.1 * FULL / 4096)
            before = vm.resident_bytes()
            reached = LOW
            await client.execute("balloon", {"value": LOW})
            await until(lambda: size_is(reached))
            given = FULL - reached
            await until(lambda: before - vm.resident_bytes() >= 0.9 * (before - LOW))
            assert vm.resident_bytes() <= LOW + 0.1 * given
            await client.execute("balloon", {"value": FULL})
            await until(lambda: size_is(FULL))
            lines = len(vm.console())
            await until(lambda: len(vm.console()) >= lines + 3)
            await until(lambda: vm.console()[-1]["regained_pages"] == vm.console()[-1]["given_pages"])
            report = vm.console()[-1]
            assert report["ballooned_pages"] == 0
            assert report["given_pages"] == report["regained_pages"] == given // 4096
            assert report["verified_pages"] > 0
            assert (report["wrong_bytes"], report["wrong_pages"]) == (0, 0)

    play(scene())


def test_memory_that_went_out_and_came_back_is_used_again_without_a_wrong_byte(tmp_path: Path) -> None:
    async def scene() -> None:
        guest = "embedded,workload=sine,period=1s,low=5%,high=60%,rate=1GiB"
        async with running(tmp_path, memory="256M", guest=guest) as (vm, client):

            async def gives() -> bool:
                return bool((await client.execute("query-balloon"))["actual"] < 256 * MIB)

            for size in (160, 256, 128, 256, 192, 256):
                await client.execute("balloon", {"value": size * MIB})
                if size == 160:
                    await until(gives)  # its driver may come late
                await asyncio.sleep(0.25)
            await until(vm.console)
            await until(lambda: vm.console()[-1]["regained_pages"] == vm.console()[-1]["given_pages"] > 0)
            verified = vm.console()[-1]["verified_pages"]
            await until(lambda: vm.console()[-1]["verified_pages"] > verified + 10_000)
            assert vm.console()[-1]["wrong_bytes"] == 0

    play(scene())


def test_status_reports_come_as_command_and_as_event_again_and_again(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path, guest="embedded,workload=idle") as (_, client):
            with client.listener("HV_BALLOON_STATUS_REPORT") as listener:
                # Until its load has started, the guest has promised it more than it has taken.
                while not is_of_size(FULL, data_of(await listener.get())):
                    pass
                assert is_of_size(FULL, data_of(await listener.get()))
                report = await client.execute("query-hv-balloon-status-report")
                assert is_of_size(FULL, report)
                assert 0 < report["available"] <= FULL
                await client.execute("balloon", {"value": LOW})
                while not is_of_size(LOW, report):
                    report = data_of(await listener.get())
                assert 0 < report["available"] <= LOW
                assert is_of_size(LOW, await client.execute("query-hv-balloon-status-report"))

    def is_of_size(size: int, report: dict[str, Any]) -> bool:
        """Whether a guest of `size` reports: committed is what it uses, its balloon and its floor."""
        assert report.keys() == {"committed", "available"}
        floor = balloon_floor(size // 4096) * 4096
        return bool(report["committed"] == FULL - report["available"] + floor)

    play(scene())


def test_every_client_hears_of_a_new_size_and_may_ask_at_the_same_time(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as (vm, first):
            others = [await vm.client() for _ in range(4)]
            listeners = [EventListener("BALLOON_CHANGE") for _ in others]
            for client, listener in zip(others, listeners, strict=True):
                client.register_listener(listener)
            asked = [client.execute("query-status") for client in (first, *others) for _ in range(20)]
            assert await asyncio.gather(*asked) == [{"status": "running", "running": True}] * 100
            await until(lambda: device_is_idle(first))
            await first.execute("balloon", {"value": LOW})
            for client, listener in zip(others, listeners, strict=True):
                size: Any = FULL
                while size != LOW:  # the first change at once, the last one when a second is over
                    size = data_of(await listener.get())["actual"]
                client.remove_listener(listener)
                await client.disconnect()

    async def device_is_idle(client: Any) -> bool:
        return bool((await client.execute("x-query-hv-balloon"))["state"] == "S_IDLE")

    play(scene())


def test_stop_freezes_the_guest_and_its_balloon_until_cont(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as (vm, client):
            with client.listener(("STOP", "RESUME")) as listener:
                await until(vm.console)
                await client.execute("stop")
                await client.execute("stop")
                assert (await listener.get())["event"] == "STOP"
                assert await client.execute("query-status") == {"status": "paused", "running": False}
                (guest,) = vm.guest_pids()
                stat = Path(f"/proc/{guest}/stat")
                await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
                lines = await until(lambda: at_rest(vm))
                await client.execute("balloon", {"value": LOW})
                await asyncio.sleep(0.5)
                assert len(vm.console()) == lines
                assert await client.execute("query-balloon") == {"actual": FULL}
                await client.execute("cont")
                await client.execute("cont")
                assert (await listener.get())["event"] == "RESUME"
                assert listener.empty()
                await until(lambda: len(vm.console()) > lines)
                await until(lambda: shrunk(client))

    async def at_rest(vm: Vm) -> int:
        """How many lines its console has, once what it wrote before has come: 0 while more comes."""
        lines = len(vm.console())
        await asyncio.sleep(0.2)
        return lines if len(vm.console()) == lines else 0

    async def shrunk(client: Any) -> bool:
        return bool(await client.execute("query-balloon") == {"actual": LOW})

    play(scene())


@pytest.mark.parametrize(
    ("how", "reason", "paused"),
    [
        ("quit", "host-qmp-quit", False),
        ("SIGTERM", "host-signal", True),
        ("SIGINT", "host-signal", False),
    ],
)
def test_ending_it_leaves_no_process_and_no_socket(
    tmp_path: Path, how: str, reason: str, paused: bool
) -> None:
    async def scene() -> None:
        async with running(tmp_path, memory="64M") as (vm, client):
            with client.listener("SHUTDOWN") as listener:
                (guest,) = vm.guest_pids()
                if paused:
                    await client.execute("stop")
                if how == "quit":
                    assert await client.execute("quit") == {}
                else:
                    vm.process.send_signal(signal.Signals[how])
                assert (await listener.get())["data"] == {"guest": False, "reason": reason}
            assert await vm.exit_code() == 0
            ended = vm.log.read_text().splitlines()[-1]
            assert ended.endswith("ended: host-qmp-quit" if how == "quit" else f"ended: stopped by {how}")
            assert not is_there(guest)
            assert not vm.qmp.exists()

    play(scene())


@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
def test_a_guest_that_dies_ends_its_machine_with_a_sentence(tmp_path: Path, paused: bool) -> None:
    async def scene() -> None:
        async with running(tmp_path, memory="64M") as (vm, client):
            with client.listener("SHUTDOWN") as listener:
                if paused:
                    await client.execute("stop")
                os.kill(vm.guest_pids()[0], signal.SIGKILL)
                assert (await listener.get())["data"] == {"guest": True, "reason": "guest-panic"}
            assert await vm.exit_code() == 1
            assert "dynmem: the guest of one is gone (killed by SIGKILL)" in vm.log.read_text()
            assert not vm.qmp.exists()

    play(scene())


def test_a_guest_does_not_outlive_a_machine_that_is_killed(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as (vm, _):
            (guest,) = vm.guest_pids()
            vm.process.kill()
            await vm.exit_code()
            await until(lambda: not is_there(guest))

    play(scene())


def test_the_guest_has_its_hardware_and_nothing_else_of_the_machines(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as (vm, _):
            await until(vm.console)
            (guest,) = vm.guest_pids()
            kinds = [link.partition(":")[0] for link in descriptors(guest)]
            assert kinds.count("socket") == 5  # hardware, interrupt line, doorbell, console, log
            assert set(kinds) == {"socket", "/dev/null"}  # and no terminal or file of the machine's
            assert "anon_inode" not in kinds  # such as an eventfd, one open file for both sides
            names = [name for name, _, _ in (entry.partition("=") for entry in environment(guest))]
            assert sorted(names) == ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH"]

    play(scene())


def test_the_monitor_is_for_its_owner_only(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as (vm, _):
            assert vm.qmp.stat().st_mode & 0o777 == 0o600

    play(scene())


def test_commands_are_refused_as_qemu_refuses_them(tmp_path: Path) -> None:
    async def refusal(
        client: Any, command: str, arguments: dict[str, object] | None = None
    ) -> tuple[str, str]:
        with pytest.raises(ExecuteError) as refused:
            await client.execute(command, arguments)
        return refused.value.error_class, str(refused.value)

    async def scene() -> None:
        async with running(tmp_path, device=None) as (_, client):
            inactive = ("DeviceNotActive", "No balloon device has been activated")
            assert await refusal(client, "query-balloon") == inactive
            assert await refusal(client, "balloon", {"value": LOW}) == inactive
            nothing = ("GenericError", "no hv-balloon device present")
            assert await refusal(client, "query-hv-balloon-status-report") == nothing
            assert await client.execute("query-memory-size-summary") == {
                "base-memory": FULL,
                "plugged-memory": 0,
            }
            assert await client.execute("query-name") == {"name": "one"}

    async def quiet() -> None:
        async with running(tmp_path, device="hv-balloon") as (_, client):
            off = ("GenericError", "guest memory status reporting not enabled")
            assert await refusal(client, "query-hv-balloon-status-report") == off
            size = ("GenericError", "Parameter 'value' expects a size")
            assert await refusal(client, "balloon", {"value": 0}) == size
            assert await refusal(client, "balloon", {"value": -1}) == size

    play(scene())
    play(quiet())


def test_what_cannot_start_says_why_in_one_sentence(tmp_path: Path) -> None:
    def fails(*options: str) -> str:
        command = [sys.executable, "-m", "dynmem", "vm", "--memory=64M", *options]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        return line

    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(tmp_path / "taken"))
        taken.listen()
        assert "another process is listening" in fails(f"--qmp=unix:{tmp_path}/taken,server=on,wait=off")
    (tmp_path / "file").write_text("")
    assert "is not a socket" in fails(f"--qmp=unix:{tmp_path}/file,server=on,wait=off")
    assert "No such file or directory" in fails(f"--serial=file:{tmp_path}/no/where")
    assert f"{tmp_path}/none" in fails(f"--guest=embedded,program={tmp_path}/none")


def test_a_sigterm_to_machine_and_guest_alike_is_the_machines_to_obey(tmp_path: Path) -> None:
    """As a service manager does that ends a group of processes."""

    async def scene() -> None:
        async with running(tmp_path, memory="64M") as (vm, client):
            await until(vm.console)
            (guest,) = vm.guest_pids()
            os.kill(guest, signal.SIGTERM)
            await asyncio.sleep(0.2)
            assert await client.execute("query-status")
            os.kill(vm.process.pid, signal.SIGTERM)
            assert await vm.exit_code() == 0
            assert not is_there(guest)

    play(scene())
