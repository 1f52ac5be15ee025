"""What the history of a thousand VMs costs: bytes a month, and processor time at one sweep a second.

Four VMs in ten are nearly idle, six wander. Rows of sweeps and thin rows are made and measured; a month is
what the tiers keep of them. What is read out of a step on the manager's own thread is shown apart.
"""

import contextlib
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure
from dynmem.history.past import Past
from dynmem.history.spans import spans_of, step_ms
from dynmem.history.store import Row, Store
from dynmem.history.thinning import DAY, SECOND, TIERS
from dynmem.manager.step import Manager
from dynmem.manager.step.facts import Demand, Facts, HostFacts, ManagerSettings, VmConfig, VmFacts
from dynmem.manager.step.sample import Sample
from dynmem.units import GIB, MIB, NS_PER_S, PAGE_SIZE

VMS = 20
ROWS = 3600 + 1300
THOUSAND = 1000
GIB_PAGES = GIB // PAGE_SIZE
MONTH = 30 * DAY


class _Host:
    """A manager in observe mode that steps over VMs whose demands wander."""

    def __init__(self, vms: int) -> None:
        self.rng = random.Random(1)
        self.names = [f"vm-{number}" for number in range(vms)]
        settings = ManagerSettings(vms * GIB, GIB, NS_PER_S)
        configs = [VmConfig(name, 128 * MIB, 2 * GIB) for name in self.names]
        self.manager = Manager(settings, configs)
        self.demand = [self.rng.randrange(GIB_PAGES // 8, GIB_PAGES) for _ in self.names]
        self.now_ns = 0

    def sample(self) -> Sample:
        self.now_ns += NS_PER_S
        self.manager.step(
            Facts(self.now_ns, HostFacts(1 << 42, 1 << 42), tuple(map(self._vm, range(len(self.names)))))
        )
        sample = self.manager.sample()
        assert sample is not None
        return sample

    def _vm(self, at: int) -> VmFacts:
        pages = self.demand[at] + self.rng.randrange(-32, 33)
        if at % 10 >= 4:
            self.demand[at] = pages = max(1 << 14, min(GIB_PAGES, pages + self.rng.randrange(-1000, 1001)))
        used, size = pages * PAGE_SIZE, 2 * GIB
        age_ns = self.rng.randrange(NS_PER_S)
        return VmFacts(
            self.names[at],
            f"{1000 + at}@{at}",
            "running",
            device="virtio-balloon",
            boot_bytes=size,
            actual_bytes=size,
            resident_bytes=used + 24 * MIB,
            resident_source="blocks of its RAM files",
            demand=Demand(used, size - used, "actual - stat-available-memory, and 64 MiB in reserve", age_ns),
        )


def run() -> Iterator[Figure]:
    """Record a little more than an hour, so that some of it is thinned, and add up what a month takes."""
    host, added, thinned = _Host(VMS), _Spent(), _Spent()
    with _store() as store:
        at_ms = 1_772_420_400_000
        for _ in range(ROWS // 20):
            rows = [Row(at_ms + 1000 * at, SECOND, host.sample()) for at in range(20)]
            at_ms += 20_000
            with added:
                store.add(rows, [])
            with thinned:
                while store.tidy():
                    pass
        tiers = store.db.execute("SELECT tier, sum(bytes), sum(rows) FROM batch GROUP BY tier").fetchall()
        file = store.db.execute(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        ).fetchone()
    whole, thin = (size / rows / VMS for _, size, rows in tiers)
    yield Figure("a row of a sweep", whole, "bytes a VM")
    yield Figure("a thin row", thin, "bytes a VM")
    overhead = file[0] / sum(size for _, size, _ in tiers)
    yield Figure("the file, of what the rows take", overhead, "x")
    month = sum(
        per_row * (min(tier.keep_ds, MONTH) - younger) / (tier.step_ds or SECOND)
        for tier, younger, per_row in zip(
            TIERS, (0, *(tier.keep_ds for tier in TIERS)), (whole, thin, thin, thin, thin), strict=False
        )
        if younger < MONTH
    )
    yield Figure(
        "a month of 1000 VMs, of the GiB promised", month * THOUSAND * overhead / GIB, "x", at_most=1
    )
    # Of each tier's rows, a tenth to a sixth is thinned again: together less than a third.
    seconds = added.seconds / ROWS + thinned.seconds / (tiers[1][2] * 10) * 4 / 3
    begin = time.process_time()
    for _ in range(50):
        host.manager.sample()
    reading = (time.process_time() - begin) / 50
    scale = THOUSAND / VMS
    yield Figure("a sweep of 1000 VMs read, on the manager's own thread", reading * scale * 1e3, "ms")
    yield Figure("the same written and thinned, in the history's thread", seconds * scale * 1e3, "ms")
    yield Figure("a week of one VM read, as for a plot", _week(host) * 1e3, "ms", promised=200)
    share = (reading + seconds) * scale / 0.05
    yield Figure("of the 5 % of a core promised at 1 s", share, "x", promised=1)


def _week(host: _Host) -> float:
    """Return how long it takes to read a week of a VM that was swept once in 10 s."""
    samples = [host.sample() for _ in range(400)]
    at_ms, day_ms = 1_772_420_400_000, 86_400_000
    with _store() as store:
        for first in range(0, 7 * day_ms // 10_000, 240):
            dates = range(at_ms + first * 10_000, at_ms + (first + 240) * 10_000, 10_000)
            store.add([Row(date, 10 * SECOND, samples[at % 400]) for at, date in enumerate(dates, first)], [])
            while store.tidy():
                pass
        until_ms = at_ms + 7 * day_ms
        begin = time.process_time()
        rows = spans_of(Past(store.folder), host.names[-1], at_ms, until_ms, step_ms(at_ms, until_ms, 2100))
        assert len(rows) > 2000
        return time.process_time() - begin


class _Spent:
    """Adds up processor time."""

    seconds = 0.0

    def __enter__(self) -> None:
        self._begin = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._begin


@contextlib.contextmanager
def _store() -> Iterator[Store]:
    folder = Path(tempfile.mkdtemp(prefix="bench-history-"))
    store = Store(folder)
    try:
        yield store
    finally:
        store.close()
        shutil.rmtree(folder)
