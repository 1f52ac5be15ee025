"""Who takes part in the demonstration, how much there is to share, and whose load rises when.

The maximums add up to twice the budget. Every load has one peak; `batch` (priority low) begins to want more
while `web` still has the most of it: `batch` is squeezed and, when `web` is done, rescued. What a load holds
is never taken from it; a guest gives up only what is free, and like Linux it keeps a floor for itself (a
quarter to a fifth of guests this small). Each maximum fits beside the floors of those that start before it.
"""

import random
from dataclasses import dataclass, replace
from typing import Final, Literal

from dynmem.policy import Priority
from dynmem.units import MIB

Kind = Literal["embedded", "qemu"]
LOAD_LOW: Final = 0.05  # of the VM's maximum
LOAD_HIGH: Final = 0.80


@dataclass(frozen=True)
class Member:
    """One VM of the cast; its load is low but between `peak_from` and `peak_to` (fractions of the run)."""

    name: str
    kind: Kind
    maximum_bytes: int
    minimum_bytes: int
    priority: Priority
    peak_from: float
    peak_to: float
    load_low: float = LOAD_LOW
    load_high: float = LOAD_HIGH
    rate_bytes: int = 96 * MIB  # how fast its load grows, bytes a second

    def wanted_bytes(self, moment: float) -> int:
        """What the load wants at `moment` (a fraction of the run), before its rate is taken into account."""
        share = self.load_high if self.peak_from <= moment < self.peak_to else self.load_low
        return int(self.maximum_bytes * share)


@dataclass(frozen=True)
class Scenario:
    """The cast and the host they share."""

    budget_bytes: int
    slush_bytes: int
    members: tuple[Member, ...]
    buffer_percent: int = 20
    period: str = "500ms"

    @property
    def share_bytes(self) -> int:
        """What each VM has with --static: an equal share of the budget, whole MiB."""
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

# A real Linux guest needs about 130 MiB for itself, and a load that outruns the manager is OOM-killed. Growth
# of 24 MiB a second is what statistics of once a second follow with room to spare.
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
    """Move every peak a little, the same way for the same seed; seed 1 is the scenario as written."""
    if seed == 1:
        return scenario
    source = random.Random(seed)  # noqa: S311 - a scenario, not a secret
    members = []
    for member in scenario.members:
        shift = source.uniform(-0.03, 0.03)
        members.append(replace(member, peak_from=member.peak_from + shift, peak_to=member.peak_to + shift))
    return replace(scenario, members=tuple(members))
