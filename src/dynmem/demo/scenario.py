"""The demonstration's VMs, the memory they share, and when each load rises.

The maximums add up to twice the budget. Every load has one peak. `batch` (priority low) begins to want more
while `web` still holds most of the budget: `batch` is squeezed and, when `web` is done, rescued. A load never
loses what it holds: a guest gives up only free memory and, like Linux, keeps a floor for itself (a quarter to
a fifth of guests this small). Each maximum fits beside the floors of the VMs that start before it.
"""

import random
from dataclasses import dataclass, replace
from typing import Final, Literal

from dynmem.policy import Priority
from dynmem.units import MIB

Kind = Literal["embedded", "qemu"]
# Of the VM's maximum.
LOAD_LOW: Final = 0.05
LOAD_HIGH: Final = 0.80


@dataclass(frozen=True)
class Member:
    """One VM. Its load is high between `peak_from` and `peak_to` (fractions of the run) and low otherwise.

    `rate_bytes` is how fast the load grows, per second.
    """

    name: str
    kind: Kind
    maximum_bytes: int
    minimum_bytes: int
    priority: Priority
    peak_from: float
    peak_to: float
    load_low: float = LOAD_LOW
    load_high: float = LOAD_HIGH
    rate_bytes: int = 96 * MIB

    def wanted_bytes(self, moment: float) -> int:
        """Return the bytes the load wants at `moment` (a fraction of the run), regardless of its rate."""
        share = self.load_high if self.peak_from <= moment < self.peak_to else self.load_low
        return int(self.maximum_bytes * share)


@dataclass(frozen=True)
class Scenario:
    """The VMs and the host they share."""

    budget_bytes: int
    slush_bytes: int
    members: tuple[Member, ...]
    buffer_percent: int = 20
    period: str = "500ms"

    @property
    def share_bytes(self) -> int:
        """The size of each VM with --static: an equal share of the budget, in whole MiB."""
        return self.budget_bytes // len(self.members) // MIB * MIB


EMBEDDED: Final = Scenario(
    budget_bytes=1280 * MIB,
    slush_bytes=48 * MIB,
    members=(
        Member("batch", "embedded", 1088 * MIB, 160 * MIB, "low", 0.36, 0.80, load_high=0.60),
        Member("web", "embedded", 832 * MIB, 144 * MIB, "high", 0.10, 0.50),
        Member("db", "embedded", 640 * MIB, 128 * MIB, "normal", 0.84, 0.97),
    ),
)

# A real Linux guest needs about 130 MiB for itself, and a load that outruns the manager is OOM-killed. With
# statistics once per second, the manager follows growth of 24 MiB per second with room to spare.
QEMU: Final = Scenario(
    budget_bytes=1280 * MIB,
    slush_bytes=48 * MIB,
    members=(
        Member("web", "qemu", 1024 * MIB, 208 * MIB, "high", 0.15, 0.50, load_high=0.45, rate_bytes=24 * MIB),
        Member("batch", "embedded", 896 * MIB, 160 * MIB, "low", 0.40, 0.78, load_high=0.60),
        Member("db", "qemu", 640 * MIB, 208 * MIB, "normal", 0.72, 0.92, load_high=0.50, rate_bytes=24 * MIB),
    ),
)


def vary(scenario: Scenario, seed: int) -> Scenario:
    """Return the scenario with every peak moved a little, depending on the seed; seed 1 moves nothing."""
    if seed == 1:
        return scenario
    source = random.Random(seed)  # noqa: S311 - a scenario, not a secret
    members = []
    for member in scenario.members:
        shift = source.uniform(-0.03, 0.03)
        members.append(replace(member, peak_from=member.peak_from + shift, peak_to=member.peak_to + shift))
    return replace(scenario, members=tuple(members))
