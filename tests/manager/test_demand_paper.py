"""docs/demand.md has every formula of demand: each row of its table, computed by the manager's own code."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.rigs.scenes import play

from dynmem.manager.step.facts import HV_BALLOON, VIRTIO_BALLOON, Demand
from dynmem.manager.sweep.demand import DEMAND_SOURCES, DemandTracker, Device, Report
from dynmem.manager.sweep.monitor import Monitor
from dynmem.units import GIB, MIB, format_size

PAPER = (Path(__file__).resolve().parents[2] / "docs" / "demand.md").read_text()
BOOT = 8 * GIB
ACTUAL = 6 * GIB
# No sum or difference of some of them is another one.
FIGURES = {
    "committed": 4097 * MIB,
    "available": 577 * MIB,
    "stat-available-memory": 1283 * MIB,
    "stat-free-memory": 641 * MIB,
    "stat-disk-caches": 323 * MIB,
}
KNOWN = {**FIGURES, "actual": ACTUAL, "ballooned": BOOT - ACTUAL}


class Row(NamedTuple):
    """One row of the paper's table."""

    backend: str
    signals: frozenset[str]
    formula: str
    reserve: str


def rows() -> list[Row]:
    table = PAPER.split("## Every formula")[1].split("##")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("| `")
    ]
    return [
        Row(backend.strip("`"), frozenset(re.findall(r"`([^`]+)`", signals)), formula.strip("`"), reserve)
        for backend, signals, formula, reserve in cells
    ]


def value(formula: str) -> int:
    """Return what a formula such as `actual - stat-free-memory` comes to."""
    first, *others = formula.split(" - ")
    return KNOWN[first] - sum(KNOWN[name] for name in others)


class Guest(Monitor):
    """The monitor of a guest that reports these figures only; *turn* tells one report from the next."""

    def __init__(self, signals: frozenset[str], turn: int) -> None:
        self.figures = {name: FIGURES[name] for name in signals}
        self.turn = turn

    async def query(self, command: str, arguments: dict[str, object] | None = None) -> object:
        if command == "query-hv-balloon-status-report":
            return self.figures
        absent = dict.fromkeys(("stat-available-memory", "stat-disk-caches"), (1 << 64) - 1)
        return {"stats": {**absent, **self.figures}, "last-update": 1_700_000_000 + self.turn}


def computed(row: Row) -> Demand:
    """Return what the manager makes of two reports of these signals."""
    source, device = DEMAND_SOURCES[row.backend], Device(row.backend, "/balloon")
    tracker = DemandTracker(source)
    for turn in range(2):

        async def read(turn: int = turn) -> object:
            return await source.read(Guest(row.signals, turn), device, BOOT)

        report = play(read())
        assert isinstance(report, Report)
        tracker.saw_size(ACTUAL)
        tracker.saw_report(report._replace(mark=turn), turn)  # one that was there before says nothing
    demand = tracker.demand(1)
    assert demand is not None
    return demand


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.backend}: {row.formula}")
def test_each_formula_of_the_paper_is_what_the_manager_computes(row: Row) -> None:
    demand = computed(row)
    assert demand.committed_bytes == value(row.formula)
    assert (format_size(demand.reserve_bytes) if demand.reserve_bytes else "none") == row.reserve


def test_the_paper_has_every_backend_and_the_status_names_its_first_formula() -> None:
    first: dict[str, str] = {}
    for row in rows():
        first.setdefault(row.backend, row.formula)
    assert list(first) == [HV_BALLOON, VIRTIO_BALLOON]
    assert set(first) == set(DEMAND_SOURCES)
    for backend, formula in first.items():
        assert DEMAND_SOURCES[backend].formula.split(",")[0] == formula


def test_a_row_counts_only_where_the_signals_of_those_above_it_are_absent() -> None:
    virtio = [row for row in rows() if row.backend == VIRTIO_BALLOON]
    everything = frozenset().union(*(row.signals for row in virtio))
    for row in virtio:
        assert computed(row._replace(signals=everything)).committed_bytes == value(row.formula)
        everything -= {"stat-available-memory"} if row is virtio[0] else {"stat-disk-caches"}
