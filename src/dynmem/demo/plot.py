"""The demonstration as one self-contained HTML page: each VM's memory over time, and the host's budget."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dynmem.demo.record import Sample, Summary
from dynmem.units import MIB, NS_PER_S, format_size

WIDTH: Final = 860
HEIGHT: Final = 170
LEFT: Final = 64
RIGHT: Final = 12
TOP: Final = 12
BOTTOM: Final = 26
POINTS_MAX: Final = 600  # more than a point per pixel and a half would only make the file larger
COLOURS: Final = ("#3d7ea6", "#c56b3f", "#5f9150", "#8a5fa8", "#b59a2e")

LEGEND: Final = (
    "Below, for each VM: the filled area is resident on the host, the line is the size it is assigned, "
    "and the dashed line is what its load wants."
)

STYLE: Final = """
:root { color-scheme: light dark; --ink: #222; --soft: #777; --grid: #ddd; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --soft: #999; --grid: #333; --paper: #16181b; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; margin: 1.6rem 0 .2rem; }
p, td, th { color: var(--ink); } .soft { color: var(--soft); }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 11px; }
.grid { stroke: var(--grid); } .budget { stroke: #c0392b; stroke-dasharray: 6 3; }
.assigned { fill: none; stroke-width: 1.6; }
.wanted { fill: none; stroke: var(--ink); stroke-dasharray: 3 3; }
table { border-collapse: collapse; } td, th { text-align: right; padding: .2rem .8rem .2rem 0; }
td:nth-child(-n+2), th:nth-child(-n+2) { text-align: left; }
"""


class _Scale:
    """Maps seconds and bytes to the pixels of one chart."""

    def __init__(self, seconds: float, top_bytes: int) -> None:
        self.seconds = max(seconds, 1e-9)
        self.top_bytes = max(top_bytes, 1)

    def x(self, at_ns: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(at_ns / NS_PER_S / self.seconds, 1.0)

    def y(self, size: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(size / self.top_bytes, 1.0))


def _thin(samples: Sequence[Sample]) -> list[Sample]:
    step = max(1, -(-len(samples) // POINTS_MAX))
    return list(samples[::step])


def _axes(scale: _Scale) -> list[str]:
    parts = []
    for fraction in (0.0, 0.5, 1.0):
        y = scale.y(scale.top_bytes * fraction)
        label = f"{scale.top_bytes * fraction / MIB:.0f} MiB"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for fraction in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = LEFT + (WIDTH - LEFT - RIGHT) * fraction
        anchor = "end" if fraction == 1.0 else "middle"
        text = f"{scale.seconds * fraction:.0f} s"
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{text}</text>')
    return parts


def _line(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _svg(parts: Sequence[str], title: str) -> str:
    label = html.escape(title, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _host_chart(samples: Sequence[Sample], names: Sequence[str], summary: Summary) -> str:
    scale = _Scale(summary.duration_seconds, int(summary.budget_bytes * 1.1))
    parts = _axes(scale)
    below = [0] * len(samples)
    for index, name in enumerate(names):
        above = [
            low + (sample.vms[name].resident if name in sample.vms else 0)
            for low, sample in zip(below, samples, strict=True)
        ]
        upper = [(scale.x(s.at_ns), scale.y(size)) for s, size in zip(samples, above, strict=True)]
        lower = [(scale.x(s.at_ns), scale.y(size)) for s, size in zip(samples, below, strict=True)]
        colour = COLOURS[index % len(COLOURS)]
        parts.append(
            f'<polygon points="{_line([*upper, *reversed(lower)])}" fill="{colour}" fill-opacity=".75">'
            f"<title>{html.escape(name)}</title></polygon>"
        )
        below = above
    y = scale.y(summary.budget_bytes)
    parts.append(f'<line class="budget" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{y - 4:.1f}" text-anchor="end">budget</text>')
    return _svg(parts, "resident memory of all VMs, stacked, against the budget")


def _vm_chart(samples: Sequence[Sample], name: str, colour: str, summary: Summary, maximum: int) -> str:
    scale = _Scale(summary.duration_seconds, maximum)
    here = [(sample.at_ns, sample.vms[name]) for sample in samples if name in sample.vms]
    parts = _axes(scale)
    if here:
        resident = [(scale.x(at), scale.y(vm.resident)) for at, vm in here]
        base = scale.y(0)
        area = [(resident[0][0], base), *resident, (resident[-1][0], base)]
        parts.append(f'<polygon points="{_line(area)}" fill="{colour}" fill-opacity=".45"/>')
        assigned = _line([(scale.x(at), scale.y(vm.assigned)) for at, vm in here])
        parts.append(f'<polyline class="assigned" stroke="{colour}" points="{assigned}"/>')
        wanted = _line([(scale.x(at), scale.y(vm.wanted)) for at, vm in here])
        parts.append(f'<polyline class="wanted" points="{wanted}"/>')
    return _svg(parts, f"memory of {name}: resident, assigned and wanted")


def _table(summary: Summary) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(vm.name)}</td><td>{html.escape(vm.backend)}</td>"
        f"<td>{format_size(vm.maximum_bytes)}</td><td>{format_size(vm.peak_resident_bytes)}</td>"
        f"<td>{vm.unmet_demand_seconds:.1f}</td><td>{vm.pages_moved}</td><td>{vm.wrong_bytes}</td></tr>"
        for vm in summary.vms
    )
    head = "".join(
        f"<th>{text}</th>"
        for text in (
            "VM",
            "guest",
            "maximum",
            "peak resident",
            "unmet demand, s",
            "pages moved",
            "wrong bytes",
        )
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _lead(summary: Summary) -> str:
    maximums = format_size(sum(vm.maximum_bytes for vm in summary.vms))
    return (
        f"{len(summary.vms)} VMs whose maximums add up to {maximums} "
        f"share {format_size(summary.budget_bytes)} for {summary.duration_seconds:.0f} s ({summary.mode}). "
        f"Peak resident {format_size(summary.peak_resident_bytes)}, "
        f"unmet demand {summary.unmet_demand_seconds:.1f} VM-seconds, {summary.pages_moved} pages moved, "
        f"{summary.wrong_bytes} wrong bytes."
    )


def render(samples: Sequence[Sample], summary: Summary, note: str) -> str:
    """Return the page as HTML; `note` says what the guests are."""
    samples = _thin(samples)
    names = [vm.name for vm in summary.vms]
    charts = [
        f"<h2>{html.escape(vm.name)} <span class='soft'>({html.escape(vm.backend)})</span></h2>"
        + _vm_chart(samples, vm.name, COLOURS[index % len(COLOURS)], summary, vm.maximum_bytes)
        for index, vm in enumerate(summary.vms)
    ]
    lead = _lead(summary)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'><title>dynmem demo</title>"
        f"<style>{STYLE}</style></head><body><h1>Virtual machines sharing a budget</h1>"
        f"<p>{html.escape(lead)}</p><p class='soft'>{html.escape(note)}</p>"
        "<h2>Resident memory of all VMs, stacked</h2>"
        + _host_chart(samples, names, summary)
        + f"<p class='soft'>{LEGEND}</p>"
        + "".join(charts)
        + _table(summary)
        + "</body></html>\n"
    )


def write(path: Path, samples: Sequence[Sample], summary: Summary, note: str) -> None:
    """Write the page to `path`."""
    path.write_text(render(samples, summary, note), encoding="utf-8")
