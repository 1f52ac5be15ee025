"""The demonstration as one self-contained HTML page: each VM's memory over time, and the host's budget."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dynmem.demo import chart, picture
from dynmem.demo.picture import RunRecord
from dynmem.demo.record import Sample, Summary
from dynmem.units import format_size

POINTS_MAX: Final = 600  # more than a point per pixel and a half would only make the file larger

STYLE: Final = (
    chart.STYLE
    + """
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; margin: 1.6rem 0 .2rem; }
p, td, th { color: var(--ink); } .soft { color: var(--soft); }
svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; } td, th { text-align: right; padding: .2rem .8rem .2rem 0; }
td:nth-child(-n+2), th:nth-child(-n+2) { text-align: left; }
"""
)


def _thin(samples: Sequence[Sample]) -> list[Sample]:
    step = max(1, -(-len(samples) // POINTS_MAX))
    return list(samples[::step])


def _vm_chart(samples: Sequence[Sample], name: str, colour: str, summary: Summary, maximum: int) -> str:
    scale = chart.Scale(summary.duration_seconds, maximum)
    here = [(sample.at_ns, sample.vms[name]) for sample in samples if name in sample.vms]
    entries = [(colour, "resident on the host"), ("assigned", "assigned"), ("wanted", "wanted by its load")]
    parts = [*chart.legend(entries, 12), *scale.axes()]
    if here:
        resident = [(scale.x(at), scale.y(vm.resident)) for at, vm in here]
        parts.append(chart.area(resident, [(x, scale.y(0)) for x, _ in resident], colour, 0.45))
        parts.append(chart.line([(scale.x(at), scale.y(vm.assigned)) for at, vm in here], "assigned", colour))
        parts.append(chart.line([(scale.x(at), scale.y(vm.wanted)) for at, vm in here], "wanted"))
    return chart.svg(parts, f"memory of {name}: resident, assigned and wanted")


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


def render(runs: Sequence[RunRecord], note: str) -> str:
    """Return the page as HTML: all runs in one picture, the first in detail; `note` is about the guests."""
    samples, summary = _thin(runs[0].samples), runs[0].summary
    charts = [
        f"<h2>{html.escape(vm.name)} <span class='soft'>({html.escape(vm.backend)})</span></h2>"
        + _vm_chart(samples, vm.name, chart.COLOURS[index % len(chart.COLOURS)], summary, vm.maximum_bytes)
        for index, vm in enumerate(summary.vms)
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'><title>dynmem demo</title>"
        f"<style>{STYLE}</style></head><body><h1>Virtual machines sharing a budget</h1>"
        f"<p>{html.escape(_lead(summary))}</p><p class='soft'>{html.escape(note)}</p>"
        "<h2>What the loads of all VMs hold, stacked</h2>"
        + picture.draw(runs)
        + "".join(charts)
        + _table(summary)
        + "</body></html>\n"
    )


def write(path: Path, runs: Sequence[RunRecord], note: str) -> None:
    """Write the page to `path`, or the picture alone if that is the name of an SVG."""
    alone = path.suffix.lower() == ".svg"
    path.write_text(picture.draw(runs, alone=True) + "\n" if alone else render(runs, note), encoding="utf-8")
