"""Why a VM has what it has: a plain line for `dynmem status`, the whole arithmetic for `dynmem explain`.

Every figure is one of the status, so each sum can be computed again by hand. Nothing heavy is imported.
"""

from typing import TYPE_CHECKING

from dynmem.units import NS_PER_S, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dynmem.manager.step.view import StatusView, VmView

# A name, what is done with the figure before it, the figure, and where it comes from.
Row = tuple[str, str, int | None, str]


def in_a_line(vm: "VmView") -> str:
    """Return what a VM uses, what it has and why, in a few plain words."""
    if not vm.there:
        return vm.problem or "it is not running"
    if vm.standing != "movable" or vm.demand_bytes is None or vm.actual_bytes is None:
        return _first(vm.reason) or "nothing is known of its guest yet"
    grows = ", grows" if vm.expected_bytes else ""
    text = f"uses {format_size(vm.demand_bytes)}{grows}, has {format_size(vm.actual_bytes)}"
    more = vm.actual_bytes - vm.demand_bytes
    if vm.books is not None and not vm.books.may_allocate:
        return f"{text}: {vm.books.may_not_allocate_why.split(':', maxsplit=1)[0]}"
    if vm.short_bytes:
        return f"{text}: {format_size(vm.short_bytes)} short, since others hold it"
    if vm.planned_bytes is not None and vm.actual_bytes > vm.planned_bytes:
        return f"{text}: {format_size(vm.actual_bytes - vm.planned_bytes)} of it others may have"
    if vm.wanted_bytes is not None and vm.actual_bytes > vm.wanted_bytes:
        return f"{text}: nobody else needs the rest"
    return f"{text}: {format_size(max(0, more))} at hand"


def explained(status: "StatusView", vm: "VmView") -> str:
    """Return the whole arithmetic of one VM."""
    sections = [f"{vm.name}: {in_a_line(vm)}"]
    if vm.there:
        sections.append(_table("What it wants", _wants(vm)))
        sections.append(_table("What it gets", _gets(vm)))
    sections.append(_table("What the host has", _host(status)))
    sections.append("\n".join(_words(status, vm)))
    return "\n\n".join(section for section in sections if section)


def _first(reason: str) -> str:
    return reason.split("; ", maxsplit=1)[0]


def _wants(vm: "VmView") -> "Iterator[Row]":
    age = "" if vm.demand_age_ns is None else f", reported {vm.demand_age_ns / NS_PER_S:.1f} s ago"
    offline = f", less {format_size(vm.offline_bytes)} that is not online" if vm.offline_bytes else ""
    yield "uses", "", vm.demand_bytes, f"{vm.demand_source or 'not reported'}{offline}{age}"
    needs = vm.demand_bytes
    if needs is not None and vm.expected_bytes:
        yield "grows", "+", vm.expected_bytes, "since its report, and in the next second"
        needs += vm.expected_bytes
    if needs is not None:
        buffer = -(-needs * vm.buffer_percent // 100)
        reserve = vm.reserve_bytes or 0
        what = f"a buffer of {vm.buffer_percent} %"
        if reserve > buffer:
            what = f"its reserve; the buffer of {vm.buffer_percent} % is {format_size(buffer)}"
        yield "at hand", "+", max(buffer, reserve), what
    bounds = f"from {format_size(vm.floor_bytes or vm.minimum_bytes)} to {format_size(vm.maximum_bytes)}"
    yield "wanted", "=", vm.wanted_bytes, f"whole pages, {bounds}"


def _gets(vm: "VmView") -> "Iterator[Row]":
    yield "planned", "", vm.planned_bytes, _planned(vm)
    yield "target", "", vm.assigned_bytes, "what its monitor was last asked for, or had"
    yield "actual", "", vm.actual_bytes, "what its monitor reports"
    if vm.plugged_bytes is not None:
        most = format_size(vm.pluggable_bytes or 0)
        yield "plugged", "", vm.plugged_bytes, f"the part of that by virtio-mem, which has {most}"
    yield "resident", "", vm.resident_bytes, vm.resident_source or ""
    yield "counted", "", vm.claim_bytes, "what it may take without asking, by the books"


def _planned(vm: "VmView") -> str:
    if vm.planned_bytes is None:
        return "it is not in the plan"
    if vm.short_bytes:
        return f"{format_size(vm.short_bytes)} less than wanted"
    return f"{format_size(vm.headroom_bytes or 0)} more than wanted"


def _host(status: "StatusView") -> "Iterator[Row]":
    free = status.measured_free
    yield "budget", "", status.budget_bytes, "what all VMs together may hold"
    yield "slush", "-", status.slush_bytes, "never granted"
    if free is None:
        return
    yield "VMs", "-", free.held_bytes, "what they hold or may take"
    yield "reserved", "-", free.reserved_bytes, "for VMs about to start"
    yield "left", "=", free.budget_term_bytes, "by the budget"
    yield (
        "left",
        "",
        free.host_term_bytes,
        f"by the host, which has {_available(status)} available",
    )
    yield "granted", "", max(0, free.bytes), "at most, now: the smaller of the two"
    yield "ready", "", status.ready_bytes, "of that is for guests that need it to live, and not for comfort"


def _available(status: "StatusView") -> str:
    available = status.measured_free.mem_available_bytes if status.measured_free is not None else 0
    arc = status.host.arc_bytes if status.host is not None else None
    return f"{format_size(available + arc)} with ZFS's cache" if arc else format_size(available)


def _words(status: "StatusView", vm: "VmView") -> "Iterator[str]":
    if vm.reason:
        yield f"why: {vm.reason}"
    for word, change in (("now", vm.change), ("last change", None if vm.change else vm.last_change)):
        if change is not None:
            paid = f" [{change.measurement}]" if change.measurement else ""
            yield f"{word}: {change.reason}{paid}"
        if change is not None and change.command:
            yield f"to do it: {change.command}"
    if vm.paused_until:
        undo = f"dynmem pause {vm.name} --undo"
        yield f"paused until {vm.paused_until}: until then, or until `{undo}`, it is left as it is"
    if status.cut:
        yield f"the plan of all VMs: memory ends in the level {status.cut!r}"
    for text in (vm.parachute, vm.free_pages, vm.problem):
        if text:
            yield text
    if vm.capability is not None:
        for name, known in (
            ("devices", vm.capability.devices),
            ("balloon driver", vm.capability.driver),
            ("virtio-mem driver", vm.capability.plugging),
            ("statistics", vm.capability.statistics),
        ):
            yield f"{name}: {known.value} ({known.evidence})"


def _table(title: str, rows: "Iterator[Row]") -> str:
    cells = [
        (name, sign, "-" if size is None else format_size(size), text) for name, sign, size, text in rows
    ]
    name_width, size_width = (max((len(cell[at]) for cell in cells), default=0) for at in (0, 2))
    lines = [
        f"  {name:<{name_width}}  {sign:1} {size:>{size_width}}  {text}".rstrip()
        for name, sign, size, text in cells
    ]
    return "\n".join([title, *lines])
