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
    seen: dict[int, tuple[int, bool]] = {}  # by sweep: the VM's size, and whether a command was sent to it
    async with host.managing() as third:

        async def look() -> bool:
            status = await third.ask(command="status")
            vm = vm_of(status, name)
            if vm["actual_bytes"]:
                seen.setdefault(
                    status["manager"]["sweeps"], (vm["actual_bytes"], vm["last_change"] is not None)
                )
            return bool(seen)

        async def is_sent() -> bool:
            return await look() and any(sent for _, sent in seen.values())

        await until(look)
        await host.balloon(name, (await host.sizes())[name] + more * MIB)
        await until(is_sent)
    sweep = max(seen)
    for each, (size, sent) in sorted(seen.items()):
        figures.note(
            f"sweep {each}: size of {name}{', and the first command' if sent else ''}", in_bytes(size)
        )
    figures.at_least("sizes seen", len({size for size, _ in seen.values()}), 2, "it was changed meanwhile")
    last = [seen[each][0] if each in seen else 0 for each in (sweep - 1, sweep)]
    figures.equal("size in the last sweep", last[1], last[0], "in the one before: two equal sweeps", in_bytes)


def _commands(folder: Path) -> int:
    """Return how many commands the journal has."""
    journal = Journal(folder / "state")
    try:
        return len(journal.recent(10_000))
    finally:
        journal.close()
