"""A monitor of a stock guest that is killed at a random moment leaves nothing, and the next one boots.

Moments are counted in the processor time that the monitor has used, so that a slow host has the same ones.
"""

import asyncio
import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

from qemu.qmp.error import QMPError
from tests.kvm.balloon_scenes import BOOT, agree
from tests.kvm_rig.guests import MIB, Guest, qmp_path, running, serial_path, stock_command
from tests.kvm_rig.place import GuestKernel
from tests.kvm_rig.shell import READY_S
from tests.rigs.processes import descendants, is_there, memory_files
from tests.rigs.scenes import until

from dynmem.sockets import listener

_EARLY = (0.1, 6.0)  # seconds of processor time: from the interpreter's start into the kernel's
_BUSY = (0.0, 1.5)  # from the first order on


def test_nothing_is_left_of_a_monitor_that_is_killed_at_any_moment_and_the_next_one_boots(
    folder: Path, kernel: GuestKernel
) -> None:
    async def scene() -> None:
        moments = random.Random(seed := random.randrange(1 << 32))
        command = stock_command(folder, kernel, memory="256M,maxmem=1G")
        command += [f"--capture={folder / 'capture'}", "--trace=hv_balloon*", f"-D{folder / 'events'}"]
        with _named(f"seed {seed}"):
            for _ in range(2):
                await _killed(Guest(folder, command), moments.uniform(*_EARLY))
            async with running(folder, command) as guest:
                await agree(guest)
                work = asyncio.create_task(_order_sizes(guest))
                await _killed(guest, _processor_seconds(guest.process.pid) + moments.uniform(*_BUSY))
                with contextlib.suppress(asyncio.CancelledError, QMPError, AssertionError):  # as it ended
                    work.cancel()
                    await work
            async with running(folder, command) as guest:
                await agree(guest)
                await guest.balloon(BOOT - 64 * MIB)
                assert await guest.complaints() == []

    asyncio.run(scene())


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Name what a failure needs to be repeated."""
    try:
        yield
    except BaseException as error:
        error.add_note(what)
        raise


async def _order_sizes(guest: Guest) -> None:
    """Have memory taken, returned and added without end."""
    while True:
        for size in (BOOT - 96 * MIB, BOOT, BOOT + 256 * MIB):
            await guest.balloon(size)


async def _killed(guest: Guest, moment: float) -> None:
    """Kill a monitor when it has used this much of the processor, and hold that nothing of it is left."""
    pid = guest.process.pid

    def come() -> bool:
        guest.check()
        return _processor_seconds(pid) >= moment or _is_up(guest)

    await until(come, seconds=READY_S)
    files, below = set(memory_files(pid)), descendants(pid)
    guest.process.kill()
    await guest.exit_code()
    await until(lambda: not any(map(is_there, below)))
    assert _holders_of(files) == []
    for path in (qmp_path(guest.folder), serial_path(guest.folder)):
        assert not path.exists() or listener(path) == 0
    recorded = guest.folder / "capture"
    assert not recorded.exists() or recorded.read_text()[-1:] in {"", "\n"}


def _is_up(guest: Guest) -> bool:
    """Whether the driver is ready: a guest with nothing to do uses no more of the processor."""
    events = guest.folder / "events"
    return events.exists() and "S_IDLE" in events.read_text()


def _processor_seconds(pid: int) -> float:
    """What all threads of a process have used of the processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _holders_of(files: set[int]) -> list[str]:
    """Return who on this host has one of these memory files open or mapped, by inode."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            held = set(memory_files(int(process.name)))
            maps = (process / "maps").read_text().splitlines()
            mapped = {int(line.split()[4]) for line in maps if "/memfd:" in line}
            if (held | mapped) & files:
                found.append((process / "cmdline").read_text())
    return found
