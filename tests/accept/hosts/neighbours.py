"""A host with other people's QEMUs on it, as an operator would find it: real guests, and the odd ones.

    idle       Linux; its load has let go of what it once used, and the host still holds it
    needy      Linux; it grows when it is told to
    reporting  Linux with free page reporting
    parachute  Linux with deflate-on-oom
    empty      a balloon device and no guest, so no driver
    stopped    a process that SIGSTOP holds

Beside the monitor for a memory manager each Linux has one for an observer, who asks what the manager says and
what the manager did.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.rigs.monitored import BALLOON, MEMFD, qemu

from dynmem.lab.probe import accelerator
from dynmem.lab.qemu import BALLOON_PATH, QemuGuest
from dynmem.lab.workload import Load
from dynmem.manager.sweep.monitor import STATISTICS_INTERVAL
from dynmem.qmp.client import QmpClient
from dynmem.units import MIB, PAGE_SIZE

BOOT: Final = 512 * MIB
LIGHT: Final = Load(high_bytes=16 * MIB, rate_bytes=256 * MIB)
#: What the idle guest used once.
ONCE: Final = 320 * MIB
#: What the needy guest grows to.
NEED: Final = Load(high_bytes=360 * MIB, rate_bytes=96 * MIB)
UP_S: Final = 90.0
LOOK_S: Final = 0.02


class Neighbours:
    """The VMs of the host.

    Attributes:
        guests: The Linux guests, by name.
        others: The processes of the other VMs, by name.
    """

    def __init__(
        self, guests: Mapping[str, QemuGuest], others: Mapping[str, subprocess.Popen[bytes]]
    ) -> None:
        self.guests = guests
        self.others = others
        self._observers: dict[str, QmpClient] = {}

    async def observe(self, stack: contextlib.AsyncExitStack) -> None:
        """Connect to the observers' monitors."""
        for name, guest in self.guests.items():
            client = await QmpClient.connect(guest.lab_qmp_path)
            self._observers[name] = await stack.enter_async_context(client)

    async def size(self, name: str) -> int:
        """Return what a guest has, by QEMU: `query-balloon`."""
        reply = await self._observers[name].execute("query-balloon")
        assert isinstance(reply, dict)
        return int(reply["actual"])

    async def sizes(self) -> dict[str, int]:
        """Return what each guest has."""
        return {name: await self.size(name) for name in self.guests}

    async def interval(self, name: str) -> int:
        """Return how often a guest is asked for its statistics, in seconds; 0: never."""
        arguments = {"path": BALLOON_PATH, "property": STATISTICS_INTERVAL}
        reply = await self._observers[name].execute("qom-get", arguments)
        assert isinstance(reply, int)
        return reply

    async def settings(self) -> dict[str, tuple[int, int]]:
        """Return what a manager could have changed of each guest: its size, and how often it is asked."""
        return {name: (await self.size(name), await self.interval(name)) for name in self.guests}

    def held(self, name: str) -> int:
        """Return what a guest holds of the host: the blocks of its RAM file."""
        return self.guests[name].resident_bytes()

    def figures(self, name: str) -> dict[str, Any]:
        """Return what a guest itself says, by its console. Bytes."""
        report = self.guests[name].read_serial()
        assert report is not None
        return {
            "free": report.free_pages * PAGE_SIZE,
            "available": report.available_pages * PAGE_SIZE,
            "held": report.held_pages * PAGE_SIZE,
            "kills": self.guests[name].oom_kills,
            "wrong": report.wrong_bytes,
        }

    async def until_load_holds(self, name: str, size: int) -> None:
        """Wait until the load of a guest holds exactly what it was told to hold."""
        deadline = asyncio.get_running_loop().time() + UP_S
        while (held := self.figures(name)["held"]) != size:
            self.guests[name].check()
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"the load of {name} holds {held} bytes, and was told to hold {size}")
            await asyncio.sleep(LOOK_S)


@contextlib.asynccontextmanager
async def neighbours(folder: Path) -> AsyncIterator[Neighbours]:
    """Start all VMs of the host; they end with the block."""
    accel = accelerator().accel
    kinds: dict[str, dict[str, bool]] = {
        "idle": {},
        "needy": {},
        "reporting": {"free_page_reporting": True},
        "parachute": {"deflate_on_oom": True},
    }
    guests = {
        name: QemuGuest(name, BOOT, folder, accel=accel, load=LIGHT, **options)  # type: ignore[arg-type]
        for name, options in kinds.items()
    }
    async with contextlib.AsyncExitStack() as stack:
        for guest in guests.values():
            stack.callback(guest.stop)
            guest.start()
        others = {
            name: stack.enter_context(
                qemu(folder / f"{name}.qmp", "-name", name, *BALLOON, *MEMFD, paused=False)
            )
            for name in ("empty", "stopped")
        }
        for guest in guests.values():
            await asyncio.to_thread(guest.ready, UP_S)
        made = Neighbours(guests, others)
        await made.observe(stack)
        guests["idle"].order(Load(high_bytes=ONCE, rate_bytes=512 * MIB))
        await made.until_load_holds("idle", ONCE)
        guests["idle"].order(LIGHT)
        await made.until_load_holds("idle", LIGHT.high_bytes)
        os.kill(others["stopped"].pid, signal.SIGSTOP)
        yield made
