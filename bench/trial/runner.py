"""One run of the trial: boot the guests, let a contender bring them to rest, play the script, record it all.

Everything is done in the main thread, in one loop that looks twenty times a second, beside the sampler of
resident memory; QEMU ends with the thread that started it, so nothing stays when a run is interrupted.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from bench.trial.contenders.contender import HOST_SHARE, Contender, Figures, Host, Move, Order
from bench.trial.guests import Guest
from bench.trial.measures import Heard, Series
from bench.trial.monitors import Monitors
from bench.trial.resident import ResidentSeries
from bench.trial.script import Script
from dynmem.errors import DeadlineError, DynmemError
from dynmem.units import PAGE_SIZE

TICK_S: Final = 0.05
BOOT_S: Final = 120.0
REST_PERIOD_S: Final = 0.5
#: Rounds without an order after which guests are at rest.
QUIET_ROUNDS: Final = 4

#: Is told the phase of a run, and how far the run is, 0 to 1.
Show = Callable[[str, float], None]


class Wanted(NamedTuple):
    """What a guest's load is sent."""

    load_bytes: int
    cache_bytes: int
    rate_bytes: int


class Event(NamedTuple):
    """Something of the script that is due at a moment: a load's order or, without one, a restart."""

    at_s: float
    guest: int
    wanted: Wanted | None


def events(script: Script) -> list[Event]:
    """Return what a script does, in the order of time."""
    made = [Event(restart.at_s, restart.guest, None) for restart in script.restarts]
    made += [
        Event(wobble.at_s, wobble.guest, Wanted(wobble.load_bytes, 0, script.rate_bytes))
        for wobble in script.wobbles
    ]
    for burst in script.bursts:
        base, grown = script.base_bytes, script.base_bytes + burst.size_bytes
        is_cache = burst.kind == "cache"
        rise = Wanted(base if is_cache else grown, burst.size_bytes if is_cache else 0, burst.rate_bytes)
        made.append(Event(burst.begins_s, burst.guest, rise))
        made.append(Event(burst.falls_s, burst.guest, Wanted(base, 0, burst.fall_rate_bytes)))
    return sorted(made, key=lambda event: event.at_s)


class Run:
    """One script, played to guests that are not started yet, under one contender."""

    def __init__(self, script: Script, contender: Contender, guests: Sequence[Guest], show: Show) -> None:
        names = [guest.name for guest in guests]
        self._script = script
        self._show = show
        self._contender = contender
        self._guests = guests
        self._monitors = Monitors()
        self._sampler = ResidentSeries(
            script.guests,
            script.maximum_bytes,
            lambda: tuple(self._monitors.actual.get(name, 0) for name in names),
        )
        self._heard: list[list[Heard]] = [[] for _ in names]
        self._free: dict[str, int] = {}
        self._waiting: dict[int, Wanted] = {}
        self._joining: dict[int, asyncio.Task[None]] = {}
        self._moves: list[tuple[float, Order]] = []
        self._lost: list[tuple[float, int]] = []
        self._begun_s = 0.0
        self._is_playing = False

    async def execute(self) -> Series:
        """Carry it out. Raises DynmemError when guests do not come up or the contender ends by itself."""
        try:
            with self._sampler:
                await self._boot()
                self._contender.start({guest.name: guest.monitor for guest in self._guests})
                await self._rest()
                begun_wall_ns = await self._play()
        finally:
            self._contender.stop()
            for task in self._joining.values():
                task.cancel()
            await self._monitors.close()
            for guest in self._guests:
                guest.stop()
        moves = [Move(at_s - self._begun_s, order) for at_s, order in self._moves]
        moves += self._contender.moves(begun_wall_ns)
        return Series(
            heard=self._heard,
            held=self._sampler.held,
            moves=sorted(moves, key=lambda move: move.at_s),
            lost=self._lost,
            longest_gap_s=self._sampler.longest_gap_s,
            begun_wall_ns=begun_wall_ns,
        )

    async def _boot(self) -> None:
        self._show("boots", 0.0)
        for number in range(len(self._guests)):
            self._start(number)
        deadline = time.monotonic() + BOOT_S
        while len(self._figures()) < len(self._guests):
            await self._tick()
            if time.monotonic() > deadline:
                missing = {guest.name for guest in self._guests} - set(self._figures())
                raise DeadlineError(f"{', '.join(sorted(missing))} did not boot within {BOOT_S:.0f} s")

    def _start(self, number: int) -> None:
        self._guests[number].start()
        self._joining[number] = asyncio.create_task(self._join(number))

    async def _join(self, number: int) -> None:
        """Connect to a guest that is starting: its size is ordered before its driver asks for it."""
        guest = self._guests[number]
        await self._monitors.connect(guest.name, guest.observed)
        self._sampler.watch(number, guest.pid)
        await self._send(list(self._contender.booting(guest.name)))

    async def _rest(self) -> None:
        """Wait until the contender has brought the guests where it leaves them while nothing happens."""
        self._show("comes to rest", 0.0)
        deadline = time.monotonic() + self._contender.rest_s
        due_s, quiet = 0.0, 0
        while time.monotonic() < deadline and quiet < QUIET_ROUNDS:
            await self._tick()
            if time.monotonic() < due_s:
                continue
            due_s = time.monotonic() + REST_PERIOD_S
            orders = self._contender.rest(self._host(), self._figures())
            if orders is not None:
                quiet = 0 if orders else quiet + 1
                await self._send(list(orders))

    async def _play(self) -> int:
        """Play the script, and return when it began, by the wall clock."""
        begun_wall_ns, self._begun_s = time.time_ns(), time.monotonic()
        self._is_playing = True
        self._sampler.begin(self._begun_s)
        due = events(self._script)
        while (now_s := time.monotonic() - self._begun_s) < self._script.duration_s:
            while due and due[0].at_s <= now_s:
                await self._carry_out(due.pop(0))
            await self._tick()
            orders = self._contender.tick(now_s, self._host(), self._figures())
            await self._send(list(orders))
            self._show("runs", now_s / self._script.duration_s)
        return begun_wall_ns

    async def _carry_out(self, event: Event) -> None:
        if event.wanted is None:
            await self._restart(event.guest)
        else:
            self._waiting[event.guest] = event.wanted

    async def _restart(self, number: int) -> None:
        guest = self._guests[number]
        self._joining[number].cancel()
        await self._monitors.disconnect(guest.name)
        self._sampler.forget(number)
        self._free.pop(guest.name, None)
        guest.stop()
        self._start(number)

    async def _tick(self) -> None:
        """Look at everything once, and then wait a moment."""
        self._contender.check()
        for number, guest in enumerate(self._guests):
            try:
                self._hear(number, guest)
                guest.step()
            except DynmemError:
                if not self._is_playing:
                    raise
                self._lost.append((time.monotonic() - self._begun_s, number))
                await self._restart(number)
            wanted = self._waiting.get(number)
            if wanted is not None:
                with suppress(DynmemError):  # its line is full, or it has just ended: again at the next look
                    guest.order(*wanted)
                    del self._waiting[number]
            joining = self._joining[number]
            if joining.done() and not joining.cancelled() and (failure := joining.exception()) is not None:
                raise failure
        await asyncio.sleep(TICK_S)

    def _hear(self, number: int, guest: Guest) -> None:
        report = guest.report()
        if report is None:
            return
        self._free[guest.name] = report.free_bytes
        heard = self._heard[number]
        if heard and heard[-1].life == guest.lives and heard[-1].t >= report.t:
            return
        heard.append(
            Heard(
                at_s=time.monotonic() - self._begun_s if self._is_playing else -1.0,
                life=guest.lives,
                t=report.t,
                wanted=report.wanted_pages * PAGE_SIZE,
                held=report.held_pages * PAGE_SIZE,
                kills=report.kills,
                read=report.read_pages * PAGE_SIZE,
            )
        )

    def _host(self) -> Host:
        total = int(self._script.budget_bytes / HOST_SHARE)
        return Host(total, sum(self._sampler.latest))

    def _figures(self) -> Mapping[str, Figures]:
        actual = self._monitors.actual
        return {
            name: Figures(actual[name], free) for name, free in list(self._free.items()) if name in actual
        }

    async def _send(self, orders: list[Order]) -> None:
        if orders:
            arrived = await self._monitors.send(orders)
            self._moves += [(time.monotonic(), order) for order in arrived]
