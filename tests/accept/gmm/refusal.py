"""An over-full host refuses a VM: before it makes anything, with the numbers, and a smaller one gets in."""

import re
from pathlib import Path
from typing import Final

from tests.accept.figures import Figures, in_bytes
from tests.accept.gmm.host import Host, Plan, books, running, vm_of
from tests.rigs.managers import RunningManager, cli

from dynmem.errors import ExitCode
from dynmem.units import MIB, parse_size

WEB: Final = Plan("web", boot=160, minimum=128, holds=64)
DB: Final = Plan("db", boot=96, minimum=32)
FITS: Final = 48
BIG: Final = Plan("big", boot=112, minimum=96)  # not even with web at its floor does this one fit
_SIZE: Final = re.compile(r"\d+(?:\.\d+)? (?:[KMGT]iB|B)")


async def play(folder: Path, figures: Figures) -> None:
    """Play the scene."""
    host = Host(folder, (WEB, DB, BIG), budget=224)
    async with running(host, "web") as manager:
        before = await host.until_quiet(manager, 1)
        room = host.budget - host.slush - WEB.minimum * MIB
        figures.note("the budget less the slush", in_bytes(host.budget - host.slush))
        figures.equal(
            "the books' limit", before["books"]["max_bytes"], host.budget - host.slush, "the file", in_bytes
        )
        figures.note("web runs; its floor", in_bytes(vm_of(before, "web")["floor_bytes"]))
        figures.note("so at most this can be made free for db", in_bytes(room))

        asked = room + 16 * MIB
        code, out, error = await cli(*host.command("db", asked // MIB))
        figures.note("db asks for", in_bytes(asked))
        figures.equal("its exit code", code, int(ExitCode.REFUSED), "no room, ever")
        figures.note("it says:", "")
        figures.sentence(error)
        named = [*map(parse_size, _SIZE.findall(error)), 0, 0, 0]
        figures.equal("the first size in that sentence", named[0], asked, "asked", in_bytes)
        figures.equal("the second", named[1], room, "what can be made free", in_bytes)
        figures.equal("the third", named[2], WEB.minimum * MIB, "the floor of web", in_bytes)
        figures.equal(
            "lines on standard error, and on standard output",
            (error.count("\n"), out),
            (1, ""),
            "one sentence",
        )
        figures.equal(
            "its monitor was made", host.has_monitor("db"), False, "it is refused before it makes anything"
        )
        after = await host.status()
        changed = sum(1 for key, value in books(after).items() if books(before).get(key) != value)
        figures.equal(
            f"figures of the books that changed, of {len(books(before))}",
            changed,
            0,
            "nothing is kept for it",
        )

        await _start_unasked(host, manager, figures)
        await _admit(host, manager, figures)


async def _start_unasked(host: Host, manager: RunningManager, figures: Figures) -> None:
    """Start a VM without asking: it is taken in, since it runs, and is never grown."""
    vm = host.start("big")
    status = await host.until_quiet(manager, 1)
    books = vm_of(status, "big")["books"]
    figures.equal("big starts unasked: it may allocate", books["may_allocate"], False, "it does not fit")
    figures.sentence(books["may_not_allocate_why"])
    size = (await host.sizes())["big"]
    host.order("big", BIG.boot)
    await host.until_quiet(manager, 2)
    now = (await host.sizes())["big"]
    figures.at_most("its guest wants all it can get; its size", now, size, "what it had", in_bytes)
    vm.kill()
    await manager.until(lambda status: not status.vm("big").there)
    del host.vms["big"]


async def _admit(host: Host, manager: RunningManager, figures: Figures) -> None:
    """Start the VM with less: room is made for it."""
    host.start("db", boot=FITS, options=("--manager", str(host.socket)))
    await manager.until(lambda status: status.vm("db").there and status.vm("db").demand_bytes)
    admitted = await host.until_quiet(manager, 1)
    figures.note("db asks for less, and runs; its monitor reports", in_bytes((await host.sizes())["db"]))
    claims = sum(each["claim_bytes"] or 0 for each in admitted["vms"])
    figures.equal(
        "what they hold", admitted["books"]["allocated_bytes"], claims, "the claims of both VMs", in_bytes
    )
    figures.at_most("what they hold", claims, admitted["books"]["max_bytes"], "the limit", in_bytes)
    sizes = await host.sizes()
    figures.equal("what the monitors of both report", sum(sizes.values()), claims, "the books", in_bytes)
