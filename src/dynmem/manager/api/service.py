"""What the manager does for its clients: status, reservations, releases, pauses."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Final

import msgspec

from dynmem import __version__
from dynmem.dates import format_date
from dynmem.errors import ConfigError, DeadlineError, RefusedError, quoted
from dynmem.limits import API_WAIT_NS_MAX, MANAGER_FIGURE_BYTES_MAX, PAUSE_NS_MAX
from dynmem.manager.api.messages import (
    AdmitRequest,
    DaemonView,
    PauseReply,
    PauseRequest,
    ReleaseReply,
    ReleaseRequest,
    Reply,
    Request,
    ReserveReply,
    ReserveRequest,
    ResumeReply,
    ResumeRequest,
    SampleReply,
    SampleRequest,
    StatusReply,
    StatusRequest,
    TakeUpReply,
    TakeUpRequest,
)
from dynmem.manager.api.promises import Promises
from dynmem.manager.config import Config
from dynmem.manager.config_file import is_name
from dynmem.manager.journal.journal import PAUSED, RELEASED, RESERVED, Instruction, JournalError
from dynmem.manager.journal.writer import JournalWriter
from dynmem.manager.next_sweep import NextSweep
from dynmem.manager.reload import ConfigWatch
from dynmem.manager.step import Manager
from dynmem.manager.totals import Totals
from dynmem.units import NS_PER_S, format_size

# A sweep that is asked for has been and was decided on within this, unless the host is very busy.
_STEP_NS: Final = 5 * NS_PER_S
# A status waits no longer for the sweep that a reset has caused.
_FRESH_S: Final = 1.0


class Service:
    """Carries out requests between two steps of the loop; one that cannot wait has the next sweep soon."""

    def __init__(
        self,
        watch: ConfigWatch,
        manager: Manager,
        writer: JournalWriter,
        next_sweep: NextSweep,
        totals: Totals,
        history_problem: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._next_sweep = next_sweep
        self._watch = watch
        self._manager = manager
        self._writer = writer
        self._stepped = asyncio.Condition()
        self._started = time.monotonic()
        self._sweeps = 0
        self._swept_s = 0.0
        self._promises = Promises(manager, writer)
        self._totals = totals
        self._history_problem = history_problem

    @property
    def _config(self) -> Config:
        return self._watch.config

    async def stepped(self, swept_s: float) -> None:
        """Take note of a step after a sweep of *swept_s* seconds, and wake every request that waits."""
        self._sweeps += 1
        self._swept_s = swept_s
        self._totals.swept(swept_s)
        await self.forget_ended()
        async with self._stepped:
            self._stepped.notify_all()

    async def forget_ended(self) -> None:
        """Remove reservations that have ended from the journal; after the last step, call it again."""
        await self._promises.forget_ended()

    async def handle(self, request: Request) -> Reply:
        """Carry out one request and return its reply; DynmemError is a refusal."""
        match request:
            case StatusRequest():
                await self._resets_taken_in()
                return self.status()
            case SampleRequest():
                await self._resets_taken_in()
                return self.sample()
            case ReserveRequest():
                return await self._reserve(request)
            case AdmitRequest():
                return await self._admit(request)
            case ReleaseRequest(vm):
                return await self._release(vm)
            case TakeUpRequest(vm):
                return await self._take_up(vm)
            case PauseRequest():
                return await self._pause(request)
            case ResumeRequest(vm):
                return await self._resume(vm)

    async def _resets_taken_in(self) -> None:
        """Wait until the figures of guests that were reset by now are not those of their former lives."""
        seen = self._next_sweep.resets
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FRESH_S), self._stepped:
                await self._stepped.wait_for(lambda: self._next_sweep.resets_known >= seen)

    def status(self) -> StatusReply:
        """Return everything that can be asked about the last step, as it stands now."""
        since_epoch_ns = time.time_ns() - time.monotonic_ns()
        view = self._manager.status().dated(lambda at_ns: format_date(at_ns + since_epoch_ns))
        ago_s = None
        if view.swept_ns is not None:
            ago_s = round((time.monotonic_ns() - view.swept_ns) / NS_PER_S, 3)
        daemon = DaemonView(
            version=__version__,
            pid=os.getpid(),
            config=str(self._config.path),
            state=str(self._config.state),
            at=format_date(time.time_ns()),
            uptime_s=round(time.monotonic() - self._started, 3),
            sweeps=self._sweeps,
            sweep_took_s=round(self._swept_s, 6),
            swept_ago_s=ago_s,
            journal_problem=self._writer.problem,
            config_problem=self._watch.problem,
            history_problem=self._history_problem(),
        )
        return StatusReply(**msgspec.structs.asdict(view), manager=daemon, totals=self._totals.view())

    def sample(self) -> SampleReply:
        """Return every figure of the last step."""
        made = self._manager.sample()
        if made is None:
            return SampleReply(None, None)
        since_epoch_ns = time.time_ns() - time.monotonic_ns()
        return SampleReply(format_date(made.now_ns + since_epoch_ns), made)

    async def _reserve(self, request: ReserveRequest) -> ReserveReply:
        """Make room and reply when it is there; a client that hangs up before that withdraws the request."""
        if not is_name(request.name):
            raise ConfigError(f"{quoted(request.name)} is not a name: use letters, digits, '.', '-' and '_'")
        if not 0 <= request.wait_ns <= API_WAIT_NS_MAX or not 0 <= request.hold_ns <= API_WAIT_NS_MAX:
            raise ConfigError(f"wait and hold are each at most {API_WAIT_NS_MAX // NS_PER_S} s")
        if not 0 < request.size_bytes < MANAGER_FIGURE_BYTES_MAX:
            limit = format_size(MANAGER_FIGURE_BYTES_MAX)
            raise ConfigError(f"{request.name}: a reservation has a size above 0 and below {limit}")
        wait_ns = max(request.wait_ns, _STEP_NS)
        life, now_ns = self._manager.life(request.name), time.monotonic_ns()
        deadline_ns = now_ns + wait_ns + request.hold_ns
        made = self._manager.reserve(request.name, request.size_bytes, now_ns, deadline_ns, life)
        if made.state == "refused":
            raise RefusedError(f"{request.name}: {made.reason}")
        is_kept = False
        try:
            await self._promises.keep(_promise(request, wait_ns + request.hold_ns, life))
            self._next_sweep.wanted.set()
            reason = await self._wait_for_room(request.name, request.wait_ns / NS_PER_S)
            self._manager.hold(made, time.monotonic_ns() + request.hold_ns)
            is_kept = True
        finally:
            if not is_kept:
                self._manager.drop_reservation(made)
        with contextlib.suppress(JournalError):  # then a restart keeps it longer, by what was not waited
            await self._promises.keep(_promise(request, request.hold_ns, life))
        return ReserveReply(request.name, request.size_bytes, reason)

    async def _admit(self, request: AdmitRequest) -> ReserveReply:
        """Keep room for a VM that is about to start, if it is as the file describes it."""
        try:
            self._check_admission(request)
            return await self._reserve(ReserveRequest(request.name, request.size_bytes, request.wait_ns))
        except (ConfigError, RefusedError, DeadlineError) as error:
            raise type(error)(f"not admitted: {error}") from error

    def _check_admission(self, request: AdmitRequest) -> None:
        """Raise ConfigError or RefusedError if a VM would not be what the file describes."""
        name, config = self._known(request.name)[0], self._config
        monitor = config.monitors.get(name)
        if monitor is None:
            raise ConfigError(f"{name}: {config.path} says that it is a domain of libvirt, not a `dynmem vm`")
        if request.monitor not in (str(monitor), os.path.realpath(monitor)):
            raise ConfigError(
                f"{name}: {config.path} says that its monitor is {monitor}: start it with"
                f" --qmp unix:{monitor},server=on,wait=off"
            )
        maximum = next(vm.maximum_bytes for vm in config.vms if vm.name == name)
        if request.size_bytes > maximum:
            raise RefusedError(
                f"{name}: it boots with {format_size(request.size_bytes)}, its maximum in {config.path} is"
                f" {format_size(maximum)}: start it with less, or raise its maximum"
            )
        if self._manager.life(name):
            raise RefusedError(f"{name}: a VM runs on its monitor already: end that one first")

    async def _wait_for_room(self, name: str, wait_s: float) -> str:
        """Wait until a reservation is ready and return why it is; RefusedError or DeadlineError.

        Whatever the wait, one step is waited for: only a step measures what is free.
        """
        sweeps, deadline_s = self._sweeps, time.monotonic() + wait_s
        state, reason = self._manager.reservation_state(name)
        try:
            async with self._stepped:
                while state == "waiting":
                    left_s = deadline_s - time.monotonic()
                    if self._sweeps == sweeps:
                        left_s = max(left_s, _STEP_NS / NS_PER_S)
                    async with asyncio.timeout(max(0, left_s)):
                        await self._stepped.wait()
                    state, reason = self._manager.reservation_state(name)
        except TimeoutError as error:
            why = (
                ""
                if self._config.settings.is_enforcing
                else f"; in {self._config.settings.mode} mode no VM is shrunk to make room"
            )
            raise DeadlineError(f"{name}: no room after {wait_s:g} s: {reason}{why}") from error
        if state != "ready":
            raise RefusedError(f"{name}: {reason}")
        return reason

    async def _release(self, name: str | None) -> ReleaseReply:
        names = self._known(name)
        for each in names:
            release = Instruction(RELEASED, each)
            await self._writer.do(partial(self._writer.journal.keep, release, time.time_ns()))
            self._manager.release(each)
        self._next_sweep.wanted.set()
        return ReleaseReply(
            released=names,
            sent=self._config.settings.is_enforcing,
            promised_bytes=self._manager.promised_bytes(),
            budget_bytes=self._config.settings.budget_bytes,
        )

    async def _take_up(self, name: str | None) -> TakeUpReply:
        names = tuple(each for each in self._known(name) if each in self._manager.released)
        for each in names:
            await self._writer.do(partial(self._writer.journal.drop, Instruction(RELEASED, each)))
            self._manager.take_up(each)
        self._next_sweep.wanted.set()
        return TakeUpReply(names)

    async def _pause(self, request: PauseRequest) -> PauseReply:
        """Leave VMs as they are; one that is released is left as it is already, and stays released."""
        if not 0 < request.for_ns <= PAUSE_NS_MAX:
            days = PAUSE_NS_MAX // (24 * 3600 * NS_PER_S)
            raise ConfigError(f"a pause lasts more than 0 and at most {days * 24} h: choose a time between")
        released = self._manager.released
        if request.vm in released:
            raise RefusedError(
                f"{request.vm}: it is released, and left alone already: to pause it instead, run first:"
                f" dynmem release {request.vm} --undo"
            )
        names = tuple(each for each in self._known(request.vm) if each not in released)
        until_ns = time.time_ns() + request.for_ns
        for each in names:
            pause = Instruction(PAUSED, each, until_ns=until_ns)
            await self._writer.do(partial(self._writer.journal.keep, pause, time.time_ns()))
            self._manager.pause(each, time.monotonic_ns() + request.for_ns)
        self._next_sweep.wanted.set()
        return PauseReply(names, format_date(until_ns))

    async def _resume(self, name: str | None) -> ResumeReply:
        names = tuple(each for each in self._known(name) if each in self._manager.paused)
        for each in names:
            await self._writer.do(partial(self._writer.journal.drop_all, PAUSED, each))
            self._manager.resume(each)
        self._next_sweep.wanted.set()
        return ResumeReply(names)

    def _known(self, name: str | None) -> tuple[str, ...]:
        configured = tuple(vm.name for vm in self._config.vms)
        if name is None:
            return configured
        if name not in configured:
            close = get_close_matches(name, configured, 1)
            known = ", ".join(configured[:20]) or "none"
            hint = f"did you mean {close[0]}?" if close else f"it has {known}"
            raise ConfigError(f"{self._config.path} has no VM {quoted(name)}: {hint}")
        return (name,)


def _promise(request: ReserveRequest, for_ns: int, life: str) -> Instruction:
    return Instruction(RESERVED, request.name, request.size_bytes, time.time_ns() + for_ns, life)
