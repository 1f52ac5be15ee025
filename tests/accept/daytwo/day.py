"""Day two on a small host: everything is on while the script is played, and then only the history is left."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from tests.accept.daytwo import boards, live
from tests.accept.daytwo import pictures as shots
from tests.accept.daytwo.answers import Asked, answered
from tests.accept.daytwo.beside import Beside
from tests.accept.daytwo.host import Host, hosting
from tests.accept.daytwo.script import BOOT, BUDGET, MINIMUM, SLUSH, VMS
from tests.accept.figures import Figures, in_bytes
from tests.rigs import leftovers
from tests.rigs.managers import RunningManager, managing

from dynmem.units import MIB

#: Parts of the run at which the readers are looked at. From SHOWN on, while db is large, pictures wait for a
#: shortage: the others rise and fall meanwhile.
SCRAPED: Final = 0.16
TIMED: Final = 0.2
SHOWN: Final = 0.42
SHOWN_AT_LAST: Final = 0.5


async def play(folder: Path, figures: Figures, *, run_s: float, pictures: Path | None) -> None:
    """Play it."""
    leftovers.adopt_orphans()
    before = leftovers.children()
    state = folder / "state"
    async with hosting(folder, run_s) as host:
        async with _managed(folder, host) as manager:
            beside = Beside(folder, manager)
            shown = shots.Shots(folder / "shots", pictures)
            async with beside.run(state):
                await _run(host, manager, beside, shown, run_s, figures)
                await _look_at_prometheus(host, beside, shown, figures)
                await live.page_agrees(beside, host.diary, figures)
                live.manager_is_small(manager, figures)
                await live.textfile_is_whole(beside, host.diary, figures)
            live.top_agrees(beside, host.diary, figures)
            figures.equal("exit code of the manager", await manager.end(), 0, "it was asked to end")
        await host.end_all()
        figures.equal("processes that kernels of guests killed", host.kills, 0, "what is used always fitted")
        figures.equal("bytes that a guest found wrong", host.wrong_bytes, 0, "the consoles")
    files = sorted(path.name for path in state.iterdir())
    figures.note("files that the manager leaves", ", ".join(files))
    figures.note("  of them the history", in_bytes((state / "history.sqlite").stat().st_size))
    asked = Asked(state, host.diary)
    await answered(asked, host.diary, figures)
    live.followed_all(beside, await asked.all_events(), figures)
    figures.equal("processes that are left", leftovers.left_processes(before), [], "all have ended")
    figures.equal("sockets that are left", leftovers.socket_files(folder), set(), "all are removed")


@contextlib.asynccontextmanager
async def _managed(folder: Path, host: Host) -> AsyncIterator[RunningManager]:
    """Run a manager for these VMs, with metrics; all VMs can be changed when the block begins."""
    text = f"""
        [host]
        budget = "{BUDGET // MIB}MiB"
        slush = "{SLUSH // MIB}MiB"
        [manager]
        mode = "enforce"
        socket = "{folder}/run/api.sock"
        state = "{folder}/state"
        metrics = "127.0.0.1:0"
    """
    for name in VMS:
        text += f"""
        [[vm]]
        name = "{name}"
        qmp = "{host.monitor(name)}"
        minimum = "{MINIMUM // MIB}MiB"
        maximum = "{BOOT // MIB}MiB"
        """
    config = folder / "hosts.toml"
    config.write_text(text)
    async with managing(config) as manager:
        await manager.until(lambda status: all(status.vm(name).standing == "movable" for name in VMS))
        await manager.until(
            lambda status: sum(status.vm(name).actual_bytes or 0 for name in VMS) <= BUDGET - SLUSH
        )
        yield manager


async def _run(
    host: Host, manager: RunningManager, beside: Beside, shown: shots.Shots, run_s: float, figures: Figures
) -> None:
    """Play the script, and look at what the readers have meanwhile."""
    playing = asyncio.create_task(host.play(run_s))
    try:
        await _reach(playing, host, SCRAPED * run_s)
        await live.scraped_by_many(beside, figures)
        await _reach(playing, host, TIMED * run_s)
        await live.status_is_quick(manager, figures)
        await _reach(playing, host, SHOWN * run_s)
        latest_s = host.diary.began_s + SHOWN_AT_LAST * run_s
        while time.time() < latest_s:
            if (await manager.status()).shortage_bytes:
                break
            await asyncio.sleep(0.5)
        await shown.top(manager.socket, figures)
        await shown.page(beside.web, host.diary.began_s, figures)
        await playing
    finally:
        playing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await playing


async def _reach(playing: "asyncio.Task[None]", host: Host, seconds: float) -> None:
    """Wait until the script has been played for so long."""
    await asyncio.sleep(0)  # it begins
    await asyncio.wait({playing}, timeout=max(0.0, host.diary.began_s + seconds - time.time()))
    if playing.done():
        await playing  # it says why it has ended so soon


async def _look_at_prometheus(host: Host, beside: Beside, shown: shots.Shots, figures: Figures) -> None:
    if not beside.prometheus:
        figures.note("Prometheus is not there: scripts/setup-prometheus fetches it", "-")
        return
    await asyncio.to_thread(boards.hold_prometheus, beside.prometheus, host.diary, figures)
    panels = await asyncio.to_thread(boards.evaluated, beside.prometheus, host.diary)
    boards.hold_panels(panels, figures)
    await shown.dashboards(panels, figures)
