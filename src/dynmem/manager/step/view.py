"""The status of the manager as other programs read it: every figure under its own name, with its unit.

`dynmem status --json` is this, encoded once; `docs/status.md` is written from the classes below and a test
holds the two equal. Fields are added and never renamed, removed or given another meaning, so a reader ignores
those that it does not know. A field that came later says so: "Since schema 2."

Sizes are bytes. Times in nanoseconds are on the manager's monotonic clock, which starts when the host does;
beside each stands its date, which whoever has a clock adds (`dated`).
"""

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from dynmem.manager.step.capability import Capability
from dynmem.manager.step.facts import HostFacts, Mode, VmConfig
from dynmem.manager.step.results import Reservation

SCHEMA: Final = 6

#: Returns the date of a point on the monotonic clock.
Dating = Callable[[int], str]

StandingKind = Literal["movable", "frozen", "released", "paused"]


class MeasuredView(msgspec.Struct, frozen=True):
    """What could be granted at the last sweep: the smaller of two measurements. Both may be negative.

    Attributes:
        bytes: The smaller term: what may be granted.
        deciding: Which term that is.
        text: The whole sum as a sentence.
        budget_term_bytes: Budget, less slush, what the VMs hold or may take, and reservations.
        host_term_bytes: Available on the host, less slush, what VMs may still take, and reservations.
        mem_available_bytes: MemAvailable of the host.
        held_bytes: What all VMs hold or may take.
        untouched_bytes: What VMs may take and have not touched yet.
        reserved_bytes: What reservations hold beside the VMs they are for, and what is kept for VMs about to
            start.

    """

    bytes: int
    deciding: Literal["budget", "host"]
    text: str
    budget_term_bytes: int
    host_term_bytes: int
    mem_available_bytes: int
    held_bytes: int
    untouched_bytes: int
    reserved_bytes: int


class BooksView(msgspec.Struct, frozen=True):
    """The totals of the Global Memory Manager's books: every field of GMMSTATS.

    Attributes:
        max_bytes: The most that may be allocated: budget less slush.
        allocated_bytes: What all VMs may take without asking.
        ballooned_bytes: What their balloons hold.
        shortage_bytes: How far `allocated_bytes` exceeds `max_bytes`.
        reserved_bytes: What all VMs and reservations have reserved. Since schema 4.
        over_committed_bytes: How far that exceeds `max_bytes`. Since schema 4.
        shared_bytes: The part of `allocated_bytes` that is shared; 0, since a running guest's memory is never
            merged. Since schema 4.
        duplicate_bytes: What sharing saves. Since schema 4.
        left_behind_bytes: What VMs that ended left behind of shared memory. Since schema 4.
        chunks: Pieces of 2 MiB that are allocated. Since schema 4.
        freed_chunks: How many of these went back to the host since the manager started. Since schema 4.
        shareable_modules: Modules that are registered for sharing. Since schema 4.
        least_bytes: What all VMs and reservations need with every balloon filled to its maximum. Since
            schema 4.
        under_way_bytes: What VMs were asked to give, and are expected to. Since schema 4.

    """

    max_bytes: int
    allocated_bytes: int
    ballooned_bytes: int
    shortage_bytes: int
    reserved_bytes: int = 0
    over_committed_bytes: int = 0
    shared_bytes: int = 0
    duplicate_bytes: int = 0
    left_behind_bytes: int = 0
    chunks: int = 0
    freed_chunks: int = 0
    shareable_modules: int = 0
    least_bytes: int = 0
    under_way_bytes: int = 0


class AccountsView(msgspec.Struct, frozen=True):
    """Memory by account (GMMVMSIZES).

    Attributes:
        base_bytes: The guest's memory. Since schema 4.
        shadow_bytes: What its monitor could give up; a page for each VM, reserved and not used. Since
            schema 4.
        fixed_bytes: What is never moved; a page for each VM, reserved and not used. Since schema 4.

    """

    base_bytes: int
    shadow_bytes: int
    fixed_bytes: int


class VmBooksView(msgspec.Struct, frozen=True, kw_only=True):
    """One VM in the Global Memory Manager's books: every field of GMMVMSTATS.

    Attributes:
        reserved: What it has reserved: its boot size, or more if it has grown beyond that. Since schema 4.
        allocated: What it may take without asking. Since schema 4.
        private_bytes: The part of that which is its own: all of it. Since schema 4.
        shared_bytes: The part that it shares: none. Since schema 4.
        ballooned_bytes: What its balloon holds. Since schema 4.
        max_ballooned_bytes: The most that it could hold: what is reserved, less the VM's minimum. Since
            schema 4.
        requested_bytes: What its guest is asked for and has not given yet. Since schema 4.
        given_bytes: What it gave in answer to this manager's last request. Since schema 4.
        returning_bytes: What its guest was offered and has not taken yet. Since schema 4.
        policy: "ratio": it may reserve more than there is. "none": what it has reserved is kept for it. Since
            schema 4.
        priority: Its priority. Since schema 4.
        ballooning_enabled: Whether it may be asked for memory. Since schema 4.
        shared_paging_enabled: Whether its memory may be shared. Since schema 4.
        may_allocate: Whether it may be grown. Since schema 4.
        may_not_allocate_why: Why not; empty if it may. Since schema 4.

    """

    reserved: AccountsView
    allocated: AccountsView
    private_bytes: int
    shared_bytes: int
    ballooned_bytes: int
    max_ballooned_bytes: int
    requested_bytes: int
    given_bytes: int
    returning_bytes: int
    policy: Literal["none", "ratio"]
    priority: Literal["low", "normal", "high"]
    ballooning_enabled: bool
    shared_paging_enabled: bool
    may_allocate: bool
    may_not_allocate_why: str


class ChangeView(msgspec.Struct, frozen=True, kw_only=True):
    """A target that a step set, or in observe and advise mode would have set.

    Attributes:
        target_bytes: The new target.
        reason: Why, as a sentence.
        measurement: The term of measured free that pays for it; empty for a shrink.
        sent: Whether it was sent to the VM: never in observe and advise mode.
        command: What an operator would type to make the change; empty in other modes than advise. Since
            schema 5.

    """

    target_bytes: int
    reason: str
    measurement: str
    sent: bool
    command: str = ""


class LastChangeView(ChangeView, frozen=True, kw_only=True):
    """The last change of a VM since the manager started.

    Attributes:
        at_ns: When it was decided.
        at: The date of that. Since schema 2.

    """

    at_ns: int
    at: str | None = None


class VmView(VmConfig, frozen=True, kw_only=True):
    """One configured VM. Figures that are not known are null; of an absent VM only the first few are known.

    Attributes:
        there: Whether its process is running.
        released: Whether it was released: grown to its full size (what it booted with or, where memory can be
            hot-added, its maximum) and then left alone.
        paused_until_ns: Until when it is left exactly as it is (`dynmem pause`); null if it is not paused.
            Since schema 5.
        paused_until: The date of that. Since schema 5.
        run_state: What its monitor reports (QEMU's RunState, such as "running" or "paused"), or "migrating",
            "backup" (a job of its monitor copies its disks), "silent" (no reply) or "absent" (no process).
            Only a "running" VM is changed.
        lock: Why another program wants it to be left alone, such as Proxmox's lock; null if none does. Since
            schema 6.
        pinned: What keeps its pages on the host, so that it is never ballooned; null if nothing is known to.
            Since schema 6.
        limit_bytes: The tightest limit of memory of its cgroup and of those above it; null: none is known.
            Since schema 6.
        limit_file: The file that sets it. Since schema 6.
        ceiling_bytes: The largest size that such limits leave it now: it is not grown beyond that. Since
            schema 6.
        node_numbers: The NUMA nodes that its memory may come from; empty: all, or not known. Since schema 6.
        protection: What the host's kernel was told, by its priority, about taking memory from it; null if
            nothing was. Since schema 6.
        device: The kind of its balloon device: "hv-balloon" or "virtio-balloon"; null if it has none.
        floor_bytes: The least it may get: its minimum, or the guest's own floor if that is higher.
        boot_bytes: What it booted with.
        actual_bytes: Its size as its VMM reports it: `query-balloon`, and what virtio-mem has plugged.
        resident_bytes: What the host measures that its guest holds. This is what counts against the budget,
            and it includes the process's own memory only where `process_bytes` is null.
        resident_source: How that was measured: "blocks of its RAM files" or "Pss and swap of its process",
            with a note where these are huge pages of the host's pool, or "memory of its cgroup"; or why it
            is not known.
        process_bytes: What its process holds besides: QEMU's own memory, an NVDIMM, video memory. The host
            does not have it available; null if it cannot be told from the guest's. Since schema 2.
        demand_bytes: What its guest needs, without a buffer.
        available_bytes: What its guest could use at once.
        demand_source: The formula of `demand_bytes`: "committed - ballooned" (hv-balloon) or "actual -
            stat-available-memory, and 64 MiB in reserve" (virtio-balloon).
        reserve_bytes: What its guest should keep at hand beyond `demand_bytes`. Since schema 3.
        expected_bytes: What the plan adds to `demand_bytes` for a guest that grows: what it has used since
            its report, and the growth of the next second. Since schema 3.
        demand_age_ns: How old the guest's report was at the last sweep.
        parachute: Whether its guest may take memory back from its balloon before it kills a process
            (deflate-on-oom), as a phrase; null if that is not known. Since schema 3.
        free_pages: Whether its guest may hand back free pages by itself (free-page-reporting), as a phrase;
            null if that is not known. Since schema 3.
        assigned_bytes: The target last set, or the size that was adopted.
        claim_bytes: What it may take without asking, by the books.
        books: All that the books say of it. Since schema 4.
        wanted_bytes: Demand and what is expected, and the buffer or the reserve, whichever is more; within
            floor and maximum.
        planned_bytes: What the plan gives it; it gets there as others give.
        headroom_bytes: How far the plan goes beyond `wanted_bytes`.
        short_bytes: How far the plan stays below `wanted_bytes`.
        standing: Whether the manager may change it. "paused" is since schema 5.
        reason: Why it has what it has, as a sentence.
        problem: What is wrong with it, and what to do.
        change: What the last step changed.
        last_change: The last change since the manager started.
        plugged_bytes: What its virtio-mem devices have plugged, a part of `actual_bytes`; null if there are
            none. Since schema 6.
        pluggable_bytes: The most that these can plug. Since schema 6.
        offline_bytes: What these have plugged and its guest never put online, as far as that is known. Since
            schema 6.
        capability: What it can do, and how that is known. Since schema 6.

    """

    there: bool
    released: bool
    paused_until_ns: int | None = None
    paused_until: str | None = None
    run_state: str
    lock: str | None = None
    pinned: str | None = None
    limit_bytes: int | None = None
    limit_file: str | None = None
    ceiling_bytes: int | None = None
    node_numbers: tuple[int, ...] = ()
    protection: str | None = None
    device: str | None = None
    floor_bytes: int | None = None
    boot_bytes: int | None = None
    actual_bytes: int | None = None
    resident_bytes: int | None = None
    resident_source: str | None = None
    process_bytes: int | None = None
    demand_bytes: int | None = None
    available_bytes: int | None = None
    demand_source: str | None = None
    reserve_bytes: int | None = None
    expected_bytes: int | None = None
    demand_age_ns: int | None = None
    parachute: str | None = None
    free_pages: str | None = None
    assigned_bytes: int | None = None
    claim_bytes: int | None = None
    books: VmBooksView | None = None
    wanted_bytes: int | None = None
    planned_bytes: int | None = None
    headroom_bytes: int | None = None
    short_bytes: int = 0
    standing: StandingKind | None = None
    reason: str
    problem: str | None = None
    change: ChangeView | None = None
    last_change: LastChangeView | None = None
    plugged_bytes: int | None = None
    pluggable_bytes: int | None = None
    offline_bytes: int = 0
    capability: Capability | None = None


class StatusView(msgspec.Struct, frozen=True, kw_only=True):
    """The host and every VM after the last step.

    Attributes:
        schema: The version of these tables. It rises when a field is added.
        mode: Whether commands are sent ("enforce"), only planned ("observe"), or planned and printed for an
            operator to type ("advise", since schema 5).
        budget_bytes: What the guests of all VMs together may hold.
        slush_bytes: The part of it that is never granted.
        period_ns: From one sweep to the next.
        swept_ns: When the last sweep began; null before the first.
        swept_at: The date of that. Since schema 2.
        emergency: Whether what the VMs occupy of the host now exceeds the budget: their resident memory or,
            of a VM that cannot be measured, all that it may take. (`held_bytes` also counts what is not
            touched yet: it may exceed the budget without an emergency.)
        waiting: Whether a VM or a reservation waits for memory that is being given.
        measured_free: What could be granted; null before the first sweep.
        host: What the host has, and what is to be seen beside that; null before the first sweep. Since
            schema 6.
        shortage_bytes: How far all that is wanted exceeds what there is to divide.
        ready_bytes: What is kept ready for whoever grows next. Since schema 3.
        cut: The first level of the plan for which memory does not suffice. The levels are "floors", "demand
            high", "demand normal", "demand low", "at hand high", "at hand normal", "at hand low" (what is
            kept ready serves up to here), "buffer high", "buffer normal", "buffer low" (up to here, a VM
            lacks something it wants), "margin", "held" and "spread" (only headroom is missing). Empty if
            every VM gets its maximum.
        books: Totals of the books.
        reservations: Room that is kept for VMs about to start.
        vms: Every configured VM, in the order of the configuration.

    """

    schema: int = SCHEMA
    mode: Mode
    budget_bytes: int
    slush_bytes: int
    period_ns: int
    swept_ns: int | None
    swept_at: str | None = None
    emergency: bool
    waiting: bool
    measured_free: MeasuredView | None
    host: HostFacts | None = None
    shortage_bytes: int
    ready_bytes: int = 0
    cut: str
    books: BooksView
    reservations: tuple[Reservation, ...]
    vms: tuple[VmView, ...]

    def dated(self, date: Dating) -> "StatusView":
        """Return the same with a date beside each point on the monotonic clock."""
        return msgspec.structs.replace(
            self,
            swept_at=None if self.swept_ns is None else date(self.swept_ns),
            reservations=tuple(
                msgspec.structs.replace(each, until=date(each.deadline_ns)) for each in self.reservations
            ),
            vms=tuple(_dated_vm(vm, date) for vm in self.vms),
        )

    def vm(self, name: str) -> VmView:
        """Return one VM; KeyError if none of that name is configured."""
        for each in self.vms:
            if each.name == name:
                return each
        raise KeyError(name)


def _dated_vm(vm: VmView, date: Dating) -> VmView:
    last, until_ns = vm.last_change, vm.paused_until_ns
    return msgspec.structs.replace(
        vm,
        paused_until=None if until_ns is None else date(until_ns),
        last_change=None if last is None else msgspec.structs.replace(last, at=date(last.at_ns)),
    )
