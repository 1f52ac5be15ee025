"""The families of metrics that a manager has, as a table: a name, a kind, a meaning, and where it comes from.

Names and units are as the field has them: base units, a plural unit at the end, `_total` on what only grows,
ratios where 1 is the whole. `dynmem_vm_X_bytes` is the field `X_bytes` of a VM in the status. A sample of a
VM has the label `vm`, its name in the manager's file. What describes a VM in words stands in `dynmem_vm_info`
alone, to be joined; nothing that a guest says becomes a label, and a state is one of a closed list.

A status comes here typed, as the manager has it, or by its fields, as a client has received it.
"""

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from dynmem.dates import parse_date
from dynmem.metrics.text import Kind, Sample, label
from dynmem.units import NS_PER_S

if TYPE_CHECKING:
    from dynmem.manager.api.messages import StatusReply
    from dynmem.manager.step.view import VmView
    from dynmem.manager.totals import HistogramView

#: What a VM's `run_state` is counted as. A monitor may report any other text: that is "other".
STATES: Final = ("running", "paused", "migrating", "silent", "absent", "other")
STANDINGS: Final = ("movable", "frozen", "released", "paused")
MODES: Final = ("observe", "advise", "enforce")
#: Which abilities of a VM are shown, and what each word about one counts as; any other word: not known.
CAPABILITIES: Final = (
    "driver",
    "plugging",
    "statistics",
    "free_page_reporting",
    "deflate_on_oom",
    "movable",
)
CAPABLE: Final = {
    **dict.fromkeys(("proven", "fresh", "on", "yes"), True),
    **dict.fromkeys(("absent", "stale", "off", "no", "grow only"), False),
}
RESERVATION_STATES: Final = ("ready", "waiting", "expired", "refused")


class Scrape:
    """A status that is being rendered.

    Attributes:
        status: The status.
        vms: Its VMs, each with its label.
    """

    def __init__(self, status: "StatusReply") -> None:
        self.status: StatusReply = status
        self.vms: list[tuple[str, VmView]] = [(label("vm", vm.name), vm) for vm in status.vms]


class Family(NamedTuple):
    """Samples of one name.

    Attributes:
        name: The name.
        kind: What kind of metric it is.
        meaning: What it says, in a sentence.
        samples: Returns its samples.
        labels: The names of their labels.
    """

    name: str
    kind: Kind
    meaning: str
    samples: Callable[[Scrape], Iterable[Sample]]
    labels: tuple[str, ...] = ()


# -- the host -----------------------------------------------------------------------------------------------


def _host(name: str, meaning: str, read: Callable[["StatusReply"], object], kind: Kind = "gauge") -> Family:
    """Return a family of one sample."""
    return Family(name, kind, meaning, lambda scrape: (Sample("", read(scrape.status)),))


def _measured(name: str, meaning: str, field: str) -> Family:
    """Return a family of one sample that is known from the first sweep on."""
    return _host(
        f"dynmem_host_{name}_bytes", meaning, lambda status: getattr(status.measured_free, field, None)
    )


def _of_host(name: str, meaning: str, field: str) -> Family:
    """Return a family of one sample that is known where the host has such a thing."""
    return _host(f"dynmem_host_{name}_bytes", meaning, lambda status: getattr(status.host, field, None))


def _pressure(scrape: Scrape) -> Iterator[Sample]:
    """Yield how often programs waited for memory, as a part of the last ten seconds."""
    for kind in ("some", "full"):
        percent = getattr(scrape.status.host, f"pressure_{kind}_percent", None)
        yield Sample(label("kind", kind), None if percent is None else percent / 100)


def _one_of(name: str, words: Iterable[str], now: object) -> Iterator[Sample]:
    """Yield a sample for each word of a closed list: 1 for that which holds, 0 for the others."""
    for word in words:
        yield Sample(label(name, word), word == now)


def resident_bytes(status: "StatusReply") -> int:
    """Return what the host measures that all guests hold, by the books where it cannot be measured."""
    return sum(
        vm.resident_bytes if vm.resident_bytes is not None else vm.claim_bytes or 0 for vm in status.vms
    )


def load_ratio(status: "StatusReply") -> float | None:
    """Return what is wanted as a part of what there is: 0 is an empty host, 1 one that is full or beyond.

    What is wanted is each VM's `wanted_bytes`, what it may take where no plan says more, and reservations.
    What there is is the budget, or what the guests hold and the host still has, if that is less; without
    slush in both cases.
    """
    if status.measured_free is None:
        return None
    wanted = sum(vm.wanted_bytes if vm.wanted_bytes is not None else vm.claim_bytes or 0 for vm in status.vms)
    wanted += status.measured_free.reserved_bytes
    there = min(status.budget_bytes, resident_bytes(status) + status.measured_free.mem_available_bytes)
    there -= status.slush_bytes
    return 1.0 if there <= 0 else min(1.0, max(0.0, wanted / there))


def _date_s(text: str | None) -> float | None:
    """Return a date of the status in seconds since the epoch."""
    try:
        return None if text is None else parse_date(text) / NS_PER_S
    except ValueError:
        return None


def _histogram(name: str, meaning: str, read: Callable[["StatusReply"], "HistogramView | None"]) -> Family:
    def samples(scrape: Scrape) -> Iterator[Sample]:
        found = read(scrape.status)
        if found is None:
            return
        for bound, count in zip(found.bounds_s, found.counts, strict=False):
            yield Sample(label("le", float(bound)), count, "_bucket")
        yield Sample(label("le", "+Inf"), found.count, "_bucket")
        yield Sample("", found.sum_s, "_sum")
        yield Sample("", found.count, "_count")

    return Family(name, "histogram", meaning, samples, ("le",))


def _commands(scrape: Scrape) -> Iterator[Sample]:
    for result in ("sent", "failed", "unknown"):
        yield Sample(label("result", result), getattr(scrape.status.totals, result, None))


def _reservations(scrape: Scrape) -> Iterator[Sample]:
    now = [each.state for each in scrape.status.reservations]
    for state in RESERVATION_STATES:
        yield Sample(label("state", state), now.count(state))


HOST: Final[tuple[Family, ...]] = (
    Family(
        "dynmem_build_info",
        "gauge",
        "Always 1: the version of dynmem that the manager runs.",
        lambda scrape: (Sample(label("version", scrape.status.manager.version), 1),),
        ("version",),
    ),
    Family(
        "dynmem_mode",
        "gauge",
        "1 for the mode that the manager is in: only in enforce it sends commands.",
        lambda scrape: _one_of("mode", MODES, scrape.status.mode),
        ("mode",),
    ),
    _host("dynmem_uptime_seconds", "How long the manager has been running.", attrgetter("manager.uptime_s")),
    _host(
        "dynmem_last_sweep_timestamp_seconds",
        "When the last sweep began, in seconds since 1970. It stands still when the manager does.",
        lambda status: _date_s(status.swept_at),
    ),
    _host(
        "dynmem_period_seconds",
        "From one sweep to the next.",
        lambda status: status.period_ns / NS_PER_S,
    ),
    _host(
        "dynmem_config_in_force",
        "1 if the configuration in force is that of the file, 0 if the file was changed or is wrong.",
        lambda status: status.manager.config_problem is None,
    ),
    _host(
        "dynmem_journal_writable",
        "1 if the journal can be written, 0 if not: then no VM is shrunk.",
        lambda status: status.manager.journal_problem is None,
    ),
    _host(
        "dynmem_history_writable",
        "1 if the history can be written, 0 if not: VMs are served as ever.",
        lambda status: status.manager.history_problem is None,
    ),
    _host(
        "dynmem_host_budget_bytes",
        "What the guests of all VMs together may hold.",
        attrgetter("budget_bytes"),
    ),
    _host("dynmem_host_slush_bytes", "The part of it that is never granted.", attrgetter("slush_bytes")),
    _host(
        "dynmem_host_resident_bytes",
        "What all guests hold as the host measures it; of one that cannot be measured, what it may take.",
        lambda status: None if status.measured_free is None else resident_bytes(status),
    ),
    _measured("measured_free", "What can be granted now; negative if more is held or promised.", "bytes"),
    _measured("available", "MemAvailable of the host.", "mem_available_bytes"),
    _of_host("total", "What memory the host has.", "mem_total_bytes"),
    _of_host("arc", "What ZFS's cache could give back, which MemAvailable leaves out.", "arc_bytes"),
    _of_host("zram", "What compressed swap takes of memory.", "zram_bytes"),
    _of_host(
        "ksm_saved", "What merged pages save: guests that write to them need it again.", "ksm_saved_bytes"
    ),
    Family(
        "dynmem_host_pressure_ratio",
        "gauge",
        "The part of the last ten seconds in which a program waited for memory (some), or all did (full).",
        _pressure,
        ("kind",),
    ),
    _measured("held", "What all VMs hold or may take.", "held_bytes"),
    _measured("untouched", "What VMs may take and have not touched yet.", "untouched_bytes"),
    _measured("reserved", "What reservations hold beside the VMs that they are for.", "reserved_bytes"),
    _host(
        "dynmem_host_ready_bytes", "What is kept ready for the VM that grows next.", attrgetter("ready_bytes")
    ),
    _host(
        "dynmem_host_shortage_bytes",
        "How far all that is wanted exceeds what there is to divide.",
        attrgetter("shortage_bytes"),
    ),
    _host(
        "dynmem_host_load_ratio",
        "What the VMs want as a part of what there is for them, 0 to 1: one number for schedulers.",
        load_ratio,
    ),
    _host(
        "dynmem_host_emergency",
        "1 while the VMs occupy more than the budget.",
        attrgetter("emergency"),
    ),
    _host(
        "dynmem_host_waiting",
        "1 while a VM or a reservation waits for memory that is being given.",
        attrgetter("waiting"),
    ),
    Family(
        "dynmem_reservations",
        "gauge",
        "Room that is kept for VMs about to start: how many reservations are in each state.",
        _reservations,
        ("state",),
    ),
    _histogram(
        "dynmem_sweep_seconds",
        "How long each look at all VMs took.",
        lambda status: None if status.totals is None else status.totals.sweeps,
    ),
    _histogram(
        "dynmem_decision_seconds",
        "From each look at VMs until the commands that follow from it were sent.",
        lambda status: None if status.totals is None else status.totals.decisions,
    ),
    Family(
        "dynmem_commands_total",
        "counter",
        "Commands by result: accepted by a monitor, not carried out, or not known.",
        _commands,
        ("result",),
    ),
    _host(
        "dynmem_last_resorts_total",
        "How often a VM's on_out_of_memory was run.",
        lambda status: status.totals and status.totals.last_resorts,
        "counter",
    ),
)

# -- each VM ------------------------------------------------------------------------------------------------


def _vm(name: str, meaning: str, read: Callable[["VmView"], object]) -> Family:
    """Return a family with one sample for each VM of which it is known."""
    return Family(
        f"dynmem_vm_{name}",
        "gauge",
        meaning,
        lambda scrape: (Sample(labels, read(vm)) for labels, vm in scrape.vms),
        ("vm",),
    )


def _vm_size(name: str, meaning: str) -> Family:
    return _vm(f"{name}_bytes", meaning, attrgetter(f"{name}_bytes"))


def _vm_total(
    name: str, meaning: str, fields: Iterable[tuple[str, str]], label_names: tuple[str, ...]
) -> Family:
    """Return a family of what has added up: a field of a VM's totals for each of the further labels."""
    pairs = tuple(fields)

    def samples(scrape: Scrape) -> Iterator[Sample]:
        totals = scrape.status.totals
        for each in totals.vms if totals is not None else ():
            vm = label("vm", each.name)
            for further, field in pairs:
                yield Sample(f"{vm},{further}" if further else vm, getattr(each, field, None))

    return Family(f"dynmem_vm_{name}", "counter", meaning, samples, label_names)


def _info(scrape: Scrape) -> Iterator[Sample]:
    for labels, vm in scrape.vms:
        more = (
            label("device", vm.device or ""),
            label("priority", vm.priority),
            label("monitor", vm.monitor),
        )
        yield Sample(",".join((labels, *more)), 1)


def _states(scrape: Scrape) -> Iterator[Sample]:
    for labels, vm in scrape.vms:
        now = vm.run_state if vm.run_state in STATES else "other"
        for further, value, _ in _one_of("state", STATES, now):
            yield Sample(f"{labels},{further}", value)


def _standings(scrape: Scrape) -> Iterator[Sample]:
    for labels, vm in scrape.vms:
        if vm.standing is not None:
            for further, value, _ in _one_of("standing", STANDINGS, vm.standing):
                yield Sample(f"{labels},{further}", value)


def _capabilities(scrape: Scrape) -> Iterator[Sample]:
    for labels, vm in scrape.vms:
        if vm.capability is None:
            continue
        for name in CAPABILITIES:
            known = getattr(vm.capability, name, None)
            value = None if known is None else CAPABLE.get(known.value)
            yield Sample(f"{labels},{label('capability', name)}", value)


def pressure(vm: "VmView") -> float | None:
    """Return demand as a part of size, Hyper-V's "pressure"; above 1, the guest needs more than it has."""
    demand, actual = vm.demand_bytes, vm.actual_bytes
    return None if demand is None or not actual else demand / actual


VMS: Final[tuple[Family, ...]] = (
    Family(
        "dynmem_vm_info",
        "gauge",
        "Always 1: what describes a VM in words, to be joined with its other metrics by vm.",
        _info,
        ("vm", "device", "priority", "monitor"),
    ),
    _vm("up", "1 if its process is running.", attrgetter("there")),
    Family(
        "dynmem_vm_state",
        "gauge",
        "1 for the state that it is in; silent: its monitor does not reply, absent: it has no process.",
        _states,
        ("vm", "state"),
    ),
    Family(
        "dynmem_vm_standing",
        "gauge",
        "1 for whether the manager may change it: movable, frozen, released or paused.",
        _standings,
        ("vm", "standing"),
    ),
    Family(
        "dynmem_vm_capability",
        "gauge",
        "1 if it can, 0 if it cannot, by the evidence that dynmem explain shows.",
        _capabilities,
        ("vm", "capability"),
    ),
    _vm("locked", "1 if another program wants it to be left alone.", lambda vm: bool(vm.lock)),
    _vm("pinned", "1 if its pages stay on the host: it is never ballooned.", lambda vm: bool(vm.pinned)),
    _vm("problem", "1 if something is wrong with it: dynmem status says what.", lambda vm: bool(vm.problem)),
    _vm_size("minimum", "The least it may get."),
    _vm_size("maximum", "The most it may get."),
    _vm_size("floor", "The least it may get: its minimum, or the guest's own floor if that is higher."),
    _vm_size("boot", "What it booted with."),
    _vm_size("actual", "Its size as its VMM reports it."),
    _vm_size("assigned", "The target last set, or the size that was adopted."),
    _vm_size("resident", "What the host measures that its guest holds."),
    _vm_size("process", "What its process holds besides."),
    _vm_size("claim", "What it may take without asking, by the books."),
    _vm_size("plugged", "What its virtio-mem devices have plugged."),
    _vm_size("pluggable", "The most that these can plug."),
    _vm_size("limit", "The tightest limit of memory of its cgroup and of those above it."),
    _vm_size("ceiling", "The largest size that such limits leave it now."),
    _vm_size("demand", "What its guest needs, without a buffer."),
    _vm_size("available", "What its guest could use at once."),
    _vm_size("wanted", "Demand and what is expected, and the buffer or the reserve, whichever is more."),
    _vm_size("planned", "What the plan gives it."),
    _vm_size("headroom", "How far the plan goes beyond what it wants."),
    _vm_size("short", "How far the plan stays below what it wants."),
    _vm(
        "ballooned_bytes",
        "What its balloon holds, by the books.",
        lambda vm: vm.books and vm.books.ballooned_bytes,
    ),
    _vm("pressure_ratio", "Demand as a part of its size; above 1, it needs more than it has.", pressure),
    _vm(
        "report_age_seconds",
        "How old its guest's report on its memory was at the last sweep.",
        lambda vm: None if vm.demand_age_ns is None else vm.demand_age_ns / NS_PER_S,
    ),
    _vm_total(
        "unmet_demand_byte_seconds_total",
        "How far demand and reserve exceeded its size, in bytes, times seconds.",
        [("", "unmet_byte_s")],
        ("vm",),
    ),
    _vm_total(
        "moved_bytes_total",
        "By how much its size changed, as its VMM reports it.",
        [(label("direction", "grown"), "grown_bytes"), (label("direction", "shrunk"), "shrunk_bytes")],
        ("vm", "direction"),
    ),
)

FAMILIES: Final = (*HOST, *VMS)
