"""What came of a load, as people read it: one table, and what is assumed."""

from dynmem.cli.layout import broken, table
from dynmem.simulation.figures import Outcome, SimulationReport
from dynmem.units import format_size, size_cell

_HEADS = (
    "RULE",
    "UNMET MiB·s",
    "KILLS",
    "MOVES/H",
    "MOVED MiB/H",
    "PEAK",
    "OF BUDGET",
    "ABOVE IT",
    "MEAN",
)


def rendered(report: SimulationReport, columns: int | None) -> str:
    """Return it as text."""
    hours = report.seconds / 3600
    head = (
        f"{report.source}: {report.vms} VMs for {hours:.1f} h, budget {format_size(report.budget_bytes)},"
        f" seed {report.seed}; simulated"
    )
    lines = [*broken(head, columns), "", *table([_HEADS, *map(_row, report.rules)], ("RULE",)), ""]
    lines += [piece for each in report.assumed for piece in broken(f"- {each}", columns)]
    return "\n".join(lines)


def _row(one: Outcome) -> tuple[str, ...]:
    return (
        one.rule,
        f"{one.unmet_mib_s:.0f}",
        str(one.kills),
        f"{one.moves_per_hour:.0f}",
        f"{one.moved_mib_per_hour:.0f}",
        size_cell(one.peak_bytes),
        f"{one.peak_ratio:.0%}",
        f"{one.above_ratio:.2%}",
        size_cell(one.mean_bytes),
    )
