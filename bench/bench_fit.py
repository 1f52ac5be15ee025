"""How long `dynmem fit` takes: the snapshots of 1000 hosts with 60 VMs each, and a month of one host.

Processor time, not the time that passes, so that a busy machine changes it little. The files are on the disk,
and the executor is a thread in this process, so that no start of a pool counts.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from bench.figures import Figure
from bench.fit_traces import KINDS, middle, trace
from dynmem.fit.answer import answer_of
from dynmem.fit.fleet import FleetReply, fleet_of
from dynmem.fit.snapshot import encoded, snapshot_of
from dynmem.fit.trace import Model

HOSTS, VMS, ROUNDS = 1000, 60, 3


def _spent(call: Callable[[], object]) -> float:
    """Return the least processor time of some rounds, in seconds."""
    spent = []
    for _round in range(ROUNDS):
        begin = time.process_time()
        call()
        spent.append(time.process_time() - begin)
    return min(spent)


def _files(folder: Path) -> list[Path]:
    """Write a snapshot for each host: of each kind one week, and many hosts with that week."""
    made = [snapshot_of(trace(kind, 1, days=8, vms=VMS), 0.01, "", names=True) for kind in KINDS]
    files = []
    for number in range(HOSTS):
        path = folder / f"host-{number:04}.json"
        path.write_bytes(encoded(msgspec.structs.replace(made[number % len(made)], host=path.stem)))
        files.append(path)
    return files


def run() -> Iterator[Figure]:
    """Answer for all hosts by a size and by a VM, and for one host with its held-out days."""
    folder = Path(tempfile.mkdtemp(prefix="bench-fit-"))
    try:
        files = _files(folder)
        with ThreadPoolExecutor(1) as executor:

            def by_size() -> FleetReply:
                return fleet_of(files, executor, size=4 << 30, vms=10)

            assert len(by_size().hosts) == HOSTS
            yield Figure(
                "files", sum(path.stat().st_size for path in files) / HOSTS / 1024, "KiB a host", at_most=128
            )
            yield Figure(f"{HOSTS} hosts x {VMS} VMs, by a size", _spent(by_size), "s of a core", at_most=1.0)
            by_vm = _spent(lambda: fleet_of(files, executor, like="host-0500/vm-07", vms=10))
            yield Figure(f"{HOSTS} hosts x {VMS} VMs, like a VM of one", by_vm, "s of a core", at_most=1.0)
    finally:
        shutil.rmtree(folder)
    host = trace("office", 1, days=28, vms=VMS)
    model = Model(middle(host), 0)
    yield Figure(
        f"28 days of {VMS} VMs, with all held-out days",
        _spent(lambda: answer_of(host, model)),
        "s",
        promised=2,
    )
