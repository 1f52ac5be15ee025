"""What the scene itself did and saw, by the clock: the other side of every answer that a history gives.

Sizes come from the observers' monitors, blocks from the RAM files of the guests, and what a guest uses from
its own console: from nothing that the manager said.
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from tests.accept.daytwo.script import BUFFER, MINIMUM, Kind

from dynmem.units import MIB

#: What a guest with virtio-balloon should have at hand, docs/demand.md.
RESERVE: Final = 64 * MIB
#: A guest that has just booted counts with all its memory until its driver has reported twice.
NEW_S: Final = 15.0


class Deed(NamedTuple):
    """Something that the scene did.

    Attributes:
        at_s: When, in seconds since the epoch.
        vm: To which VM.
        kind: What.
    """

    at_s: float
    vm: str
    kind: Kind


class Seen(NamedTuple):
    """A VM at one look. Bytes.

    Attributes:
        size: What it has, by QEMU.
        held: The blocks of its RAM file.
        used: What its guest and its kernel use, by one line of its console.
    """

    size: int
    held: int
    used: int

    @property
    def wanted(self) -> int:
        """What it should have: what it uses, and its buffer or reserve, whichever is more."""
        return max(MINIMUM, self.used + max(self.used * BUFFER // 100, RESERVE))


class Look(NamedTuple):
    """All VMs that ran, at one time.

    Attributes:
        at_s: When, in seconds since the epoch.
        vms: Each.
    """

    at_s: float
    vms: Mapping[str, Seen]

    @property
    def wanted(self) -> int:
        """What all of them should have. Bytes."""
        return sum(seen.wanted for seen in self.vms.values())


class Diary:
    """All of it.

    Attributes:
        began_s: When the run began.
        ended_s: When it ended.
        deeds: What was done, in order.
        looks: What was seen, in order.
    """

    def __init__(self) -> None:
        self.began_s = self.ended_s = 0.0
        self.deeds: list[Deed] = []
        self.looks: list[Look] = []

    def when(self, vm: str, kind: Kind) -> float:
        """Return when something was done to a VM."""
        (found,) = [deed.at_s for deed in self.deeds if (deed.vm, deed.kind) == (vm, kind)]
        return found

    def is_new(self, vm: str, at_s: float) -> bool:
        """Return whether a VM was restarted just before, and may not have reported since."""
        for deed in self.deeds:
            if (deed.vm, deed.kind) == (vm, "restart") and deed.at_s <= at_s:
                seen_s = next((seen_s for seen_s, _ in self.of(vm) if seen_s > deed.at_s), self.ended_s)
                return at_s < seen_s + NEW_S
        return False

    def between(self, since_s: float, until_s: float) -> list[Look]:
        """Return the looks of a time."""
        return [look for look in self.looks if since_s <= look.at_s < until_s]

    def of(self, vm: str) -> Iterator[tuple[float, Seen]]:
        """Return when a VM was seen, and how."""
        return ((look.at_s, look.vms[vm]) for look in self.looks if vm in look.vms)
