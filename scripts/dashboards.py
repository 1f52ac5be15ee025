"""Write the two dashboards for Grafana, contrib/grafana/*.json: ``python -m scripts.dashboards``.

Each is a list of rows of panels. What is the same in every panel, its place and its identifiers, is computed.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

FOLDER: Final = Path(__file__).resolve().parent.parent / "contrib" / "grafana"
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
#: What every query chooses: the hosts, and on the second dashboard the VMs.
HOST: Final = 'instance=~"$instance"'
VM: Final = f'{HOST}, vm=~"$vm"'
COLUMNS: Final = 24
HEIGHT: Final = 8


class Panel(NamedTuple):
    """One panel.

    Attributes:
        title: What it shows.
        unit: Grafana's name of the unit.
        queries: Each query and its legend.
        kind: "timeseries", "stat" or "table".
        text: What is below the title's "i".
    """

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    text: str = ""


def sizes(scope: str, **legends: str) -> list[tuple[str, str]]:
    """Return a query for each size of the host, with its legend."""
    return [(f"dynmem_host_{name}_bytes{{{scope}}}", legend) for name, legend in legends.items()]


def vm_sizes(**legends: str) -> list[tuple[str, str]]:
    """Return a query for each size of the VMs, with its legend."""
    return [(f"dynmem_vm_{name}_bytes{{{VM}}}", f"{{{{vm}}}} {legend}") for name, legend in legends.items()]


def rate(name: str, scope: str) -> str:
    """Return the query for how much a counter grows in a second."""
    return f"rate({name}{{{scope}}}[$__rate_interval])"


def quantile(share: float, name: str) -> str:
    """Return the query for how long all but a share of them take."""
    return f"histogram_quantile({share}, sum by (instance, le) ({rate(f'{name}_bucket', HOST)}))"


HOSTS: Final = (
    (
        Panel(
            "Load",
            "percentunit",
            [(f"dynmem_host_load_ratio{{{HOST}}}", "{{instance}}")],
            "stat",
            "What the VMs want as a part of what there is for them. At 100 %, start the next VM elsewhere.",
        ),
        Panel(
            "Can be granted now",
            "bytes",
            [(f"dynmem_host_measured_free_bytes{{{HOST}}}", "{{instance}}")],
            "stat",
        ),
        Panel(
            "Over the budget",
            "short",
            [(f"dynmem_host_emergency{{{HOST}}}", "{{instance}}")],
            "stat",
            "1 while the VMs occupy more than the budget.",
        ),
        Panel(
            "Since the last sweep",
            "s",
            [(f"time() - dynmem_last_sweep_timestamp_seconds{{{HOST}}}", "{{instance}}")],
            "stat",
        ),
    ),
    (
        Panel(
            "Memory of the host",
            "bytes",
            sizes(
                HOST,
                budget="{{instance}} budget",
                resident="{{instance}} resident",
                held="{{instance}} held or promised",
                ready="{{instance}} ready",
                available="{{instance}} MemAvailable",
            ),
            text="Resident is what the guests hold; held or promised is what they may take without asking.",
        ),
        Panel(
            "What all VMs want, need and have",
            "bytes",
            [
                (f"sum by (instance) (dynmem_vm_{name}_bytes{{{HOST}}})", f"{{{{instance}}}} {name}")
                for name in ("wanted", "demand", "actual", "resident")
            ],
        ),
    ),
    (
        Panel(
            "VMs that lack memory",
            "bytes",
            [
                (
                    f"topk(10, {rate('dynmem_vm_unmet_demand_byte_seconds_total', HOST)} > 0)",
                    "{{instance}} {{vm}}",
                )
            ],
            text="How far demand and reserve exceeded the size, on average: the ten VMs that lacked most.",
        ),
        Panel(
            "Memory that moved",
            "Bps",
            [
                (
                    f"sum by (instance, direction) ({rate('dynmem_vm_moved_bytes_total', HOST)})",
                    "{{instance}} {{direction}}",
                )
            ],
        ),
    ),
    (
        Panel(
            "How long decisions take",
            "s",
            [
                (quantile(0.99, "dynmem_decision_seconds"), "{{instance}} decision, 99 %"),
                (quantile(0.5, "dynmem_decision_seconds"), "{{instance}} decision, 50 %"),
                (quantile(0.99, "dynmem_sweep_seconds"), "{{instance}} sweep, 99 %"),
            ],
            text="From a look at VMs until the commands are sent; a sweep is the look at all of them alone.",
        ),
        Panel(
            "Commands",
            "cps",
            [
                (
                    f"sum by (instance, result) ({rate('dynmem_commands_total', HOST)})",
                    "{{instance}} {{result}}",
                )
            ],
        ),
        Panel(
            "Waiting for memory",
            "percentunit",
            [(f"dynmem_host_pressure_ratio{{{HOST}}}", "{{instance}} {{kind}}")],
            text="How often a program of the host waited for memory (some), or all of them did (full).",
        ),
        Panel(
            "VMs by state",
            "short",
            [(f"sum by (instance, state) (dynmem_vm_state{{{HOST}}})", "{{instance}} {{state}}")],
        ),
    ),
)

VMS: Final = (
    (
        Panel(
            "Size, demand and what is held",
            "bytes",
            vm_sizes(actual="size", demand="demand", resident="resident", wanted="wanted"),
            text="Size is what the VMM reports. Wanted is demand with a buffer, within the VM's limits.",
        ),
    ),
    (
        Panel(
            "Pressure",
            "percentunit",
            [(f"dynmem_vm_pressure_ratio{{{VM}}}", "{{vm}}")],
            text="Demand as a part of the size; above 100 %, a guest needs more than it has.",
        ),
        Panel(
            "Unmet demand",
            "bytes",
            [(rate("dynmem_vm_unmet_demand_byte_seconds_total", VM), "{{vm}}")],
        ),
    ),
    (
        Panel(
            "Limits and plan",
            "bytes",
            vm_sizes(
                minimum="minimum", maximum="maximum", floor="floor", assigned="target", planned="planned"
            ),
        ),
        Panel("Balloon and claim", "bytes", vm_sizes(ballooned="ballooned", claim="claim")),
    ),
    (
        Panel(
            "Memory that moved",
            "Bps",
            [(rate("dynmem_vm_moved_bytes_total", VM), "{{vm}} {{direction}}")],
        ),
        Panel("Age of the guest's report", "s", [(f"dynmem_vm_report_age_seconds{{{VM}}}", "{{vm}}")]),
        Panel(
            "May it be changed?",
            "short",
            [(f"dynmem_vm_standing{{{VM}}} == 1", "{{vm}} {{standing}}")],
        ),
        Panel("What it can do", "short", [(f"dynmem_vm_capability{{{VM}}}", "{{vm}} {{capability}}")]),
    ),
    (
        Panel(
            "What they are",
            "short",
            [(f"dynmem_vm_info{{{VM}}}", "")],
            "table",
            "What describes each VM in words.",
        ),
    ),
)


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    """Return a variable whose values are those of a label."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def panel(described: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    """Return a panel as Grafana has it."""
    found: dict[str, Any] = {
        "id": number,
        "title": described.title,
        "description": described.text,
        "type": described.kind,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": described.unit}, "overrides": []},
        "options": {},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": legend,
                **({"format": "table", "instant": True} if described.kind == "table" else {}),
            }
            for index, (expression, legend) in enumerate(described.queries)
        ],
    }
    if described.kind == "timeseries":
        found["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi"},
        }
    return found


def dashboard(
    uid: str, title: str, rows: Sequence[Sequence[Panel]], variables: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return a dashboard: each row takes the whole width."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        width = COLUMNS // len(row)
        height = HEIGHT // 2 if row[0].kind == "stat" else HEIGHT
        for index, each in enumerate(row):
            place = {"x": index * width, "y": top, "w": width, "h": height}
            panels.append(panel(each, len(panels) + 1, place))
        top += height
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return {
        "uid": uid,
        "title": title,
        "tags": ["dynmem"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [source, *variables]},
        "annotations": {"list": []},
        "panels": panels,
        "links": [{"title": "dynmem", "type": "dashboards", "tags": ["dynmem"], "asDropdown": True}],
    }


def dashboards() -> dict[str, str]:
    """Return the files by their names."""
    instance = variable("instance", "Host", "label_values(dynmem_build_info, instance)")
    vm = variable("vm", "VM", f"label_values(dynmem_vm_info{{{HOST}}}, vm)")
    made = {
        "dynmem-host.json": dashboard("dynmem-host", "dynmem: hosts", HOSTS, [instance]),
        "dynmem-vm.json": dashboard("dynmem-vm", "dynmem: VMs", VMS, [instance, vm]),
    }
    return {name: json.dumps(each, indent=2) + "\n" for name, each in made.items()}


if __name__ == "__main__":
    for file_name, text in dashboards().items():
        (FOLDER / file_name).write_text(text)
