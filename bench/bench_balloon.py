"""1 GiB out of an embedded guest and back through every layer, beside a bare loop over the same pages.

Out: QMP `balloon`, the protocol over VMBus rings, the page set, holes punched into the guest's memfd, all of
which was there before. Back: unballoon, then every page is touched. The bare side punches the same number of
ranges of the same mean size, scattered, out of a memfd that was all there, and touches the pages again.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench import rig
from bench.figures import Figure
from dynmem.memory.backend import MemfdBackend
from dynmem.memory.discard import Discarder
from dynmem.pages import ranges
from dynmem.qmp.client import QmpClient
from dynmem.units import GIB, MIB, PAGE_SIZE

MOVED = GIB
GUEST = MOVED + 256 * MIB
RUN_PAGES = 32  # about the mean run of the guest's allocator
RANGES_A_MESSAGE = 510


async def _balloon(monitor: Path, target: int) -> float:
    """Set the target and wait until it is reached; seconds."""
    client = await QmpClient.connect(monitor)
    try:
        begin = time.perf_counter()
        await client.execute("balloon", {"value": target})
        while True:
            reply = await client.execute("x-query-hv-balloon")
            assert isinstance(reply, dict)
            if reply["actual"] == target and reply["state"] == "S_IDLE":  # the guest has answered
                return time.perf_counter() - begin
            await asyncio.sleep(0.001)
    finally:
        await client.close()


def _touch(memory: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> float:
    """Read a byte of every page: a hole of a memfd gets its page by that; seconds."""
    begin = time.perf_counter()
    int(memory[::PAGE_SIZE].sum())
    return time.perf_counter() - begin


def _through_every_layer() -> tuple[float, float, float]:
    with (
        rig.folder() as where,
        rig.vm("one", GUEST, "idle,low=1%", where) as (pid, monitor),
        rig.guest_ram(pid, GUEST) as ram,
    ):
        memory = np.frombuffer(ram, np.uint8)
        _touch(memory)
        out = asyncio.run(_balloon(monitor, GUEST - MOVED))
        back = asyncio.run(_balloon(monitor, GUEST))
        touched = _touch(memory)
        del memory
    return out, back, touched


def _bare() -> tuple[float, float]:
    starts = (
        np.random.default_rng(1).permutation(MOVED // PAGE_SIZE // RUN_PAGES).astype(np.uint64) * RUN_PAGES
    )
    counts = np.full(RANGES_A_MESSAGE, RUN_PAGES, np.uint64)
    backend = MemfdBackend(MOVED, "bare")
    try:
        memory = np.frombuffer(backend.view, np.uint8)
        _touch(memory)
        discarder = Discarder(backend)
        begin = time.perf_counter()
        for first in range(0, len(starts), RANGES_A_MESSAGE):
            message = starts[first : first + RANGES_A_MESSAGE]
            discarder.discard(ranges.pack(message, counts[: len(message)]))
        out = time.perf_counter() - begin
        touched = _touch(memory)
        del memory
    finally:
        backend.close()
    return out, touched


def run() -> Iterator[Figure]:
    """Both sides, one after the other."""
    out, back, touched = _through_every_layer()
    bare_out, bare_touched = _bare()
    gib = MOVED / GIB
    yield Figure("out, through every layer", gib / out, "GiB/s")
    yield Figure("out, bare", gib / bare_out, "GiB/s")
    yield Figure("back, through every layer", gib / back, "GiB/s")
    yield Figure("back and touched, through every layer", gib / (back + touched), "GiB/s")
    yield Figure("touched, bare", gib / bare_touched, "GiB/s")
    ratio = (bare_out + bare_touched) / (out + back + touched)
    yield Figure("out, back and touched: speed beside the bare loop", ratio, "x", at_least=0.5)
