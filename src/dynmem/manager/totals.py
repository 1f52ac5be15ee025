"""What adds up while the manager runs: how long its decisions took, what moved, what guests went without.

A status shows the present; these figures only grow until the manager ends, so a program that reads them every
minute or every hour misses nothing. They are no input of any decision.

A guest's unmet demand is how far its demand, with the reserve that it should have at hand, exceeds its size.
It is added up over time: a VM that lacks 100 MiB for ten seconds adds 1000 MiB times seconds.
"""

from bisect import bisect_left
from typing import Final, Literal

import msgspec

from dynmem.manager.step.facts import Facts, VmFacts
from dynmem.units import NS_PER_S

#: From one millisecond, a sweep over one VM of ours, to the longest patience with a monitor and beyond.
BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: How a command can end: the monitor accepted it, it was not carried out, or no reply came.
Ending = Literal["sent", "failed", "unknown"]


class HistogramView(msgspec.Struct, frozen=True):
    """How long something took, each time.

    Attributes:
        bounds_s: Upper bounds, ascending. Since schema 6.
        counts: How often it took no longer than each of these. Since schema 6.
        count: How often it was measured. Since schema 6.
        sum_s: How long all of these took together. Since schema 6.

    """

    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    count: int
    sum_s: float


class VmTotalsView(msgspec.Struct, frozen=True):
    """What has added up of one VM.

    Attributes:
        name: Its name. Since schema 6.
        unmet_byte_s: Its unmet demand: how far demand and reserve exceeded its size, in bytes, times seconds.
            Since schema 6.
        grown_bytes: What it gained, by the sizes that its monitor reported. Since schema 6.
        shrunk_bytes: What it lost. Since schema 6.

    """

    name: str
    unmet_byte_s: float
    grown_bytes: int
    shrunk_bytes: int


class TotalsView(msgspec.Struct, frozen=True):
    """What has added up since the manager started.

    Attributes:
        sweeps: How long each sweep took: the look at all VMs. Since schema 6.
        decisions: From each look, at all VMs or some, until its commands were sent. Since schema 6.
        sent: Commands that a monitor accepted. Since schema 6.
        failed: Commands that were not carried out. Since schema 6.
        unknown: Commands whose outcome is not known. Since schema 6.
        last_resorts: How often a VM's `on_out_of_memory` was run. Since schema 6.
        vms: Every VM of the last sweep. Since schema 6.

    """

    sweeps: HistogramView
    decisions: HistogramView
    sent: int
    failed: int
    unknown: int
    last_resorts: int
    vms: tuple[VmTotalsView, ...]


class Histogram:
    """Counts durations by how long they were."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def add(self, took_s: float) -> None:
        """Count one more."""
        self._counts[bisect_left(BOUNDS_S, took_s)] += 1
        self._sum_s += took_s

    def view(self) -> HistogramView:
        """Return what was counted."""
        sums, counted = [], 0
        for each in self._counts:
            counted += each
            sums.append(counted)
        return HistogramView(BOUNDS_S, tuple(sums[:-1]), counted, round(self._sum_s, 6))


class _VmTotals:
    """One VM: what it lacks since when, and its sums."""

    def __init__(self, now_ns: int) -> None:
        self.looked_ns = now_ns
        self.life: tuple[str, int] | None = None
        self.actual_bytes = 0
        self.unmet_bytes = 0
        self.unmet_byte_ns = 0
        self.grown_bytes = 0
        self.shrunk_bytes = 0

    def take(self, facts: VmFacts, now_ns: int) -> None:
        """Add what it lacked until now, and what its size changed by since the last look at it."""
        self.unmet_byte_ns += self.unmet_bytes * max(0, now_ns - self.looked_ns)
        self.unmet_bytes, self.looked_ns = unmet_bytes(facts), now_ns
        if facts.actual_bytes is None or facts.is_actual_former:
            self.life = None
            return
        life = (facts.incarnation, facts.resets)
        change = facts.actual_bytes - self.actual_bytes if life == self.life else 0
        self.grown_bytes += max(0, change)
        self.shrunk_bytes += max(0, -change)
        self.life, self.actual_bytes = life, facts.actual_bytes


class Totals:
    """Adds up, from the start of the manager to its end."""

    def __init__(self) -> None:
        self._sweeps = Histogram()
        self._decisions = Histogram()
        self._endings: dict[Ending, int] = {"sent": 0, "failed": 0, "unknown": 0}
        self._last_resorts = 0
        self._vms: dict[str, _VmTotals] = {}

    def looked(self, facts: Facts) -> None:
        """Take in what a step is made from: the VMs that were looked at now.

        VMs that a look at all of them does not have are no longer configured, and forgotten.
        """
        before = self._vms
        if facts.looked is None:
            self._vms = {}
        for vm in facts.vms:
            if facts.is_new(vm.name):
                totals = before.get(vm.name) or _VmTotals(facts.now_ns)
                self._vms[vm.name] = totals
                totals.take(vm, facts.now_ns)

    def swept(self, took_s: float) -> None:
        """Count a sweep."""
        self._sweeps.add(took_s)

    def decided(self, took_ns: int) -> None:
        """Count a step whose commands are sent, by the time since its look."""
        self._decisions.add(took_ns / NS_PER_S)

    def ended(self, how: Ending) -> None:
        """Count a command by how it ended."""
        self._endings[how] += 1

    def interrupted(self) -> None:
        """Count a last resort."""
        self._last_resorts += 1

    def view(self) -> TotalsView:
        """Return all that has added up."""
        return TotalsView(
            sweeps=self._sweeps.view(),
            decisions=self._decisions.view(),
            sent=self._endings["sent"],
            failed=self._endings["failed"],
            unknown=self._endings["unknown"],
            last_resorts=self._last_resorts,
            vms=tuple(
                VmTotalsView(name, each.unmet_byte_ns / NS_PER_S, each.grown_bytes, each.shrunk_bytes)
                for name, each in self._vms.items()
            ),
        )


def unmet_bytes(facts: VmFacts) -> int:
    """Return how far a VM's demand and the reserve it should have exceed its size; 0 if that is not known."""
    demand, actual = facts.demand, facts.actual_bytes
    if demand is None or actual is None or facts.is_actual_former:
        return 0
    return max(0, demand.committed_bytes + demand.reserve_bytes - actual)
