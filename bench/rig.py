"""What the benchmarks start: VMs with embedded guests, a manager over them; all of it gone afterwards."""

import asyncio
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from dynmem.errors import DynmemError, UnreachableError
from dynmem.manager.api import client
from dynmem.manager.step.view import StatusView, VmView
from dynmem.qmp.client import QmpClient
from dynmem.units import MIB

WAIT_S = 30.0


@contextmanager
def program(arguments: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``dynmem ARGUMENTS`` as a process, ended on the way out."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dynmem", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def folder() -> Iterator[Path]:
    """A private folder."""
    with tempfile.TemporaryDirectory(prefix="dynmem-bench-") as name:
        yield Path(name)


@contextmanager
def vm(name: str, memory_bytes: int, workload: str, where: Path) -> Iterator[tuple[int, Path]]:
    """A VM with an embedded guest that has reported its status: (process id, monitor)."""
    monitor = where / f"{name}.qmp"
    arguments = [
        "vm",
        f"--name={name}",
        f"--memory={memory_bytes // MIB}M",
        "--device=hv-balloon,id=hvb,status-report=on",
        f"--qmp=unix:{monitor},server=on,wait=off",
        f"--guest=embedded,workload={workload}",
        "--serial=none",
    ]
    with program(arguments, where / f"{name}.log") as process:
        asyncio.run(_until_it_reports(monitor, process))
        yield process.pid, monitor


async def _until_it_reports(monitor: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client = await QmpClient.connect(monitor)
        except DynmemError:
            await asyncio.sleep(0.05)
            continue
        try:
            await client.execute("query-hv-balloon-status-report")
        except DynmemError:
            await asyncio.sleep(0.05)
        else:
            return
        finally:
            await client.close()
    raise DynmemError(f"the VM at {monitor} did not report")


@contextmanager
def manager(vms: dict[str, Path], memory_bytes: int, where: Path) -> Iterator[tuple[int, Path]]:
    """A manager in observe mode over these VMs that has seen every one: (process id, socket)."""
    config, socket = where / "bench.toml", where / "api.sock"
    text = f'[host]\nbudget = {memory_bytes * (len(vms) + 1)}\nslush = "16MiB"\n'
    text += f'[manager]\nsocket = "{socket}"\nstate = "{where / "state"}"\n'
    for name, monitor in vms.items():
        text += f'[[vm]]\nname = "{name}"\nqmp = "{monitor}"\nminimum = "32MiB"\nmaximum = {memory_bytes}\n'
    config.write_text(text)
    with program(["run", "--config", str(config)], where / "manager.log") as process:
        deadline = time.monotonic() + WAIT_S
        while not (seen := _vms(socket)) or not all(vm.actual_bytes for vm in seen):
            if time.monotonic() > deadline or process.poll() is not None:
                raise DynmemError((where / "manager.log").read_text()[-400:])
            time.sleep(0.1)
        yield process.pid, socket


def _vms(socket: Path) -> tuple[VmView, ...]:
    try:
        return msgspec.convert(client.ask(socket, {"command": "status"}), StatusView).vms
    except UnreachableError:
        return ()


@contextmanager
def many_vms(count: int, memory_bytes: int, where: Path) -> Iterator[dict[str, Path]]:
    """Several idle VMs with embedded guests."""
    with ExitStack() as stack:
        monitors = {}
        for index in range(count):
            name = f"vm{index}"
            monitors[name] = stack.enter_context(vm(name, memory_bytes, "idle", where))[1]
        yield monitors


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Its child processes."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def own_bytes(pid: int) -> int:
    """Resident memory of a process without shared memory (guest RAM): its anonymous and file pages."""
    held = 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(("RssAnon:", "RssFile:")):
            held += int(line.split()[1]) << 10
    return held


@contextmanager
def guest_ram(pid: int, size: int) -> Iterator[mmap.mmap]:
    """The RAM of a VM, mapped here too: the file of that size among its descriptors."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if str(link.readlink()).startswith("/memfd:") and link.stat().st_size == size:
            with (
                link.open("rb") as file,
                mmap.mmap(file.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ) as ram,
            ):
                yield ram
            return
    raise DynmemError(f"process {pid} has no RAM file of {size} bytes")
