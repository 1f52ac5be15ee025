"""What the run's last look finds of what a test left."""

import gc
import os
import subprocess
import sys
from pathlib import Path

from tests.rigs import leftovers

_LEAVES = """
import os, subprocess
from tests.rigs import leftovers
leftovers.adopt_orphans()
before = leftovers.children()
os.environ["PYTEST_CURRENT_TEST"] = "a_test"
subprocess.run(["sh", "-c", "sleep 600 & true & exit 0"], check=True)
print(*leftovers.left_processes(before, within_s=0.2), sep="\\n")
print(leftovers.left_processes(before))
"""


def test_a_process_whose_starter_has_ended_is_found_with_its_test_and_ended() -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", _LEAVES]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(found) == 2
    assert found[0].startswith("process ")
    assert found[0].endswith(", started by a_test: sleep 600")
    assert found[1] == "[]"


def test_a_memory_file_that_stays_open_is_found_and_one_that_is_closed_is_not() -> None:
    gc.collect()
    before = leftovers.open_here()
    descriptor = os.memfd_create("left")
    found = leftovers.left_open(before)
    os.close(descriptor)
    assert [(name, count) for (name, _), count in found.items()] == [("/memfd:left (deleted)", 1)]
    assert leftovers.left_open(before) == {}
