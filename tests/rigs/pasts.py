"""A history as a manager makes it: real steps of a host whose guests obey, written a second apart."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.rigs.obedient import ObedientHost

from dynmem.history.event import Event
from dynmem.history.happenings import Happenings
from dynmem.history.store import Row, Store
from dynmem.manager.step.facts import ManagerSettings, Mode, VmConfig
from dynmem.manager.step.safeguards import ALL_ON
from dynmem.manager.step.sample import Sample
from dynmem.units import MIB, NS_PER_MS, NS_PER_S

#: 2026-03-02 03:00 UTC, in milliseconds.
THREE_AM: Final = 1_772_420_400_000


class RecordedHost:
    """A host with some VMs whose demands wander; each sweep is kept."""

    def __init__(self, vms: int = 3, mode: Mode = "enforce", *, budget: int = 1024, seed: int = 1) -> None:
        settings = ManagerSettings(budget * MIB, 64 * MIB, NS_PER_S, mode)
        configs = [
            VmConfig(f"vm-{number}", 64 * MIB, 512 * MIB, weight=100 + number) for number in range(vms)
        ]
        demands = {config.name: 100 * MIB for config in configs}
        self.host = ObedientHost(settings, configs, demands, safeguards=ALL_ON)
        self.rng = random.Random(seed)
        self.happenings = Happenings()
        self.rows: list[Row] = []
        self.events: list[tuple[int, Event]] = []

    def sweeps(self, count: int, *, at_ms: int = THREE_AM, wandering: bool = True) -> list[Row]:
        """Sweep, and return the rows of these sweeps."""
        added = []
        for _ in range(count):
            for name in self.host.demands if wandering else ():
                step = self.rng.choice((0, 0, 0, -16, -1, 1, 32)) * MIB + self.rng.randrange(-8, 9) * 4096
                self.host.demands[name] = max(64 * MIB, min(480 * MIB, self.host.demands[name] + step))
            self.host.sweep()
            sample = self.host.manager.sample()
            assert sample is not None
            row = Row(at_ms + self.host.now_ns // NS_PER_MS, 10, sample)
            self.events += [(row.at_ms, event) for event in self.happenings.see(sample, {})]
            added.append(row)
        self.rows += added
        return added


def written(
    folder: Path, rows: Sequence[Row], events: Sequence[tuple[int, Event]] = (), size: int = 20
) -> None:
    """Write rows to a history, so many in a batch, and thin what is old."""
    store = Store(folder)
    for first in range(0, len(rows), size):
        store.add(rows[first : first + size], events if not first else [])
        while store.tidy():
            pass
    store.close()


def changed(rows: Sequence[Row], how: Callable[[Sample], Sample]) -> list[Row]:
    """Return the same rows with other samples."""
    return [row._replace(sample=how(row.sample)) for row in rows]
