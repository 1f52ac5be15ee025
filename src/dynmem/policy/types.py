"""What the policy is given and what it answers. Pages of 4 KiB, integers only, frozen and picklable."""

from typing import Final, Literal

import msgspec

Priority = Literal["low", "normal", "high"]
# The one that is served first stands first.
PRIORITIES: Final[tuple[Priority, ...]] = ("high", "normal", "low")


class MemorySettings(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What the operator decides about one VM's share, in Hyper-V's terms.

    Attributes:
        buffer_percent: What the VM gets on top of its demand.
        weight: 1 to 10000; divides memory among the VMs of one priority.
        priority: Who is served first when not everything fits: high, normal, low.

    """

    buffer_percent: int = 20
    weight: int = 5000
    priority: Priority = "normal"


class Sizes(msgspec.Struct, frozen=True, gc=False):
    """Which sizes a VM can come to: all up to `whole_pages`, beyond that only whole steps more.

    So it is where memory is added in blocks; a step of 0 means that there is any size.
    """

    whole_pages: int = 0
    step_pages: int = 0

    def stepped(self, pages: int) -> bool:
        """Whether so much is reached only in steps."""
        return self.step_pages > 0 and pages > self.whole_pages

    def down(self, pages: int) -> int:
        """The largest size of `pages` at the most."""
        return pages - (pages - self.whole_pages) % self.step_pages if self.stepped(pages) else pages

    def up(self, pages: int) -> int:
        """The smallest size of `pages` at least."""
        return pages + (self.whole_pages - pages) % self.step_pages if self.stepped(pages) else pages


ANY: Final = Sizes()


class Vm(MemorySettings, frozen=True, gc=False):
    """One VM that can be moved, as the policy sees it.

    `floor_pages` is the least it may have (configured minimum or the guest's own floor), `demand_pages` what
    the guest says it needs (no buffer), `held_pages` the size it has been given and keeps if nobody needs it,
    `margin_pages` the growth between two periods that headroom should cover first, `kept_pages` what can't be
    taken from it now, wanted or not. `limit` says in words what `maximum_pages` is.
    `sizes` says which sizes it can come to.
    """

    name: str
    floor_pages: int
    maximum_pages: int
    demand_pages: int
    held_pages: int
    margin_pages: int = 0
    kept_pages: int = 0
    limit: str = "maximum"
    sizes: Sizes = ANY


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """All that the policy looks at: what may be divided, and among whom."""

    capacity_pages: int
    vms: tuple[Vm, ...]


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What one VM should have, and why.

    `wanted_pages` is demand plus buffer, clamped to floor and maximum; `headroom_pages` what the target holds
    above that; `short_pages` what is missing from it.
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
    """The division of `capacity_pages`, one decision per VM of the snapshot in its order.

    `shortage_pages` is how far all that is wanted passes the capacity (0 when everything fits); `cut` names
    the level at which memory ran out ("" when it did not).
    """

    decisions: tuple[Decision, ...]
    capacity_pages: int
    shortage_pages: int
    cut: str
