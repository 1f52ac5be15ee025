"""One VM as the manager sees it: its monitor, its process, its figures.

At most one exchange with a VM runs at any time, in a task of its own; only a target may be sent beside a
glance. A sweep waits for it only briefly, and for a VM that has kept one sweep waiting not at all until it
has replied. Whatever one VM does (hang, die, send nonsense, let another client hold its monitor), the others
do not wait for it.

    connect --> find device --> look (status, size, figures) --> look ... --> lost --> pause --> connect

A monitor that another program owns is connected for each look, and left after it (`borrowed`).

Between two looks there can be glances at a VM that replies at once: its size and its guest's report only. A
glance that fails changes nothing: the next look finds out why.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final

from dynmem.errors import DynmemError, RefusedError, UnreachableError
from dynmem.limits import RECONNECT_PAUSE_S_MAX
from dynmem.manager.step.division import Parts
from dynmem.manager.step.facts import ABSENT, SILENT, VmFacts
from dynmem.manager.step.states import may_send
from dynmem.manager.sweep.access import Access, Own, Use
from dynmem.manager.sweep.balloon import glance_at_balloon, look_at_balloon, read_figures
from dynmem.manager.sweep.borrowed import TakenError
from dynmem.manager.sweep.conduct import Conduct, trouble
from dynmem.manager.sweep.demand import STATUS_EVENT
from dynmem.manager.sweep.hold import Hold
from dynmem.manager.sweep.identity import Identities
from dynmem.manager.sweep.life import EVENTS, Life, begin_life
from dynmem.manager.sweep.looks import Looks
from dynmem.manager.sweep.measuring import Measuring
from dynmem.manager.sweep.memory import glance_at_memory, look_at_memory
from dynmem.manager.sweep.monitor import Monitor, Usual
from dynmem.manager.sweep.process import Process
from dynmem.manager.sweep.quiet import NotSentError, QuietMoment
from dynmem.manager.sweep.run_state import read_run_state, read_uuid
from dynmem.manager.sweep.surroundings import read_lock
from dynmem.manager.sweep.virtio_mem import PartlySentError, send_parts
from dynmem.qmp.errors import NotListeningError, QmpCommandError

LOG: Final = logging.getLogger(__name__)
# A monitor that takes longer for one command is disconnected and tried again later.
COMMAND_TIMEOUT_S: Final = 3.0


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
        access: Access | None = None,
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
        self._access = Own(path) if access is None else access
        self._monitor: Monitor | None = None
        self._has_replied = False
        self._usual = Usual()
        self._conduct = Conduct()
        self._quiet: QuietMoment | None = None
        self._life: Life | None = None
        self._looks = Looks(name, self._threads, was_late=lambda: not self._replies)
        self._last_state: str | None = None
        self._former_state: str | None = None  # before the look that is being made
        self._nobody_listens = False
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
    def _replies(self) -> bool:
        """Whether it is connected or, if its monitor is borrowed, replied at the last visit."""
        return self._monitor is not None or (self._has_replied and not self._access.stays)

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
        state, lock = self._last_state, "" if self._life is None else self._life.lock
        monitor.may_write = self._may_change and (state is None or may_send(state, lock))
        monitor.may_ask = self._may_change or (self._may_ask and not self.is_paused)

    def begin(self, now_ns: int) -> asyncio.Future[VmFacts] | None:
        """Begin a look, if it is time to; return what a sweep waits for."""
        self._looks.drop_late()
        if not self._looks.is_looking:
            may_try = self._replies or time.monotonic() >= self._not_before
            if may_try and (self._access.is_due("look") or self._state_before() is None):
                self._looks.begin(self._look_at_it(now_ns))
        return self._looks.awaited

    def found(self, now_ns: int) -> VmFacts:
        """Return what the look has found, or what is known without it."""
        # Without a result it waits for its turn, or for another program, or the VM does not reply.
        if (facts := self._looks.take() or self._as_before(now_ns)) is not None:
            return facts
        self._looks.is_slow |= self._looks.is_looking
        return self._from_outside(now_ns)

    async def glance(self, now_ns: int, *, ask: bool = False) -> VmFacts | None:
        """Look briefly at a VM that replied to its last look; None if it cannot be looked at just now.

        Its run state and what is wrong with it are those of the last look. With *ask*, its guest is asked for
        a report at once where that is allowed; what it then says may come with the next glance. A VM that
        replies too late for this glance is waited for by the next, and by the next look.
        """

        def begun() -> Coroutine[Any, Any, VmFacts | None] | None:
            if not self._access.is_due("glance") or not self._replies or self._last_state is None:
                return None
            return self._glance_at_it(self._last_state, now_ns, ask=ask)

        return await self._looks.glance(begun)

    def resident_now(self) -> int | None:
        """Return what its guest holds now, by the host; None where that takes more than microseconds."""
        return self._life.guest_bytes_now() if self._life is not None else None

    def was_busy(self) -> bool:
        """Return whether its process has run since the last call for more than an idle guest takes."""
        return self._life is not None and self._life.was_busy()

    async def set_balloon(self, target_bytes: int, parts: Parts | None = None) -> None:
        """Set the target; DynmemError says why it was refused. Only `actual` shows what the guest does.

        *parts* is what each device has of it, where that is not the balloon alone. NotSentError and
        QmpCommandError mean that the VM does not have it; others, that it may.
        """
        if not self._replies or self._looks.is_looking:
            raise UnreachableError(f"{self.name} does not reply at {self.path}")
        life, is_sent = self._life, False
        try:
            async with self._reach("target") as monitor:
                send = await self._sender(monitor, life)
                parts = parts or Parts(target_bytes)
                if life is not None:
                    life.target_bytes = parts.balloon_bytes or life.target_bytes
                    monitor.virtio_mems = life.virtio_paths
                is_sent = True
                await send_parts(monitor, parts, send)
        except (QmpCommandError, NotSentError, PartlySentError):
            raise
        except (DynmemError, OSError, TimeoutError) as error:
            await self._lose(error)
            if is_sent:
                raise
            raise NotSentError(str(error)) from error

    async def _sender(self, monitor: Monitor, life: Life | None) -> Callable[[int], Awaitable[None]]:
        """Return what sends a target, when one may be sent. NotSentError: not now."""
        if life is not self._life:
            raise NotSentError(f"{self.name} has been started again")
        if self._may_write and not monitor.may_write:
            raise NotSentError(f"{self.name} is not to be changed now")
        if self._quiet is None or life is None or not life.is_hv_balloon:
            return monitor.set_balloon
        if not self._access.stays:
            raise NotSentError(f"the hv-balloon of {self.name} needs a monitor for dynmem alone")
        await self._quiet.wait(partial(read_figures, monitor))
        if not monitor.may_write:
            raise NotSentError(f"{self.name} is not to be changed now")
        return monitor.set_balloon_stopped

    async def close(self) -> None:
        """Disconnect; targets stay as they are."""
        await self._looks.close()
        await self._hang_up()
        self._end_life()
        self._hold.close()

    # -- one look -------------------------------------------------------------------------------------------

    async def _look_at_it(self, now_ns: int) -> VmFacts:
        """Connect if need be and send all queries once."""
        self._former_state, self._last_state = self._last_state, None
        await self._looks.let_glance_end()
        try:
            if self._life is not None:
                self._life.lock = await read_lock(self._life.proxmox, self._threads)
            async with self._reach("look") as monitor:
                self._allow(monitor)
                if self._may_write:
                    self._hold.lock()
                async with monitor.ahead(self._usual):
                    life, run_state = self._life, await self._ask(monitor, now_ns)
            assert life is not None
            await life.around.look(life.pid, life.boot_bytes, self._threads)
            await life.measure(self._threads)
            self._problem = self._problem or self._conduct.sentence(monitor.client.unasked) or None
            # A reset in the middle of a look makes its figures the former guest's.
            self._take_events(monitor, life)
            self._pause_s = 0.0
            self._last_state = run_state
            return self._facts(life, run_state, now_ns)
        except TakenError as error:
            if (facts := self._as_before(now_ns)) is not None:
                self._last_state = self._former_state
                return facts
            await self._lose(error)
        except QmpCommandError as error:
            if self._replies and self._life is not None:  # an answer: it is there, and asked again
                self._problem = f"its monitor {self.path} rejects what every VM is asked: {error.desc}"
                return self._facts(self._life, SILENT, now_ns)
            await self._lose(error)
        except (DynmemError, OSError, TimeoutError) as error:
            await self._lose(error)
        except Exception as error:  # a surprise with one VM must not end the service of the others
            LOG.exception("%s: looking at it failed", self.name)
            await self._lose(error)
        return self._as_before(now_ns) or self._from_outside(now_ns)

    @contextlib.asynccontextmanager
    async def _reach(self, use: Use) -> AsyncIterator[Monitor]:
        """Be connected to its monitor; afterwards no longer, if it is borrowed."""
        async with self._access.turn(use):
            try:
                monitor = self._monitor or await self._connect()
                yield monitor
            finally:
                if not self._access.stays:
                    await self._hang_up()

    def _state_before(self) -> str | None:
        """Return the run state that was found last; None where that, and all else, no longer counts."""
        is_recent = self._access.is_recent(self._period_s)
        if self._life is None or not is_recent or self._is_gone(self._life):
            return None
        return self._last_state or self._former_state

    def _as_before(self, now_ns: int) -> VmFacts | None:
        """Return what was found last, with what the host measures now; None where that no longer counts."""
        life, run_state = self._life, self._state_before()
        if life is None or run_state is None:
            return None
        self._looks.measure(life)
        return self._facts(life, run_state, now_ns)

    async def _connect(self) -> Monitor:
        self._hold.look()
        client = await self._access.connect(EVENTS)
        client.when["RESET"] = self._reset
        monitor = self._monitor = Monitor(client, may_write=False, timeout_s=COMMAND_TIMEOUT_S)
        self._allow(monitor)
        self._quiet = None if monitor.is_ours else self._quiet or QuietMoment(self.name)
        if self._quiet is not None:
            client.when[STATUS_EVENT] = self._quiet.saw_report
        self._conduct = Conduct()
        self._dropped = 0
        self._begin_life(client.peer.pid)
        if self._access.stays or self._life is None or not self._life.looks:
            self._hold.saw_uuid(await read_uuid(monitor))
        if self._life is not None and self._life.looks and not self._access.is_recent(self._period_s):
            self._life.was_deaf()  # events were missed while disconnected, perhaps a RESET
        if self._life is not None and not self._access.stays:
            self._life.jobs.changed()  # likewise
        self._has_replied = True
        return monitor

    def _begin_life(self, pid: int) -> None:
        """Recognize the process, or begin a life with a new one (0: it cannot be seen)."""
        if self._life is not None and self._life.process is not None and self._life.process.is_still(pid):
            return
        process = Process.of(pid)
        if self._life is not None:
            if process is None and self._life.process is None:
                return
            self._end_life()
        try:
            self._hold.saw_process(process.incarnation if process is not None else "")
        except RefusedError:
            if process is not None:
                process.close()
            raise
        self._lives += 1
        self._life = begin_life(process, self._lives)

    def _end_life(self) -> None:
        if self._life is not None and self._life.process is not None:
            self._life.process.close()
        self._life = self._last_state = self._former_state = None
        self._hold.release()

    async def _ask(self, monitor: Monitor, now_ns: int) -> str:
        """Send all queries of one look; return its run state."""
        life = self._life
        assert life is not None
        self._take_events(monitor, life)
        run_state = await read_run_state(monitor, life.jobs, life.looks)
        if not life.looks:
            life.lock = await read_lock(life.proxmox, self._threads)
        monitor.may_write = self._may_change and may_send(run_state, life.lock)
        await look_at_memory(monitor, life)
        await life.around.ask(monitor, life.looks)
        life.looks += 1
        held = self._may_write and not monitor.may_write
        self._problem = await look_at_balloon(
            monitor, life, now_ns, period_s=self._period_s, released=self.is_released, held=held
        )
        return run_state

    async def _glance_at_it(self, run_state: str, now_ns: int, *, ask: bool) -> VmFacts | None:
        """Read size and report once; None if there are none or the VM's life has ended meanwhile."""
        life = self._life
        if life is None or life.device is None or life.memory is None:
            return None
        try:
            async with self._reach("glance") as monitor:
                self._take_events(monitor, life)
                may_ask = ask and not self.is_released
                await glance_at_memory(monitor, life)
                if life is not self._life or not await glance_at_balloon(monitor, life, now_ns, ask=may_ask):
                    return None
        except (DynmemError, OSError, TimeoutError):
            return None
        except Exception:  # as with a look
            LOG.exception("%s: glancing at it failed", self.name)
            return None
        life.measure_now()
        # A reset in the middle of it makes its figures the former guest's.
        self._take_events(monitor, life)
        return self._facts(life, run_state, now_ns) if life is self._life else None

    def _take_events(self, monitor: Monitor, life: Life) -> None:
        """Count the events since the last look."""
        life.saw_events(monitor.client.take_events())
        if monitor.client.events_dropped != self._dropped:
            self._dropped = monitor.client.events_dropped
            life.deaf = True  # a RESET may be among them

    # -- from outside ---------------------------------------------------------------------------------------

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
        self._looks.measure(life)
        return self._facts(life, SILENT, now_ns)

    def _begin_from_outside(self) -> None:
        """Begin the life of a VM that does not reply: its memory counts."""
        try:
            self._hold.look()
            self._begin_life(self._access.listener())
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

    def _facts(self, life: Life, run_state: str, now_ns: int) -> VmFacts:
        needs_stop = self._quiet is not None and life.is_hv_balloon
        return life.facts(self.name, run_state, now_ns, self._problem, needs_stop=needs_stop)

    def _is_gone(self, life: Life) -> bool:
        """Return whether its process has ended or, if no process is known, its socket is dead."""
        return life.process.gone() if life.process is not None else self._nobody_listens

    # -- losing it ------------------------------------------------------------------------------------------

    async def _lose(self, error: BaseException) -> None:
        """Disconnect after a fault and record it; the next attempt waits longer each time."""
        said = str(error) if isinstance(error, TakenError) else ""
        self._problem = (said or trouble(error, self.path, has_replied=self._replies)) + self._hint()
        if conduct := self._monitor and self._conduct.sentence(self._monitor.client.unasked):
            self._problem = f"{conduct}; {self._problem}"
        await self._hang_up()
        self._has_replied = False
        self._nobody_listens = isinstance(error, NotListeningError)
        if isinstance(error, TakenError):
            return  # nothing was tried
        self._pause_s = min(max(2 * self._pause_s, self._period_s), RECONNECT_PAUSE_S_MAX)
        # A dead socket costs one failed connect: try each period, so that a new VM is seen at once.
        self._not_before = time.monotonic() + (0.0 if self._nobody_listens else self._pause_s)

    def _hint(self) -> str:
        """Return what the state of the process says about its silence."""
        if self._life is not None and self._life.process is not None and self._life.process.stopped():
            return "; its process is stopped (by SIGSTOP or a debugger): continue it"
        return ""

    async def _hang_up(self) -> None:
        if self._monitor is not None:
            monitor, self._monitor = self._monitor, None
            await monitor.client.close()
