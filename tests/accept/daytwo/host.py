"""The host of the run: four real Linux guests, an observer at each, and the script that moves them."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from tests.accept.daytwo.diary import Deed, Diary, Look, Seen
from tests.accept.daytwo.script import ACTS, BOOT, GROWS_TO, LIGHT, VMS, Act, first_load

from dynmem.errors import DynmemError
from dynmem.lab.probe import accelerator
from dynmem.lab.qemu import QemuGuest
from dynmem.qmp.client import QmpClient
from dynmem.units import PAGE_SIZE

UP_S: Final = 120.0
LOOK_S: Final = 1.0


class Host:
    """The guests, and the diary about them.

    Attributes:
        guests: Those that run, by name.
        diary: What was done and seen.
        wrong_bytes: What the guests of the past found wrong in their memory.
        kills: Processes that the kernels of the guests of the past have killed.
    """

    def __init__(self, folder: Path, run_s: float) -> None:
        self.guests: dict[str, QemuGuest] = {}
        self.diary = Diary()
        self.wrong_bytes = self.kills = 0
        self._folder, self._run_s = folder, run_s
        self._accel = accelerator().accel
        self._observers: dict[str, QmpClient] = {}

    def monitor(self, name: str) -> Path:
        """Return the path of the monitor that a memory manager uses."""
        return self._folder / f"{name}.qmp"

    async def start(self, *names: str) -> None:
        """Start VMs, and wait until their loads run."""
        for name in names:
            load = first_load(name, self._run_s)
            self.guests[name] = guest = QemuGuest(name, BOOT, self._folder, accel=self._accel, load=load)
            guest.start()
        for name in names:
            await asyncio.to_thread(self.guests[name].ready, UP_S)
            self._observers[name] = await QmpClient.connect(self.guests[name].lab_qmp_path)

    async def end(self, name: str, *, killed: bool = False) -> None:
        """End a VM: as an operator does, or by SIGKILL."""
        guest = self.guests.pop(name)
        self._count(guest)
        if (observer := self._observers.pop(name, None)) is not None:
            await observer.close()
        if killed:
            os.kill(guest.pid, signal.SIGKILL)
        guest.stop()

    async def end_all(self) -> None:
        """End all VMs."""
        for name in list(self.guests):
            await self.end(name)

    def _count(self, guest: QemuGuest) -> None:
        report = guest.read_serial()
        self.wrong_bytes += report.wrong_bytes if report else 0
        self.kills += guest.oom_kills

    async def look(self) -> None:
        """Look at every VM once."""
        begun_s, vms = time.time(), dict[str, Seen]()
        for name, guest in list(self.guests.items()):
            guest.check()
            report, observer = guest.read_serial(), self._observers.get(name)
            if report is None or observer is None:
                continue  # it is starting
            reply = await observer.execute("query-balloon")
            assert isinstance(reply, dict)
            given = report.ballooned_pages + report.available_pages
            vms[name] = Seen(
                int(str(reply["actual"])), guest.resident_bytes(), guest.memory_bytes - given * PAGE_SIZE
            )
        if time.time() - begun_s < LOOK_S:  # otherwise it is of no known moment
            self.diary.looks.append(Look(begun_s, vms))

    async def play(self, seconds: float) -> None:
        """Play the script: look every second, and do what is due."""
        self.diary.began_s = began_s = time.time()
        due = list(ACTS)
        restarting: asyncio.Task[None] | None = None
        while (passed := time.time() - began_s) < seconds:
            while due and due[0].part * seconds <= passed:
                act = due.pop(0)
                if act.kind == "restart":
                    restarting = asyncio.create_task(self._do(act))
                else:
                    await self._do(act)
            await self.look()
            await asyncio.sleep(LOOK_S)
        if restarting is not None:
            await restarting
        self.diary.ended_s = time.time()

    async def _do(self, act: Act) -> None:
        self.diary.deeds.append(Deed(time.time(), act.vm, act.kind))
        if act.kind in ("grow", "fall"):
            self.guests[act.vm].order(GROWS_TO[act.vm] if act.kind == "grow" else LIGHT)
        else:
            await self.end(act.vm, killed=act.kind == "kill")
            if act.kind == "restart":
                await self.start(act.vm)


@contextlib.asynccontextmanager
async def hosting(folder: Path, run_s: float) -> AsyncIterator[Host]:
    """Start the VMs of the host; they end with the block."""
    host = Host(folder, run_s)
    try:
        await host.start(*VMS)
        yield host
    finally:
        with contextlib.suppress(DynmemError):
            await host.end_all()
