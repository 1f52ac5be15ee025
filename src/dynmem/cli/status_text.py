"""The status of the manager as text: the host, a table of the VMs, and a line about each.

Nothing heavy is imported: `dynmem status` takes less than 150 ms from start to finish.
"""

from typing import TYPE_CHECKING, Final

from dynmem.cli.explain_text import in_a_line
from dynmem.cli.host_text import host_lines, nodes_line
from dynmem.cli.layout import broken, table
from dynmem.units import NS_PER_S, format_size, size_cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dynmem.manager.api.messages import StatusReply
    from dynmem.manager.step.results import Reservation
    from dynmem.manager.step.view import VmView


def rendered(status: "StatusReply", columns: int | None = None) -> str:
    """Return the reply as text, its prose broken into lines of at most *columns*: host, table, lines."""
    sections = [_wrapped(_host(status), columns), _table(status.vms), _wrapped(_lines(status), columns)]
    if status.reservations:
        sections.insert(1, _wrapped(_reservations(status.reservations), columns))
    return "\n\n".join(section for section in sections if section)


def _wrapped(lines: "Iterable[str]", columns: int | None) -> str:
    return "\n".join(piece for line in lines for piece in broken(line, columns))


def _host(status: "StatusReply") -> list[str]:
    manager, free = status.manager, status.measured_free
    period_s = status.period_ns / NS_PER_S
    note = "" if status.mode == "enforce" else " (nothing is sent)"
    lines = [
        f"{status.mode}{note}; a sweep every {period_s:g} s, the last {_ago(manager.swept_ago_s)}",
        f"budget {format_size(status.budget_bytes)}, slush {format_size(status.slush_bytes)}",
    ]
    if free is not None:
        lines[1] += f", ready {format_size(status.ready_bytes)}"
        lines[1] += f", MemAvailable {format_size(free.mem_available_bytes)}"
        lines.append(f"free: {free.text}")
    lines += host_lines(status.host)
    if status.shortage_bytes:
        lines.append(f"SHORTAGE: {format_size(status.shortage_bytes)} more is wanted than is available")
    if status.emergency:
        lines.append("EMERGENCY: the VMs occupy more than the budget")
    if manager.journal_problem:
        lines.append(f"JOURNAL: {manager.journal_problem}")
    if manager.history_problem:
        lines.append(f"HISTORY: {manager.history_problem}")
    if manager.config_problem:
        lines.append(f"CONFIGURATION: {manager.config_problem}")
    return lines


def _ago(seconds: float | None) -> str:
    return "still to come" if seconds is None else f"{seconds:.1f} s ago"


def _reservations(reservations: "Sequence[Reservation]") -> "Iterable[str]":
    for each in reservations:
        until = f" (until {each.until})" if each.until else ""
        size = format_size(each.size_bytes)
        yield f"reserved for {each.name}: {size}, {each.state}: {each.reason}{until}"


TEXTS: Final[tuple[tuple[str, "Callable[[VmView], str]"], ...]] = (
    ("VM", lambda vm: vm.name),
    ("STATE", lambda vm: vm.run_state),
    ("PRIORITY", lambda vm: vm.priority),
)
FIGURES: Final[tuple[tuple[str, "Callable[[VmView], int | None]"], ...]] = (
    ("MINIMUM", lambda vm: vm.minimum_bytes),
    ("MAXIMUM", lambda vm: vm.maximum_bytes),
    ("DEMAND", lambda vm: vm.demand_bytes),
    ("PLAN", lambda vm: vm.planned_bytes),
    ("TARGET", lambda vm: vm.assigned_bytes),
    ("ACTUAL", lambda vm: vm.actual_bytes),
    ("RESIDENT", lambda vm: vm.resident_bytes),
)


def _table(vms: "Sequence[VmView]") -> str:
    if not vms:
        return "no VMs are configured"
    rows = [[title for title, _ in TEXTS] + [title for title, _ in FIGURES]]
    rows += [[text(vm) for _, text in TEXTS] + [size_cell(figure(vm)) for _, figure in FIGURES] for vm in vms]
    known = [[size for vm in vms if (size := figure(vm)) is not None] for _, figure in FIGURES]
    if len(vms) > 1:
        rows.append(["sum", "", "", *(size_cell(sum(sizes) if sizes else None) for sizes in known)])
    return "\n".join(table(rows, [title for title, _ in TEXTS]))


def _lines(status: "StatusReply") -> list[str]:
    """Return what each VM uses, what it has and why, in a line, and what is being done about it."""
    lines = []
    for vm in status.vms:
        lines.append(f"{vm.name}: {in_a_line(vm)}")
        if vm.change is not None:
            unsent = "" if vm.change.sent else " (not sent)"
            lines.append(f"    {vm.change.reason.split(': ', maxsplit=1)[0]}{unsent}")
            if vm.change.command:
                lines.append(f"    to do it: {vm.change.command}")
        if vm.monitor == "borrowed":
            lines.append("    its monitor is borrowed: visited when nobody is connected")
        lines += [f"    {text}" for text in (nodes_line(vm, status.host), vm.protection) if text]
        if vm.paused_until:
            lines.append(f"    paused until {vm.paused_until}")
        if vm.problem and vm.problem not in lines[-1]:
            lines.append(f"    {vm.problem}")
    if status.vms:
        lines.append(f"the whole arithmetic: dynmem explain {status.vms[0].name}")
    return lines
