"""One run of the demonstration: start everything, watch it, summarise it, and leave nothing behind.

There are two threads besides the main one: the sampler of resident memory, and the starter, which reserves
room with the manager before each VM. Ctrl-C only sets a flag, which every wait checks, so there is no moment
in which something has started but is not yet known.
"""

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from dynmem.demo.conductor import Conductor
from dynmem.demo.guests import EmbeddedGuest, Guest, LoadReport
from dynmem.demo.qemu_guest import LinuxGuest
from dynmem.demo.record import SUMMARY_SCHEMA_VERSION, Sample, Summary, UnmetDemand, VmSample, VmSummary
from dynmem.demo.sampler import ResidentSampler
from dynmem.demo.scenario import Scenario
from dynmem.demo.shares import fix_share
from dynmem.errors import DeadlineError, DynmemError, ExitCode
from dynmem.lab.qemu import Accelerator
from dynmem.procfs import meminfo
from dynmem.units import NS_PER_S, PAGE_SIZE

TICK_S: Final = 0.1
RESERVE_WAIT_S: Final = 1.0  # a `reserve` is repeated after this, so that Ctrl-C is noticed
START_WAIT_S: Final = 60.0


class InterruptedRunError(DynmemError):
    """The user pressed Ctrl-C or sent SIGTERM."""

    exit_code = ExitCode.INTERRUPTED


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set instead of stopping the program."""
    event = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        event.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Account:
    """The running totals of one VM."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.report: LoadReport | None = None
        self.unmet = UnmetDemand()
        self.demand = 0
        self.assigned = 0
        self.planned = 0
        self.reason = ""
        self.pages_moved = 0
        self.wrong_bytes = 0
        self.oom_kills = 0

    def assign(self, actual: int, reason: str) -> None:
        """Record the size that the manager reports for it."""
        if self.assigned and actual:
            self.pages_moved += abs(actual - self.assigned) // PAGE_SIZE
        self.assigned = actual or self.assigned
        self.reason = reason

    def hear(self, now_ns: int) -> None:
        """Record its load's latest report."""
        report = self.guest.report()
        if report is None:
            return
        self.report = report
        self.wrong_bytes = max(self.wrong_bytes, report.wrong_bytes)
        self.oom_kills = max(self.oom_kills, report.oom_kills)
        self.unmet.observe(now_ns, report.wanted_bytes, report.held_bytes)


class Run:
    """A run and what it has recorded so far."""

    def __init__(
        self, scenario: Scenario, *, seed: int, duration_s: float, static: bool, accel: Accelerator = "tcg"
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.duration_s = duration_s
        self.static = static
        self._accel: Accelerator = accel
        self.samples: list[Sample] = []
        self._accounts: dict[str, _Account] = {}
        self._started: set[str] = set()
        self._failure: Exception | None = None
        self._begin = 0.0
        self._sampler = ResidentSampler()
        self._conductor: Conductor | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first VM was started."""
        return time.monotonic() - self._begin if self._begin else 0.0

    @property
    def backends(self) -> dict[str, str]:
        """The kind of guest of each VM."""
        return {name: account.guest.backend for name, account in self._accounts.items()}

    def execute(self, show: Callable[["Run", Sample], None]) -> Summary:
        """Carry out the run; call `show` with every sample. Raises InterruptedRunError and GuestLostError."""
        with interrupts() as stop, ExitStack() as cleanup:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="dynmem-demo-")))
            guests = [self._guest(member_index, folder) for member_index in range(len(self.scenario.members))]
            self._accounts = {guest.member.name: _Account(guest) for guest in guests}
            self._begin = time.monotonic()
            if not self.static:
                self._conductor = Conductor(self.scenario, guests, folder)
                cleanup.callback(self._conductor.stop)
                self._conductor.start()
            for guest in guests:
                cleanup.callback(guest.stop)
            cleanup.enter_context(self._sampler)
            done = threading.Event()
            starter = threading.Thread(target=self._start_all, args=(guests, stop, done), name="starter")
            starter.start()
            try:
                self._watch(stop, show)
            finally:
                done.set()
                starter.join()
            return self.summary()

    def _guest(self, index: int, folder: Path) -> Guest:
        member = self.scenario.members[index]
        if member.kind == "qemu":
            return LinuxGuest(member, folder, self._accel, polite=self.static)
        return EmbeddedGuest(member, folder, self.seed * 100 + index)

    def _start_all(self, guests: Sequence[Guest], stop: threading.Event, done: threading.Event) -> None:
        try:
            for guest in guests:
                if not self._make_room(guest, stop, done):
                    return
                guest.start(self.elapsed_s, self.duration_s)
                if not self._await_load(guest, stop, done):
                    return
                if self.static:
                    fix_share(guest.monitor, self.scenario.share_bytes)
                    self._accounts[guest.member.name].assign(self.scenario.share_bytes, "fixed share")
            done.wait()  # QEMU ends with the thread that started it
        except Exception as error:  # raised again by the main thread
            self._failure = error

    def _make_room(self, guest: Guest, stop: threading.Event, done: threading.Event) -> bool:
        deadline = time.monotonic() + START_WAIT_S
        while self._conductor is not None:
            if stop.is_set() or done.is_set():
                return False
            try:
                self._conductor.reserve(guest.member.name, guest.member.maximum_bytes, RESERVE_WAIT_S)
            except DeadlineError:
                if time.monotonic() > deadline:
                    raise
            else:
                break
        return True

    def _await_load(self, guest: Guest, stop: threading.Event, done: threading.Event) -> bool:
        deadline = time.monotonic() + START_WAIT_S
        watched = False
        while guest.report() is None:
            if stop.wait(0.02) or done.is_set():
                return False
            if not watched and guest.monitor.exists():  # its RAM exists before its monitor does
                self._sampler.watch(guest.member.name, guest.pid, guest.member.maximum_bytes)
                watched = True
            if time.monotonic() > deadline:
                raise DeadlineError(
                    f"{guest.member.name} sent no report for {START_WAIT_S:.0f} s after its start"
                )
        if not watched:
            self._sampler.watch(guest.member.name, guest.pid, guest.member.maximum_bytes)
        self._started.add(guest.member.name)
        return True

    def _watch(self, stop: threading.Event, show: Callable[["Run", Sample], None]) -> None:
        while self.elapsed_s < self.duration_s:
            if stop.wait(TICK_S):
                raise InterruptedRunError("interrupted; every VM of the demonstration has been stopped")
            if self._failure is not None:
                raise self._failure
            if self._conductor is not None:
                self._conductor.check()
                self._ask_manager(self._conductor)
            sample = self._sample()
            self.samples.append(sample)
            show(self, sample)

    def _ask_manager(self, conductor: Conductor) -> None:
        for vm in conductor.status().vms:
            account = self._accounts[vm.name]
            if vm.name in self._started:
                account.assign(vm.actual_bytes or 0, vm.reason)
                account.demand = vm.demand_bytes or 0
                account.planned = vm.planned_bytes or account.assigned

    def _sample(self) -> Sample:
        now_ns = int(self.elapsed_s * NS_PER_S)
        vms = {}
        for name, account in self._accounts.items():
            if name not in self._started:
                continue
            account.hear(now_ns)
            report = account.report
            vms[name] = VmSample(
                wanted=report.wanted_bytes if report else 0,
                held=report.held_bytes if report else 0,
                demand=account.demand,
                assigned=account.assigned,
                planned=account.planned or account.assigned,
                resident=self._sampler.resident_bytes(name),
                reason=account.reason,
            )
        (available,) = meminfo("MemAvailable")
        return Sample(now_ns, available, vms)

    def summary(self) -> Summary:
        """Return the summary of the run so far."""
        vms = [
            VmSummary(
                name=name,
                backend=account.guest.backend,
                maximum_bytes=account.guest.member.maximum_bytes,
                wrong_bytes=account.wrong_bytes,
                pages_moved=account.pages_moved,
                unmet_demand_seconds=round(account.unmet.seconds, 3),
                peak_resident_bytes=self._sampler.peak_of(name),
                oom_kills=account.oom_kills,
            )
            for name, account in self._accounts.items()
        ]
        return Summary(
            schema_version=SUMMARY_SCHEMA_VERSION,
            mode="static" if self.static else "managed",
            seed=self.seed,
            wrong_bytes=sum(vm.wrong_bytes for vm in vms),
            pages_moved=sum(vm.pages_moved for vm in vms),
            unmet_demand_seconds=round(sum(vm.unmet_demand_seconds for vm in vms), 3),
            peak_resident_bytes=self._sampler.peak_bytes,
            budget_bytes=self.scenario.budget_bytes,
            duration_seconds=round(self.elapsed_s, 3),
            vms=vms,
        )
