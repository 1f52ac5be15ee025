"""A quota of the host that is used up is waited for, and no guest is blamed for it."""

import asyncio
import contextlib
import errno
import gc
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.rigs import machine_wide
from tests.rigs.fake_platform import Scene
from tests.rigs.own_process import few_more_descriptors, open_descriptors
from tests.rigs.scenes import PATIENCE_S, play, until
from tests.rigs.vms import running

from dynmem.units import MIB
from dynmem.vm import machine as machine_module
from dynmem.vm.embedded.console import Console
from dynmem.vm.embedded.guest import EmbeddedGuest
from dynmem.vm.embedded.keeper import GUEST_DESCRIPTORS_MAX
from dynmem.vm.embedded.lines import InterruptLine
from dynmem.vm.faults import Faults
from dynmem.vm.guest_crash import GuestCrash
from dynmem.vm.guest_memory import MappedMemory
from dynmem.vm.machine import Ending
from dynmem.vm.options.machine import GuestOptions, VmOptions
from dynmem.vm.options.memory import MemoryOptions
from dynmem.vm.platform import ShortageError

UNPRIVILEGED: Final = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
# more descriptors are in flight than its user may have; then there is room again
CROWDED: Final = """
import asyncio, os, resource, socket
from dynmem.vm.embedded.hardware import Hardware
from dynmem.wire.hardware import MapSlot

async def main():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        for _ in range(8):
            socket.send_fds(ours, [b"x"], [0] * 200)
        print("there is no such quota", flush=True)
        return
    except OSError as error:
        print(error.strerror, flush=True)
    hardware = Hardware(lambda: None)
    hardware.guest_end.setblocking(False)
    hardware.map_slot(MapSlot(0, 0, 4096, 0), os.memfd_create("ram"))
    await asyncio.sleep(0.1)
    try:
        hardware.guest_end.recv(100)
        print("it was sent")
    except BlockingIOError:
        print("it waits")
    try:
        hardware.receive()
        print("the guest is there")
    except EOFError:
        print("the guest is gone")
    theirs.close()
    loop = asyncio.get_running_loop()
    _, descriptors, _, _ = await asyncio.to_thread(_received, hardware.guest_end)
    print(len(descriptors), "descriptor")
    hardware.close()

def _received(end):
    end.setblocking(True)
    return socket.recv_fds(end, 100, 1)

asyncio.run(main())
"""
# a guest that sends itself descriptors and receives none
HOARDS: Final = """
import json, os, socket, time
pairs, sent = [], 0
try:
    while True:
        pairs.append(socket.socketpair())
        for _ in range(100):
            socket.send_fds(pairs[-1][0], [b"x"], [0])
            sent += 1
except OSError as error:
    print(json.dumps({"sent": sent, "stopped by": error.strerror}), flush=True)
time.sleep(1000)
"""


@pytest.fixture
def quota() -> Iterator[None]:
    """The descriptors in flight of this user are counted together, whatever process sends them."""
    with machine_wide.held("descriptors-in-flight"):
        yield


@pytest.mark.usefixtures("quota")
def test_a_descriptor_for_which_its_user_has_too_many_in_flight_is_sent_when_there_is_room() -> None:
    done = subprocess.run(
        [*UNPRIVILEGED, sys.executable, "-c", CROWDED],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.stderr.splitlines() == [
        "the guest waits for its hardware: Too many references: cannot splice; trying again"
    ]
    assert done.stdout.splitlines() == [
        "Too many references: cannot splice",
        "it waits",
        "the guest is there",
        "1 descriptor",
    ]


@pytest.mark.usefixtures("quota")
def test_a_guest_cannot_use_up_its_users_quota_of_descriptors_in_flight(tmp_path: Path) -> None:
    (tmp_path / "hoards.py").write_text(HOARDS)
    program = tmp_path / "guest"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path}/hoards.py\n")
    program.chmod(0o755)

    async def scene() -> None:
        async with running(tmp_path, memory="64M", guest=f"embedded,program={program}") as (vm, _):
            await until(vm.serial.read_text)
            found = json.loads(vm.serial.read_text())
            assert found["stopped by"] in ("Too many references: cannot splice", "Too many open files")
            assert 0 < found["sent"] <= GUEST_DESCRIPTORS_MAX + 1
            limits = resource.prlimit(vm.process.pid, resource.RLIMIT_NOFILE)
            assert limits[0] > 2 * GUEST_DESCRIPTORS_MAX

    play(scene())


class Idle:
    """An owner that does nothing."""

    def wake(self) -> None: ...
    def exited(self) -> None: ...
    def wants_reset(self) -> None: ...
    def asked_to_end(self) -> None: ...
    def crashed(self, crash: GuestCrash) -> None: ...


def test_a_start_that_lacks_descriptors_leaves_none_behind_wherever_it_stopped(tmp_path: Path) -> None:
    program = tmp_path / "guest"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    options = VmOptions("one", MemoryOptions(64 * MIB, 64 * MIB, 0), guest=GuestOptions(program=program))

    async def scene() -> None:
        guest = EmbeddedGuest(options, MappedMemory(), Idle(), Faults(lambda: 0))
        before = open_descriptors()
        refused = 0
        for more in range(100):
            with few_more_descriptors(more), contextlib.suppress(ShortageError):
                await guest.power_on((17,))
                break
            refused += 1
            assert open_descriptors() == before
        assert refused > 10
        assert guest.pid > 0
        await guest.power_off()
        assert open_descriptors() == before

    play(scene())


def short_for(scene: Scene, attempts: int) -> list[int]:
    """Let the next attempts to start a guest fail for want of something; the list grows by each attempt."""
    made: list[int] = []
    power_on = scene.guest.power_on

    async def short(doorbells: Iterable[int]) -> None:
        made.append(len(made))
        if len(made) <= attempts:
            raise ShortageError("the guest cannot be started: no descriptors")
        await power_on(doorbells)

    scene.guest.power_on = short  # type: ignore[method-assign]
    return made


def test_a_machine_waits_for_what_the_host_lacks_at_its_start_and_at_a_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine_module, "_START_DELAYS_S", (0.0, 0.0))

    async def scene() -> None:
        scene = Scene()
        made = short_for(scene, 2)
        await scene.machine.start()
        assert len(made) == 3
        made.clear()
        scene.machine.reset()
        await until(lambda: "RESET" in scene.events)
        assert len(made) == 3
        assert scene.machine.ending is None
        await scene.machine.close()

    play(scene())


def test_a_machine_that_waits_in_vain_ends_by_the_hosts_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "_START_DELAYS_S", (0.0,))

    async def scene() -> None:
        scene = Scene()
        await scene.machine.start()
        made = short_for(scene, 3)
        scene.machine.reset()
        await scene.machine.ended.wait()
        assert len(made) == 2
        assert scene.machine.ending == (
            False,
            "host-error",
            "the guest cannot be started: no descriptors",
            None,
        )
        await scene.machine.close()

    play(scene())


def test_a_machine_that_is_to_end_does_not_wait_for_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "_START_DELAYS_S", (1000.0,))

    async def scene() -> None:
        scene = Scene()
        made = short_for(scene, 3)
        starting = asyncio.create_task(scene.machine.start())
        await until(lambda: made)
        scene.machine.end(Ending(guest=False, reason="host-signal"))
        await starting
        await scene.machine.close()
        assert len(made) == 1

    play(scene())


class Scarce:
    """A socket of a host that has no memory for the first messages."""

    def __init__(self, end: socket.socket, failures: int) -> None:
        self.end = end
        self.failures = failures

    def send(self, data: bytes, flags: int) -> int:
        self.failures -= 1
        if self.failures >= 0:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return self.end.send(data, flags)

    def close(self) -> None:
        self.end.close()


def test_an_interrupt_that_the_host_has_no_memory_for_is_raised_later_and_once() -> None:
    async def scene() -> None:
        line = InterruptLine()
        line._end = Scarce(line._end, 3)  # type: ignore[assignment]
        for _ in range(2):
            line.interrupt()
        line.guest_end.setblocking(False)
        loop = asyncio.get_running_loop()
        assert await loop.sock_recv(line.guest_end, 100) == b"\1"
        await asyncio.sleep(0.03)
        with pytest.raises(BlockingIOError):
            line.guest_end.recv(100)
        line.close()

    play(scene())


def test_a_console_for_which_there_is_no_thread_is_a_shortage_and_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    gc.collect()  # what other tests left
    before = open_descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        console = Console(tmp_path / "serial")
        with pytest.raises(ShortageError, match="can't start new thread"):
            console.connect()
    gc.collect()
    assert open_descriptors() == before
