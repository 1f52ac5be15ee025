"""A shortage is answered by priority: low gives first, then normal, and high last.

Three equal guests have all that they want. Then more and more room is reserved, until the first of them is
short of its buffer, and the second, and the third. What each wants at that moment is what its last report
makes of it: a Linux guest wants less when it has less.
"""

from pathlib import Path
from typing import Final

from tests.accept.figures import Figures, in_bytes
from tests.accept.gmm.host import Host, NotAcceptedError, Plan, Status, running, vm_of
from tests.rigs.managers import RunningManager, cli

from dynmem.manager.step.safeguards import band_pages
from dynmem.policy.levels import HUGE_PAGES
from dynmem.units import MIB, PAGE_SIZE, pages_of

ORDER: Final = ("low", "normal", "high")
BOOT: Final = 192
TOUCHED: Final = 144  # MiB that each guest has used once, so that the host has to get them back
HOLDS: Final = 32
MORE: Final = 16 * MIB  # room that is asked for beyond what was there
QUIET_S: Final = 2.0
STEPS_MAX: Final = 40
GRAIN: Final = HUGE_PAGES * PAGE_SIZE  # sizes are rounded to it
BAND: Final = band_pages(pages_of(BOOT * MIB)) * PAGE_SIZE  # a smaller difference is left alone
SLACK: Final = 8 * MIB  # kernel pages, and parts of pages that the host rounds up


async def play(folder: Path, figures: Figures) -> None:
    """Play the scene."""
    plans = tuple(Plan(name, BOOT, minimum=48, priority=name, buffer=25, holds=TOUCHED) for name in ORDER)
    host = Host(folder, plans, budget=3 * BOOT + 64, period_s=0.3)
    async with running(host) as manager:
        for name in ORDER:
            host.order(name, HOLDS)
        await host.until_loads_are(dict.fromkeys(ORDER, HOLDS))
        status = await host.until_quiet(manager, QUIET_S)
        before = await host.sizes()
        for name in ORDER:
            wanted = vm_of(status, name)["wanted_bytes"]
            figures.at_least(f"{name}: size by its monitor", before[name], wanted, "what it wants", in_bytes)
            figures.note("  blocks of its memory files", in_bytes(host.resident(name)))
        room = host.budget - host.slush - sum(vm_of(status, name)["wanted_bytes"] for name in ORDER)
        for step in range(len(ORDER)):
            room = await _until_short(host, manager, ORDER[step], room // MIB * MIB, figures)
            await _hold(host, step, room, before, figures)
        figures.equal("bytes that a guest found wrong", host.wrong_bytes(), 0, "the consoles")


async def _until_short(host: Host, manager: RunningManager, name: str, room: int, figures: Figures) -> int:
    """Have more and more room made, until a VM is short; return how much that is."""
    for _ in range(STEPS_MAX):
        room += MORE
        command = ("reserve", str(room), "--name", "later", "--hold", "5min", "--socket", host.socket)
        code, _, error = await cli(*command)
        if code:
            raise NotAcceptedError(f"`dynmem reserve` ended with {code}: {error}")
        if _short(await host.until_quiet(manager, QUIET_S), name) > GRAIN:
            figures.note(f"{name} is short when this is reserved", in_bytes(room))
            return room
    raise NotAcceptedError(f"{name} is not short when {in_bytes(room)} are reserved: {await host.status()}")


async def _hold(host: Host, step: int, room: int, before: dict[str, int], figures: Figures) -> None:
    """Hold who has given: all of the buffer of those before, a part of this one's, nothing of those after."""
    status, sizes = await host.status(), await host.sizes()
    for place, name in enumerate(ORDER):
        vm, size = vm_of(status, name), sizes[name]
        buffer = vm["wanted_bytes"] - vm["demand_bytes"]
        left = size - vm["demand_bytes"]
        figures.note(f"  {name}: gave since the beginning, by its monitor", in_bytes(before[name] - size))
        if place < step:
            figures.at_most(
                "    left of its buffer", left, GRAIN + BAND, f"nothing of {in_bytes(buffer)}", in_bytes
            )
        elif place > step:
            figures.at_least("    left of its buffer", left, buffer, "all of it", in_bytes)
            figures.equal("    short by the plan", _short(status, name), 0, "others give first", in_bytes)
        else:
            figures.at_most("    left of its buffer", left, buffer - 1, "a part of it", in_bytes)
            figures.at_least("    short by the plan", _short(status, name), GRAIN, "it is its turn", in_bytes)
        blocks = host.resident(name)
        figures.at_most("    blocks of its memory files", blocks, size + SLACK, "its size", in_bytes)
    gave = [before[name] - sizes[name] for name in ORDER]
    figures.true("  low, normal, high", "gave", "in this order", holds=gave == sorted(gave, reverse=True))
    held, most = sum(sizes.values()), host.budget - host.slush
    figures.at_most("  all sizes and the room", held + room, most, "the budget less the slush", in_bytes)
    figures.equal("  all sizes", held, status["books"]["allocated_bytes"], "the books", in_bytes)


def _short(status: Status, name: str) -> int:
    """Return how far the plan leaves a VM below what it wants."""
    short: int = vm_of(status, name)["short_bytes"]
    return short
