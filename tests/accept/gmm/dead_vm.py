"""A VM that is killed, at any moment of a period: its pages come back, in the books and on the host."""

import asyncio
import contextlib
import time
from collections.abc import Set
from pathlib import Path
from typing import Final

from tests.accept.figures import Figures, in_bytes
from tests.accept.gmm.host import Host, Plan, Status, running, vm_of
from tests.rigs.managers import RunningManager
from tests.rigs.processes import is_there, memory_files
from tests.rigs.scenes import until

from dynmem.units import KIB, MIB

#: Each VM is killed at another moment of the period.
MOMENTS: Final = {"first": 0.0, "second": 0.4, "third": 0.8}


async def play(
    folder: Path, figures: Figures, *, moments: dict[str, float] = MOMENTS, period_s: float = 0.5
) -> None:
    """Play the scene."""
    plans = tuple(Plan(name, boot=128, minimum=32, holds=64) for name in moments)
    lives = Plan("lives", boot=128, minimum=32, holds=32)
    host = Host(folder, (*plans, lives), budget=128 * len(moments) + 256, period_s=period_s)
    async with running(host) as manager:
        status = await host.until_quiet(manager, 1)
        figures.note("books: all VMs", in_bytes(status["books"]["allocated_bytes"]))
        figures.note("host: shared memory, and available", _host())
        for name, moment in moments.items():
            status = await _kill(host, manager, name, moment, figures)
        figures.note("host: shared memory, and available", _host())
        left = status["books"]["allocated_bytes"]
        claim = vm_of(status, lives.name)["claim_bytes"]
        figures.equal("books at the end", left, claim, "the VM that lives", in_bytes)
        size = (await host.sizes())[lives.name]
        figures.equal("size of that VM, by its monitor", size, left, "the books", in_bytes)


async def _kill(host: Host, manager: RunningManager, name: str, moment: float, figures: Figures) -> Status:
    """Kill one VM at a moment, a part of the period; return the status when its books are closed."""
    vm, processes = host.vms[name], host.processes(name)
    files, resident = memory_files(vm.process.pid).keys(), host.resident(name)
    before = await host.status()
    claim = vm_of(before, name)["claim_bytes"]
    figures.note(f"{name}: books", in_bytes(claim))
    what = f"{name}: blocks of its memory files"
    figures.at_least(what, resident, host.held(name), "what its load holds, by its console", in_bytes)
    await manager.sweeps(1)
    await asyncio.sleep(moment * host.period_s)
    vm.kill()
    begun = time.monotonic()
    last = swept = (await manager.status()).manager.sweeps

    async def is_closed() -> bool:
        nonlocal last
        status = await manager.status()
        last = status.manager.sweeps if status.vm(name).there else last
        return not status.vm(name).there

    await until(is_closed)
    seconds = time.monotonic() - begun
    figures.note(f"{name}: killed {moment:g} of a period after a sweep; seconds", f"{seconds:.2f}")
    figures.at_most("  sweeps since then that still counted it", last - swept, 1, "the one under way")
    await until(lambda: not _holders(files) and not any(map(is_there, processes)))
    figures.note("  host: its memory files and processes are gone after", f"{time.monotonic() - begun:.2f} s")
    after = await host.status()
    books = before["books"]["allocated_bytes"] - after["books"]["allocated_bytes"]
    figures.equal("  books: all VMs have less by", books, claim, "its claim", in_bytes)
    free = after["measured_free"]["budget_term_bytes"] - before["measured_free"]["budget_term_bytes"]
    figures.equal("  books: there is more to grant by", free, claim, "its claim", in_bytes)
    del host.vms[name]
    return after


def _holders(inodes: Set[int]) -> set[int]:
    """Return the processes that have one of these memory files open or mapped."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            maps = (line.split(maxsplit=5) for line in (process / "maps").read_text().splitlines())
            mapped = {int(line[4]) for line in maps if len(line) > 5 and line[5].startswith("/memfd:")}
            if (mapped | memory_files(int(process.name)).keys()) & inodes:
                found.add(int(process.name))
    return found


def _host() -> str:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    shared, available = (int(lines[key].split()[0]) * KIB for key in ("Shmem", "MemAvailable"))
    return f"{shared // MIB} MiB, {available // MIB} MiB"
