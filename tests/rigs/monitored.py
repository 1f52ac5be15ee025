"""Virtual machines for the tests: a real QEMU without a guest, and a real socket server that misbehaves."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.rigs.scenes import PATIENCE_S
from tests.rigs.sockets import wait_for_greeting, wait_for_listener

from dynmem.manager.step.facts import VmFacts
from dynmem.manager.sweep.connection import VmConnection
from dynmem.manager.sweep.sweep import sweep

MEBIBYTE = 1 << 20
BALLOON = ("-device", "virtio-balloon-pci,id=balloon0")
MEMFD = ("-object", "memory-backend-memfd,id=ram,size=64M,share=on", "-machine", "memory-backend=ram")
# Of `dynmem vm`, which takes a target at any time, and of a QEMU.
OURS, QEMUS = "dynmem test", ""


@contextlib.contextmanager
def qemu(path: Path, *options: str, paused: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """A QEMU of 64 MiB with no guest in it, its monitor at `path`; killed at the end."""
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"]
    command += ["-machine", "q35", "-accel", "tcg,tb-size=32", "-m", "64", *(["-S"] if paused else [])]
    path.unlink(missing_ok=True)
    process = subprocess.Popen([*command, *options, "-qmp", f"unix:{path},server=on,wait=off"])
    try:
        wait_for_listener(path, process)
        wait_for_greeting(path)
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


class FakeVm:
    """A real QMP socket server in this process, for the faults that a real QEMU does not show on demand.

    `answers` maps a command to what it returns (an exception's text becomes an error); what was asked is kept
    in `asked`. `silent_on` names a command that is never answered, `held_on` one that is answered once `gate`
    is set.
    """

    def __init__(self, answers: dict[str, object] | None = None, *, package: str = OURS) -> None:
        version = {"qemu": {"major": 9, "minor": 0, "micro": 0}, "package": package}
        self._greeting = {"QMP": {"version": version, "capabilities": []}}
        self.answers: dict[str, object] = {
            "query-status": {"status": "running", "running": True},
            "query-balloon": {"actual": 64 * MEBIBYTE},
            "query-memory-size-summary": {"base-memory": 64 * MEBIBYTE},
            **(answers or {}),
        }
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.silent_on = self.held_on = ""
        self.gate = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self._send(writer, self._greeting)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                request = json.loads(line)
                name, arguments = request["execute"], request.get("arguments", {})
                if name == self.silent_on:
                    continue
                if name == self.held_on:
                    await self.gate.wait()
                if name != "qmp_capabilities":
                    self.asked.append((name, arguments))
                self._send(writer, self._answer(name, arguments) | {"id": request["id"]})

    def _answer(self, name: str, arguments: dict[str, object]) -> dict[str, object]:
        if name == "qmp_capabilities":
            return {"return": {}}
        key = name if name != "qom-get" else f"qom-get {arguments['property']}"
        answer = self.answers.get(key)
        if callable(answer):
            answer = answer(arguments)
        if answer is None:
            return {"error": {"class": "CommandNotFound", "desc": f"The command {name} has not been found"}}
        if isinstance(answer, Exception):
            return {"error": {"class": "GenericError", "desc": str(answer)}}
        return {"return": answer}

    def event(self, name: str, data: dict[str, object] | None = None, *, at_s: int = 1_700_000_000) -> None:
        """Send an event to everybody who is connected."""
        for writer in self.writers:
            stamp = {"seconds": at_s, "microseconds": 0}
            self._send(writer, {"event": name, "data": data or {}, "timestamp": stamp})

    @staticmethod
    def _send(writer: asyncio.StreamWriter, message: Mapping[str, object]) -> None:
        writer.write(json.dumps(message).encode() + b"\r\n")


DOORMAN = """
import socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen(int(sys.argv[3]))
socket.send_fds(socket.socket(fileno=int(sys.argv[2])), [b"listening"], [listening.fileno()])
sys.stdin.read()
"""


@contextlib.asynccontextmanager
async def listening(
    path: Path,
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object],
    *,
    one_at_a_time: bool = False,
    arguments: Sequence[str] = (),
) -> AsyncIterator[None]:
    """A unix socket server at `path` for as long as the block lasts.

    With `one_at_a_time` it does as QEMU does: who connects beside a client waits until that one has left.
    `arguments` stand on the command line of the process behind it, for whoever looks there.

    Whoever connects finds a small process of its own behind it (the one that listened, unix(7)): what the
    tests' own process holds of memory would otherwise count as the VM's.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        doorman = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", DOORMAN, str(path), str(theirs.fileno())),
            "1" if one_at_a_time else str(socket.SOMAXCONN),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
        )
        _, descriptors, _, _ = await asyncio.to_thread(socket.recv_fds, ours, 16, 1)
    listener = socket.socket(fileno=descriptors[0])
    listener.setblocking(False)
    writers: list[asyncio.StreamWriter] = []

    async def talk(connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        writers.append(writer)
        answer = serve(reader, writer)
        if asyncio.iscoroutine(answer):
            await answer
        if one_at_a_time:
            writer.close()

    async def accept() -> None:  # by hand: an asyncio server would listen again, and be the peer itself
        async with asyncio.TaskGroup() as talks:
            while True:
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                talking = talks.create_task(talk(connection))
                if one_at_a_time:
                    await talking

    accepting = asyncio.create_task(accept())
    try:
        yield
    finally:
        accepting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await accepting
        listener.close()
        for writer in writers:
            writer.transport.abort()
        doorman.kill()
        await doorman.wait()


@contextlib.asynccontextmanager
async def watched(
    vm: FakeVm, folder: Path, *, may_write: bool = False, may_ask: bool = False
) -> AsyncIterator[VmConnection]:
    """The manager's connection to a VM that this process plays."""
    async with listening(folder / "qmp", vm.serve):
        connection = VmConnection("web", folder / "qmp", may_write=may_write, may_ask=may_ask, period_s=0.1)
        try:
            yield connection
        finally:
            await connection.close()


async def look(
    connection: VmConnection, *, patience_s: float = PATIENCE_S, now_ns: int | None = None
) -> VmFacts:
    """One look, waiting long."""
    (facts,) = await sweep([connection], time.monotonic_ns() if now_ns is None else now_ns, patience_s)
    return facts


async def look_until(connection: VmConnection, wanted: Callable[[VmFacts], bool]) -> VmFacts:
    """Look again and again until the facts are as wanted, for as long as a busy machine may need."""
    deadline = time.monotonic() + PATIENCE_S
    while not wanted(facts := await look(connection, patience_s=0.5)):
        assert time.monotonic() < deadline, facts
        await asyncio.sleep(0.02)
    return facts


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process with SIGSTOP and wait until it has stopped."""
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with SIGKILL and wait until it has ended, without reaping it."""
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
