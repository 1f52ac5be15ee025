"""One day on a host that runs VMs already: look, watch, decide, act, leave.

    scan      who is there and what each could give; nothing is changed
    observe   the manager plans, and changes nothing but how often guests are asked, by leave
    report    what that time has shown: what was needed, and how many more VMs would fit
    scan      again: now the guests have said what they use
    enforce   memory goes from an idle guest to a needy one, within a second
    release   everybody has everything back, and the manager is gone

A VM that ends, one that hangs and one without a driver are there all the time.
"""

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any, Final

from tests.accept.figures import Figures, in_bytes
from tests.accept.hosts.neighbours import BOOT, LIGHT, LOOK_S, NEED, ONCE, Neighbours, neighbours
from tests.rigs.managers import RunningManager, cli, managing

from dynmem.units import MIB

SCAN_S: Final = 5.0
WATCH_S: Final = 12.0
#: So much has to be on its way within a second, or nobody is served by it.
MOVED: Final = 32 * MIB
#: With less available a guest is in need.
AT_HAND: Final = 64 * MIB
GROWS_S: Final = 30.0
OWN: Final = 128 * MIB  # what a QEMU has of its own
SLACK: Final = 16 * MIB  # what guests touch and free while two sources are read
BUDGET: Final = 1600 * MIB


class NotAcceptedError(Exception):
    """A step did not get to its figures: the sentence says why."""


async def play(folder: Path, figures: Figures) -> None:
    """Play the day."""
    async with neighbours(folder) as host:
        before = await host.settings()
        await _scan(host, figures)
        figures.equal("settings of the guests after the scan", await host.settings(), before, "as before it")
        config = await _configured(folder)
        await _observe(config, host, figures, before)
        await _report(folder, host, figures)
        await _scan_again(host, figures)
        config.write_text(config.read_text().replace('mode = "observe"', 'mode = "enforce"'))
        async with managing(config) as manager:
            await _enforce(manager, host, figures)
            await _release(manager, host, figures)
            figures.equal("exit code of the manager", await manager.end(), 0, "it was asked to end")
        for name in host.guests:
            figures.equal(f"{name}: bytes that its load found wrong", host.figures(name)["wrong"], 0, "none")


async def _scan(host: Neighbours, figures: Figures) -> None:
    """Look at the host before anything of dynmem runs on it."""
    vms, seconds = await _scanned(host)
    figures.at_most("scan: seconds", seconds, SCAN_S, "an operator waits for it")
    figures.equal("scan: VMs", sorted(vms), sorted([*host.guests, *host.others]), "all that were started")
    for name in host.guests:
        held = host.held(name)
        seen, own = vms[name]["resident_bytes"], in_bytes(OWN)
        figures.note(f"{name}: blocks of its RAM file", in_bytes(held))
        figures.true(
            "  resident by the scan", in_bytes(seen), f"that, and {own} at most", holds=0 <= seen - held < OWN
        )
    figures.equal("empty: its driver", vms["empty"]["driver"] == "live", False, "there is no guest")
    figures.equal("stopped: its worst line", vms["stopped"]["worst"], "stopped", "SIGSTOP")
    figures.equal(
        "reporting: free page reporting", vms["reporting"]["free_page_reporting"], True, "its option"
    )
    figures.equal("parachute: deflate-on-oom", vms["parachute"]["deflate_on_oom"], True, "its option")


async def _scan_again(host: Neighbours, figures: Figures) -> None:
    """Look again, now that the guests are asked for their statistics."""
    vms, _ = await _scanned(host)
    for name in host.guests:
        figures.equal(f"{name}: its driver, by a scan", vms[name]["driver"], "live", "it reports")
    idle, said = vms["idle"], host.figures("idle")
    away = abs(idle["guest_free_bytes"] - said["free"])
    figures.note("idle: free by its console", in_bytes(said["free"]))
    figures.at_most("  apart from the scan's", away, SLACK, "two sources", in_bytes)
    figures.at_least(
        "idle: stranded: free in the guest, held on the host",
        idle["stranded_bytes"],
        (ONCE - LIGHT.high_bytes) // 2,
        "half of what its load let go of",
        in_bytes,
    )
    figures.equal("idle: the knob", idle["knob"], "balloon", "it has one that works")


async def _scanned(host: Neighbours) -> tuple[dict[str, Any], float]:
    code, out, error = await cli("scan", *host.guests, *host.others, "--json")
    if code:
        raise NotAcceptedError(f"`dynmem scan` ended with {code}: {error}")
    report = json.loads(out)
    return {vm["name"]: vm for vm in report["vms"]}, report["seconds"]


async def _configured(folder: Path) -> Path:
    """Return the file that `dynmem config init` writes, with a budget, and paths of this folder."""
    path = folder / "hosts.toml"
    code, _, error = await cli("config", "init", str(folder), "-o", str(path))
    if code:
        raise NotAcceptedError(f"`dynmem config init` ended with {code}: {error}")
    text = re.sub(r'budget = "\w+"', f'budget = "{BUDGET // MIB}MiB"', path.read_text())
    text = re.sub(r'slush = "\w+"', 'slush = "32MiB"', text)
    ours = f'socket = "{folder}/run/api.sock"\nstate = "{folder}/state"\nstatistics = true\n'
    path.write_text(text.replace("[manager]\n", f"[manager]\n{ours}"))
    code, _, error = await cli("run", "--config", str(path), "--check")
    if code:
        raise NotAcceptedError(f"`dynmem run --check` ended with {code}: {error}\n{path.read_text()}")
    return path


async def _observe(
    config: Path, host: Neighbours, figures: Figures, before: dict[str, tuple[int, int]]
) -> None:
    """Watch for a while: what would be done is said, and nothing is done."""
    async with managing(config) as manager:
        status = await manager.until(
            lambda status: all(status.vm(name).demand_bytes is not None for name in host.guests)
        )
        await asyncio.sleep(WATCH_S)
        sizes = await host.sizes()
        figures.equal(
            "observe: sizes", sizes, {name: size for name, (size, _) in before.items()}, "as before"
        )
        intervals = {await host.interval(name) for name in host.guests}
        figures.equal("observe: seconds between two questions to a guest", intervals, {1}, "by leave")
        for name in host.guests:
            vm, said = status.vm(name), host.figures(name)
            assert vm.demand_bytes is not None
            figures.note(f"{name}: demand by the manager", in_bytes(vm.demand_bytes))
            figures.note("  available by its console", in_bytes(said["available"]))
            figures.note("  held of the host", in_bytes(host.held(name)))
        would = [line for line in manager.lines if "would" in line]
        figures.at_least("observe: lines that say what would be done", len(would), 1, "the budget is tight")
        figures.equal("observe: exit code of the manager", await manager.end(), 0, "it was asked to end")


async def _report(folder: Path, host: Neighbours, figures: Figures) -> None:
    """Ask what the time of observing has shown; no manager runs any more."""
    code, out, error = await cli("report", "--since", "10min", "--json", "--state", str(folder / "state"))
    if code:
        raise NotAcceptedError(f"`dynmem report` ended with {code}: {error}")
    report = json.loads(out)
    static, needed = report["static_bytes"], report["need_peak_bytes"]
    figures.at_least("report: what fixed sizes hold", static, BOOT * len(host.guests), "boot sizes", in_bytes)
    figures.at_most("report: what was needed at most", needed, static - 1, "guests are half idle", in_bytes)
    figures.equal("report: moves that were made", report["moved"], 0, "observe changes nothing")
    figures.at_least(
        "report: moves that would have been made", report["would_move"], 1, "the budget is tight"
    )
    figures.at_least(
        "report: more such VMs that would fit",
        report["fits"],
        1 + report["fits_static"],
        "than at fixed sizes",
    )


async def _enforce(manager: RunningManager, host: Neighbours, figures: Figures) -> None:
    """Let the needy guest grow, and see where its memory comes from and how soon."""
    await manager.until(lambda status: all(status.vm(name).standing == "movable" for name in host.guests))
    await manager.until(
        lambda status: sum(status.vm(name).actual_bytes or 0 for name in host.guests) <= BUDGET
    )
    host.others["empty"].kill()
    start = await host.sizes()
    figures.at_most("enforce: all sizes", sum(start.values()), BUDGET, "the budget", in_bytes)
    for name in host.guests:
        figures.note(f"{name}: size by its monitor, then held of the host", in_bytes(start[name]))
        figures.note("", in_bytes(host.held(name)))
    late_s = await _grow(manager, host, start["needy"])
    figures.at_most("enforce: seconds from its need to 32 MiB more", late_s, 1.0, "a guest cannot wait")
    end = await host.sizes()
    figures.at_least("needy: grew by", end["needy"] - start["needy"], MOVED, "its load", in_bytes)
    figures.at_least("idle: gave", start["idle"] - end["idle"], MOVED, "it has most to spare", in_bytes)
    figures.at_most("idle: held of the host", host.held("idle"), end["idle"] + SLACK, "its size", in_bytes)
    figures.at_most("enforce: all sizes", sum(end.values()), BUDGET, "the budget", in_bytes)
    kills = sum(host.figures(name)["kills"] for name in host.guests)
    figures.equal("enforce: processes killed in guests", kills, 0, "nobody is killed")


async def _grow(manager: RunningManager, host: Neighbours, size: int) -> float:
    """Have the needy guest's load grow; return how long what it needed was on its way.

    It is in need once it has less available than a guest should have at hand; where more came before, it did
    not wait at all.
    """
    host.guests["needy"].order(NEED)
    end, low, grown = time.monotonic() + GROWS_S, None, None
    while (said := host.figures("needy"))["held"] != NEED.high_bytes:
        host.guests["needy"].check()
        now = time.monotonic()
        if low is None and said["available"] < AT_HAND:
            low = now
        if grown is None and await host.size("needy") >= size + MOVED:
            grown = now
        if now > end:
            raise NotAcceptedError(f"needy says {said}, and the manager: {manager.lines[-5:]}")
        await asyncio.sleep(LOOK_S)
    if grown is None:
        raise NotAcceptedError(f"needy has grown without more memory, from {in_bytes(size)}")
    return max(0.0, grown - low) if low is not None else 0.0


async def _release(manager: RunningManager, host: Neighbours, figures: Figures) -> None:
    """Give everybody everything back."""
    host.guests["needy"].order(LIGHT)
    await host.until_load_holds("needy", LIGHT.high_bytes)
    code, _, error = await cli("release", "--all", "--socket", str(manager.socket))
    figures.equal("release: exit code", code, 0, error or "done")
    await manager.until(lambda status: all(status.vm(name).actual_bytes == BOOT for name in host.guests))
    sizes = await host.sizes()
    for name in host.guests:
        figures.equal(f"release: size of {name}", sizes[name], BOOT, "what it was started with", in_bytes)
        figures.equal("  seconds between two questions", await host.interval(name), 1, "what was found")
