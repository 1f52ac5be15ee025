"""One VM as the manager sees it: its monitor, its process, its figures.

At most one exchange with a VM runs at any time, in a task of its own; only a target may be sent beside a
glance. A sweep waits for it only briefly, and for a VM that has kept one sweep waiting not at all until it
has replied. Whatever one VM does (hang, die, send nonsense, let another client hold its monitor), the others
do not wait for it.

    connect --> find device --> look (status, size, figures) --> look ... --> lost --> pause --> connect

Between two looks there can be glances at a VM that replies at once: its size and its guest's report only. A
glance that fails changes nothing: the next look finds out why.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from dynmem.errors import DynmemError, RefusedError, UnreachableError
from dynmem.limits import RECONNECT_PAUSE_S_MAX
from dynmem.manager.step.facts import ABSENT, SILENT, VmFacts
from dynmem.manager.step.states import may_send
from dynmem.manager.sweep.balloon import glance_at_balloon, look_at_balloon, read_figures
from dynmem.manager.sweep.conduct import Conduct, trouble
from dynmem.manager.sweep.demand import BALLOON_EVENT, STATUS_EVENT
from dynmem.manager.sweep.hold import Hold
from dynmem.manager.sweep.identity import Identities
from dynmem.manager.sweep.life import Life
from dynmem.manager.sweep.measuring import Measuring
from dynmem.manager.sweep.monitor import Monitor
from dynmem.manager.sweep.owner import owner_of
from dynmem.manager.sweep.process import Process
from dynmem.manager.sweep.quiet import NotSentError, QuietMoment
from dynmem.manager.sweep.resident import Resident, ResidentMeter
from dynmem.manager.sweep.run_state import JOB_EVENT, read_run_state
from dynmem.manager.sweep.sizes import read_base, read_memory
from dynmem.manager.sweep.surroundings import read_lock
from dynmem.qmp.client import QmpClient
from dynmem.qmp.errors import NotListeningError, QmpCommandError
from dynmem.sockets import listener

LOG: Final = logging.getLogger(__name__)
# A monitor that takes longer for one command is disconnected and tried again later.
COMMAND_TIMEOUT_S: Final = 3.0
# A VM that does not reply to a glance within this is left to the next look.
GLANCE_PATIENCE_S: Final = 0.05
# A process that has run for less than this between two glances did nothing that takes much memory.
_BUSY_TICKS: Final = 2
# A sweep's patience with one VM, in parts.
_PATIENCE_TICKS: Final = 20
# The events that are looked at; others are dropped as they come.
_EVENTS: Final = frozenset({"RESET", BALLOON_EVENT, STATUS_EVENT, JOB_EVENT})
# Looks between two checks for new DIMMs, of a VM that cannot grow otherwise.
_LOOK_AT_MEMORY_EVERY: Final = 10


class VmConnection:
    """The manager's connection to one VM; *reset* is called when its guest was reset."""

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        may_write: bool,
        period_s: float,
        may_ask: bool = False,
        reset: Callable[[], None] = lambda: None,
        identities: Identities | None = None,
        measuring: Measuring | None = None,
    ) -> None:
        self.name: Final = name
        self.path: Final = path
        #: Whether the VM is left alone: what was changed of its settings is put back.
        self.is_released: bool = False
        #: Whether nothing of the VM may be changed now, whatever the mode.
        self.is_paused: bool = False
        self._hold = Hold(name, path, Identities() if identities is None else identities)
        self._threads = Measuring() if measuring is None else measuring
        self._may_write = may_write
        self._may_ask = may_ask
        self._period_s = period_s
        self._reset = reset
        self._monitor: Monitor | None = None
        self._conduct = Conduct()
        self._quiet: QuietMoment | None = None
        self._life: Life | None = None
        self._look: asyncio.Task[VmFacts] | None = None
        self._glance: asyncio.Task[VmFacts | None] | None = None
        self._last_state: str | None = None
        self._ticks = 0
        self._measuring: asyncio.Task[None] | None = None
        self._nobody_listens = False
        self._is_slow = False
        self._pause_s = 0.0
        self._not_before = 0.0
        self._problem: str | None = None
        self._lives = 0
        self._dropped = 0

    @property
    def incarnation(self) -> str:
        """The process at the other end; empty if there is none."""
        return self._life.incarnation if self._life is not None else ""

    @property
    def _may_change(self) -> bool:
        """Whether anything of the VM may be changed now."""
        return self._may_write and not self.is_paused

    def configure(self, *, may_write: bool, period_s: float, may_ask: bool = False) -> None:
        """Put another mode and period in force."""
        self._may_write, self._period_s, self._may_ask = may_write, period_s, may_ask
        if self._monitor is not None:
            self._allow(self._monitor)
        if not may_write:
            self._hold.unlock()

    def _allow(self, monitor: Monitor) -> None:
        """Put in force what may be sent to the VM now."""
        monitor.may_write = self._may_change
        monitor.may_ask = self._may_change or (self._may_ask and not self.is_paused)

    async def observe(self, now_ns: int, patience_s: float) -> VmFacts:
        """Look at the VM for at most *patience_s* seconds; never raises: the facts say what is wrong.

        *now_ns* is the time of the sweep: a new report of the guest counts as made then.
        """
        if self._look is not None and self._look.done():
            # The result for an earlier sweep: too old to be used, but it shows whether the VM replies again.
            self._is_slow = self._monitor is None
            self._look = None
        if self._look is None:
            if self._monitor is None and time.monotonic() < self._not_before:
                return self._from_outside(now_ns)
            self._look = asyncio.create_task(self._look_at_it(now_ns), name=f"look at {self.name}")
        await self._wait(0.0 if self._is_slow else patience_s)
        if not self._look.done():
            self._is_slow = True
            return self._from_outside(now_ns)
        look, self._look = self._look, None
        return look.result()

    async def glance(self, now_ns: int, *, ask: bool = False) -> VmFacts | None:
        """Look briefly at a VM that replied to its last look; None if it cannot be looked at just now.

        Its run state and what is wrong with it are those of the last look. With *ask*, its guest is asked for
        a report at once where that is allowed; what it then says may come with the next glance. A VM that
        replies too late for this glance is waited for by the next, and by the next look.
        """
        if self._glance is not None and self._glance.done():
            self._glance = None  # for an earlier call: what it found is known by now
        if self._glance is None:
            if self._look is not None or self._is_slow or self._monitor is None or self._last_state is None:
                return None
            task = self._glance_at_it(self._monitor, self._last_state, now_ns, ask=ask)
            self._glance = asyncio.create_task(task, name=f"glance at {self.name}")
        glance = self._glance
        await asyncio.wait((glance,), timeout=GLANCE_PATIENCE_S)
        if not glance.done() or glance.cancelled():
            return None
        self._glance = None
        return glance.result()

    def resident_now(self) -> int | None:
        """Return what its guest holds now, by the host; None where that takes more than microseconds."""
        life = self._life
        return None if life is None or life.meter is None else life.meter.guest_bytes_now()

    def was_busy(self) -> bool:
        """Return whether its process has run since the last call for more than an idle guest takes."""
        process = self._life.process if self._life is not None else None
        if process is None:
            return False
        before, self._ticks = self._ticks, process.ticks()
        return self._ticks - before >= _BUSY_TICKS

    async def _wait(self, patience_s: float) -> None:
        """Wait for the look, in ticks: one that comes late counts once.

        The loop serves all VMs, and one that makes it late must not use up the patience with the others.
        """
        assert self._look is not None
        for _ in range(_PATIENCE_TICKS):
            done, _ = await asyncio.wait((self._look,), timeout=patience_s / _PATIENCE_TICKS)
            if done or not patience_s:
                return

    async def set_balloon(self, target_bytes: int) -> None:
        """Set the target; DynmemError says why it was refused. Only `actual` shows what the guest does.

        NotSentError and QmpCommandError mean that the VM does not have it; others, that it may.
        """
        if self._monitor is None or self._look is not None:
            raise UnreachableError(f"{self.name} does not reply at {self.path}")
        monitor, life = self._monitor, self._life
        if self._may_write and not monitor.may_write:
            raise NotSentError(f"{self.name} is not to be changed now")
        send = monitor.set_balloon
        if self._quiet is not None and life is not None and life.is_hv_balloon:
            await self._quiet.wait(partial(read_figures, monitor))
            send = monitor.set_balloon_stopped
            if not monitor.may_write:
                raise NotSentError(f"{self.name} is not to be changed now")
        if life is not None:
            life.target_bytes = target_bytes
        try:
            await send(target_bytes)
        except QmpCommandError:
            raise
        except (DynmemError, OSError, TimeoutError) as error:
            await self._lose(error)
            raise

    async def close(self) -> None:
        """Disconnect; targets stay as they are."""
        for task in (self._look, self._glance, self._measuring):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        self._look = self._glance = self._measuring = None
        await self._hang_up()
        self._end_life()
        self._hold.close()

    # -- one look -------------------------------------------------------------------------------------------

    async def _look_at_it(self, now_ns: int) -> VmFacts:
        """Connect if need be and send all queries once."""
        self._last_state = None
        if self._glance is not None:
            await asyncio.wait((self._glance,))
        try:
            monitor = self._monitor or await self._connect()
            self._allow(monitor)
            if self._may_write:
                self._hold.lock()
            return await self._ask(monitor, now_ns)
        except QmpCommandError as error:
            if (
                self._monitor is not None and self._life is not None
            ):  # an answer: it is there, and asked again
                self._problem = f"its monitor {self.path} rejects what every VM is asked: {error.desc}"
                return self._facts(self._life, SILENT, now_ns)
            await self._lose(error)
        except (DynmemError, OSError, TimeoutError) as error:
            await self._lose(error)
        except Exception as error:  # a surprise with one VM must not end the service of the others
            LOG.exception("%s: looking at it failed", self.name)
            await self._lose(error)
        return self._from_outside(now_ns)

    async def _connect(self) -> Monitor:
        self._hold.look()
        client = await QmpClient.connect(self.path, events=_EVENTS)
        client.when["RESET"] = self._reset
        monitor = self._monitor = Monitor(client, may_write=False, timeout_s=COMMAND_TIMEOUT_S)
        self._allow(monitor)
        self._quiet = None if monitor.is_ours else QuietMoment(self.name)
        if self._quiet is not None:
            client.when[STATUS_EVENT] = self._quiet.saw_report
        self._conduct = Conduct()
        self._dropped = 0
        self._begin_life(client.peer.pid)
        self._hold.saw_uuid(await _uuid(monitor))
        if self._life is not None and self._life.looks:
            self._life.was_deaf()  # events were missed while disconnected, perhaps a RESET
        return monitor

    def _begin_life(self, pid: int) -> None:
        """Recognize the process, or begin a life with a new one (0: it cannot be seen)."""
        process = Process.of(pid)
        if self._life is not None:
            if process is None and self._life.process is None:
                return
            if process is not None and process.incarnation == self._life.incarnation:
                process.close()
                return
            self._end_life()
        try:
            self._hold.saw_process(process.incarnation if process is not None else "")
        except RefusedError:
            if process is not None:
                process.close()
            raise
        self._lives += 1
        incarnation = process.incarnation if process is not None else f"connection {self._lives}"
        meter = ResidentMeter(process) if process is not None else None
        owner = owner_of(process.pid) if process is not None else None
        self._life = Life(process, incarnation, meter, owner)
        if meter is None:
            self._life.resident = Resident(
                None, "unknown (its process cannot be found yet, or is in another pid namespace)"
            )

    def _end_life(self) -> None:
        if self._life is not None and self._life.process is not None:
            self._life.process.close()
        self._life = None
        self._hold.release()

    async def _ask(self, monitor: Monitor, now_ns: int) -> VmFacts:
        """Send all queries of one look and return the facts."""
        life = self._life
        assert life is not None
        self._take_events(monitor, life)
        run_state = await read_run_state(monitor, life.jobs, life.looks)
        life.lock = await read_lock(life.proxmox, self._threads)
        monitor.may_write = self._may_change and may_send(run_state, life.lock)
        await self._look_at_memory(monitor, life)
        await life.around.look(monitor, life.pid, life.boot_bytes, life.looks, self._threads)
        life.looks += 1
        held = self._may_write and not monitor.may_write
        self._problem = await look_at_balloon(
            monitor, life, now_ns, period_s=self._period_s, released=self.is_released, held=held
        )
        await self._measure(life)
        self._problem = self._problem or self._conduct.sentence(monitor.client.unasked) or None
        # A reset in the middle of a look makes its figures the former guest's.
        self._take_events(monitor, life)
        self._pause_s = 0.0
        self._last_state = run_state
        return self._facts(life, run_state, now_ns)

    async def _glance_at_it(
        self, monitor: Monitor, run_state: str, now_ns: int, *, ask: bool
    ) -> VmFacts | None:
        """Read size and report once; None if there are none or the VM's life has ended meanwhile."""
        life = self._life
        if life is None or life.device is None or life.memory is None:
            return None
        try:
            self._take_events(monitor, life)
            if not await glance_at_balloon(monitor, life, now_ns, ask=ask and not self.is_released):
                return None
        except (DynmemError, OSError, TimeoutError):
            return None
        except Exception:  # as with a look
            LOG.exception("%s: glancing at it failed", self.name)
            return None
        guest_bytes = self.resident_now()
        if guest_bytes is not None and life.resident.bytes_held is not None:
            life.resident = life.resident._replace(bytes_held=guest_bytes + life.resident.overhead_bytes)
        # A reset in the middle of it makes its figures the former guest's.
        self._take_events(monitor, life)
        return self._facts(life, run_state, now_ns) if life is self._life else None

    @staticmethod
    async def _look_at_memory(monitor: Monitor, life: Life) -> None:
        """Read its memory: seldom, except where it can grow."""
        if life.base_bytes is None:
            life.base_bytes = await read_base(monitor)
        memory = life.memory
        if memory is None or memory.limit_bytes > memory.boot_bytes or life.looks >= life.next_memory:
            life.next_memory = life.looks + _LOOK_AT_MEMORY_EVERY
            life.memory = await read_memory(monitor, life.base_bytes)

    def _take_events(self, monitor: Monitor, life: Life) -> None:
        """Count the events since the last look."""
        for event in monitor.client.take_events():
            if event.name == "RESET":
                life.was_reset(event.at_us)
            elif event.name == BALLOON_EVENT:
                life.balloon_changed(event.at_us)
            elif event.name == STATUS_EVENT:
                life.guest_reported(event.at_us)
            else:
                life.jobs.changed()
        if monitor.client.events_dropped != self._dropped:
            self._dropped = monitor.client.events_dropped
            life.deaf = True  # a RESET may be among them

    # -- from outside ---------------------------------------------------------------------------------------

    async def _measure(self, life: Life) -> None:
        if life.meter is None:
            return
        if life.meter.is_quick:
            life.resident = life.meter.measure(life.blocks)
        else:
            life.resident = await self._threads.run(partial(life.meter.measure, life.blocks))

    def _from_outside(self, now_ns: int) -> VmFacts:
        """Find out from outside whether a VM that does not reply is there, and what it holds."""
        if self._life is not None and self._is_gone(self._life):
            self._end_life()
            self._not_before = self._pause_s = 0.0
            self._problem = f"its process has ended (its monitor was {self.path})"
        elif self._life is None and not self._nobody_listens:
            with contextlib.suppress(OSError):  # no descriptor left: try again at the next look
                self._begin_from_outside()
        life = self._life
        if life is None:
            return VmFacts(name=self.name, incarnation="", run_state=ABSENT, problem=self._problem)
        self._problem = self._why_silent()
        if life.meter is not None and life.meter.is_quick:
            life.resident = life.meter.measure(life.blocks)
        elif self._measuring is None or self._measuring.done():
            self._measuring = asyncio.create_task(self._measure(life))  # for the next sweep to find
        return self._facts(life, SILENT, now_ns)

    def _begin_from_outside(self) -> None:
        """Begin the life of a VM that does not reply: its memory counts."""
        try:
            self._hold.look()
            self._begin_life(listener(self.path))
        except RefusedError as error:
            self._problem = f"it {error}"

    def _why_silent(self) -> str:
        """Return why a VM that is there does not reply."""
        if self._monitor is not None:
            conduct = self._conduct.sentence(self._monitor.client.unasked)
            return f"{conduct or f'its monitor {self.path} does not reply'}{self._hint()}"
        if self._may_write:
            try:
                self._hold.lock()
            except RefusedError as error:
                return f"it {error}"
        return self._problem or f"its monitor {self.path} does not reply{self._hint()}"

    def _is_gone(self, life: Life) -> bool:
        """Return whether its process has ended or, if no process is known, its socket is dead."""
        return life.process.gone() if life.process is not None else self._nobody_listens

    def _facts(self, life: Life, run_state: str, now_ns: int) -> VmFacts:
        return VmFacts(
            name=self.name,
            incarnation=life.incarnation,
            run_state=run_state,
            device=life.device.kind if life.device is not None else None,
            boot_bytes=life.memory.boot_bytes if life.memory is not None else None,
            limit_bytes=life.memory.limit_bytes if life.memory is not None else None,
            added_bytes=life.memory.added_bytes if life.memory is not None else None,
            actual_bytes=life.actual_bytes,
            is_actual_former=life.is_actual_former,
            resident_bytes=life.resident.bytes_held,
            resident_source=life.resident.source,
            resident_overhead_bytes=life.resident.overhead_bytes,
            huge_bytes=life.resident.huge_bytes,
            demand=life.tracker.demand(now_ns) if life.tracker is not None else None,
            report_interval_ns=life.statistics.interval_ns if life.statistics is not None else 0,
            deflates_on_oom=life.properties.deflates_on_oom if life.properties is not None else None,
            reports_free_pages=life.properties.reports_free_pages if life.properties is not None else None,
            needs_stop=self._quiet is not None and life.is_hv_balloon,
            resets=life.resets,
            owner=life.owner,
            lock=life.lock,
            pinned=life.around.found.pinned,
            problem=self._problem,
        )

    # -- losing it ------------------------------------------------------------------------------------------

    async def _lose(self, error: BaseException) -> None:
        """Disconnect after a fault and record it; the next attempt waits longer each time."""
        self._problem = self._sentence(error)
        if conduct := self._monitor and self._conduct.sentence(self._monitor.client.unasked):
            self._problem = f"{conduct}; {self._problem}"
        await self._hang_up()
        self._pause_s = min(max(2 * self._pause_s, self._period_s), RECONNECT_PAUSE_S_MAX)
        self._nobody_listens = isinstance(error, NotListeningError)
        # A dead socket costs one failed connect: try each period, so that a new VM is seen at once.
        self._not_before = time.monotonic() + (0.0 if self._nobody_listens else self._pause_s)

    def _sentence(self, error: BaseException) -> str:
        return trouble(error, self.path, has_replied=self._monitor is not None) + self._hint()

    def _hint(self) -> str:
        """Return what the state of the process says about its silence."""
        if self._life is not None and self._life.process is not None and self._life.process.stopped():
            return "; its process is stopped (by SIGSTOP or a debugger): continue it"
        return ""

    async def _hang_up(self) -> None:
        if self._monitor is not None:
            monitor, self._monitor = self._monitor, None
            await monitor.client.close()


async def _uuid(monitor: Monitor) -> object:
    """Return what a monitor reports as its VM's UUID; None if it reports none."""
    try:
        reply = await monitor.query("query-uuid")
    except QmpCommandError:
        return None
    return reply.get("UUID") if isinstance(reply, dict) else None
