"""What a host stands for: the rules of over-commitment, and whether one more reservation fits.

A VM without over-commitment (NO_OC) is fully backed: the pages that it has reserved are its own, used or
not. The others (TBD in the seed; here: by ratio) share the rest. They may reserve more than there is, up
to a ratio, and get what is free. Three checks, each with its numbers:

    backed      what is guaranteed, and what the others hold now, fits beside the slush
    worst case  every guarantee is claimed at once, and every balloon is filled to its maximum: it still fits
    ratio       the others have reserved no more than this part of what is not guaranteed

A fully backed VM has to pass the first two, one by ratio the last two, if the owner of the host wants that.
A VM that asks for no more than before passes. The sums are kept as they change, so a check costs the same
for one VM as for a thousand. VirtualBox has none of this: its GMMR0InitialReservation leaves
"check if we can accommodate this" for later and declines nothing.
"""

from typing import Final

import msgspec

from dynmem.gmm.codes import OcPolicy

PERCENT: Final = 100


class OvercommitRules(msgspec.Struct, frozen=True):
    """What the owner of a host allows.

    Attributes:
        ratio_percent: How much VMs by ratio may reserve, as a part of what is not guaranteed to others; None:
            as much as they like.
        slush_pages: The part of the limit that is promised to no VM.
        worst_case: Whether VMs by ratio have to fit with their balloons filled; those with a ratio always do.
    """

    ratio_percent: int | None = None
    slush_pages: int = 0
    worst_case: bool = False


class Backing(msgspec.Struct, frozen=True):
    """What one VM counts as in the sums. Pages.

    Attributes:
        policy: Whether it is fully backed.
        reserved_pages: All that it has reserved, in all accounts.
        least_pages: What is left of that once its balloon is filled to its maximum.
        allocated_pages: What it holds now.
    """

    policy: OcPolicy
    reserved_pages: int
    least_pages: int
    allocated_pages: int = 0

    @property
    def is_guaranteed(self) -> bool:
        """Whether all that it has reserved is kept for it."""
        return self.policy is OcPolicy.NO_OC


class Admission(msgspec.Struct, frozen=True):
    """One reservation as it was decided, with the numbers that decided it. Pages.

    Attributes:
        vm: Who reserves.
        policy: Its over-commit policy.
        asked_pages: What it reserves.
        least_pages: What it needs at least, with its balloon filled to its maximum.
        max_pages: The limit of the books.
        slush_pages: The part of the limit that is promised to no VM.
        guaranteed_pages: What is kept for other, fully backed VMs.
        held_pages: What the other VMs by ratio hold now.
        others_least_pages: What the other VMs by ratio keep with their balloons filled to the maximum.
        others_reserved_pages: What the other VMs by ratio have reserved.
        ratio_percent: The ratio; None: there is none.
        worst_case: Whether a VM by ratio has to fit in the worst case.
        is_more: Whether it asks for more than it had.
    """

    vm: str
    policy: OcPolicy
    asked_pages: int
    least_pages: int
    max_pages: int
    slush_pages: int
    guaranteed_pages: int
    held_pages: int
    others_least_pages: int
    others_reserved_pages: int
    ratio_percent: int | None
    worst_case: bool
    is_more: bool = True

    @property
    def room_pages(self) -> int:
        """What is not promised yet: the limit, less slush and guarantees."""
        return self.max_pages - self.slush_pages - self.guaranteed_pages

    @property
    def backed_pages(self) -> int:
        """What can be backed now: the room, less what the VMs by ratio hold."""
        return max(0, self.room_pages - self.held_pages)

    @property
    def worst_pages(self) -> int:
        """What is left in the worst case: every guarantee claimed, every balloon at its maximum."""
        return max(0, self.room_pages - self.others_least_pages)

    @property
    def ratio_pages(self) -> int | None:
        """What the ratio leaves; None: there is none."""
        if self.ratio_percent is None:
            return None
        return max(0, self.room_pages * self.ratio_percent // PERCENT - self.others_reserved_pages)

    @property
    def numbers(self) -> dict[str, int]:
        """What decided it, by name."""
        return {
            "asked_pages": self.asked_pages,
            "least_pages": self.least_pages,
            "max_pages": self.max_pages,
            "slush_pages": self.slush_pages,
            "guaranteed_pages": self.guaranteed_pages,
            "held_pages": self.held_pages,
            "others_least_pages": self.others_least_pages,
            "others_reserved_pages": self.others_reserved_pages,
            "backed_pages": self.backed_pages,
            "worst_pages": self.worst_pages,
        }

    @property
    def refusal(self) -> str:
        """Why the reservation is declined, with its numbers; "" if it fits."""
        if not self.is_more:
            return ""
        asked, beside = self.asked_pages, f"of {self.max_pages} beside a slush of {self.slush_pages}"
        if self.policy is OcPolicy.NO_OC:
            if asked > self.backed_pages:
                return (
                    f"{self.vm} reserves {asked} pages, {self.backed_pages} can be backed {beside},"
                    f" {self.guaranteed_pages} guaranteed to others and {self.held_pages} held"
                )
            return self._worst_case(asked, beside)
        if self.ratio_pages is not None and asked > self.ratio_pages:
            return (
                f"{self.vm} reserves {asked} pages, {self.ratio_pages} are left at {self.ratio_percent} %"
                f" {beside}, {self.guaranteed_pages} guaranteed to others and"
                f" {self.others_reserved_pages} reserved"
            )
        return self._worst_case(self.least_pages, beside) if self.worst_case else ""

    def _worst_case(self, needed: int, beside: str) -> str:
        if needed <= self.worst_pages:
            return ""
        return (
            f"{self.vm} needs {needed} pages with every balloon filled and every guarantee claimed,"
            f" {self.worst_pages} are left then {beside}, {self.guaranteed_pages} guaranteed to others and"
            f" {self.others_least_pages} that balloons cannot take"
        )


class Commitments:
    """The sums over all VMs, kept as they change.

    Attributes:
        guaranteed: What fully backed VMs have reserved.
        claimed: What they hold of that.
        held: What the others hold.
        least: What the others keep with their balloons filled.
        reserved: What the others have reserved.
    """

    __slots__ = ("claimed", "guaranteed", "held", "least", "reserved")

    def __init__(self) -> None:
        self.guaranteed: int = 0
        self.claimed: int = 0
        self.held: int = 0
        self.least: int = 0
        self.reserved: int = 0

    @property
    def unclaimed(self) -> int:
        """What is kept for fully backed VMs and not used yet."""
        return self.guaranteed - self.claimed

    def add(self, vm: Backing) -> None:
        """Count one VM."""
        self._count(vm, 1)

    def remove(self, vm: Backing) -> None:
        """Count one VM no longer, exactly as it was added."""
        self._count(vm, -1)

    def allocate(self, policy: OcPolicy, pages: int) -> None:
        """Count pages that a VM holds from now on; a negative number: no longer."""
        if policy is OcPolicy.NO_OC:
            self.claimed += pages
        else:
            self.held += pages

    def limit(self, policy: OcPolicy, max_pages: int, rules: OvercommitRules) -> int:
        """Return up to what all VMs together may allocate if the next is one of this policy.

        What is guaranteed to a fully backed VM is there for it whatever the others ask for.
        """
        if policy is OcPolicy.NO_OC:
            return max_pages
        return max_pages - rules.slush_pages - self.unclaimed

    def admission(
        self, name: str, asks: Backing, before: Backing | None, max_pages: int, rules: OvercommitRules
    ) -> Admission:
        """Return how a reservation is decided; *before* is what the VM counts as until now."""
        others = Commitments()
        for field in self.__slots__:
            setattr(others, field, getattr(self, field))
        if before is not None:
            others.remove(before)
        return Admission(
            name,
            asks.policy,
            asks.reserved_pages,
            asks.least_pages,
            max_pages,
            rules.slush_pages,
            others.guaranteed,
            others.held,
            others.least,
            others.reserved,
            rules.ratio_percent,
            rules.worst_case or rules.ratio_percent is not None,
            before is None or _asks_for_more(asks, before, rules),
        )

    def _count(self, vm: Backing, sign: int) -> None:
        self.allocate(vm.policy, sign * vm.allocated_pages)
        if vm.is_guaranteed:
            self.guaranteed += sign * vm.reserved_pages
            return
        self.least += sign * vm.least_pages
        self.reserved += sign * vm.reserved_pages


def _asks_for_more(asks: Backing, before: Backing, rules: OvercommitRules) -> bool:
    """Return whether more would have to be backed than until now."""
    if asks.is_guaranteed or rules.ratio_percent is not None:
        return asks.reserved_pages > before.reserved_pages
    return asks.least_pages > before.least_pages
