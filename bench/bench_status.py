"""`dynmem status`, start to finish, beside an interpreter that does nothing."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from bench import rig
from bench.figures import Figure
from dynmem.units import MIB

ROUNDS = 15


def _milliseconds(command: Sequence[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begin) * 1e3


def run() -> Iterator[Figure]:
    """Alternate the two commands against a manager with two VMs; medians."""
    with (
        rig.folder() as where,
        rig.many_vms(2, 64 * MIB, where) as vms,
        rig.manager(vms, 64 * MIB, where) as (
            _,
            socket,
        ),
    ):
        status = [sys.executable, "-m", "dynmem", "status", "--socket", str(socket)]
        ours, bare = [], []
        for _round in range(ROUNDS):
            ours.append(_milliseconds(status))
            bare.append(_milliseconds([sys.executable, "-c", "pass"]))
    yield Figure("dynmem status, median", statistics.median(ours), "ms", promised=150)
    yield Figure("python -c pass, median", statistics.median(bare), "ms")
    yield Figure("ratio", statistics.median(ours) / statistics.median(bare), "x", at_most=10)
