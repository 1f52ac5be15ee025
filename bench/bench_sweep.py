"""A sweep of 60 real QEMUs, beside a bare epoll loop that sends the same queries to the same QEMUs.

The loop parses nothing: it sends a query, waits for the line that answers it, and sends the next. So it is
what the monitors themselves take, and the least that anybody could add to it. What the manager adds is the
checking of each reply, the figures of each process from /proc, and the facts for a step.

Nearly all that either takes is QEMU's own processor time: it reads its monitors a byte at a time (3.6 us a
byte of a command, QEMU 7.2). On a busy machine the times depend on whose turn it is: then the processor times
say more, which are compared as well.

Of monitors that are the manager's own, both sides keep their connections. Of borrowed ones both connect,
negotiate, ask and leave.
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
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from bench import rig
from bench.figures import Figure
from dynmem.errors import DynmemError
from dynmem.manager.sweep.borrowed import VISIT_EVERY_S, Borrowed, Visits
from dynmem.manager.sweep.connection import VmConnection
from dynmem.manager.sweep.measuring import Measuring
from dynmem.manager.sweep.monitor import Monitor
from dynmem.manager.sweep.sweep import sweep

VMS: Final = 60
# Sweeps that find the devices, and those that count.
WARM: Final = 3
ROUNDS: Final = 21
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
        _until_all_listen([*paths, *map(_bare, paths)])
        for is_borrowed, kind in ((False, "own"), (True, "borrowed")):
            pids = [each.pid for each in processes]
            ours, bare, sent = asyncio.run(_compare(paths, pids, is_borrowed=is_borrowed))
            yield Figure(f"sweep of {VMS} QEMUs, {kind} monitors, median", ours.took_s * 1e3, "ms")
            yield Figure(f"bare loop over the same {sent} queries", bare.took_s * 1e3, "ms")
            yield Figure(f"ratio, {kind} monitors", ours.took_s / bare.took_s, "x", at_most=1.3)
            for side, cost in (("sweep", ours), ("bare loop", bare)):
                yield Figure(f"  processor time of the {side}, per VM", cost.own_s / VMS * 1e6, "us")
                yield Figure("    and of its QEMU", cost.qemu_s / VMS * 1e6, "us")
            ratio = (ours.own_s + ours.qemu_s) / (bare.own_s + bare.qemu_s)
            yield Figure("  ratio of processor time, with that of the QEMUs", ratio, "x", at_most=1.3)
        hung = asyncio.run(_sweep_with_one_hung(paths, processes[0].pid))
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


class _Cost(NamedTuple):
    """What a sweep took: time, and processor time of this process and of all QEMUs. Seconds."""

    took_s: float
    own_s: float
    qemu_s: float


def _cost_now(pids: Iterable[int]) -> _Cost:
    """Return the clocks that a cost is the difference of, those of this process last."""
    qemu_ns = 0
    for pid in pids:
        for each in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(OSError):  # a thread that has ended
                qemu_ns += int(each.read_text().split()[0])
    return _Cost(time.perf_counter(), time.process_time(), qemu_ns / 1e9)


def _cost_since(before: _Cost, pids: Iterable[int]) -> _Cost:
    took_s, own_s = time.perf_counter() - before.took_s, time.process_time() - before.own_s
    return _Cost(took_s, own_s, _cost_now(pids).qemu_s - before.qemu_s)


def _medians(costs: list[_Cost]) -> _Cost:
    return _Cost(*(statistics.median(each) for each in zip(*costs, strict=True)))


@contextmanager
def _qemu(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One QEMU without a guest, with a monitor for each side, killed on the way out."""
    command = [*_QEMU, "-name", path.stem]
    for each in (path, _bare(path)):
        command += ["-qmp", f"unix:{each},server=on,wait=off"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _bare(path: Path) -> Path:
    """Return the monitor of the same QEMU that the bare loop talks to."""
    return path.with_suffix(".bare")


def _until_all_listen(paths: list[Path]) -> None:
    deadline = time.monotonic() + rig.WAIT_S
    for path in paths:
        while not path.exists():
            if time.monotonic() > deadline:
                raise DynmemError(f"no QEMU listens at {path}")
            time.sleep(0.05)


def _connections(paths: list[Path], *, is_borrowed: bool = False) -> list[VmConnection]:
    """Return connections as one manager makes them."""
    visits, measuring = Visits(), Measuring()
    return [
        VmConnection(
            path.stem,
            path,
            may_write=False,
            period_s=1.0,
            measuring=measuring,
            access=Borrowed(path, visits) if is_borrowed else None,
        )
        for path in paths
    ]


async def _compare(paths: list[Path], pids: list[int], *, is_borrowed: bool) -> tuple[_Cost, _Cost, int]:
    """Return the medians of both, and how many queries a sweep sent."""
    ours: list[_Cost] = []
    bare: list[_Cost] = []
    sent: list[int] = []
    queries: dict[Path, Queries] = {}
    connections = _connections(paths, is_borrowed=is_borrowed)
    loop = _BareLoop(paths, stays=not is_borrowed)
    for number in range(WARM + ROUNDS):
        if is_borrowed:
            await asyncio.sleep(VISIT_EVERY_S)
        before = _cost_now(pids)
        with _recorded(queries):
            await _sweep(connections, may_raise=number >= WARM)
        if number < WARM:
            continue
        ours.append(_cost_since(before, pids))
        before = _cost_now(pids)
        loop.ask(queries)
        bare.append(_cost_since(before, pids))
        sent.append(sum(map(len, queries.values())))
    loop.close()
    for each in connections:
        await each.close()
    return _medians(ours), _medians(bare), round(statistics.median(sent))


async def _sweep(
    connections: list[VmConnection], patience_s: float = PATIENCE_S, *, may_raise: bool = False
) -> float:
    """Look at all VMs at once, as a manager does; return how long it took."""
    begin = time.perf_counter()
    vms = await sweep(connections, time.monotonic_ns(), patience_s)
    spent = time.perf_counter() - begin
    if may_raise and (silent := [vm.name for vm in vms if vm.actual_bytes is None]):
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


class _BareLoop:
    """Asks monitors with no more than sockets and epoll; it *stays* connected, or leaves after each time."""

    def __init__(self, paths: list[Path], *, stays: bool) -> None:
        self._stays = stays
        self._kept = {path: self._connected(path) for path in paths if stays}
        for monitor in self._kept.values():
            _line(monitor)
            monitor.sendall(_encoded("qmp_capabilities", None))
            _line(monitor)

    def close(self) -> None:
        for each in self._kept.values():
            each.close()

    def ask(self, queries: dict[Path, Queries]) -> None:
        """Send queries to all monitors at once, to each one after the other."""
        waiting: dict[int, tuple[socket.socket, Iterator[bytes]]] = {}
        with select.epoll() as poll:
            for path, asked in queries.items():
                lines = iter([_encoded(*each) for each in asked])
                if self._stays:
                    monitor = self._kept[path]
                    monitor.sendall(next(lines))
                else:
                    monitor = self._connected(path)
                    lines = iter([_encoded("qmp_capabilities", None), *lines])
                waiting[monitor.fileno()] = monitor, lines
                poll.register(monitor, select.EPOLLIN)
            left = len(waiting)
            while left:
                for descriptor, _ in poll.poll():
                    monitor, lines = waiting[descriptor]
                    _line(monitor)
                    line = next(lines, None)
                    if line is not None:
                        monitor.sendall(line)
                        continue
                    left -= 1
                    if not self._stays:
                        monitor.close()

    @staticmethod
    def _connected(path: Path) -> socket.socket:
        monitor = socket.socket(socket.AF_UNIX)
        monitor.connect(str(_bare(path)))
        return monitor


def _encoded(command: str, arguments: dict[str, object] | None) -> bytes:
    request: dict[str, object] = {"execute": command}
    return json.dumps(request if arguments is None else request | {"arguments": arguments}).encode()


def _line(monitor: socket.socket) -> None:
    while not monitor.recv(1 << 16).endswith(b"\n"):
        pass


async def _sweep_with_one_hung(paths: list[Path], process: int) -> list[float]:
    """Return how long sweeps take while one VM, which has replied before, does not reply."""
    connections = _connections(paths)
    for _ in range(WARM):
        await _sweep(connections)
    os.kill(process, signal.SIGSTOP)
    took = [await _sweep(connections, SWEEP_PATIENCE_S) for _ in range(5)]
    os.kill(process, signal.SIGCONT)
    for each in connections:
        await each.close()
    return took
