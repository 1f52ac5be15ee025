"""The dashboards, as Prometheus evaluates them over the run: every query, and what the rules made of it."""

import json
import math
import re
from typing import Any, Final, NamedTuple

from tests.accept.daytwo.answers import MOVED_SLACK, WITHIN_S, hold_none
from tests.accept.daytwo.brackets import Point, Track
from tests.accept.daytwo.diary import Diary
from tests.accept.daytwo.script import VMS
from tests.accept.figures import Figures
from tests.rigs.prometheus import ROOT, asked, filled

FOLDER: Final = ROOT / "contrib" / "grafana"
POINTS: Final = 300
#: What a query has no data for on some hosts, and why that is right.
MAY_BE_EMPTY: Final = {
    "dynmem_host_pressure_ratio": "this kernel keeps no PSI: there is no /proc/pressure/memory",
}
#: Its load falls, its guest reports that, and the others' buffers are filled again.
FALLS_S: Final = 15.0
#: A rule that needs a week of figures.
NEEDS_A_WEEK: Final = "instance:dynmem_host_wanted_bytes:last_week"


class Line(NamedTuple):
    """One line of a panel.

    Attributes:
        legend: Its name.
        points: Times in seconds since the epoch, with the value; None: it is not a number there.
    """

    legend: str
    points: list[tuple[float, float | None]]


class Panel(NamedTuple):
    """One panel, evaluated.

    Attributes:
        board: The title of its dashboard.
        title: Its own.
        unit: Grafana's name of the unit.
        kind: Grafana's name of the kind.
        lines: What its queries returned.
        empty: Its queries that returned nothing.
    """

    board: str
    title: str
    unit: str
    kind: str
    lines: list[Line]
    empty: list[str]


def evaluated(address: str, diary: Diary) -> list[Panel]:
    """Return every panel of the dashboards, with what Prometheus has for it of the run."""
    span = {
        "start": f"{diary.began_s:.3f}",
        "end": f"{diary.ended_s:.3f}",
        "step": f"{max(1.0, (diary.ended_s - diary.began_s) / POINTS):.3f}",
    }
    panels = []
    for path in sorted(FOLDER.glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            lines, empty = list[Line](), list[str]()
            for target in panel["targets"]:
                found = asked(address, "query_range", query=filled(target["expr"]), **span)["result"]
                made = [_line(each, target["legendFormat"]) for each in found]
                lines += made
                if all(value is None for line in made for _, value in line.points):
                    empty.append(target["expr"])
            unit = panel["fieldConfig"]["defaults"]["unit"]
            panels.append(Panel(board["title"], panel["title"], unit, panel["type"], lines, empty))
    return panels


def _line(found: dict[str, Any], legend: str) -> Line:
    labels = found["metric"]
    name = re.sub(r"\{\{(\w+)\}\}", lambda each: str(labels.get(each[1], "")), legend)
    shown = name or ", ".join(f"{key}={labels[key]}" for key in sorted(labels) if key not in _OF_SCRAPES)
    # one host: its address, a port of this run, says nothing
    shown = re.sub(r"127\.0\.0\.1:\d+\s*", "", shown).strip() or "this host"
    points = [(float(at_s), float(value)) for at_s, value in found["values"]]
    return Line(shown, [(at_s, value if math.isfinite(value) else None) for at_s, value in points])


_OF_SCRAPES: Final = ("__name__", "instance", "job")


def hold_panels(panels: list[Panel], figures: Figures) -> None:
    """Hold that every query has data, or say which has none."""
    lines, empty = (
        sum(len(panel.lines) for panel in panels),
        [each for panel in panels for each in panel.empty],
    )
    figures.note("dashboards: panels, lines in them", f"{len(panels)}, {lines}")
    figures.equal("  queries without data in the whole run", len(empty), 0, "every query has some")
    for query in empty:
        why = next((why for name, why in MAY_BE_EMPTY.items() if name in query), "it should have data")
        figures.sentence(f"{query}: {why}")


def hold_prometheus(address: str, diary: Diary, figures: Figures) -> None:
    """Hold what Prometheus scraped, and what the rules made of it, against the scene."""
    length = diary.ended_s - diary.began_s
    at = {"time": f"{diary.ended_s:.3f}"}

    def value(query: str) -> float:
        found = asked(address, "query", query=query, **at)["result"]
        return float(found[0]["value"][1]) if found else float("nan")

    over = f"[{round(length)}s]"
    scrapes = value(f'count_over_time(up{{job="dynmem"}}{over})')
    figures.at_least("Prometheus: scrapes, one a second", scrapes, 0.9 * length, "the length of the run")
    lost = scrapes - value(f'sum_over_time(up{{job="dynmem"}}{over})')
    figures.equal("  that failed", lost, 0.0, "the manager ran all the time")
    span = {"start": f"{diary.began_s:.3f}", "end": f"{diary.ended_s:.3f}", "step": "1"}
    for vm in VMS:
        query = f'dynmem_vm_actual_bytes{{vm="{vm}"}}'
        (found,) = asked(address, "query_range", query=query, **span)["result"]
        sizes = Track(Point(float(at_s), float(size), float(size)) for at_s, size in found["values"])
        looks = [
            (at_s, float(seen.size))
            for at_s, seen in diary.of(vm)
            if diary.began_s + 10 < at_s and not diary.is_new(vm, at_s)
        ]
        against = sizes.against(looks, within_s=WITHIN_S, slack=MOVED_SLACK)
        hold_none(f"  looks at the size of {vm} that it contradicts", against, MOVED_SLACK, figures)
    groups = asked(address, "rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    figures.equal("rules that Prometheus can evaluate", {rule["health"] for rule in rules}, {"ok"}, "all")
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    empty = [name for name in recorded if name != NEEDS_A_WEEK and value(name) != value(name)]
    figures.equal(f"  of {len(recorded)} recorded, without data", empty, [], f"but for {NEEDS_A_WEEK}")
    _hold_alerts(address, span, diary, figures)


def _hold_alerts(address: str, span: dict[str, str], diary: Diary, figures: Figures) -> None:
    """Hold that the alert about a full host was coming while memory was short, and that none fired."""
    found = asked(address, "query_range", query="ALERTS", **span)["result"]
    fired = sorted(
        {each["metric"]["alertname"] for each in found if each["metric"]["alertstate"] == "firing"}
    )
    figures.equal("alerts that fired", fired, [], "nothing lasted as long as they wait")
    pending = sorted({each["metric"]["alertname"] for each in found})
    figures.note("  that were coming meanwhile", ", ".join(pending) or "none")
    full = [
        float(at_s)
        for each in found
        if each["metric"]["alertname"] == "DynmemHostFull"
        for at_s, _ in each["values"]
    ]
    large = (diary.when("db", "grow"), diary.when("db", "fall") + FALLS_S)
    while_large = [at_s for at_s in full if large[0] <= at_s <= large[1]]
    figures.at_least("  DynmemHostFull: seconds while db was large", len(while_large), 1, "memory was short")
    others = [at_s for at_s in full if at_s not in while_large]
    while_new = [at_s for at_s in others if diary.is_new("mail", at_s)]
    figures.note("  while mail was new, and counted with all its memory", len(while_new))
    figures.equal("  and at other times", len(others) - len(while_new), 0, "there was enough")
