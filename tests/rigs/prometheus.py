"""Prometheus and promtool, where there are any: installed, or fetched by scripts/setup-prometheus."""

import shutil
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent.parent


def program(name: str) -> str:
    """Where a program of Debian's package prometheus is; empty if it is not there."""
    return shutil.which(name) or shutil.which(name, path=ROOT / ".cache" / "prometheus" / "usr" / "bin") or ""


needs_prometheus: Final = pytest.mark.skipif(
    not (program("promtool") and program("prometheus")), reason="make check-metrics fetches Prometheus"
)
