"""The live table of the demonstration: budget, host, and for each VM what it wants, has and why."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dynmem.demo.record import Sample, VmSample
from dynmem.units import format_size

BAR_CELLS = 16


def _bar(size: int, maximum: int) -> str:
    filled = round(BAR_CELLS * min(size / maximum, 1.0)) if maximum else 0
    return "█" * filled + "░" * (BAR_CELLS - filled)


def _mib(size: int) -> str:
    return f"{size >> 20}"


def header(sample: Sample, budget: int, elapsed_s: float, duration_s: float) -> str:
    """The line above the table."""
    return (
        f"{elapsed_s:5.1f} of {duration_s:.0f} s   budget {format_size(budget)}, resident"
        f" {sample.resident >> 20} MiB   host available {format_size(sample.host_available)}"
    )


def line(name: str, vm: VmSample) -> str:
    """One VM as a line, where there is no terminal to draw a table on."""
    return (
        f"  {name:<8} wants {_mib(vm.wanted):>5}  has {_mib(vm.held):>5}  assigned {_mib(vm.assigned):>5}"
        f"  resident {_mib(vm.resident):>5} MiB  {vm.reason}"
    )


def render(
    sample: Sample,
    members: Sequence[tuple[str, str, int]],
    budget: int,
    elapsed_s: float,
    duration_s: float,
    note: str,
) -> RenderableType:
    """The table of one moment; `members` are (name, backend, maximum bytes)."""
    table = Table(expand=False, pad_edge=False)
    for heading in ("VM", "guest"):
        table.add_column(heading, no_wrap=True)
    for heading in ("wants", "has", "assigned", "resident"):
        table.add_column(f"{heading}\nMiB", justify="right", no_wrap=True)
    table.add_column(f"resident of maximum\n{'':{BAR_CELLS}}", no_wrap=True)
    table.add_column("reason", ratio=1)
    for name, backend, maximum in members:
        vm = sample.vms.get(name)
        if vm is None:
            table.add_row(name, backend, "", "", "", "", "", "not started yet")
            continue
        short = vm.wanted > vm.held
        table.add_row(
            name,
            backend,
            _mib(vm.wanted),
            Text(_mib(vm.held), style="bold red" if short else ""),
            _mib(vm.assigned),
            _mib(vm.resident),
            _bar(vm.resident, maximum),
            vm.reason,
        )
    return Group(
        Text(header(sample, budget, elapsed_s, duration_s), style="bold"), table, Text(note, style="dim")
    )
