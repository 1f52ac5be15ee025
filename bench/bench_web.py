"""What the web page costs its server: a plot of a week and of a year, and a look at 1000 VMs a second.

The history is a year of a host, at the levels that a year has: hours, then ten minutes, minutes, 10 s and the
sweeps of the last hour. A plot is what `dynmem web` sends, from opening the file to its JSON.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.bench_history import _Host, _store
from bench.bench_metrics import _status
from bench.figures import Figure
from dynmem.history.store import Row, Store
from dynmem.history.thinning import DAY, HOUR, MINUTE, SECOND
from dynmem.manager.api.client import reply_of
from dynmem.manager.api.messages import encode
from dynmem.web.look import Look, Seen
from dynmem.web.readings import Reading, Readings
from dynmem.web.series import series_of

VMS: Final = 20
ROUNDS: Final = 9
#: How long each level is kept, and what a row of it stands for: the oldest first. Tenths of a second.
LEVELS: Final = (
    (330 * DAY, HOUR),
    (28 * DAY, 10 * MINUTE),
    (6 * DAY, MINUTE),
    (DAY - HOUR, 10 * SECOND),
    (HOUR, SECOND),
)
_BATCH: Final = 240
_DAY_MS: Final = DAY * 100


def a_year(store: Store, host: _Host) -> int:
    """Keep a year; return its last date, in milliseconds since the epoch."""
    samples = [host.sample() for _ in range(400)]
    at_ms, number = 1_772_420_400_000, 0
    for span, step in LEVELS:
        for first in range(0, span // step, _BATCH):
            rows = []
            for _ in range(min(_BATCH, span // step - first)):
                at_ms, number = at_ms + step * 100, number + 1
                rows.append(Row(at_ms, step, samples[number % len(samples)]))
            store.add(rows, [])
    while store.tidy():
        pass
    return at_ms


def plot(past: Reading, name: str | None, since_ms: int, until_ms: int, points: int) -> bytes:
    """Return a plot as it is sent."""
    return msgspec.json.encode(series_of(past, name, since_ms, until_ms, points))


def _best(folder: Path, name: str | None, since_ms: int, until_ms: int, points: int) -> tuple[float, int]:
    """Return processor seconds, the least of some rounds, and the bytes of the plot."""
    spent = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        past = Reading(folder)
        data = plot(past, name, since_ms, until_ms, points)
        past.close()
        spent.append(time.process_time() - begin)
    return min(spent), len(data)


async def _longest_stop(folder: Path, name: str, until_ms: int) -> float:
    """Return for how long the loop stood still at most while a year was read beside it."""
    readings, longest = Readings(folder), 0.0
    reading = asyncio.ensure_future(readings.read(lambda past: plot(past, name, 0, until_ms, 2000)))
    while not reading.done():
        begin = time.perf_counter()
        await asyncio.sleep(0)
        longest = max(longest, time.perf_counter() - begin)
    readings.close()
    return longest


def run() -> Iterator[Figure]:
    """Read plots of a year's history; look at a thousand VMs."""
    host = _Host(VMS)
    with _store() as store:
        until_ms = a_year(store, host)
        name = host.names[-1]
        week, _ = _best(store.folder, name, until_ms - 7 * _DAY_MS, until_ms, 1000)
        yield Figure("a plot of a week of a VM, 1000 points", week * 1e3, "ms", promised=200)
        of_host, _ = _best(store.folder, None, until_ms - 7 * _DAY_MS, until_ms, 1000)
        yield Figure("a plot of a week of the host", of_host * 1e3, "ms", promised=200)
        year, size = _best(store.folder, name, 0, until_ms, 2000)
        yield Figure("a plot of a year of a VM, 2000 points", year * 1e3, "ms")
        yield Figure("a year, of a week", year / week, "x", at_most=4)
        yield Figure("its bytes", size / 1024, "KiB", at_most=400)
        stop = asyncio.run(_longest_stop(store.folder, name, until_ms))
        yield Figure("the loop beside it stood still for, at most", stop * 1e3, "ms", promised=50)
    line = encode(_status(1000)[1])

    async def status() -> dict[str, Any]:
        return reply_of(Path("socket"), line)

    async def looked() -> float:
        begin = time.process_time()
        for _ in range(ROUNDS):
            seen = await Look(status).now()
            assert isinstance(seen, Seen)
        return (time.process_time() - begin) / ROUNDS

    look = asyncio.run(looked())
    begin = time.process_time()
    for _ in range(ROUNDS):
        json.loads(line)
    bare = (time.process_time() - begin) / ROUNDS
    yield Figure("a look at 1000 VMs, for all readers", look * 1e3, "ms")
    yield Figure("of reading the same as JSON", look / bare, "x", at_most=4)
