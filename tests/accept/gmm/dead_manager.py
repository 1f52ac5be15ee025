"""A manager that is killed: the next one has the same books, and looks twice before it changes anything."""

import signal
from pathlib import Path
from typing import Any, Final

from tests.accept.gmm.figures import Figures, in_bytes
from tests.accept.gmm.host import Host, Plan, Status, books, last_changes, running, vm_of
from tests.rigs.managers import RunningManager, cli
from tests.rigs.scenes import until

from dynmem.manager.journal.journal import Journal
from dynmem.manager.step.safeguards import EQUAL_SWEEPS

PLANS: Final = (
    Plan("web", boot=128, minimum=32, priority="high", holds=48),
    Plan("db", boot=128, minimum=32, holds=32),
    Plan("test", boot=128, minimum=32, priority="low", holds=16),
)
QUIET_S: Final = 3.0
ROOM: Final = 32  # MiB that are reserved meanwhile
GROWS: Final = ("db", 72)  # a guest, and the MiB that it holds when the last manager starts
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
    """Give the next manager something to do at once, and hold it to look first."""
    name, mib = GROWS
    host.order(name, mib)
    await host.until_loads_are({name: mib})
    sizes = await host.sizes()
    seen: dict[int, tuple[bool, int]] = {}  # by sweep: whether a command was sent, and what all VMs had
    async with host.managing() as third:

        async def is_sent() -> Any:
            status = await third.ask(command="status")
            if actual := [vm["actual_bytes"] for vm in status["vms"] if vm["actual_bytes"]]:
                seen.setdefault(status["manager"]["sweeps"], (any(last_changes(status)), sum(actual)))
            return any(sent for sent, _ in seen.values())

        await until(is_sent)
    quiet = {sweep: total for sweep, (sent, total) in seen.items() if not sent}
    figures.note(f"{name} wants more meanwhile; sweeps seen without a command", list(quiet))
    figures.at_least("sweeps until the first command", max(seen), EQUAL_SWEEPS, "equal ones")
    for sweep, total in quiet.items():
        figures.equal(f"sizes in sweep {sweep}", total, sum(sizes.values()), "the monitors", in_bytes)


def _commands(folder: Path) -> int:
    """Return how many commands the journal has."""
    journal = Journal(folder / "state")
    try:
        return len(journal.recent(10_000))
    finally:
        journal.close()
