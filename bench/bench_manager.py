"""What an idle manager costs per VM and second, beside a bare loop that asks the same questions."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

from bench import rig
from bench.figures import Figure
from dynmem.qmp.client import QmpClient
from dynmem.units import MIB

VMS = 8
SECONDS = 8.0
QUESTIONS = ("query-status", "query-balloon", "query-hv-balloon-status-report")


async def _ask_bare(monitors: list[Path]) -> float:
    clients = [await QmpClient.connect(monitor) for monitor in monitors]
    begin = time.process_time()
    rounds = int(SECONDS)
    for _ in range(rounds):
        for client in clients:
            for question in QUESTIONS:
                await client.execute(question)
    spent = time.process_time() - begin
    for client in clients:
        await client.close()
    return spent / rounds / len(clients)


def run() -> Iterator[Figure]:
    """Watch the manager's processor time over some idle seconds."""
    with rig.folder() as where, rig.many_vms(VMS, 64 * MIB, where) as vms:
        with rig.manager(vms, 64 * MIB, where) as (pid, _socket):
            time.sleep(2)
            begin, before = time.monotonic(), rig.cpu_seconds(pid)
            time.sleep(SECONDS)
            spent = (rig.cpu_seconds(pid) - before) / (time.monotonic() - begin) / VMS
        bare = asyncio.run(_ask_bare(list(vms.values())))
    yield Figure(f"manager, per VM and second ({VMS} VMs, period 1 s)", spent * 1e3, "ms", promised=5)
    yield Figure("bare loop over the same questions", bare * 1e3, "ms")
    yield Figure("ratio", spent / bare, "x", at_most=10)
