"""One domain of libvirt as the manager sees it: what libvirt says of it, its process, its figures.

The same for the loop as a VM with a monitor (`sweep.connection`), and under the same rules: one look at a
time, in a task of its own; a sweep waits for it only briefly, and not at all once it has kept one waiting;
whatever libvirt or one domain does, the others do not wait. The look itself is one thread's: state, job, size
and statistics, one after the other. What the domain holds is measured at its process, as for every VM.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from dynmem.domains.api import Libvirt, Look
from dynmem.domains.errors import LibvirtRefusedError
from dynmem.domains.states import run_state
from dynmem.domains.statistics import as_qemu
from dynmem.errors import DeadlineError, DynmemError, RefusedError, UnreachableError
from dynmem.limits import RECONNECT_PAUSE_S_MAX
from dynmem.manager.config_file import is_name
from dynmem.manager.domains.period import StatisticsPeriod
from dynmem.manager.domains.policies import is_observed
from dynmem.manager.domains.roster import Domain, Roster
from dynmem.manager.step.division import Parts
from dynmem.manager.step.facts import ABSENT, RUNNING, SILENT, VIRTIO_BALLOON, Owner, VmFacts
from dynmem.manager.step.states import may_send
from dynmem.manager.sweep.demand import (
    DEMAND_SOURCES,
    DemandTracker,
    Device,
    Report,
    Silence,
    size,
    virtio_report,
)
from dynmem.manager.sweep.identity import Identities, Identity
from dynmem.manager.sweep.life import Life
from dynmem.manager.sweep.looks import Looks
from dynmem.manager.sweep.measuring import Measuring
from dynmem.manager.sweep.process import Process
from dynmem.manager.sweep.properties import Properties
from dynmem.manager.sweep.quiet import NotSentError
from dynmem.manager.sweep.resident import Resident, ResidentMeter
from dynmem.manager.sweep.sizes import VmMemory
from dynmem.manager.sweep.vm_lock import VmLock
from dynmem.units import KIB

_Number = tuple[str, int]  # a UUID, and libvirt's number of one life

LOG: Final = logging.getLogger(__name__)
_NO_BALLOON: Final = "it has no virtio balloon: add <memballoon model='virtio'/> to its definition"
_OBSERVED: Final = 'the policy in its metadata has mode="observe"'
_NO_PROCESS: Final = "unknown (its process cannot be found: run dynmem as root, in the host's pid namespace)"


class DomainConnection:
    """The manager's connection to one domain; *key* is its UUID, or its name."""

    def __init__(
        self,
        name: str,
        key: str,
        roster: Roster,
        *,
        may_write: bool,
        period_s: float,
        may_ask: bool = False,
        identities: Identities | None = None,
        measuring: Measuring | None = None,
    ) -> None:
        self.name: Final = name
        self.is_released: bool = False
        self.is_paused: bool = False
        #: Whether the policy in its metadata counts, and not the file's.
        self.has_own_policy: bool = False
        self._key = key
        self._roster = roster
        self._identities = Identities() if identities is None else identities
        self._identities.enter(name, self._place)
        self._lock = VmLock()
        self._threads = Measuring() if measuring is None else measuring
        self._may_write = may_write
        self._may_ask = may_ask
        self._period_s = period_s
        self._life: Life | None = None
        self._number: _Number | None = None
        self._ended: _Number | None = None
        self._period = StatisticsPeriod(name)
        self._generation = roster.link.generation
        self._resets = 0
        self._looks = Looks(name, self._threads, was_late=lambda: self._was_late)
        self._is_setting = False
        self._was_late = False
        self._last_state: str | None = None
        self._pause_s = 0.0
        self._not_before = 0.0
        self._problem: str | None = None

    @property
    def _place(self) -> Path:
        """What a sentence calls the way to it, beside the sockets of others."""
        return Path(f"the domain {self._key} of libvirt")

    @property
    def incarnation(self) -> str:
        return self._life.incarnation if self._life is not None else ""

    @property
    def _may_change(self) -> bool:
        return self._may_write and not self.is_paused

    def configure(self, *, may_write: bool, period_s: float, may_ask: bool = False) -> None:
        self._may_write, self._period_s, self._may_ask = may_write, period_s, may_ask
        if not may_write:
            self._lock.close()

    def begin(self, now_ns: int) -> asyncio.Future[VmFacts] | None:
        self._looks.drop_late()
        if not self._looks.is_looking:
            domain = self._roster.find(self._key)
            if domain is not None and domain.is_running and time.monotonic() >= self._not_before:
                self._looks.begin(self._look_at_it(domain, now_ns))
        return self._looks.awaited

    def found(self, now_ns: int) -> VmFacts:
        if (facts := self._looks.take()) is not None:
            return facts
        if self._looks.is_looking:
            self._looks.is_slow = True
            self._problem = "libvirt does not reply for it"
        return self._from_outside(self._roster.find(self._key), now_ns)

    async def glance(self, now_ns: int, *, ask: bool = False) -> VmFacts | None:
        """Look briefly, as a VM with a monitor does. The guest is never asked to report out of its turn."""
        del ask

        def begun() -> Coroutine[Any, Any, VmFacts | None] | None:
            if self._life is None or self._last_state != RUNNING:
                return None
            return self._glance_at_it(self._life, now_ns)

        return await self._looks.glance(begun)

    def resident_now(self) -> int | None:
        return self._life.guest_bytes_now() if self._life is not None else None

    def was_busy(self) -> bool:
        return self._life is not None and self._life.was_busy()

    async def set_balloon(self, target_bytes: int, parts: Parts | None = None) -> None:
        """Set the balloon's target, as for a VM with a monitor. It has no other part here."""
        del parts
        domain, life = self._roster.find(self._key), self._life
        if domain is None or life is None or self._looks.is_looking or self._last_state != RUNNING:
            raise UnreachableError(f"libvirt does not reply for {self.name}")
        if not self._may_change or self._is_observed(domain):
            raise NotSentError(f"{self.name} is not to be changed now")
        if self._is_setting:
            raise NotSentError(f"libvirt has not replied to the target before for {self.name}")
        self._is_setting = True
        life.target_bytes = target_bytes // KIB * KIB
        uuid, size_kib = domain.listed.uuid, target_bytes // KIB
        try:
            await self._roster.link.call(lambda libvirt: libvirt.set_balloon(uuid, size_kib))
        except LibvirtRefusedError as error:
            raise NotSentError(str(error)) from error
        finally:
            self._is_setting = False

    async def close(self) -> None:
        await self._looks.close()
        self._end_life()
        self._identities.leave(self.name)

    # -- one look -------------------------------------------------------------------------------------------

    async def _look_at_it(self, domain: Domain, now_ns: int) -> VmFacts:
        self._last_state, self._was_late = None, False
        await self._looks.let_glance_end()
        try:
            self._begin_life(domain)
            if self._life is None:
                return self._from_outside(domain, now_ns)
            if self._may_write:
                self._lock.take(self._keys(domain), self._place)
            look = await self._roster.link.call(partial(_look, uuid=domain.listed.uuid))
            self._pause_s = 0.0
            if self._life is not None and (state := run_state(look)):
                return await self._take_in(self._life, domain, look, state, now_ns)
        except RefusedError as error:
            self._lose(f"it {error}")
        except DeadlineError as error:
            self._was_late = True
            self._lose(str(error))
        except (DynmemError, OSError) as error:
            self._lose(str(error))
        except Exception as error:  # a surprise with one domain must not end the service of the others
            LOG.exception("%s: looking at it failed", self.name)
            self._lose(f"looking at it failed: {error!r}")
        return self._from_outside(self._roster.find(self._key), now_ns)

    async def _take_in(self, life: Life, domain: Domain, look: Look, state: str, now_ns: int) -> VmFacts:
        """Take in what libvirt says, and measure the rest."""
        life.looks += 1
        definition = domain.definition
        life.memory = VmMemory(definition.boot_bytes, definition.boot_bytes, 0, definition.blocks)
        life.properties = Properties(definition.deflates_on_oom, definition.reports_free_pages)
        self._period.saw(definition)
        life.lock = _OBSERVED if self._may_write and self._is_observed(domain) else ""
        self._take_events(life, domain.listed.uuid)
        life.around.begin(life.looks)
        await life.around.look(life.pid, life.boot_bytes, self._threads)
        self._problem = _NO_BALLOON
        if definition.has_balloon:
            if life.tracker is None:
                life.tracker = DemandTracker(DEMAND_SOURCES[VIRTIO_BALLOON])
                life.device = Device(VIRTIO_BALLOON, "")
            if may_send(state, life.lock):
                await self._look_at_period(life, domain.listed.uuid)
            self._problem = self._take_figures(life, look, now_ns)
        await life.measure(self._threads)
        # A reset in the middle of a look makes its figures the former guest's.
        self._take_events(life, domain.listed.uuid)
        self._last_state = state
        return self._facts(life, state, now_ns)

    def _is_observed(self, domain: Domain) -> bool:
        return self.has_own_policy and is_observed(domain.definition)

    def _take_figures(self, life: Life, look: Look, now_ns: int) -> str | None:
        """Take in size and report; return what is wrong with them."""
        assert life.tracker is not None
        statistics = look.statistics or {}
        actual = _bytes(statistics.get("actual", look.size_kib))
        before = life.actual_bytes
        if life.deaf and before is not None and actual > max(before, life.target_bytes):
            life.was_reset()  # its balloon is empty again
            life.is_actual_former = False
        life.deaf = False
        life.saw_actual(actual)
        life.tracker.saw_size(life.size_bytes)
        if look.statistics is None:
            return None  # it was not asked
        report = _report(statistics)
        if isinstance(report, Silence):
            return self._period.problem or report.reason
        if life.saw_report(report, now_ns):
            self._period.reported()
        return self._period.problem

    async def _look_at_period(self, life: Life, uuid: str) -> None:
        may_ask = self._may_change or (self._may_ask and not self.is_paused)
        seconds = self._period.wish(
            life.looks, period_s=self._period_s, may_ask=may_ask, released=self.is_released
        )
        if seconds is None:
            return
        try:
            await self._roster.link.call(lambda libvirt: libvirt.set_statistics_period(uuid, seconds))
        except LibvirtRefusedError as error:
            self._period.problem = f"libvirt rejects another period of its statistics ({error})"
        self._period.was_set(seconds)

    async def _glance_at_it(self, life: Life, now_ns: int) -> VmFacts | None:
        domain = self._roster.find(self._key)
        if domain is None or life.tracker is None:
            return None
        try:
            look = await self._roster.link.call(partial(_look, uuid=domain.listed.uuid))
            self._take_events(life, domain.listed.uuid)
            if run_state(look) != RUNNING or look.statistics is None:
                return None
            self._take_figures(life, look, now_ns)
        except DynmemError:
            return None
        except Exception:  # as with a look
            LOG.exception("%s: glancing at it failed", self.name)
            return None
        life.measure_now()
        return self._facts(life, RUNNING, now_ns) if life is self._life else None

    def _take_events(self, life: Life, uuid: str) -> None:
        """Take in the resets since the last look."""
        resets = self._roster.resets(uuid)
        if resets.number > self._resets:
            life.was_reset(resets.at_us)
        self._resets = resets.number
        if self._roster.link.generation != self._generation:
            self._generation = self._roster.link.generation
            life.was_deaf()

    # -- its life -------------------------------------------------------------------------------------------

    def _begin_life(self, domain: Domain) -> None:
        """Recognize this life of the domain, or begin a new one; it has none if its process has ended."""
        number = (domain.listed.uuid, domain.listed.number)
        if self._life is not None and self._life.process is not None and self._life.process.gone():
            self._ended = self._number  # libvirt may list it for a moment longer
            self._end_life()
        is_known = self._life is not None and number == self._number
        if number == self._ended or (is_known and (self._incarnate or not domain.pid)):
            return
        process = Process.of(domain.pid) if domain.pid else None
        self._end_life()
        if domain.pid and process is None:
            return  # it has ended since
        incarnation = process.incarnation if process is not None else f"domain {domain.listed.number}"
        meter = ResidentMeter(process) if process is not None else None
        name = domain.listed.name if is_name(domain.listed.name) else domain.listed.uuid
        self._life = Life(process, incarnation, meter, Owner("libvirt", name))
        self._number, self._period = number, StatisticsPeriod(name)
        self._resets = self._roster.resets(domain.listed.uuid).number
        if meter is None:
            self._life.resident = Resident(None, _NO_PROCESS)
        seen = process.incarnation if process is not None else ""
        try:
            self._identities.claim(self.name, Identity("", seen, domain.listed.uuid))
        except RefusedError:
            self._end_life()
            raise

    @property
    def _incarnate(self) -> bool:
        """Whether the process of this life is known."""
        return self._life is not None and self._life.process is not None

    def _keys(self, domain: Domain) -> tuple[str, ...]:
        """Return the names under which every manager of this host finds it."""
        process = self._life.process if self._life is not None else None
        return (f"process {process.incarnation} {domain.listed.uuid}",) if process is not None else ()

    def _end_life(self) -> None:
        if self._life is not None and self._life.process is not None:
            self._life.process.close()
        self._life, self._number = None, None
        self._lock.close()
        self._identities.forget(self.name)

    def _from_outside(self, domain: Domain | None, now_ns: int) -> VmFacts:
        """Return what is known without libvirt's reply: whether it is there, and what it holds."""
        if self._life is not None and self._has_ended(self._life, domain):
            self._ended = self._number
            self._end_life()
            self._not_before = self._pause_s = 0.0
        life = self._life
        if life is None:
            self._problem = self._why_absent(domain) or self._problem
            return VmFacts(name=self.name, incarnation="", run_state=ABSENT, problem=self._problem)
        if life.process is not None and life.process.stopped():
            self._problem = "its process is stopped (by SIGSTOP or a debugger): continue it"
        self._looks.measure(life)
        return self._facts(life, SILENT, now_ns)

    def _has_ended(self, life: Life, domain: Domain | None) -> bool:
        """Return whether this life is over, by its process or, if that cannot be seen, by libvirt."""
        if life.process is not None:
            return life.process.gone()
        return domain is None or not domain.is_running

    def _why_absent(self, domain: Domain | None) -> str:
        """Return why it is not there; "" if that is another matter."""
        if self._roster.problem:
            return f"it is not known whether it runs: {self._roster.problem}"
        if domain is None:
            return (
                f"libvirt has no domain {self._key}: correct its libvirt in the configuration, or define it"
            )
        if not domain.is_running:
            return "the domain is shut off"
        number = (domain.listed.uuid, domain.listed.number)
        return "its process has ended" if number == self._ended else ""

    def _lose(self, problem: str) -> None:
        """Record what went wrong; the next attempt waits longer each time."""
        self._problem = problem
        self._pause_s = min(max(2 * self._pause_s, self._period_s), RECONNECT_PAUSE_S_MAX)
        self._not_before = time.monotonic() + self._pause_s

    def _facts(self, life: Life, state: str, now_ns: int) -> VmFacts:
        facts = life.facts(self.name, state, now_ns, self._problem, needs_stop=False)
        return msgspec.structs.replace(facts, report_interval_ns=self._period.interval_ns)


def _bytes(kib: object) -> int:
    """Return a size that libvirt reports in KiB; RemoteProtocolError if no VM can have it."""
    return size(kib * KIB if isinstance(kib, int) else kib, "actual")


def _look(libvirt: Libvirt, *, uuid: str) -> Look:
    return libvirt.look(uuid)


def _report(statistics: Mapping[str, object]) -> Report | Silence:
    """Return what libvirt's statistics mean: without a date, no report. Raises RemoteProtocolError."""
    return virtio_report({"last-update": 0, **as_qemu(statistics)})
