"""The host in the lines above the live table."""

from typing import TYPE_CHECKING

from dynmem.errors import printable
from dynmem.metrics.families import load_ratio
from dynmem.top.figures import shown
from dynmem.units import NS_PER_S, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dynmem.manager.api.messages import StatusReply


def mode_line(status: "StatusReply") -> str:
    """Return what the manager does, how often, and for how many VMs."""
    running = sum(vm.there for vm in status.vms)
    ago_s = status.manager.swept_ago_s
    last = "" if ago_s is None else f", the last {ago_s:.1f} s ago"
    note = "" if status.mode == "enforce" else " (nothing is sent)"
    period_s = status.period_ns / NS_PER_S
    vms = f"{len(status.vms)} VMs, {running} running"
    return f"{shown(status.mode)}{note}; a sweep every {period_s:g} s{last}; {vms}"


def host_line(status: "StatusReply") -> str:
    """Return what the host has, and what of that is granted, kept and left."""
    parts = [f"budget {format_size(status.budget_bytes)}"]
    if (free := status.measured_free) is not None:
        parts += [
            f"held {format_size(free.held_bytes)}",
            f"free {format_size(free.bytes)} by the {shown(free.deciding)}",
            f"ready {format_size(status.ready_bytes)}",
            f"MemAvailable {format_size(free.mem_available_bytes)}",
        ]
    if (load := load_ratio(status)) is not None:
        parts.append(f"load {load:.0%}")
    return ", ".join(parts)


def alarms(status: "StatusReply") -> "Iterator[str]":
    """Yield what an operator should know at once."""
    if status.emergency:
        yield "EMERGENCY: the VMs occupy more than the budget"
    if status.shortage_bytes:
        yield f"SHORTAGE: {format_size(status.shortage_bytes)} more is wanted than is available"
    manager = status.manager
    for word, problem in (
        ("JOURNAL", manager.journal_problem),
        ("HISTORY", manager.history_problem),
        ("CONFIGURATION", manager.config_problem),
    ):
        if problem:
            yield f"{word}: {printable(problem)}"
