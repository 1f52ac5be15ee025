"""What free page reporting, a balloon, and both together bring on a guest that builds something.

A build is processes that come and go: compilers of different sizes, two at a time, each of which leaves an
object in memory, then a linker that is larger than all of them, and then nothing for a while. A balloon that
follows does what a manager would: what the guest says it has committed, and a reserve. One that limits keeps
one size. docs/kvm.md has the figures.

    make test-kvm ARGS="tests/kvm/test_builds.py -m soak"
"""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from tests.kvm.balloon_scenes import agree
from tests.kvm.figures import Figures
from tests.kvm_rig.guests import BALLOON, MIB, Guest, running, stock_command
from tests.kvm_rig.place import all_kernels

_BOOT_MIB: Final = 256
_BOOT: Final = _BOOT_MIB * MIB
_SMALLEST: Final = 96 * MIB
_RESERVE: Final = 48 * MIB
_LIMIT: Final = 176 * MIB
_SAMPLE_S: Final = 0.25
_IDLE_REPORTS: Final = 10  # one a second
_BUILDS: Final = 2
_COMPILE: Final = (
    "dd if=/dev/zero bs={mib}M count=1 2>/dev/null | md5sum >/dev/null;"
    " dd if=/dev/urandom of=/tmp/{name}.o bs=1M count=1 2>/dev/null"
)
_SIZES: Final = ((12, 4), (20, 8), (4, 16), (8, 8), (24, 4), (12, 12))  # MiB, two at a time
_LINK: Final = (
    "dd if=/dev/zero bs=64M count=1 2>/dev/null | md5sum >/dev/null; cat /tmp/*.o | md5sum; rm /tmp/*.o"
)


def _build() -> str:
    """Return a build as a command of one line."""
    steps = []
    for step, sizes in enumerate(_SIZES):
        compilers = (_COMPILE.format(mib=mib, name=f"{step}-{place}") for place, mib in enumerate(sizes))
        steps.append("".join(f"({compiler}) & " for compiler in compilers) + "wait")
    return "; ".join([*steps, _LINK])


class _Sampler:
    """Looks at what a guest occupies on the host, again and again."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.resident: list[int] = []

    async def run(self) -> None:
        while True:
            self.resident.append(self.guest.resident_bytes())
            await asyncio.sleep(_SAMPLE_S)


async def _follow(guest: Guest) -> None:
    """Order the size that the guest needs by its own reports, each second."""
    while True:
        report = await guest.execute("query-hv-balloon-status-report")
        needed = report["committed"] - (_BOOT - await guest.actual()) + _RESERVE
        await guest.execute("balloon", value=min(_BOOT, max(_SMALLEST, needed // MIB * MIB)))
        await asyncio.sleep(1)


@contextlib.asynccontextmanager
async def _beside(*loops: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for loop in loops:
            loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loop


async def _measure(guest: Guest, name: str, balloon: str, figures: Figures) -> None:
    await agree(guest)
    if balloon == "limit":
        await guest.balloon(_LIMIT)
    sampler = _Sampler(guest)
    loops = [asyncio.create_task(sampler.run())]
    if balloon == "follows":
        loops.append(asyncio.create_task(_follow(guest)))
    spent, idle = [], []
    async with _beside(*loops):
        for _ in range(_BUILDS):
            begun = time.monotonic()
            await guest.shell.sh(_build())
            spent.append(time.monotonic() - begun)
            for _ in range(_IDLE_REPORTS):
                await guest.shell.sh("sleep 1")
            idle.append(guest.resident_bytes())
    figures.add(f"{name}: a build takes", statistics.mean(spent), "s")
    figures.add(f"{name}: resident, mean", statistics.mean(sampler.resident) / MIB, "MiB")
    figures.add(f"{name}: resident, most", max(sampler.resident) / MIB, "MiB")
    figures.add(f"{name}: resident, 10 s after a build", statistics.mean(idle) / MIB, "MiB")
    assert await guest.complaints() == []


@pytest.mark.soak
@pytest.mark.parametrize("reporting", ["off", "on"])
@pytest.mark.parametrize("balloon", ["none", "follows", "limit"])
def test_what_a_guest_that_builds_occupies(
    folder: Path, figures: Figures, balloon: str, reporting: str
) -> None:
    async def scene() -> None:
        device = f"{BALLOON},free-page-reporting={reporting}"
        command = stock_command(folder, all_kernels()[-1], memory=f"{_BOOT_MIB}M", device=device)
        async with running(folder, command) as guest:
            await _measure(guest, f"balloon {balloon}, reporting {reporting}", balloon, figures)

    asyncio.run(scene())
