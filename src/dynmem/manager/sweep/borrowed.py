"""A monitor that another program owns: visited for a moment, when nobody is connected.

QEMU serves one client for each monitor. Whoever connects beside it waits in a queue of one or two places,
which the owner then waits behind, and a place is kept even after its client has left. Proxmox connects for
each batch of commands, and gives up after 3 to 5 s. So

    nobody is connected    by the kernel's list of sockets, read just before
    --> connect            no greeting within 50 ms: leave, and stay away for longer each time
    --> ask, leave         100 ms after connecting at the latest
    --> stay away          looks are half a second apart, and a glance is from any visit before it; a target
                           goes at once

Between two visits nobody listens: a RESET is missed, and shows by what the guest reports next (`life`).
"""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Container, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from dynmem.discovery.processes import sockets_of_vms
from dynmem.discovery.unix_sockets import UnixSockets, unix_sockets
from dynmem.errors import DeadlineError
from dynmem.manager.sweep.access import Use
from dynmem.manager.sweep.gate import Gate
from dynmem.qmp.client import QmpClient
from dynmem.qmp.errors import BusyError

VISIT_S: Final = 0.1
GREETING_S: Final = 0.05
# From one look to the next, and from any visit to a glance. A glance delays no look: only looks are complete.
VISIT_EVERY_S: Final = 0.5
# How long each waits for another program to leave.
WAITS_S: Final[Mapping[Use, float]] = {"look": 0.05, "glance": 0.0, "target": 1.0}
# Between two searches for the processes behind monitors that have never been free.
SEARCH_EVERY_S: Final = 1.0
# So old may the kernel's list be when a visit begins: another program that connects in between is waited for
# as long as for a greeting.
FRESH_S: Final = 0.01
# A list that takes longer to read is read in a thread: a host can have very many sockets.
QUICK_S: Final = 0.005
# Between two looks at a monitor that another program is using.
_POLL_S: Final = 0.02
# While its owner uses a monitor for no longer than this, or this many periods, what was seen last counts.
RECENT_S: Final = 3.0
RECENT_PERIODS: Final = 3


class TakenError(BusyError):
    """Another program uses the monitor just now: it was left alone."""


class Visits:
    """What the visits of one manager share: their number at a time, and the kernel's list of sockets."""

    def __init__(self, read: Callable[[], UnixSockets] = unix_sockets) -> None:
        self.gate: Final = Gate()
        self._read = read
        self._reading: asyncio.Task[None] | None = None
        self._read_s = -math.inf
        self._cost_s = math.inf
        self._taken: dict[str, list[str]] = {}
        self._searched_s = -math.inf
        self._listeners: dict[str, int] = {}

    async def is_taken(self, path: Path) -> bool:
        """Return whether somebody is connected to the monitor at *path*, or waits there."""
        oldest_s = time.monotonic() - FRESH_S
        while self._read_s < oldest_s:
            if self._cost_s < QUICK_S:
                self._take_in(time.monotonic(), self._read())
            else:  # whoever asks meanwhile shares the reading
                if self._reading is None or self._reading.done():
                    self._reading = asyncio.create_task(self._look())
                await asyncio.shield(self._reading)
        return any(_is_same(taken, path) for taken in self._taken.get(path.name, ()))

    def listener(self, path: Path) -> int:
        """Return the VM's process that listens at *path*, by what is open in it; 0: not known."""
        if time.monotonic() - self._searched_s > SEARCH_EVERY_S:
            self._searched_s, holders = time.monotonic(), sockets_of_vms()
            self._listeners = {
                at: holders[inode] for inode, at in self._read().paths.items() if inode in holders
            }
        return next((pid for at, pid in self._listeners.items() if _leads(at, path)), 0)

    async def _look(self) -> None:
        began_s = time.monotonic()
        self._take_in(began_s, await asyncio.to_thread(self._read))

    def _take_in(self, began_s: float, sockets: UnixSockets) -> None:
        """Take in a list whose reading began at that time."""
        taken: dict[str, list[str]] = {}
        for each in sockets.taken:
            taken.setdefault(each.rpartition("/")[2], []).append(each)
        self._read_s, self._cost_s, self._taken = began_s, time.monotonic() - began_s, taken


def _leads(listed: str, path: Path) -> bool:
    return listed.rpartition("/")[2] == path.name and _is_same(listed, path)


def _is_same(taken: str, path: Path) -> bool:
    """Return whether a listed path leads to the socket at *path*; one that is not absolute could."""
    return (
        not taken.startswith("/") or taken == str(path) or os.path.realpath(taken) == os.path.realpath(path)
    )


class Borrowed:
    """A monitor of another program."""

    stays: Final = False

    def __init__(self, path: Path, visits: Visits) -> None:
        self._path = path
        self._visits = visits
        self._alone = asyncio.Lock()
        self._entered_s = self._looked_s = self._left_s = -math.inf

    def is_due(self, use: Use) -> bool:
        """Return whether the last visit is long enough past for another one."""
        since_s = {"look": self._looked_s, "glance": self._entered_s}.get(use, -math.inf)
        return time.monotonic() - since_s >= VISIT_EVERY_S

    def is_recent(self, period_s: float) -> bool:
        """Return whether the last visit is so short a time past that what it found still counts."""
        return time.monotonic() - self._left_s <= max(RECENT_S, RECENT_PERIODS * period_s)

    @asynccontextmanager
    async def turn(self, use: Use) -> AsyncIterator[None]:
        """Visit the monitor once nobody else uses it.

        TakenError if another program does all the time, and DeadlineError if the visit took too long: it is
        over then.
        """
        async with self._alone:
            await self._wait(WAITS_S[use])
            async with self._visits.gate:
                await self._wait(0.0)
                self._entered_s = time.monotonic()
                if use == "look":
                    self._looked_s = self._entered_s
                try:
                    async with asyncio.timeout(VISIT_S):
                        yield
                    self._left_s = time.monotonic()
                except TimeoutError:
                    raise DeadlineError(
                        f"{self._path}: left after {VISIT_S * 1000:.0f} ms, with a part of what was asked"
                    ) from None
                finally:
                    self._visits.gate.took((time.monotonic() - self._entered_s) / VISIT_S)

    async def connect(self, events: Container[str]) -> QmpClient:
        """Connect, within a turn. BusyError if there is no greeting at once."""
        return await QmpClient.connect(
            self._path, greeting_timeout_s=GREETING_S, events=events, together=True
        )

    def listener(self) -> int:
        """Return the process that listens, without connecting; 0: not known."""
        return self._visits.listener(self._path)

    async def _wait(self, patience_s: float) -> None:
        until_s = time.monotonic() + patience_s
        while await self._visits.is_taken(self._path):
            if time.monotonic() >= until_s:
                raise TakenError(
                    f"another program uses its monitor {self._path} just now, or the VM hangs: dynmem waits;"
                    " if it stays connected, give dynmem a monitor of its own (docs/proxmox.md)"
                )
            await asyncio.sleep(_POLL_S)
