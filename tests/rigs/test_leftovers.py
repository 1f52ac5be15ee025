"""What the run's last look finds of what a test left."""

import gc
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.rigs import leftovers
from tests.rigs.backings import mounted

from dynmem.vm.embedded.keeper import RefusedError, make_cgroup

_LEAVES = """
import os, subprocess
from tests.rigs import leftovers
from tests.rigs.backings import mounted
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


def test_a_file_of_a_socket_is_found_where_nobody_has_hidden_it(tmp_path: Path) -> None:
    hidden = tmp_path / "part" / ".hidden"
    hidden.mkdir(parents=True)
    for folder in (hidden, hidden.parent):
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(folder / "left"))
    assert leftovers.socket_files(tmp_path) == {str(tmp_path / "part" / "left")}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a pid namespace without a user namespace")
def test_a_process_that_is_stopped_in_a_namespace_of_its_own_is_found_and_ended() -> None:
    inside = "unshare --pid --fork sh -c 'sleep 601 & kill -STOP $!; exec sleep 602' & sleep 0.2; exit 0"
    code = _LEAVES.replace("sleep 600 & true & exit 0", inside)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    *found, after = done.stdout.splitlines()
    assert len(found) == 3  # unshare, the first process, and the one that was stopped before it could execute
    assert any(line.endswith(": sleep 602") for line in found)
    assert after == "[]"


def test_a_cgroup_whose_keeper_has_ended_is_found() -> None:
    try:
        made = Path(make_cgroup())
    except RefusedError as error:
        pytest.skip(f"a cgroup is not to be had here: {error}")
    made.rmdir()
    left = made.with_name("dynmem-guest-4194305")  # a number that no process has
    left.mkdir()
    try:
        assert str(left) in leftovers.cgroups()
    finally:
        left.rmdir()
    assert str(left) not in leftovers.cgroups()


def test_what_is_mounted_in_a_tests_folder_is_found(tmp_path: Path) -> None:
    before = leftovers.mounts()
    with mounted(tmp_path / "left", "tmpfs", "size=4k") as place:
        assert leftovers.mounts() - before == {str(place)}
    assert leftovers.mounts() == before
