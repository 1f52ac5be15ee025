"""What one sweep over the host found, and what the operator configured: the only inputs of a step.

Sizes are bytes, times integer nanoseconds; everything is frozen and picklable. Four sizes of a VM are never
mixed: `boot_bytes` (what it booted with), `actual_bytes` (what the VMM reports the guest has,
`query-balloon`), `Demand` (what the guest reports) and `resident_bytes` (what the host measured).
"""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from dynmem.policy import MemorySettings, OnShortage

Mode = Literal["observe", "advise", "enforce"]
#: Whether a monitor is the manager's alone, or visited between the visits of the program that owns it.
MonitorKind = Literal["own", "borrowed"]

# States of a VM; `states` says what each allows.
RUNNING: Final = "running"
SILENT: Final = "silent"
ABSENT: Final = "absent"
MIGRATING: Final = "migrating"
BACKUP: Final = "backup"
SAVING: Final = "save-vm"
RESTORING: Final = "restore-vm"

HV_BALLOON: Final = "hv-balloon"
VIRTIO_BALLOON: Final = "virtio-balloon"


class NodeFacts(msgspec.Struct, frozen=True):
    """The memory of one NUMA node of the host.

    Attributes:
        number: Its number. Since schema 6.
        total_bytes: What it has. Since schema 6.
        available_bytes: What nothing uses, and what caches of files and of the kernel could give back.
            Unlike MemAvailable, it includes what the kernel keeps for itself. Since schema 6.

    """

    number: int
    total_bytes: int
    available_bytes: int


class HostFacts(msgspec.Struct, frozen=True):
    """The host's memory. None: not there, or not known; that is not zero.

    Attributes:
        mem_available_bytes: MemAvailable of /proc/meminfo. Since schema 6.
        mem_total_bytes: MemTotal. Since schema 6.
        arc_bytes: What ZFS's cache (ARC) could give back, which MemAvailable leaves out. Since schema 6.
        swap_total_bytes: Swap, zram included. Since schema 6.
        swap_free_bytes: What of it is free. Since schema 6.
        zram_bytes: What compressed swap takes of memory. Since schema 6.
        ksm_saved_bytes: What merged pages save (KSM): it is needed again where guests write to them.
            Since schema 6.
        huge_bytes: What was set aside for huge pages. Since schema 6.
        huge_free_bytes: What of that nobody has or has reserved. Since schema 6.
        pressure_some_percent: The part of the last ten seconds in which a program waited for memory
            (PSI). Since schema 6.
        pressure_full_percent: The part in which all did. Since schema 6.
        nodes: NUMA nodes, in their order. Since schema 6.
        unseen: What could not be read, and why: sentences. Since schema 6.

    """

    mem_available_bytes: int
    mem_total_bytes: int
    arc_bytes: int | None = None
    swap_total_bytes: int | None = None
    swap_free_bytes: int | None = None
    zram_bytes: int | None = None
    ksm_saved_bytes: int | None = None
    huge_bytes: int | None = None
    huge_free_bytes: int | None = None
    pressure_some_percent: float | None = None
    pressure_full_percent: float | None = None
    nodes: tuple[NodeFacts, ...] = ()
    unseen: tuple[str, ...] = ()

    @property
    def available_bytes(self) -> int:
        """What programs could have now: what the kernel calls available, and what ZFS's cache gives back."""
        return self.mem_available_bytes + (self.arc_bytes or 0)


class Demand(msgspec.Struct, frozen=True):
    """What the guest reports that it needs.

    Attributes:
        committed_bytes: What it needs, ballooned memory excluded.
        available_bytes: What it could use at once.
        source: The formula in words.
        age_ns: How old the report was when it was read.
        floor_bytes: The size below which this guest does not go; 0 if it has no such floor.
        reserve_bytes: What it should keep at hand beyond that, where its driver keeps nothing itself.
        faults: Its page faults that read from a disk (major faults), and pages swapped in; None: not
            reported. An honest guest counts up until it boots again; any guest may report anything.

    """

    committed_bytes: int
    available_bytes: int
    source: str
    age_ns: int
    floor_bytes: int = 0
    reserve_bytes: int = 0
    faults: int | None = None


class Owner(msgspec.Struct, frozen=True):
    """The program that runs a VM.

    Attributes:
        kind: Which program.
        name: What its commands call the VM: libvirt's name of a domain, Proxmox's number.

    """

    kind: Literal["libvirt", "proxmox"]
    name: str


class Pinned(msgspec.Struct, frozen=True):
    """What keeps a VM's pages on the host, so that a balloon would return nothing of them.

    Attributes:
        reason: What it is, as a sentence.
        leaves_virtio_mem: Whether what virtio-mem unplugs goes back to the host all the same.

    """

    reason: str
    leaves_virtio_mem: bool


class VirtioMem(msgspec.Struct, frozen=True):
    """A virtio-mem device.

    Attributes:
        path: Its QOM path; empty: not found, so nothing can be requested of it.
        block_bytes: What it plugs and unplugs at a time.
        size_bytes: What its guest has plugged.
        requested_bytes: What its guest is to have plugged (`requested-size`).
        max_bytes: The most that can be requested.

    """

    path: str
    block_bytes: int
    size_bytes: int
    requested_bytes: int
    max_bytes: int


class GroupLimit(msgspec.Struct, frozen=True):
    """A limit of memory of a cgroup above a VM.

    Attributes:
        size_bytes: The limit.
        file: The file that sets it.

    """

    size_bytes: int
    file: str


class Rival(msgspec.Struct, frozen=True):
    """Another program that decides on a VM's size: the balloon manager of Proxmox.

    Attributes:
        number: What its commands call the VM.
        shares: The weight that it gives the VM; 0: it leaves the VM alone.
        decides: Whether it changes the VM's size now.
        former: What it was before the VM was taken over, in words; "" if it was not.
        problem: Why the VM could not be taken over; "" if nothing is known.

    """

    number: str
    shares: int
    decides: bool
    former: str = ""
    problem: str = ""


class VmFacts(msgspec.Struct, frozen=True):
    """One VM as one sweep saw it.

    Attributes:
        name: Its name.
        incarnation: One life of the process (pid and start time). Empty only if the process is known to be
            gone: a closed or silent socket keeps it, and `run_state` says "silent".
        run_state: What its monitor reports, or another word of `states`.
        device: The kind of its balloon device.
        boot_bytes: What it booted with.
        actual_bytes: Its size as its VMM reports it, with what virtio-mem has plugged.
        is_actual_former: Whether that may be the size of the guest before the last reset: until its balloon
            driver has written another, its present guest has all that it booted with.
        resident_bytes: What the host measured.
        resident_source: How it was measured.
        demand: What its guest reports.
        report_interval_ns: How often its guest is asked to report; 0: not known, or as often as is needed.
        resets: RESETs seen in this incarnation.
        problem: What is wrong with it, and what to do.
        resident_overhead_bytes: The part of `resident_bytes` that is known not to be guest RAM.
        huge_bytes: How much of its RAM is huge pages that the host has set aside, touched or not.
        limit_bytes: The most that the VM can be grown to; None: its boot size.
        added_bytes: What has been hot-added; None: its monitor does not report it.
        deflates_on_oom: Whether its guest may take pages back from the balloon before it kills a process:
            whether the device offers that; None: not known.
        reports_free_pages: Whether its guest may hand back free pages by itself; None: not known.
        needs_stop: Whether a target is safe only while its processors are stopped: with QEMU's hv-balloon.
        owner: The program that runs it; None: not known, or nobody but whoever started it.
        rival: Another program that decides on its size, or did before it was taken over; None: none is known.
        lock: Why another program wants it to be left alone, as a part of a sentence; "" if none does.
        pinned: What keeps its pages on the host; None: nothing that is known. It is never ballooned then.
        virtio_mems: Its virtio-mem devices.
        offline_bytes: What these have plugged and its guest does not use: it never put that online.
        limits: The limits of its cgroup and of those above it that could be read, the tightest first.
        node_numbers: The NUMA nodes that its memory may come from; empty: all, or not known.
        protection: What the host's kernel was told about taking memory from it, in words; "" if nothing was.
        restored: How often it was seen to be given the memory of another moment in this incarnation: each is
            a reset as well, and ends the target of its virtio-balloon, too.

    """

    name: str
    incarnation: str
    run_state: str
    device: str | None = None
    boot_bytes: int | None = None
    actual_bytes: int | None = None
    resident_bytes: int | None = None
    resident_source: str = ""
    demand: Demand | None = None
    resets: int = 0
    problem: str | None = None
    resident_overhead_bytes: int = 0
    huge_bytes: int = 0
    limit_bytes: int | None = None
    added_bytes: int | None = None
    is_actual_former: bool = False
    report_interval_ns: int = 0
    deflates_on_oom: bool | None = None
    reports_free_pages: bool | None = None
    needs_stop: bool = False
    owner: Owner | None = None
    rival: Rival | None = None
    lock: str = ""
    pinned: Pinned | None = None
    virtio_mems: tuple[VirtioMem, ...] = ()
    offline_bytes: int = 0
    limits: tuple[GroupLimit, ...] = ()
    node_numbers: tuple[int, ...] = ()
    protection: str = ""
    restored: int = 0

    @property
    def plugged_bytes(self) -> int:
        """What virtio-mem has plugged."""
        return sum(each.size_bytes for each in self.virtio_mems)

    @property
    def may_balloon(self) -> bool:
        """Whether it has a balloon that returns something to the host."""
        return self.device is not None and self.pinned is None

    @property
    def may_plug(self) -> bool:
        """Whether it has virtio-mem that can be moved: beside an hv-balloon it is not."""
        is_free = self.pinned is None or self.pinned.leaves_virtio_mem
        return is_free and self.device != HV_BALLOON and any(each.path for each in self.virtio_mems)

    @property
    def balloon_bytes(self) -> int:
        """What its balloon leaves of what it booted with, as far as that is known."""
        boot = self.boot_bytes or 0
        own = boot if self.actual_bytes is None else self.actual_bytes - self.plugged_bytes
        return max(own, boot) if self.is_actual_former else own

    @property
    def offered_bytes(self) -> int:
        """What its guest may plug yet without being asked again."""
        return sum(max(0, each.requested_bytes - each.size_bytes) for each in self.virtio_mems)

    @property
    def guest_bytes(self) -> int | None:
        """What the host measured, less what is known not to be guest memory."""
        held = self.resident_bytes
        return None if held is None else max(0, held - self.resident_overhead_bytes)


class Facts(msgspec.Struct, frozen=True):
    """One sweep: the host and every configured VM, at one moment of the manager's monotonic clock.

    Attributes:
        now_ns: That moment.
        host: The host.
        vms: Every VM as it was last seen.
        looked: The VMs that were looked at now, between two sweeps; None: all.
        measured: Those whose monitor was too late for that: only what the host measures of them is new. That
            is enough to grow them, and not to shrink them or to lower what counts of them.
    """

    now_ns: int
    host: HostFacts
    vms: tuple[VmFacts, ...]
    looked: frozenset[str] | None = None
    measured: frozenset[str] = frozenset()

    def is_new(self, name: str) -> bool:
        """Return whether a VM was looked at now."""
        return self.looked is None or name in self.looked

    def may_grow(self, name: str) -> bool:
        """Return whether enough is known of a VM by now to grow it."""
        return self.is_new(name) or name in self.measured


def between_sweeps(
    before: Facts,
    now_ns: int,
    host: HostFacts,
    looks: Mapping[str, VmFacts],
    held: Mapping[str, int] | None = None,
) -> Facts:
    """Return the facts of a look at some VMs: the others are as the last sweep saw them, and older by now.

    *held* is what the host measures, in bytes, that the guests hold whose monitors were too late.
    """
    late = held or {}
    passed_ns = now_ns - before.now_ns
    vms = tuple(
        msgspec.structs.replace(looks[vm.name], rival=vm.rival, protection=vm.protection)
        if vm.name in looks
        else _aged(vm, passed_ns, late.get(vm.name))
        for vm in before.vms
    )
    return Facts(now_ns, host, vms, frozenset(looks), frozenset(late))


def _aged(vm: VmFacts, passed_ns: int, guest_bytes: int | None) -> VmFacts:
    if guest_bytes is not None:
        vm = msgspec.structs.replace(vm, resident_bytes=guest_bytes + vm.resident_overhead_bytes)
    if vm.demand is None:
        return vm
    demand = msgspec.structs.replace(vm.demand, age_ns=vm.demand.age_ns + passed_ns)
    return msgspec.structs.replace(vm, demand=demand)


class VmConfig(MemorySettings, frozen=True):
    """What the operator configured for one VM.

    Attributes:
        name: Its name.
        minimum_bytes: The least it may get.
        maximum_bytes: The most it may get.
        on_shortage: What happens when a VM of higher priority lacks what it uses, and this one has nothing
            to spare: "wait" leaves it what it uses, "squeeze" takes of that, down to its minimum.
        may_stop: Whether its processors may be stopped for the moment in which its target is set, without
            which QEMU's hv-balloon can abort. Since schema 4.
        on_out_of_memory: The command that is run for it when even that is no help: the program and its
            arguments. Empty: none, and it is never interrupted. Since schema 4.
        monitor: Whether its monitor is the manager's alone ("own"), or another program's, which is visited
            for a moment at a time ("borrowed"). Since schema 6.
        takeover: Whether it is taken over from Proxmox's own balloon manager. Since schema 6.

    """

    name: str
    minimum_bytes: int
    maximum_bytes: int
    on_shortage: OnShortage = "wait"
    may_stop: bool = False
    on_out_of_memory: tuple[str, ...] = ()
    monitor: MonitorKind = "own"
    takeover: bool = False


class ManagerSettings(msgspec.Struct, frozen=True):
    """What the operator configured for the host.

    Attributes:
        budget_bytes: What the guests of all VMs together may hold.
        slush_bytes: The part of it that is never granted.
        period_ns: From one sweep to the next.
        pool_bytes: What is kept for VMs about to start.
        ready_bytes: What is kept ready for whoever grows next; None: what the manager finds right.
        mode: In "observe" and "advise", nothing that changes anything is sent, but for the next.
        statistics: Whether guests may be asked for their statistics more often in these modes, too.
        sets_oom_score: Whether the VMs' processes are told apart for when the host runs out, by priority.
        sets_memory_low: Whether the VMs' cgroups keep memory when the host reclaims, by priority.

    """

    budget_bytes: int
    slush_bytes: int
    period_ns: int
    mode: Mode = "observe"
    ready_bytes: int | None = None
    statistics: bool = False
    pool_bytes: int = 0
    sets_oom_score: bool = False
    sets_memory_low: bool = False

    @property
    def is_enforcing(self) -> bool:
        """Whether commands are sent, and not only planned."""
        return self.mode == "enforce"
