"""A manager that is killed: the next one has the same books, and looks twice before it changes anything."""

import signal
from pathlib import Path
from typing import Final

from tests.accept.figures import Figures, in_bytes
from tests.accept.gmm.host import Host, Plan, Status, books, running, vm_of
from tests.rigs.managers import RunningManager, cli
from tests.rigs.scenes import until

from dynmem.manager.journal.journal import Journal
from dynmem.units import MIB

PLANS: Final = (
    Plan("web", boot=128, minimum=32, priority="high", holds=48),
    Plan("db", boot=128, minimum=32, holds=32),
    Plan("test", boot=128, minimum=32, priority="low", holds=16),
)
QUIET_S: Final = 3.0
ROOM: Final = 32  # MiB that are reserved meanwhile
MOVED: Final = ("test", 12)  # a VM, and the MiB that somebody else gives it
#: What happened in the life of one manager, and not what there is: the next one begins at 0.
HISTORY: Final = ("freed_chunks", "given_bytes")


async def play(folder: Path, figures: Figures) -> None:
    """Play the scene."""
    host = Host(folder, PLANS, budget=320)
    async with running(host) as first:
        await host.until_quiet(first, 1)
        command = ("reserve", f"{ROOM}MiB", "--name", "later", "--hold", "10min", "--socket", host.socket)
        code, _, error = await cli(*command)
        figures.equal("room is reserved: exit code", code, 0, error.strip() or "there is room")
        before = await host.until_quiet(first, QUIET_S)
        filled = before["books"]["ballooned_bytes"]
        figures.at_least("what balloons hold", filled, 1, "the books are not trivial", in_bytes)
        commands = _commands(folder)
        await first.end(signal.SIGKILL)
        async with host.managing() as second:
            await _hold_books(host, second, before, figures)
            figures.equal("commands that were sent since", _commands(folder) - commands, 0, "the journal")
            await second.end(signal.SIGKILL)
        await _hold_looks(host, figures)


async def _hold_books(host: Host, manager: RunningManager, before: Status, figures: Figures) -> None:
    """Hold every figure of the books to be what it was before the manager was killed."""
    after = await host.until_quiet(manager, QUIET_S)
    pids = (before["manager"]["pid"], after["manager"]["pid"])
    figures.note("manager killed (SIGKILL); the process before, and now", "{}, {}".format(*pids))
    was, now = books(before), books(after)
    for name in sorted(was.keys() | now.keys()):
        if name.endswith(HISTORY):
            figures.note(f"{name}, since each one's start", f"{was[name]}, {now[name]}")
        else:
            figures.equal(name, now.get(name), was.get(name), "before")
    sizes = await host.sizes()
    claims = sum(vm_of(after, name)["claim_bytes"] for name in sizes)
    figures.equal("sizes of all VMs, by their monitors", sum(sizes.values()), claims, "the claims", in_bytes)


async def _hold_looks(host: Host, figures: Figures) -> None:
    """Change the size of a VM after the next manager's first sweep, and hold it to see that twice."""
    name, more = MOVED
    seen: dict[int, int] = {}  # the VM's size, by when the sweep began that found it
    sent: list[int] = []  # when the sweep began by which a command was sent to it first
    async with host.managing() as third:

        async def look() -> bool:
            status = await third.ask(command="status")
            vm = vm_of(status, name)
            if vm["actual_bytes"]:
                seen.setdefault(status["swept_ns"], vm["actual_bytes"])
            if vm["last_change"] is not None:
                sent.append(vm["last_change"]["at_ns"])
            return bool(seen)

        async def is_sent() -> bool:
            return await look() and bool(sent)

        await until(look)
        await host.balloon(name, (await host.sizes())[name] + more * MIB)
        await until(is_sent)
    by = min(sent)
    looks = [size for swept_ns, size in sorted(seen.items()) if swept_ns <= by]
    for number, size in enumerate(looks, 1):
        figures.note(f"sweep {number}: size of {name}", in_bytes(size))
    figures.at_least("sizes seen until then", len(set(looks)), 2, "it was changed meanwhile")
    figures.equal("size in the last of them", looks[-1], looks[-2], "in the one before", in_bytes)


def _commands(folder: Path) -> int:
    """Return how many commands the journal has."""
    journal = Journal(folder / "state")
    try:
        return len(journal.recent(10_000))
    finally:
        journal.close()
