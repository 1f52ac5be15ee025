"""How long one real guest takes to boot, fault, give, return and report: what a simulated guest is made from.

`python -m bench.trial.calibrate` prints the figures as a table, or as JSON with --json.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from bench.trial.script import MAXIMUM_BYTES
from dynmem.errors import DeadlineError, DynmemError
from dynmem.lab.probe import accelerator
from dynmem.lab.qemu import BALLOON_PATH, Accelerator, QemuGuest
from dynmem.lab.workload import Load, Report
from dynmem.qmp.client import QmpClient
from dynmem.units import GIB, MIB, PAGE_SIZE

SCHEMA_VERSION: Final = 1
WAIT_S: Final = 60.0
LOOK_S: Final = 0.01
FAST_BYTES: Final = 4096 * MIB
LOAD_BYTES: Final = 256 * MIB
SMALL_BYTES: Final = 224 * MIB
REPORTS_S: Final = 10.0


class Calibration(msgspec.Struct):
    """What was measured of one guest.

    Attributes:
        backend: What runs it.
        boot_s: From its start to the first report of its load.
        own_bytes: What it uses without a load: its size less what it says is available.
        fault_bytes_s: How fast a load fills memory that the host has not given yet.
        refault_bytes_s: The same where the host has it already.
        give_first_s: From an order to the first change of its size.
        give_free_bytes_s: How fast the balloon takes free memory that the host holds.
        give_cache_bytes_s: The same where it has to drop page cache for it.
        host_lag_s: From the end of that to the moment at which the host has it.
        return_bytes_s: How fast the balloon returns memory.
        stats_period_s: Between two of the driver's statistics, with an interval of 1 s.
    """

    schema_version: int = SCHEMA_VERSION
    backend: str = ""
    boot_s: float = 0.0
    own_bytes: int = 0
    fault_bytes_s: float = 0.0
    refault_bytes_s: float = 0.0
    give_first_s: float = 0.0
    give_free_bytes_s: float = 0.0
    give_cache_bytes_s: float = 0.0
    host_lag_s: float = 0.0
    return_bytes_s: float = 0.0
    stats_period_s: float = 0.0


class Bench:
    """One guest and the connection to its monitor."""

    def __init__(self, guest: QemuGuest, client: QmpClient) -> None:
        self._guest = guest
        self._client = client

    def said(self) -> Report:
        """Return its latest report."""
        self._guest.check()
        report = self._guest.read_serial()
        assert report is not None, "it has booted"
        return report

    async def until(self, condition: Callable[[], bool], what: str) -> float:
        """Wait for a condition, and return how long it took."""
        begun = time.monotonic()
        while not condition():
            if time.monotonic() > begun + WAIT_S:
                raise DeadlineError(f"the guest did not come to {what} within {WAIT_S:.0f} s")
            await asyncio.sleep(LOOK_S)
        return time.monotonic() - begun

    async def hold(self, size: int, *, cache: int = 0) -> float:
        """Have its load hold *size* bytes and read *cache* bytes; return how long that took."""
        self._guest.order(Load(high_bytes=size, rate_bytes=FAST_BYTES, cache_bytes=cache))
        return await self.until(
            lambda: (
                self.said().held_pages == size // PAGE_SIZE and self.said().read_pages >= cache // PAGE_SIZE
            ),
            f"a load of {size // MIB} MiB",
        )

    async def filled_bytes_s(self, size: int) -> float:
        """Return how fast its load fills memory, by the guest's own clock; the load is empty afterwards."""
        seen = [self.said()]

        def looked() -> bool:
            if (report := self.said()).t > seen[-1].t:
                seen.append(report)
            return report.held_pages * PAGE_SIZE >= size

        self._guest.order(Load(high_bytes=size, rate_bytes=FAST_BYTES))
        await self.until(looked, f"a load of {size // MIB} MiB")
        first = max((each for each in seen if not each.held_pages), key=lambda each: each.t, default=seen[0])
        speed = size / max(seen[-1].t - first.t, LOOK_S)
        await self.hold(0)
        return speed

    async def actual(self) -> int:
        """Return its size."""
        reply = await self._client.execute("query-balloon")
        assert isinstance(reply, Mapping)
        size = reply["actual"]
        assert isinstance(size, int)
        return size

    async def resize(self, target: int) -> tuple[float, float]:
        """Order a size; return how long the first change took, and how fast the rest was, a second."""
        before = await self.actual()
        begun = time.monotonic()
        await self._client.execute("balloon", {"value": target})
        while (first := await self.actual()) == before:
            self._not_after(begun)
            await asyncio.sleep(LOOK_S)
        first_s = time.monotonic() - begun
        while (size := await self.actual()) != target:
            self._not_after(begun)
            await asyncio.sleep(LOOK_S)
        spent = time.monotonic() - begun - first_s
        whole = abs(target - before) / max(time.monotonic() - begun, LOOK_S)
        return first_s, abs(size - first) / spent if size != first and spent > LOOK_S else whole

    def _not_after(self, begun: float) -> None:
        if time.monotonic() > begun + WAIT_S:
            raise DeadlineError(f"the guest's size did not reach its target within {WAIT_S:.0f} s")

    async def stats_period_s(self) -> float:
        """Return the time between two statistics of its driver."""
        interval = {"path": BALLOON_PATH, "property": "guest-stats-polling-interval", "value": 1}
        await self._client.execute("qom-set", interval)
        seen, end, latest = [], time.monotonic() + REPORTS_S, None
        while (now := time.monotonic()) < end:
            stats = await self._client.execute("qom-get", {"path": BALLOON_PATH, "property": "guest-stats"})
            assert isinstance(stats, Mapping)
            if stats["stats"] != latest:
                latest = stats["stats"]
                seen.append(now)
            await asyncio.sleep(LOOK_S)
        return (seen[-1] - seen[1]) / (len(seen) - 2) if len(seen) > 2 else REPORTS_S


async def measure(guest: QemuGuest, backend: str, boot_s: float) -> Calibration:
    """Measure a guest that has booted."""
    async with await QmpClient.connect(guest.lab_qmp_path, events=()) as client:
        bench = Bench(guest, client)
        found = Calibration(backend=backend, boot_s=boot_s)
        found.own_bytes = guest.memory_bytes - bench.said().available_pages * PAGE_SIZE
        found.fault_bytes_s = await bench.filled_bytes_s(LOAD_BYTES)
        found.refault_bytes_s = await bench.filled_bytes_s(LOAD_BYTES)
        resident = guest.resident_bytes()
        found.give_first_s, found.give_free_bytes_s = await bench.resize(SMALL_BYTES)
        given = min(resident, SMALL_BYTES)
        found.host_lag_s = await bench.until(lambda: guest.resident_bytes() <= given, "what the host has")
        _, found.return_bytes_s = await bench.resize(MAXIMUM_BYTES)
        await bench.hold(0, cache=LOAD_BYTES)
        _, found.give_cache_bytes_s = await bench.resize(SMALL_BYTES)
        found.stats_period_s = await bench.stats_period_s()
        return found


@contextmanager
def booted(accel: Accelerator) -> Iterator[tuple[QemuGuest, float]]:
    """A guest that has booted, and how long that took."""
    with tempfile.TemporaryDirectory(prefix="dynmem-trial-") as name:
        guest = QemuGuest("g", MAXIMUM_BYTES, Path(name), accel=accel, disk_bytes=GIB)
        begun = time.monotonic()
        with guest:
            guest.ready(WAIT_S)
            yield guest, time.monotonic() - begun


def rows(found: Calibration) -> Iterator[str]:
    """Yield the figures as rows of a table."""
    for name, value in msgspec.structs.asdict(found).items():
        if name.endswith("_bytes_s"):
            yield f"| {name} | {value / MIB:.0f} MiB/s |"
        elif name.endswith("_bytes"):
            yield f"| {name} | {value / MIB:.0f} MiB |"
        elif name.endswith("_s"):
            yield f"| {name} | {value:.2f} s |"


def main() -> int:
    """Print the figures. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.trial.calibrate", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    accel = accelerator().accel
    try:
        with booted(accel) as (guest, boot_s):
            found = asyncio.run(
                measure(guest, "Linux on KVM" if accel == "kvm" else "Linux, emulated", boot_s)
            )
    except DynmemError as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(msgspec.json.encode(found).decode())
    else:
        print("\n".join(["| | |", "|---|---|", *rows(found)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
