"""A short trial as its user runs it: real guests, the reference and the manager."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("processors"),
]
REPOSITORY = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> dict[str, Any]:
    """Run the trial with 64 MiB/s and return its one result for the manager."""
    command = [
        sys.executable,
        "-m",
        "bench.trial",
        "--short",
        "--rates",
        "64",
        "--policies",
        "dynmem",
        "--json",
    ]
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["schema_version"] == 1
    reference, managed = results["runs"]
    assert (reference["policy"], managed["policy"]) == ("none", "dynmem")
    assert reference["figures"]["survived"] == 3
    assert isinstance(managed, dict)
    return managed


@pytest.mark.qemu
def test_no_real_guest_is_killed_in_a_short_trial() -> None:
    managed = run()
    assert (managed["figures"]["kills"], managed["figures"]["survived"]) == (0, 3), managed
    assert managed["figures"]["samples"] >= 10 * managed["figures"]["duration_s"]


def test_every_burst_of_embedded_guests_is_served_in_a_short_trial() -> None:
    managed = run("--embedded")
    assert managed["figures"]["survived"] == 3, managed
