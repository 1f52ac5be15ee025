"""What is known of one life of a VM, and what a reset of its guest makes of that.

QEMU keeps the size of a virtio-balloon over a reset: `query-balloon` returns what the former guest had until
the next one's driver writes a size of its own, and until then that guest has all of its memory.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from dynmem.discovery.proxmox import ProxmoxLock
from dynmem.manager.step.facts import HV_BALLOON, VIRTIO_BALLOON, Owner, VirtioMem, VmFacts
from dynmem.manager.sweep.demand import BALLOON_EVENT, STATUS_EVENT, DemandTracker, Device, Report
from dynmem.manager.sweep.measuring import Measuring
from dynmem.manager.sweep.owner import owner_of
from dynmem.manager.sweep.process import Process
from dynmem.manager.sweep.properties import Properties
from dynmem.manager.sweep.resident import Resident, ResidentMeter
from dynmem.manager.sweep.run_state import JOB_EVENT, Jobs
from dynmem.manager.sweep.sizes import Grown, VmMemory
from dynmem.manager.sweep.statistics import Statistics
from dynmem.manager.sweep.surroundings import Surroundings
from dynmem.manager.sweep.virtio_mem import Online
from dynmem.qmp.client import QmpEvent

#: The events that are looked at; others are dropped as they come.
EVENTS: Final = frozenset({"RESET", "RESUME", BALLOON_EVENT, STATUS_EVENT, JOB_EVENT})

# How long a VMM holds an event back at most, with time to spare.
_HELD_BACK_US: Final = 3_000_000
# What is seen so many looks apart belongs together.
_LOOKS_TOGETHER: Final = 2
_NEVER: Final = (-100, -200)
# A process that has run for less than this between two glances did nothing that takes much memory.
_BUSY_TICKS: Final = 2


@dataclass
class Life:
    """What is known of one life (incarnation) of a VM; a new process starts a new one.

    Attributes:
        process: Its process; None if it cannot be seen.
        incarnation: The name of this life.
        meter: Measures its resident memory.
        owner: The program that runs it; None: not known.
        base_bytes: What it was started with, DIMMs excluded.
        memory: All its memory.
        next_memory: The look at which its memory is read again.
        virtio_mems: Its virtio-mem devices, as they were read last.
        paths: Where these are, by their memory backends.
        backends: The memory backends that these were looked up for.
        next_paths: The look at which they are looked up again.
        online: How much of what they have plugged its guest uses.
        grown: What must have been hot-added to it since the last reset.
        actual_bytes: Its size as its VMM reported it last, without what virtio-mem has plugged.
        first_actual_bytes: What it reported first since the last reset.
        is_actual_former: Whether `actual_bytes` may be what the guest before the last reset had.
        reset_us: When the last reset was, by the VMM's clock; 0: unknown.
        resident: What was measured last.
        device: Its balloon device.
        properties: What that device lets the guest do by itself; None: to be read.
        tracker: Its demand.
        resets: RESETs seen.
        target_bytes: The last target that was sent; 0 before the first.
        deaf: Events may have been missed: a RESET shows only by a size that rose without a command.
        minor_faults: Page faults that its guest reported last.
        reports: Status events seen; distinguishes two reports with the same figures.
        looks: How often it was looked at.
        next_search: The look at which a device is searched again.
        is_without_balloon: Whether it is known that it has no balloon.
        statistics: How often its guest is asked to report, where that can be set.
        device_problem: Why no device is known.
        jobs: The jobs of its monitor.
        proxmox: Its lock in Proxmox's files; None: Proxmox does not run it.
        continued_look: The look at which its processors were seen to be started last.
        risen_look: The look at which its size was more than it had before and was sent.
        restored: How often a snapshot has been loaded.
        ticks: For how long its process had run when that was read last.
        lock: Why another program wants it to be left alone; "" if none does.
        around: What around its process bounds what may be done with it.
    """

    process: Process | None
    incarnation: str
    meter: ResidentMeter | None
    owner: Owner | None
    base_bytes: int | None = None
    memory: VmMemory | None = None
    next_memory: int = 0
    virtio_mems: tuple[VirtioMem, ...] = ()
    paths: Mapping[str, str] = field(default_factory=dict)
    backends: Collection[str] = ()
    next_paths: int = 0
    online: Online = field(default_factory=Online)
    grown: Grown = field(default_factory=Grown)
    actual_bytes: int | None = None
    first_actual_bytes: int | None = None
    is_actual_former: bool = False
    reset_us: int = 0
    resident: Resident = field(default_factory=lambda: Resident(None, "not measured yet"))
    device: Device | None = None
    properties: Properties | None = None
    tracker: DemandTracker | None = None
    resets: int = 0
    target_bytes: int = 0
    deaf: bool = False
    minor_faults: int | None = None
    reports: int = 0
    looks: int = 0
    next_search: int = 0
    is_without_balloon: bool = False
    statistics: Statistics | None = None
    device_problem: str = ""
    jobs: Jobs = field(default_factory=Jobs)
    proxmox: ProxmoxLock | None = None
    continued_look: int = _NEVER[0]
    risen_look: int = _NEVER[1]
    restored: int = 0
    ticks: int = 0
    lock: str = ""
    around: Surroundings = field(default_factory=Surroundings)

    def __post_init__(self) -> None:
        if self.owner is not None and self.owner.kind == "proxmox":
            self.proxmox = ProxmoxLock(int(self.owner.name))

    @property
    def pid(self) -> int:
        """Its process; 0: it cannot be seen."""
        return 0 if self.process is None else self.process.pid

    @property
    def boot_bytes(self) -> int:
        """What it booted with; 0: not known yet."""
        return 0 if self.memory is None else self.memory.boot_bytes

    @property
    def blocks(self) -> tuple[int, ...] | None:
        """The sizes of the pieces of its RAM; None: not known yet."""
        return self.memory.blocks if self.memory is not None else None

    @property
    def is_hv_balloon(self) -> bool:
        """Whether its balloon device is known to be an hv-balloon."""
        return self.device is not None and self.device.kind == HV_BALLOON

    @property
    def size_bytes(self) -> int:
        """What its guest has: all its memory until its driver is known to have taken some."""
        assert self.actual_bytes is not None
        assert self.memory is not None
        own = max(self.actual_bytes, self.memory.boot_bytes) if self.is_actual_former else self.actual_bytes
        return own + self.memory.plugged_bytes

    @property
    def limit_bytes(self) -> int | None:
        """The most that its size can become; None: not known.

        A virtio-mem beside an hv-balloon is not moved, nor is one that was not found.
        """
        if self.memory is None:
            return None
        more = sum(
            each.max_bytes if each.path and not self.is_hv_balloon else each.size_bytes
            for each in self.virtio_mems
        )
        return self.memory.limit_bytes + more

    @property
    def virtio_paths(self) -> frozenset[str]:
        """Where its virtio-mem devices were found."""
        return frozenset(each.path for each in self.virtio_mems if each.path)

    @property
    def reported_bytes(self) -> int | None:
        """Its size by all that its VMM reports; None: not known.

        Without a balloon it has what it booted with, and what virtio-mem has plugged.
        """
        plugged = self.memory.plugged_bytes if self.memory is not None else 0
        if self.actual_bytes is not None:
            return self.actual_bytes + plugged
        is_all = self.memory is not None and self.is_without_balloon and bool(self.virtio_mems)
        return self.memory.boot_bytes + plugged if self.memory is not None and is_all else None

    async def measure(self, threads: Measuring) -> None:
        """Measure what it holds, in a thread where that may take long."""
        if self.meter is not None and self.meter.is_quick:
            self.resident = self.meter.measure(self.blocks)
        elif self.meter is not None:
            self.resident = await threads.run(partial(self.meter.measure, self.blocks))

    def guest_bytes_now(self) -> int | None:
        """Return what its guest holds now, by the host; None where that takes more than microseconds."""
        return None if self.meter is None else self.meter.guest_bytes_now()

    def measure_now(self) -> None:
        """Bring what it holds up to date, where that takes microseconds."""
        guest_bytes = self.guest_bytes_now()
        if guest_bytes is not None and self.resident.bytes_held is not None:
            self.resident = self.resident._replace(bytes_held=guest_bytes + self.resident.overhead_bytes)

    def was_busy(self) -> bool:
        """Return whether its process has run since the last call for more than an idle guest takes."""
        if self.process is None:
            return False
        before, self.ticks = self.ticks, self.process.ticks()
        return self.ticks - before >= _BUSY_TICKS

    def saw_events(self, events: Iterable[QmpEvent]) -> None:
        """Take in what its VMM sent unasked."""
        for event in events:
            if event.name == "RESET":
                self.was_reset(event.at_us)
            elif event.name == BALLOON_EVENT:
                self.balloon_changed(event.at_us)
            elif event.name == STATUS_EVENT:
                self.guest_reported(event.at_us)
            elif event.name == "RESUME":
                self.continued_look = self.looks
                self._see_restored()
            else:
                self.jobs.changed()

    def was_reset(self, at_us: int = 0) -> None:
        """Forget what the guest before a reset had and said; *at_us* is when the reset was."""
        self.resets += 1
        self.reset_us = at_us
        self.next_memory = 0  # a reset completes what was being unplugged
        self.is_actual_former = self.device is not None and self.device.kind == VIRTIO_BALLOON
        self.first_actual_bytes = self.minor_faults = None
        self.grown = Grown()
        self.online = Online()
        if self.tracker is not None:
            self.tracker.forget()

    def saw_size(self) -> None:
        """Take in the size of a VM with virtio-balloon, before its guest's report: see DemandTracker."""
        assert self.tracker is not None
        assert self.memory is not None
        self.tracker.saw_size(self.size_bytes)
        if self.virtio_mems:
            self.online.saw_sizes(self.memory.boot_bytes, self.size_bytes, self.memory.plugged_bytes)

    def saw_report(self, report: Report, now_ns: int) -> bool:
        """Take in its guest's figures; return whether they are new.

        A guest with fewer page faults than before has booted since: so a reset shows that was missed, or that
        the VMM had no part in (kexec).
        """
        assert self.tracker is not None
        before, now = self.minor_faults, report.minor_faults
        if before is not None and now is not None and now < before:
            self.was_reset()
        if report.total_bytes is not None and self.virtio_mems:
            self.online.saw_total((self.reports, report.mark), report.total_bytes)
            report = report._replace(offset_bytes=report.offset_bytes - self.online.offline_bytes)
        is_new = self.tracker.saw_report(report._replace(mark=(self.reports, report.mark)), now_ns)
        if self.tracker.demand(now_ns) is not None:  # before that, the report may be a former guest's
            self.minor_faults = report.minor_faults
        return is_new

    def has_reported_at(self, now_ns: int) -> bool:
        """Return whether its guest's last report was new at that moment."""
        demand = self.tracker.demand(now_ns) if self.tracker is not None else None
        return demand is not None and demand.age_ns <= 0

    def was_deaf(self) -> None:
        """Take in that nobody listened for a while: what is read next may be from before a reset, too."""
        self.deaf = True
        self.properties = None
        self.online = Online()
        if self.tracker is not None:
            self.tracker.missed()

    def guest_reported(self, at_us: int) -> None:
        """Take in that a status event came; a VMM that holds events back may send one of the former guest.

        QEMU sends this event at most once a second, so no further back is looked: the host's clock may have
        been set.
        """
        if not self.reset_us - _HELD_BACK_US <= at_us < self.reset_us:
            self.reports += 1

    def balloon_changed(self, at_us: int) -> None:
        """Take in that a driver wrote a size; one from before the reset may be reported after it."""
        if at_us > self.reset_us:
            self.is_actual_former = False

    def saw_actual(self, actual_bytes: int) -> None:
        """Take in the size that the VMM reports; one that moves is the present guest's.

        A VM that was stopped and runs again with more than it had, and than it was sent, has been given the
        memory of another moment: QEMU loads a snapshot in one go, and its monitor never shows "restore-vm".
        """
        if self.actual_bytes is not None and actual_bytes > max(self.actual_bytes, self.target_bytes):
            self.risen_look = self.looks
            self._see_restored()
        if self.first_actual_bytes is None:
            self.first_actual_bytes = actual_bytes
        if actual_bytes != self.first_actual_bytes:
            self.is_actual_former = False
        self.actual_bytes = actual_bytes

    def _see_restored(self) -> None:
        """Take in that it was continued or has risen: the event may come before the size or after it."""
        if abs(self.continued_look - self.risen_look) <= _LOOKS_TOGETHER:
            self.was_reset()
            self.is_actual_former = False
            self.restored += 1
            self.continued_look, self.risen_look = _NEVER

    def facts(
        self, name: str, run_state: str, now_ns: int, problem: str | None, *, needs_stop: bool
    ) -> VmFacts:
        """Return what is known of it at a moment."""
        memory, properties, statistics = self.memory, self.properties, self.statistics
        return VmFacts(
            name=name,
            incarnation=self.incarnation,
            run_state=run_state,
            device=self.device.kind if self.device is not None else None,
            boot_bytes=memory.boot_bytes if memory is not None else None,
            limit_bytes=self.limit_bytes,
            added_bytes=memory.added_bytes if memory is not None else None,
            actual_bytes=self.reported_bytes,
            is_actual_former=self.is_actual_former,
            resident_bytes=self.resident.bytes_held,
            resident_source=self.resident.source,
            resident_overhead_bytes=self.resident.overhead_bytes,
            huge_bytes=self.resident.huge_bytes,
            demand=self.tracker.demand(now_ns) if self.tracker is not None else None,
            report_interval_ns=statistics.interval_ns if statistics is not None else 0,
            deflates_on_oom=properties.deflates_on_oom if properties is not None else None,
            reports_free_pages=properties.reports_free_pages if properties is not None else None,
            needs_stop=needs_stop,
            resets=self.resets,
            restored=self.restored,
            owner=self.owner,
            lock=self.lock,
            pinned=self.around.found.pinned,
            virtio_mems=self.virtio_mems,
            offline_bytes=self.online.offline_bytes,
            limits=self.around.found.limits,
            node_numbers=self.around.found.nodes,
            problem=problem,
        )


def begin_life(process: Process | None, number: int) -> Life:
    """Return what is known at the beginning of the *number*th life; None: its process cannot be seen."""
    if process is not None:
        return Life(process, process.incarnation, ResidentMeter(process), owner_of(process.pid))
    unknown = Resident(None, "unknown (its process cannot be found yet, or is in another pid namespace)")
    return Life(None, f"connection {number}", None, None, resident=unknown)
