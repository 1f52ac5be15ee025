"""Playing scenes to a real QEMU 10 and to our own VM, each in a process of its own, and what they answer."""

import asyncio
import contextlib
import json
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, cast

from tests.qmp.memory_conversations import FOLDER, FromBase, Scene, Step
from tests.rigs.sockets import wait_for_listener
from tests.rigs.vms import Vm

from dynmem.lab.qemu10 import Qemu10

QEMU_BASE: Final = 4 << 30  # where each has its device memory, beside so little memory at boot
OUR_BASE: Final = 32 << 30
_BASE_SPAN: Final = 64 << 30
_ADDRESS: Final = re.compile(r"(?<=\[)0x[0-9a-f]+")  # in error texts: [address:size]
_HOTPLUG_PORT: Final = 0xA00  # of ACPI memory hotplug: select a slot; with bit 3 of +0x14 the guest ejects it
ENDED: Final = "the monitor's program ended"
_TIMEOUT_S: Final = 100

Eject = Callable[[int], None]
Player = Callable[[Scene, Path], AbstractAsyncContextManager["Monitor"]]


class Monitor:
    """A connection to a monitor; `eject` does what a guest without an operating system does not."""

    def __init__(self, folder: Path, base: int, eject: Eject | None = None) -> None:
        self.folder = folder  # where its sockets and files are
        self.base = base  # where its device memory begins
        self.eject = eject
        self.greeting: Any = None
        self._events: list[dict[str, Any]] = []

    async def connect(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        """Wait until `process` listens at `path`, connect, and negotiate."""
        await asyncio.to_thread(wait_for_listener, path, process, self.folder / "log")
        self._reader, self._writer = await asyncio.open_unix_connection(path, limit=1 << 20)
        self.greeting = await self._line()
        await self.ask("qmp_capabilities")

    async def ask(self, execute: str, arguments: dict[str, object] | None = None) -> dict[str, Any]:
        """The answer; events that come before it are kept."""
        command = {"execute": execute} | ({} if arguments is None else {"arguments": arguments})
        self._writer.write(json.dumps(command).encode() + b"\n")
        while "event" in (line := await self._line()):
            self._events.append(line)
        return line

    async def events(self, wanted: tuple[str, ...]) -> list[dict[str, Any]]:
        """Every event until now, and on until the `wanted` are there."""
        while missing := [name for name in wanted if name not in {event["event"] for event in self._events}]:
            line = await self._line()
            assert "event" in line, f"{line} before {missing}"
            self._events.append(line)
        found, self._events = self._events, []
        return found

    async def _line(self) -> dict[str, Any]:
        line = await asyncio.wait_for(self._reader.readline(), _TIMEOUT_S)
        if not line:
            raise ConnectionResetError
        return cast("dict[str, Any]", json.loads(line))

    def close(self) -> None:
        if self.greeting is not None:
            self._writer.close()


def start_ours(scene: Scene, folder: Path) -> Vm:
    """Our VM with an embedded guest that does nothing of itself."""
    options = [f"--machine={scene.machine}"] if scene.machine else []
    options += [f"--object={text}" for text in scene.objects]
    options += [f"--device={text}" for text in scene.devices]
    return Vm(
        folder,
        memory=scene.memory,
        device="hv-balloon,id=b" if scene.balloon else None,
        guest="embedded,workload=idle",
        options=tuple(options),
    )


@contextlib.asynccontextmanager
async def our_monitor(scene: Scene, folder: Path) -> AsyncIterator[Monitor]:
    """The monitor of our VM."""
    vm = start_ours(scene, folder)
    monitor = Monitor(folder, OUR_BASE)
    try:
        await monitor.connect(vm.qmp, vm.process)
        yield monitor
    finally:
        vm.kill()
        monitor.close()


def qemu_monitor(qemu: Qemu10) -> Player:
    """The monitor of such a QEMU."""

    @contextlib.asynccontextmanager
    async def play(scene: Scene, folder: Path) -> AsyncIterator[Monitor]:
        process = start_qemu(qemu, scene, folder)
        monitor = Monitor(folder, QEMU_BASE, lambda slot: _eject(folder / "ports", slot))
        try:
            await monitor.connect(folder / "qmp", process)
            yield monitor
        finally:
            process.kill()
            process.wait()
            monitor.close()

    return play


def start_qemu(qemu: Qemu10, scene: Scene, folder: Path) -> subprocess.Popen[bytes]:
    """QEMU with a processor in software that is never started: not even firmware does anything."""
    machine = ",".join(["pc,accel=tcg", *([scene.machine] if scene.machine else [])])
    command = ["prlimit", "--core=0", *qemu.command(), "-name", "one", "-machine", machine]
    command += ["-m", scene.memory]
    command += [word for text in scene.objects for word in ("-object", text)]
    command += [word for text in scene.devices for word in ("-device", text)]
    command += ["-device", "virtio-balloon-pci,id=b"] if scene.balloon else []
    command += ["-S", "-nodefaults", "-display", "none", "-qmp", f"unix:{folder}/qmp,server=on,wait=off"]
    command += ["-qtest", f"unix:{folder}/ports,server=on,wait=off", "-qtest-log", "/dev/null"]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stderr=log)


def last_words(process: subprocess.Popen[bytes], log: Path) -> str:
    """Why a program refused to start: the end of its log, without the option named and advice in brackets."""
    try:
        assert process.wait(_TIMEOUT_S) != 0
    finally:
        process.kill()
    line = re.sub(r" \([^()]*\)$", "", log.read_text().splitlines()[-1])
    return line.rpartition(": ")[2]


def _eject(ports: Path, slot: int) -> None:
    """Do what an operating system does when a DIMM is to go and nothing of it is in use."""
    with socket.socket(socket.AF_UNIX) as test:
        test.settimeout(_TIMEOUT_S)
        test.connect(str(ports))
        for command in (f"outl {_HOTPLUG_PORT:#x} {slot:#x}\n", f"outb {_HOTPLUG_PORT + 0x14:#x} 0x8\n"):
            test.sendall(command.encode())
            assert test.recv(64) == b"OK\n"


async def played(scene: Scene, player: Player, folder: Path) -> dict[str, object]:
    """Every step's answer and events, without what differs from run to run."""
    found: dict[str, object] = {}
    async with player(scene, folder) as monitor:
        if not scene.runs and monitor.eject is None:  # QEMU has not been started
            await monitor.ask("stop")
            await monitor.events(("STOP",))
        for step in scene.steps:
            name = _unused(step.text, found)
            try:
                found[name] = _plain(await _answer(monitor, step), monitor, step)
            except ConnectionResetError:
                found[name] = ENDED
                return found
        await asyncio.sleep(0.1)
        await monitor.ask("query-name")
        found["afterwards"] = _plain(await monitor.events(()), monitor)
    return found


def _unused(text: str, found: dict[str, object]) -> str:
    repeated = sum(1 for name in found if re.sub(r" \(\d+\)$", "", name) == text)
    return text if repeated == 0 else f"{text} ({repeated + 1})"


async def _answer(monitor: Monitor, step: Step) -> dict[str, Any]:
    sent = None if step.arguments is None else {k: _sent(v, monitor) for k, v in step.arguments.items()}
    answer = await monitor.ask(step.execute, sent)
    if step.slot is not None and monitor.eject is not None and "return" in answer:
        await asyncio.to_thread(monitor.eject, step.slot)
    events = await monitor.events(step.events if "return" in answer else ())
    return answer | ({"events": events} if events else {})


def _sent(value: object, monitor: Monitor) -> object:
    if isinstance(value, FromBase):
        return monitor.base + value.offset
    return value.replace(FOLDER, str(monitor.folder)) if isinstance(value, str) else value


def _plain(value: object, monitor: Monitor, step: Step | None = None) -> object:
    """`value` with addresses told from the base, without times, and what has no order sorted."""

    def address(number: int) -> str | int:
        offset = number - monitor.base
        return f"base+{offset:#x}" if 0 <= offset < _BASE_SPAN else number

    def text(match: re.Match[str]) -> str:
        number = address(int(match[0], 16))
        return match[0] if isinstance(number, int) else number

    def plain(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            return {name: plain(inner, name) for name, inner in value.items() if name != "timestamp"}
        if isinstance(value, list):
            return sorted((plain(inner) for inner in value), key=_order)
        if isinstance(value, str):
            return _ADDRESS.sub(text, value.replace(str(monitor.folder), FOLDER))
        return address(value) if key in ("addr", "memaddr") and type(value) is int else value

    if step is not None and (step.arguments or {}).get("property") == "addr":
        value = {
            ("addr" if name == "return" else name): inner
            for name, inner in cast("dict[str, Any]", value).items()
        }
        found = cast("dict[str, object]", plain(value))
        return {("return" if name == "addr" else name): inner for name, inner in found.items()}
    return plain(value)


def _order(value: object) -> str:
    """Lists of objects and properties come in the order of a hash table; devices come by their addresses."""
    if not isinstance(value, dict):
        return ""
    return str(value.get("name", value.get("id", "")))
