"""The demonstration as one picture: what loads hold and lack, with the manager and without.

A panel for each run. The coloured areas are what the VMs' loads hold, stacked; the dashed line above is what
they want. Red between the two is what a load wants and has not got.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from dynmem.demo import chart
from dynmem.demo.record import Sample, Summary
from dynmem.units import MIB, NS_PER_S, format_size

POINTS_MAX: Final = 240  # a point for every three pixels
_LEGEND: Final = 22
_LABEL: Final = 120  # the width of a squeeze's label
# A VM is called squeezed where it lacks more than this part of what it wants, for longer than this.
_SQUEEZED: Final = 0.1
_SQUEEZED_NS: Final = 2 * NS_PER_S


class RunRecord(NamedTuple):
    """One run, recorded."""

    samples: Sequence[Sample]
    summary: Summary


class Squeeze(NamedTuple):
    """A time in which one VM lacked what it wanted."""

    name: str
    begin_ns: int
    end_ns: int


def squeezes(samples: Sequence[Sample], names: Sequence[str]) -> list[Squeeze]:
    """Return for each VM the longest time in which it lacked a good part of what it wanted, if any."""
    found = []
    for name in names:
        begin: int | None = None
        longest = Squeeze(name, 0, 0)
        for sample in samples:
            vm = sample.vms.get(name)
            if vm is None or vm.wanted - vm.held <= vm.wanted * _SQUEEZED:
                begin = None
                continue
            begin = sample.at_ns if begin is None else begin
            if sample.at_ns - begin > longest.end_ns - longest.begin_ns:
                longest = Squeeze(name, begin, sample.at_ns)
        if longest.end_ns - longest.begin_ns > _SQUEEZED_NS:
            found.append(longest)
    return found


def thin(samples: Sequence[Sample]) -> list[Sample]:
    """Return as many samples as the picture has room for."""
    return list(samples[:: max(1, -(-len(samples) // POINTS_MAX))])


def draw(runs: Sequence[RunRecord], *, alone: bool = False) -> str:
    """Return the picture as SVG, a panel for each run; *alone* it is a file of its own."""
    names = [vm.name for vm in runs[0].summary.vms]
    entries = [(chart.COLOURS[index % len(chart.COLOURS)], name) for index, name in enumerate(names)]
    entries += [("wanted", "wanted by all loads"), (chart.UNMET, "not served"), ("budget", "budget")]
    parts = chart.legend(entries, 14)
    for index, run in enumerate(runs):
        parts += _panel(run, names, _LEGEND + index * chart.HEIGHT)
    style = f"<style>{chart.STYLE}</style>" if alone else ""
    if style:
        style += '<rect width="100%" height="100%" fill="var(--paper)"/>'
    title = "memory that the loads of all VMs hold, stacked, below what they want"
    return chart.svg(parts, title, _LEGEND + len(runs) * chart.HEIGHT, style)


def _panel(run: RunRecord, names: Sequence[str], top: float) -> list[str]:
    samples, summary = thin(run.samples), run.summary
    wanted = [sum(vm.wanted for vm in sample.vms.values()) for sample in samples]
    scale = chart.Scale(summary.duration_seconds, max([summary.budget_bytes, *wanted]), top=top + chart.TOP)
    parts = [chart.text(chart.LEFT, top + 12, _heading(summary), kind="title"), *scale.axes()]
    moments = [scale.x(sample.at_ns) for sample in samples]

    def points(sizes: Sequence[int]) -> list[tuple[float, float]]:
        return [(x, scale.y(size)) for x, size in zip(moments, sizes, strict=True)]

    below = [0] * len(samples)
    for index, name in enumerate(names):
        held = [min(vm.held, vm.wanted) if (vm := sample.vms.get(name)) else 0 for sample in samples]
        above = [low + more for low, more in zip(below, held, strict=True)]
        colour = chart.COLOURS[index % len(chart.COLOURS)]
        parts.append(chart.area(points(above), points(below), colour, 0.75))
        below = above
    parts.append(chart.area(points(wanted), points(below), chart.UNMET, 0.6))
    parts.append(chart.line(points(wanted), "wanted"))
    y = scale.y(summary.budget_bytes)
    parts.append(chart.line([(chart.LEFT, y), (chart.WIDTH - chart.RIGHT, y)], "budget"))
    for squeeze in squeezes(samples, names):
        x = min(scale.x((squeeze.begin_ns + squeeze.end_ns) / 2), chart.WIDTH - chart.RIGHT - _LABEL / 2)
        parts.append(chart.text(x, scale.y(0) - 6, f"{squeeze.name} is squeezed", "middle", "title"))
    return parts


def _heading(summary: Summary) -> str:
    lacked = f"{summary.unmet_demand_seconds:.1f} VM-seconds of demand unmet"
    if summary.mode == "static":
        share = format_size(summary.budget_bytes // len(summary.vms) // MIB * MIB)
        return f"without a manager: each VM fixed at {share}: {lacked}"
    return f"with dynmem: {lacked}"
