"""The board on this machine's own /dev/kvm, under a guest that has a driver for its serial port."""

import asyncio
import contextlib
import os
import pty
import select
import subprocess
import sys
import termios
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.rigs.mini_guest import MiniGuest, assemble, needs_kvm
from tests.rigs.scenes import plays, until

from dynmem.vm.kvm.virtual_machine import VirtualMachine
from dynmem.vm.options.console import ConsoleKind, ConsoleOptions

pytestmark = needs_kvm

GREETING = b"ready\n"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's file."""
    return assemble(tmp_path_factory.mktemp("serial"), "serial_guest.S")


class Scene:
    """The guest, and a client of its console."""

    def __init__(
        self, machine: MiniGuest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.machine, self._reader, self.typing = machine, reader, writer

    async def shown(self, count: int) -> bytes:
        return await asyncio.wait_for(self._reader.readexactly(count), 60)

    async def echo(self, typed: bytes) -> bytes:
        self.typing.write(typed)
        return await self.shown(len(typed))


@contextlib.asynccontextmanager
async def running(kernel: Path, folder: Path) -> AsyncIterator[Scene]:
    path = folder / "console"
    machine = MiniGuest(kernel, console=ConsoleOptions(ConsoleKind.SOCKET, path))
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        await machine.guest.power_on(())
        scene = Scene(machine, reader, writer)
        assert await scene.shown(len(GREETING)) == GREETING
        yield scene
    finally:
        writer.close()
        await machine.guest.power_off()
        machine.guest.close()
        machine.close()


@plays
async def test_what_is_typed_interrupts_the_guest_and_what_it_sends_is_shown(
    kernel: Path, tmp_path: Path
) -> None:
    async with running(kernel, tmp_path) as scene:
        for letter in b"letters one by one":
            assert await scene.echo(bytes((letter,))) == bytes((letter,))
        paste = bytes(range(0x40, 0x100)) * 20
        assert await scene.echo(paste) == paste


@plays
async def test_a_key_that_is_typed_while_the_guest_ends_finds_its_machine_or_none(
    kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The console's thread is held where it raises the line; the end of the guest waits for it."""
    is_raising, may_go_on = threading.Event(), threading.Event()
    failures: list[OSError] = []
    set_line = VirtualMachine.set_line

    def slowly(machine: VirtualMachine, gsi: int, *, level: bool) -> None:
        if threading.current_thread().name == "console":
            is_raising.set()
            may_go_on.wait(60)
        try:
            set_line(machine, gsi, level=level)
        except OSError as error:
            failures.append(error)

    async with running(kernel, tmp_path) as scene:
        monkeypatch.setattr(VirtualMachine, "set_line", slowly)
        scene.typing.write(b"x")
        assert await asyncio.to_thread(is_raising.wait, 60)
        threading.Timer(0.1, may_go_on.set).start()
        await scene.machine.guest.power_off()
        await asyncio.to_thread(may_go_on.wait, 60)
        await scene.machine.guest.power_on(())
        assert await scene.shown(len(GREETING)) == GREETING
        assert not failures


@plays
async def test_a_guest_switches_its_machine_off_by_acpi(kernel: Path, tmp_path: Path) -> None:
    async with running(kernel, tmp_path) as scene:
        scene.typing.write(b"!")
        await until(lambda: "exited" in scene.machine.happened)


@plays
async def test_the_console_stays_connected_over_a_reset(kernel: Path, tmp_path: Path) -> None:
    async with running(kernel, tmp_path) as scene:
        for _ in range(3):
            assert await scene.echo(b"before") == b"before"
            scene.machine.happened.clear()
            scene.typing.write(b"?")
            await until(lambda: "wants reset" in scene.machine.happened)
            await scene.machine.guest.power_off()
            await scene.machine.guest.power_on(())
            assert await scene.shown(len(GREETING)) == GREETING
        assert await scene.echo(b"after") == b"after"


def test_a_terminal_is_the_guest_s_over_a_reset_until_ctrl_a_x_ends_the_vm(kernel: Path) -> None:
    user, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    command = (sys.executable, "-m", "dynmem", "vm", "--name", "one", "-m", "64M", "--kernel", kernel)
    vm = subprocess.Popen(
        (*command, "--serial", "stdio"),
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )

    def shown(expected: bytes) -> bytes:
        data = b""
        while len(data) < len(expected) and select.select([user], [], [], 60)[0]:
            data += os.read(user, len(expected) - len(data))
        return data

    try:
        for _ in range(2):
            assert shown(b"ready\r\n") == b"ready\r\n"
            os.write(user, b"\x03\x04echo?")
            assert shown(b"\x03\x04echo") == b"\x03\x04echo"
        assert shown(b"ready\r\n") == b"ready\r\n"
        os.write(user, b"\x01x")
        _, log = vm.communicate(timeout=60)
        assert vm.returncode == 0, log
        assert termios.tcgetattr(terminal) == before
    finally:
        vm.kill()
        vm.wait()
        os.close(user)
        os.close(terminal)
