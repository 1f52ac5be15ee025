"""sd_notify over a real datagram socket: what a service manager reads, and that none is needed."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from tests.rigs.managers import configured, managing
from tests.rigs.scenes import play, until

from dynmem.manager.step.facts import Facts, HostFacts, ManagerSettings, VmFacts
from dynmem.manager.step.results import StepResult
from dynmem.manager.supervised import Supervised
from dynmem.policy import Decision, Plan
from dynmem.systemd.notify import ServiceManager
from dynmem.units import GIB, NS_PER_S


class Listener:
    """A service manager's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)
        self.messages: list[str] = []

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def read(self) -> list[str]:
        """Return all messages so far."""
        while True:
            try:
                self.messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return self.messages


def settings() -> ManagerSettings:
    return ManagerSettings(GIB, 0, NS_PER_S)


def test_each_message_is_one_datagram(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with Listener(address) as listener:
        systemd = ServiceManager({"NOTIFY_SOCKET": address})
        systemd.ready()
        systemd.reloading()
        systemd.stopping()
        systemd.status("two\nlines\udc80")
        systemd.alive()
        ready, reloading, *others = listener.read()
        assert ready == "READY=1"
        first, second = reloading.split("\n")
        assert first == "RELOADING=1"
        assert second.removeprefix("MONOTONIC_USEC=").isdecimal()
        assert others == ["STOPPING=1", "STATUS=two lines?", "WATCHDOG=1"]


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_a_socket_without_a_file_is_reached(tmp_path: Path) -> None:
    name = f"notify-{os.getpid()}-{tmp_path.name}"
    with Listener(f"\0{name}") as listener:
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert listener.read() == ["READY=1"]


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative", "/nowhere/notify", "/" + "x" * 300])
def test_without_a_service_manager_every_message_is_dropped(address: str) -> None:
    systemd = ServiceManager({"NOTIFY_SOCKET": address})
    systemd.ready()
    systemd.alive()


def flooded(address: str) -> int:
    """Send as many messages as one sender can; return how many that were."""
    count = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as flood:
        flood.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                flood.sendto(b"", address)
                count += 1
    return count


def test_a_service_manager_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with Listener(address) as listener:
        systemd = ServiceManager({"NOTIFY_SOCKET": address})
        while flooded(address):  # a sender has a limit of its own, the queue another
            pass
        systemd.ready()  # it returns
        assert "READY=1" not in listener.read()
        systemd.ready()
        assert listener.read()[-1] == "READY=1"


def test_the_variables_are_not_for_the_programs_that_the_service_starts() -> None:
    environment = {
        "NOTIFY_SOCKET": "/run/x",
        "WATCHDOG_USEC": "2000000",
        "WATCHDOG_PID": str(os.getpid()),
        "A": "b",
    }
    assert ServiceManager(environment).watchdog_s == 2
    assert environment == {"A": "b"}


WATCHED = {
    "nothing": ({}, None),
    "its own": ({"WATCHDOG_USEC": "500000"}, 0.5),
    "another process": ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
    "zero": ({"WATCHDOG_USEC": "0"}, None),
    "no number": ({"WATCHDOG_USEC": "-5"}, None),
}


@pytest.mark.parametrize("case", WATCHED)
def test_a_service_is_watched_if_the_environment_says_so_of_this_process(case: str) -> None:
    environment, wanted = WATCHED[case]
    assert ServiceManager({"NOTIFY_SOCKET": "/run/x", **environment}).watchdog_s == wanted


def test_the_watchdog_is_fed_while_sweeps_come_and_no_longer(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    now_s = 100.0

    async def scenario() -> None:
        nonlocal now_s
        systemd = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000"})
        supervised = Supervised(systemd, lambda: now_s)
        feeding = asyncio.create_task(supervised.keep_alive())
        await asyncio.sleep(0.05)
        assert listener.read() == []  # no sweep has begun
        supervised.sweeps(period_s=10)
        await until(lambda: "WATCHDOG=1" in listener.read())
        now_s += 9.9
        fed = len(listener.read())
        await until(lambda: len(listener.read()) > fed)
        now_s += 1  # the next sweep is overdue
        await asyncio.sleep(0.05)
        fed = len(listener.read())
        await asyncio.sleep(0.05)
        assert len(listener.read()) == fed
        feeding.cancel()

    with Listener(address) as listener:
        play(scenario())


def test_the_status_is_sent_when_it_changes(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    host = HostFacts(GIB, GIB)
    vms = (VmFacts("web", "1", "running"), VmFacts("db", "", "absent"))
    short = Decision("web", 1, 2, 0, 0, "")
    with Listener(address) as listener:
        supervised = Supervised(ServiceManager({"NOTIFY_SOCKET": address}))
        for moment, decisions in ((1, ()), (2, ()), (3, (short,))):
            plan = Plan(decisions, 0, 0, "")
            supervised.stepped(settings(), Facts(moment, host, vms), StepResult(plan, (), (), waiting=False))
        assert listener.read() == [
            "STATUS=observe: 1 of 2 VMs are running; budget 1 GiB",
            "STATUS=observe: 1 of 2 VMs are running, 1 of them with less than they want; budget 1 GiB",
        ]


def test_a_manager_reports_its_start_its_reload_its_end_and_that_it_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)

    async def scenario() -> None:
        async with managing(configured(tmp_path, "observe")) as manager:
            await until(lambda: "WATCHDOG=1" in listener.read())
            assert listener.read()[0] == "READY=1"
            await until(lambda: "STATUS=observe: 0 of 0 VMs are running; budget 4 GiB" in listener.read())
            os.kill(manager.process.pid, signal.SIGHUP)
            await until(lambda: listener.read().count("READY=1") == 2)
            told = [each.partition("\n")[0] for each in listener.read() if "WATCHDOG" not in each]
            assert told[-2:] == ["RELOADING=1", "READY=1"]
            assert await manager.end() == 0
            assert "STOPPING=1" in listener.read()

    with Listener(address) as listener:
        play(scenario())
