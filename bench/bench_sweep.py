"""A sweep of 60 real QEMUs, beside a bare epoll loop that sends the same queries to the same monitors.

The loop parses nothing: it sends a query, waits for the line that answers it, and sends the next. So it is
what the monitors themselves take, and the least that anybody could add to it. What the manager adds is the
checking of each reply, the figures of each process from /proc, and the facts for a step.
"""

import asyncio
import json
import os
import select
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench import rig
from bench.figures import Figure
from dynmem.errors import DynmemError
from dynmem.manager.sweep.connection import VmConnection
from dynmem.manager.sweep.monitor import Monitor

VMS: Final = 60
ROUNDS: Final = 15
PATIENCE_S: Final = 5.0
#: What a hung VM may cost the others: a part of a period of a second.
SWEEP_PATIENCE_S: Final = 0.25
_QEMU: Final = (
    *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-S", "-m", "16"),
    *("-machine", "q35,memory-backend=ram0", "-accel", "tcg,tb-size=4"),
    *("-object", "memory-backend-memfd,id=ram0,size=16M,share=on"),
    *("-device", "virtio-balloon-pci,id=balloon0"),
)


def run() -> Iterator[Figure]:
    """Sweep them, in turns with the bare loop; then with one of them stopped; then watch an idle manager."""
    with rig.folder() as where, ExitStack() as stack:
        paths = [where / f"{number}.qmp" for number in range(VMS)]
        processes = [stack.enter_context(_qemu(path)) for path in paths]
        _until_all_listen(paths)
        ours, bare, sent = asyncio.run(_compare(paths))
        yield Figure(f"sweep of {VMS} QEMUs, own monitors, median", ours * 1e3, "ms")
        yield Figure(f"bare loop over the same {sent} queries", bare * 1e3, "ms")
        yield Figure("ratio", ours / bare, "x", at_most=1.3)
        os.kill(processes[0].pid, signal.SIGSTOP)
        hung = asyncio.run(_sweep_with_one_hung(paths))
        os.kill(processes[0].pid, signal.SIGCONT)
        yield Figure("sweep while one of them hangs, the first", hung[0] * 1e3, "ms", at_most=1e3)
        yield Figure("the sweeps after that, median", statistics.median(hung[1:]) * 1e3, "ms")
        vms = {path.stem: path for path in paths}
        with rig.manager(vms, 1 << 26, where) as (pid, _socket):
            time.sleep(3)
            begin, before = time.monotonic(), rig.cpu_seconds(pid)
            time.sleep(5)
            spent = (rig.cpu_seconds(pid) - before) / (time.monotonic() - begin) / VMS
        yield Figure("idle manager, per VM and second (period 1 s)", spent * 1e3, "ms", promised=1)


Queries = list[tuple[str, dict[str, object] | None]]


@contextmanager
def _qemu(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One QEMU without a guest, killed on the way out."""
    command = [*_QEMU, "-name", path.stem, "-qmp", f"unix:{path},server=on,wait=off"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _until_all_listen(paths: list[Path]) -> None:
    deadline = time.monotonic() + rig.WAIT_S
    for path in paths:
        while not path.exists():
            if time.monotonic() > deadline:
                raise DynmemError(f"no QEMU listens at {path}")
            time.sleep(0.05)


async def _compare(paths: list[Path]) -> tuple[float, float, int]:
    """Return the medians of both, in seconds, and how many queries the last sweep sent."""
    ours: list[float] = []
    bare: list[float] = []
    queries: dict[Path, Queries] = {}
    for _ in range(ROUNDS):
        connections = {path: VmConnection(path.stem, path, may_write=False, period_s=1.0) for path in paths}
        for _ in range(3):
            await _sweep(connections, PATIENCE_S)
        with _recorded(queries):
            ours.append(await _sweep(connections, PATIENCE_S))
        for each in connections.values():
            await each.close()
        bare.append(_ask_bare(queries))
    return statistics.median(ours), statistics.median(bare), sum(map(len, queries.values()))


async def _sweep(connections: dict[Path, VmConnection], patience_s: float) -> float:
    """Look at all VMs at once, as a sweep does; return how long it took."""
    begin = time.perf_counter()
    now_ns = time.monotonic_ns()
    vms = await asyncio.gather(*(each.observe(now_ns, patience_s) for each in connections.values()))
    spent = time.perf_counter() - begin
    if patience_s == PATIENCE_S and (silent := [vm.name for vm in vms if vm.actual_bytes is None]):
        raise DynmemError(f"these did not reply: {', '.join(silent)}")
    return spent


@contextmanager
def _recorded(queries: dict[Path, Queries]) -> Iterator[None]:
    """Record what is asked of each monitor."""
    queries.clear()
    ask = Monitor.query

    async def recording(self: Monitor, command: str, arguments: dict[str, object] | None = None) -> object:
        queries.setdefault(Path(self.client.path), []).append((command, arguments))
        return await ask(self, command, arguments)

    Monitor.query = recording  # type: ignore[method-assign]
    try:
        yield
    finally:
        Monitor.query = ask  # type: ignore[method-assign]


def _ask_bare(queries: dict[Path, Queries]) -> float:
    """Send the same with no more than sockets and epoll; return how long it took, connecting apart."""
    waiting: dict[int, tuple[socket.socket, Iterator[bytes]]] = {}
    with ExitStack() as stack, select.epoll() as poll:
        for path, asked in queries.items():
            monitor = stack.enter_context(socket.socket(socket.AF_UNIX))
            monitor.connect(str(path))
            _line(monitor)
            monitor.sendall(_encoded("qmp_capabilities", None))
            _line(monitor)
            waiting[monitor.fileno()] = monitor, iter([_encoded(*each) for each in asked])
            poll.register(monitor, select.EPOLLIN)
        begin = time.perf_counter()
        for monitor, lines in waiting.values():
            monitor.sendall(next(lines))
        left = len(waiting)
        while left:
            for descriptor, _ in poll.poll():
                monitor, lines = waiting[descriptor]
                _line(monitor)
                line = next(lines, None)
                if line is None:
                    left -= 1
                else:
                    monitor.sendall(line)
        return time.perf_counter() - begin


def _encoded(command: str, arguments: dict[str, object] | None) -> bytes:
    request: dict[str, object] = {"execute": command}
    return json.dumps(request if arguments is None else request | {"arguments": arguments}).encode()


def _line(monitor: socket.socket) -> None:
    while not monitor.recv(1 << 16).endswith(b"\n"):
        pass


async def _sweep_with_one_hung(paths: list[Path]) -> list[float]:
    """Return how long sweeps take while one VM does not reply."""
    connections = {path: VmConnection(path.stem, path, may_write=False, period_s=1.0) for path in paths}
    took = [await _sweep(connections, SWEEP_PATIENCE_S) for _ in range(5)]
    for each in connections.values():
        await each.close()
    return took
