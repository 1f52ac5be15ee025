"""The live table of the demonstration: budget, host, and each VM's demand, size and reason."""

from collections.abc import Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dynmem.demo.record import Sample, VmSample
from dynmem.units import MIB, format_size

BAR_CELLS: Final = 20
BAR_FROM_COLUMNS: Final = 96  # a narrower terminal shows the table without bars
COLUMNS: Final = ("load wants", "load has", "demand", "assigned", "resident")


def _bar(size: int, maximum: int) -> str:
    filled = round(BAR_CELLS * min(size / maximum, 1.0)) if maximum else 0
    return "█" * filled + "░" * (BAR_CELLS - filled)


def _mib(size: int) -> str:
    return f"{size // MIB}"


def _assigned(vm: VmSample) -> str:
    """Return a VM's assigned size, and the planned size if that differs."""
    moving = abs(vm.planned - vm.assigned) >= 2 * MIB
    return f"{_mib(vm.assigned)} → {_mib(vm.planned)}" if moving else _mib(vm.assigned)


def header(sample: Sample, budget: int, elapsed_s: float, duration_s: float) -> str:
    """Return the line above the table."""
    return (
        f"{elapsed_s:5.1f} of {duration_s:.0f} s   budget {format_size(budget)}, resident"
        f" {_mib(sample.resident)} MiB   host available {format_size(sample.host_available)}"
    )


def line(name: str, vm: VmSample) -> str:
    """Return one VM as a line, for output that is not a terminal."""
    return (
        f"  {name:<6} load wants {_mib(vm.wanted):>4}, has {_mib(vm.held):>4}; demand {_mib(vm.demand):>4},"
        f" assigned {_assigned(vm):>11}, resident {_mib(vm.resident):>4} MiB; {vm.reason}"
    )


def render(
    sample: Sample,
    members: Sequence[tuple[str, str, int]],
    heading: str,
    note: str,
    width: int,
) -> RenderableType:
    """Return the table of one sample, at most `width` columns; `members` are (name, guest, maximum bytes).

    The reasons follow below, one line each, cut at the terminal's width.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("VM", no_wrap=True)
    for name in COLUMNS:
        table.add_column(f"{name}\nMiB", justify="right", no_wrap=True)
    bars = width >= BAR_FROM_COLUMNS
    if bars:
        table.add_column("resident of maximum", no_wrap=True)
    reasons = []
    for name, guest, maximum in members:
        vm = sample.vms.get(name)
        if vm is None:
            table.add_row(name, *[""] * len(COLUMNS))
            reasons.append(f"{name} ({guest}): not started yet")
            continue
        held = Text(_mib(vm.held), style="bold red" if vm.wanted > vm.held else "")
        cells: list[str | Text] = [
            name,
            _mib(vm.wanted),
            held,
            _mib(vm.demand),
            _assigned(vm),
            _mib(vm.resident),
        ]
        table.add_row(*cells, *([_bar(vm.resident, maximum)] if bars else []))
        reasons.append(f"{name} ({guest}): {vm.reason}")
    lines = [Text(text, no_wrap=True, overflow="ellipsis") for text in reasons]
    return Group(Text(note, style="dim"), Text(heading, style="bold"), table, *lines)
