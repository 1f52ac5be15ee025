"""A manager that is killed: the next one has the same books, and looks twice before it changes anything."""

import asyncio
import signal
from pathlib import Path
from typing import Any, Final

from tests.accept.gmm.figures import Figures, in_bytes
from tests.accept.gmm.host import Host, NotAcceptedError, Plan, Status, books, last_changes, running, vm_of
from tests.rigs.managers import RunningManager, cli

from dynmem.manager.journal.journal import Journal
from dynmem.manager.step.safeguards import EQUAL_SWEEPS

PLANS: Final = (
    Plan("web", boot=128, minimum=32, priority="high", holds=48),
    Plan("db", boot=128, minimum=32, holds=32),
    Plan("test", boot=128, minimum=32, priority="low", holds=16),
)
ROOM: Final = 32  # MiB that are reserved meanwhile
_LOOK_S: Final = 0.03


async def play(folder: Path, figures: Figures) -> None:
    """Play the scene."""
    host = Host(folder, PLANS, budget=320)
    async with running(host) as first:
        await host.until_quiet(first, 2)
        code, _, error = await cli(
            "reserve", f"{ROOM}MiB", "--name", "later", "--hold", "10min", "--socket", host.socket
        )
        figures.equal("room is reserved: exit code", code, 0, error.strip() or "there is room")
        before = await host.until_quiet(first)
        figures.at_least(
            "what balloons hold", before["books"]["ballooned_bytes"], 1, "the books are not trivial", in_bytes
        )
        rows = _rows(folder)
        await first.end(signal.SIGKILL)
        async with host.managing() as second:
            await _same_books(host, second, before, figures)
            figures.equal("commands in the journal since", _rows(folder) - rows, 0, "equal books need none")
            await second.end(signal.SIGKILL)
        await _looks_first(host, before, figures)


async def _same_books(host: Host, manager: RunningManager, before: Status, figures: Figures) -> None:
    """Hold every figure of the books to be what it was before the manager was killed."""
    after = await host.until_quiet(manager)
    was, now = books(before), books(after)
    figures.note(
        "manager killed (SIGKILL); process before, and after",
        f"{before['manager']['pid']}, {after['manager']['pid']}",
    )
    for name in sorted(was.keys() | now.keys()):
        figures.equal(name, now.get(name), was.get(name), "before")
    sizes = await host.sizes()
    claims = sum(vm_of(after, name)["claim_bytes"] for name in sizes)
    figures.equal(
        "sizes of all VMs, by their monitors", sum(sizes.values()), claims, "their claims", in_bytes
    )


async def _looks_first(host: Host, before: Status, figures: Figures) -> None:
    """Give the next manager something to do at once, and hold it to look first."""
    host.order("db", PLANS[1].holds + 40)
    while host.held("db") < vm_of(before, "db")["claim_bytes"] // 2:
        await asyncio.sleep(_LOOK_S)
    sizes = await host.sizes()
    async with host.managing() as third:
        seen: dict[int, tuple[bool, Any]] = {}
        deadline = asyncio.get_running_loop().time() + 60
        while not any(sent for sent, _ in seen.values()):
            if asyncio.get_running_loop().time() > deadline:
                raise NotAcceptedError(f"the next manager has nothing to do: {await host.status()}")
            status = await third.ask(command="status")
            actual = {
                vm["name"]: vm["actual_bytes"] for vm in status["vms"] if vm["actual_bytes"] is not None
            }
            seen.setdefault(status["manager"]["sweeps"], (any(last_changes(status)), actual))
            await asyncio.sleep(_LOOK_S)
        quiet = sorted(sweep for sweep, (sent, actual) in seen.items() if sweep and not sent)
        figures.note("a guest wants more while no manager is there; then sweeps without a command", quiet)
        figures.at_least(
            "the sweep after which the first command is sent", max(seen), EQUAL_SWEEPS, "two equal sweeps"
        )
        for sweep in quiet:
            if seen[sweep][1]:
                figures.equal(
                    f"sizes seen by sweep {sweep}",
                    sum(seen[sweep][1].values()),
                    sum(sizes.values()),
                    "the monitors",
                    in_bytes,
                )


def _rows(folder: Path) -> int:
    """Return the commands in the journal."""
    journal = Journal(folder / "state")
    try:
        return len(journal.recent(10_000))
    finally:
        journal.close()
