"""A VM that is killed, at any moment of the manager's period: its pages come back, in the books and on the host."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Final

from tests.accept.gmm.figures import Figures, in_bytes
from tests.accept.gmm.host import Host, Plan, Status, running, until, vm_of
from tests.rigs.processes import is_there, memory_files

from dynmem.units import KIB, MIB

#: Each is killed at another moment of the period.
MOMENTS: Final = {"first": 0.0, "second": 0.4, "third": 0.8}
_LOOK_S: Final = 0.02


async def play(folder: Path, figures: Figures) -> None:
    """Play the scene."""
    plans = tuple(Plan(name, boot=128, minimum=32, holds=64) for name in MOMENTS)
    host = Host(folder, (*plans, Plan("stays", boot=128, minimum=32, holds=32)), budget=768)
    async with running(host) as manager:
        before = await host.until_quiet(manager, 2)
        figures.note("books: all VMs", in_bytes(before["books"]["allocated_bytes"]))
        figures.note("host: Shmem, and available", _host())
        for name, moment in MOMENTS.items():
            before = await _kill(host, name, moment, before, figures)
        figures.note("host: Shmem, and available", _host())
        left = before["books"]["allocated_bytes"]
        figures.equal(
            "books at the end", left, vm_of(before, "stays")["claim_bytes"], "the VM that lives", in_bytes
        )
        figures.equal(
            "size of the VM that lives, by its monitor",
            (await host.sizes())["stays"],
            left,
            "the books",
            in_bytes,
        )


async def _kill(host: Host, name: str, moment: float, before: Status, figures: Figures) -> Status:
    """Kill one VM in a moment of the period, given as a part of it; return the status when it is cleaned up."""
    vm, processes = host.vms[name], host.processes(name)
    files, resident = set(memory_files(vm.process.pid)), host.resident(name)
    claim = vm_of(before, name)["claim_bytes"]
    figures.note(f"{name}: books, and blocks of its memory files", f"{in_bytes(claim)}, {in_bytes(resident)}")
    figures.at_least(
        f"{name}: what its guest's load holds of these blocks",
        resident,
        host.held(name),
        "its console",
        in_bytes,
    )
    sweeps = before["manager"]["sweeps"]
    while (at := await host.status())["manager"]["sweeps"] == sweeps:
        await asyncio.sleep(_LOOK_S)
    await asyncio.sleep(moment * host.period_s)
    begun = time.monotonic()
    vm.kill()
    sweeps = (await host.status())["manager"]["sweeps"]
    while vm_of(at := await host.status(), name)["there"]:
        if time.monotonic() > begun + 60:
            break
        await asyncio.sleep(_LOOK_S)
    seconds = time.monotonic() - begun
    gone = await until(
        lambda: not any(map(is_there, processes)) and not _holders(files),
        lambda: f"{name}'s memory is still held",
    )
    figures.note(
        f"{name}: killed {moment:g} of a period after a sweep; seconds until the books say so",
        f"{seconds:.2f}",
    )
    figures.at_most(
        f"{name}: sweeps until then", at["manager"]["sweeps"] - sweeps, 2, "the one under way, and one"
    )
    books = at["books"]["allocated_bytes"]
    figures.equal(
        f"{name}: books, all VMs",
        books,
        before["books"]["allocated_bytes"] - claim,
        "before, less its claim",
        in_bytes,
    )
    free = at["measured_free"]["budget_term_bytes"] - before["measured_free"]["budget_term_bytes"]
    figures.equal(f"{name}: what can be granted rose by", free, claim, "its claim", in_bytes)
    figures.equal(
        f"{name}: its processes, and processes that hold its memory files",
        (sum(map(is_there, processes)), len(_holders(files))), (0, 0), f"{seconds + gone:.2f} s after the kill",
    )  # fmt: skip
    del host.vms[name]
    return at


def _holders(inodes: set[int]) -> set[int]:
    """Return the processes that have one of these memory files open or mapped."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            maps = (line.split(maxsplit=5) for line in (process / "maps").read_text().splitlines())
            mapped = {int(line[4]) for line in maps if len(line) > 5 and line[5].startswith("/memfd:")}
            if inodes & (mapped | set(memory_files(int(process.name)))):
                found.add(int(process.name))
    return found


def _host() -> str:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    shmem, available = (int(lines[key].split()[0]) * KIB for key in ("Shmem", "MemAvailable"))
    return f"{shmem // MIB} MiB, {available // MIB} MiB"
