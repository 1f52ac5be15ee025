"""A load: what the guests of a host need over a time, row by row, recorded or described.

A row stands for a length of time in which a guest needed so much on average, at least and at most. Where
these differ, the row is played as two levels whose mean is that of the row: the most for a part of it, the
least for the rest. Which comes first is drawn from the seed, the VM and the row, and from nothing else: so
the peaks of two VMs in one row meet as often as chance has it.
"""

import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

import msgspec

from dynmem.policy import Priority
from dynmem.units import MIB, PAGE_SIZE

#: The level of a VM that is not there.
ABSENT: Final = -1
# A row that varies by less is played as its mean, or at the level before it if that was one of the row's.
_LEVEL_PAGES: Final = 4 * MIB // PAGE_SIZE


def name_of(number: int) -> str:
    """Return what a VM is called in a simulation: whatever it was called, that is not in a trace."""
    return f"vm-{number}"


class VmLoad(msgspec.Struct):
    """What one VM needs. The rows follow one another in time; between two of them it is not there.

    Attributes:
        number: Its number.
        minimum_bytes: The least it may get.
        maximum_bytes: The most, and what it boots with.
        buffer_percent: Its buffer.
        weight: Its weight.
        priority: Its priority.
        reserve_bytes: What it should have at hand beyond its demand.
        at_ds: When each row begins, in tenths of a second.
        for_ds: How long it is.
        mean: What its guest needs on average, in pages.
        low: At least.
        high: At most.
    """

    number: int
    minimum_bytes: int
    maximum_bytes: int
    buffer_percent: int = 20
    weight: int = 5000
    priority: Priority = "normal"
    reserve_bytes: int = 0
    at_ds: "array[int]" = msgspec.field(default_factory=lambda: array("q"))
    for_ds: "array[int]" = msgspec.field(default_factory=lambda: array("q"))
    mean: "array[int]" = msgspec.field(default_factory=lambda: array("q"))
    low: "array[int]" = msgspec.field(default_factory=lambda: array("q"))
    high: "array[int]" = msgspec.field(default_factory=lambda: array("q"))

    def add(self, at_ds: int, for_ds: int, mean: int, low: int, high: int) -> None:
        """Add a row behind the others."""
        self.at_ds.append(at_ds)
        self.for_ds.append(for_ds)
        self.mean.append(mean)
        self.low.append(low)
        self.high.append(high)

    @property
    def name(self) -> str:
        """What it is called."""
        return name_of(self.number)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.at_ds)

    @property
    def ends_ds(self) -> int:
        """When the last row ends."""
        return self.at_ds[-1] + self.for_ds[-1] if self.rows else 0

    def between(self, first_ds: int, end_ds: int) -> "VmLoad":
        """Return the rows that touch a time."""
        first = max(0, bisect_right(self.at_ds, first_ds) - 1)
        end = bisect_right(self.at_ds, end_ds)
        columns = {
            name: getattr(self, name)[first:end] for name in ("at_ds", "for_ds", "mean", "low", "high")
        }
        return msgspec.structs.replace(self, **columns)

    def changes(self, seed: int) -> Iterator[tuple[int, int]]:
        """Yield when its level changes, and to what, in pages; ABSENT where it is not there."""
        ended, level = 0, ABSENT
        for row in range(self.rows):
            at, length = self.at_ds[row], self.for_ds[row]
            if at > ended:
                yield ended, ABSENT
                level = ABSENT
            ended = at + length
            mean, low, high = self.mean[row], self.low[row], self.high[row]
            if high - low < _LEVEL_PAGES:
                if not low <= level <= high:
                    level = mean
                    yield at, mean
                continue
            # For this long it is at its most.
            peak_ds = min(length - 1, max(1, length * (mean - low) // (high - low))) if length > 1 else length
            is_first = zlib.crc32(f"{seed} {self.number} {at}".encode()) & 1
            first, later, until = (high, low, peak_ds) if is_first else (low, high, length - peak_ds)
            yield at, first
            level = first
            if until < length:
                yield at + until, later
                level = later
        yield ended, ABSENT


class Load(msgspec.Struct):
    """What the guests of a host need over a time.

    Attributes:
        budget_bytes: What they may hold together.
        slush_bytes: The part of it that is never granted.
        for_ds: How long it is, in tenths of a second.
        vms: The VMs.
        row_ds: How long a row is at most; 0: each change of a load is known.
        skipped_ds: How much of the time was not recorded, and is left out.
    """

    budget_bytes: int
    slush_bytes: int
    for_ds: int
    vms: list[VmLoad]
    row_ds: int = 0
    skipped_ds: int = 0

    def between(self, first_ds: int, end_ds: int) -> "Load":
        """Return the part of it that touches a time; times stay as they are."""
        vms = [part for vm in self.vms if (part := vm.between(first_ds, end_ds)).rows]
        return msgspec.structs.replace(self, vms=vms)
