"""Prometheus and promtool, where there are any: installed, or fetched by scripts/setup-prometheus."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent.parent


def program(name: str) -> str:
    """Where a program of Debian's package prometheus is; empty if it is not there."""
    return shutil.which(name) or shutil.which(name, path=ROOT / ".cache" / "prometheus" / "usr" / "bin") or ""


needs_prometheus: Final = pytest.mark.skipif(
    not (program("promtool") and program("prometheus")), reason="make check-metrics fetches Prometheus"
)


def queries(board: dict[str, Any]) -> list[str]:
    """Every query of a dashboard."""
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def filled(query: str) -> str:
    """A query as Grafana sends it for all hosts and VMs."""
    return query.replace("$instance", ".*").replace("$vm", ".*").replace("$__rate_interval", "30s")


@contextlib.contextmanager
def serving(folder: Path, target: int, *rules: Path) -> Iterator[str]:
    """Run Prometheus on what listens at a port, with files of rules; yield its address."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [{"job_name": "dynmem", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "GOMAXPROCS": "1"})
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def asked(address: str, path: str, **parameters: str) -> Any:
    """Return what Prometheus replies to a query; it raises where Prometheus refuses one."""
    with urllib.request.urlopen(
        f"{address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=30
    ) as reply:
        return json.load(reply)["data"]
