"""What the policy is given and what it returns. Pages of 4 KiB, integers only, frozen and picklable."""

from typing import Final, Literal

import msgspec

#: The rank of a VM: a higher one is served first.
Priority = Literal["low", "normal", "high"]
#: Whether a VM keeps what it uses, or gives of it, when a VM of higher priority lacks what that one uses.
OnShortage = Literal["wait", "squeeze"]
#: All priorities; the first is served first.
PRIORITIES: Final[tuple[Priority, ...]] = ("high", "normal", "low")


def priority_of(word: str) -> Priority:
    """Return the priority that a word names; "normal" if it names none."""
    return next((each for each in PRIORITIES if each == word), "normal")


class MemorySettings(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What the operator decides about one VM's share, in Hyper-V's terms.

    Attributes:
        buffer_percent: What the VM gets on top of its demand, if that is more than its guest has at hand.
        weight: 1 to 10000; divides memory among the VMs of one priority.
        priority: Who is served first when not everything fits: high, normal, low.

    """

    buffer_percent: int = 20
    weight: int = 5000
    priority: Priority = "normal"


class Sizes(msgspec.Struct, frozen=True, gc=False):
    """Which sizes a VM can have: any up to a limit, and whole steps more where memory is added in blocks.

    Attributes:
        whole_pages: The limit of the sizes without steps.
        step_pages: The step; 0: the VM can have any size.
    """

    whole_pages: int = 0
    step_pages: int = 0

    def stepped(self, pages: int) -> bool:
        """Return whether this size is reached only in steps."""
        return self.step_pages > 0 and pages > self.whole_pages

    def down(self, pages: int) -> int:
        """Return the largest possible size that is at most *pages*."""
        return pages - (pages - self.whole_pages) % self.step_pages if self.stepped(pages) else pages

    def up(self, pages: int) -> int:
        """Return the smallest possible size that is at least *pages*."""
        return pages + (self.whole_pages - pages) % self.step_pages if self.stepped(pages) else pages


#: No limit on the sizes that a VM can have.
ANY: Final = Sizes()


class Vm(MemorySettings, frozen=True, gc=False):
    """One VM that can be moved, as the policy sees it.

    Attributes:
        name: Its name.
        floor_pages: The least it may have: the configured minimum or the guest's own floor.
        maximum_pages: The most it may have.
        demand_pages: What the guest uses, or needs for sure, without a buffer.
        held_pages: The size it was given, which it keeps if no other VM needs it.
        at_hand_pages: What the guest should have at hand beyond that, to live until it is given more.
        margin_pages: The growth between two periods that headroom should cover first.
        kept_pages: What cannot be taken from it now, wanted or not.
        kept_why: Why, in words.
        limit: What `maximum_pages` is, in words.
        sizes: The sizes that it can have.
    """

    name: str
    floor_pages: int
    maximum_pages: int
    demand_pages: int
    held_pages: int
    at_hand_pages: int = 0
    margin_pages: int = 0
    kept_pages: int = 0
    kept_why: str = "it cannot give more now"
    limit: str = "maximum"
    sizes: Sizes = ANY


class Holder(msgspec.Struct, frozen=True, gc=False):
    """Somebody who holds memory that the VMs of a plan cannot have.

    Attributes:
        pages: How much.
        text: Who holds it, and why, as a part of a sentence.
    """

    pages: int
    text: str


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """All that the policy looks at.

    Attributes:
        capacity_pages: The memory that may be divided.
        vms: The VMs that share it, in the order of the plan.
        ready_pages: The part of it that is kept for whoever grows next: nobody's comfort is paid from it.
        holders: Who holds the rest, the largest first: named where a VM gives or gets less than it wants.

    """

    capacity_pages: int
    vms: tuple[Vm, ...]
    holders: tuple[Holder, ...] = ()
    ready_pages: int = 0


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What one VM should have, and why.

    Attributes:
        vm: Its name.
        target_pages: The size it should have.
        wanted_pages: Demand, and buffer or what should be at hand, clamped to floor and maximum.
        floor_pages: The least it may have.
        headroom_pages: How far the target is above what is wanted.
        reason: Why, as a sentence.
    """

    vm: str
    target_pages: int
    wanted_pages: int
    floor_pages: int
    headroom_pages: int
    reason: str

    @property
    def short_pages(self) -> int:
        """Pages that are missing from what is wanted."""
        return max(0, self.wanted_pages - self.target_pages)


class Plan(msgspec.Struct, frozen=True, gc=False):
    """The division of a capacity.

    Attributes:
        decisions: One for each VM of the snapshot, in its order.
        capacity_pages: What was divided.
        shortage_pages: How much of what is wanted exceeds the capacity; 0 if everything fits.
        cut: The level at which memory ran out; empty if it did not.
    """

    decisions: tuple[Decision, ...]
    capacity_pages: int
    shortage_pages: int
    cut: str
