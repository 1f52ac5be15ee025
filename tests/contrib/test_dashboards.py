"""The dashboards: what the script describes, with metrics that exist, and queries that Prometheus can run."""

import asyncio
import contextlib
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.contrib.test_alerts import unknown
from tests.rigs.daemon import DAEMON
from tests.rigs.obedient import ObedientHost
from tests.rigs.prometheus import asked, filled, needs_prometheus, queries, serving
from tests.rigs.scenes import play, until

from dynmem.manager.address import Address
from dynmem.manager.api.messages import StatusReply
from dynmem.manager.api.scrapes import MetricsServer
from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.manager.totals import Totals
from dynmem.metrics.render import render
from dynmem.metrics.text import CONTENT_TYPE
from dynmem.units import MIB, NS_PER_S
from scripts import dashboards

MADE = dashboards.dashboards()
BOARDS: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in MADE.items()}


@pytest.mark.parametrize("name", MADE)
def test_the_file_is_what_the_script_describes(name: str) -> None:
    assert (dashboards.FOLDER / name).read_text() == MADE[name], "run python -m scripts.dashboards"


@pytest.mark.parametrize("name", MADE)
def test_each_metric_of_a_dashboard_exists_and_no_panel_covers_another(name: str) -> None:
    board = BOARDS[name]
    assert len(queries(board)) > 10
    assert [each for query in queries(board) for each in unknown(query)] == []
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert not cells & taken
        assert max(column for column, _ in cells) < dashboards.COLUMNS
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    variables = {each["name"] for each in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z_]+)", json.dumps(board))) - {"__rate_interval", "__all"}
    assert used == variables


def test_the_dashboards_keep_their_identifiers() -> None:
    assert {board["uid"] for board in BOARDS.values()} == {"dynmem-host", "dynmem-vm"}


class Rack:
    """A host whose VMs want more and less in turns, and its metrics."""

    def __init__(self) -> None:
        configs = [VmConfig(name, 64 * MIB, 512 * MIB) for name in ("web", "db")]
        settings = ManagerSettings(700 * MIB, 64 * MIB, NS_PER_S, "enforce")
        self.host = ObedientHost(settings, configs, {"web": 400 * MIB, "db": 100 * MIB})
        self.totals = Totals()
        self.turn = 0

    def status(self) -> StatusReply:
        """Return the status after a further sweep."""
        self.turn += 1
        self.host.demands.update(
            web=(200 + 400 * (self.turn % 2)) * MIB, db=(200 - 100 * (self.turn % 2)) * MIB
        )
        self.totals.looked(self.host.facts())
        self.host.sweep()
        self.totals.swept(0.004)
        self.totals.decided(7_000_000)
        self.totals.ended("sent")
        view = self.host.manager.status().dated(lambda _: "2026-03-02T11:20:41Z")
        assert view.host is not None
        host = msgspec.structs.replace(view.host, pressure_some_percent=1.0, pressure_full_percent=0.0)
        view = msgspec.structs.replace(view, host=host)
        return StatusReply(**msgspec.structs.asdict(view), manager=DAEMON, totals=self.totals.view())


@needs_prometheus
def test_prometheus_scrapes_the_manager_and_runs_every_query_of_the_dashboards(tmp_path: Path) -> None:
    rack, said = Rack(), list[str]()

    async def queried(port: int) -> None:
        with serving(tmp_path, port, dashboards.FOLDER.parent / "prometheus" / "alerts.yml") as address:

            async def scraped() -> bool:
                with contextlib.suppress(OSError):
                    found = await asyncio.to_thread(
                        asked, address, "query", query="count_over_time(dynmem_build_info[1m])"
                    )
                    return bool(found["result"]) and int(found["result"][0]["value"][1]) >= 4
                return False

            await until(scraped)
            for board in BOARDS.values():
                for query in queries(board):
                    found = await asyncio.to_thread(asked, address, "query", query=filled(query))
                    assert found["result"], query
            rules = await asyncio.to_thread(asked, address, "rules")
            assert {each["health"] for group in rules["groups"] for each in group["rules"]} == {"ok"}
            names = await asyncio.to_thread(asked, address, "label/vm/values")
            assert names == ["db", "web"]

    async def scenario() -> None:
        server = MetricsServer(rack.status, render, CONTENT_TYPE, said.append)
        await server.listen(Address("127.0.0.1", 0))
        port = int(said[0].rpartition(":")[2].removesuffix("/metrics"))
        try:
            await queried(port)
        finally:
            await server.close()

    play(scenario())
