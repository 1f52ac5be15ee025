"""The levels through which all VMs rise, and the rise itself: the only place that walks them.

A level is a height for each VM: what it needs, its buffer, its headroom. All VMs that a level is meant for
rise towards theirs together, by weight, before any VM rises in the next one. So what is cut first when memory
runs out stands last: headroom, then buffers, then what is kept ready, then what guests have at hand, then the
demand of low, normal and high priority.

Survival comes before comfort, whatever the priorities: all demand, then what each guest needs at hand to live
until it is given more. What is kept ready serves these, and is not spent on what follows.
"""

from collections.abc import Callable, Sequence
from typing import Final, Self

import msgspec

from dynmem.policy.fill import fill
from dynmem.policy.types import Priority, Vm

#: Pages of 4 KiB in a huge page of 2 MiB: the grain of targets that keep huge pages whole.
HUGE_PAGES: Final = 512


class Tops(msgspec.Struct, frozen=True, gc=False):
    """How far one VM may rise in each kind of level: pages, at least the floor, at most the maximum.

    Attributes:
        floor: The least it may have.
        demand: What its guest needs.
        at_hand: That, and what it should have at hand.
        buffer: Demand and buffer, at least as much as at hand: what is wanted.
        margin: The growth of one period on top.
        held: What it has been given already.
        spread: Its maximum.

    """

    floor: int
    demand: int
    at_hand: int
    buffer: int
    margin: int
    held: int
    spread: int

    @classmethod
    def of(cls, vm: Vm) -> Self:
        """Return how far a VM may rise."""
        demand = clamped(vm, _rounded_up(vm, vm.demand_pages))
        at_hand = max(demand, clamped(vm, _rounded_up(vm, vm.demand_pages + vm.at_hand_pages)))
        buffer = max(at_hand, clamped(vm, _rounded_up(vm, wanted_pages(vm))))
        margin = clamped(vm, _rounded_up(vm, buffer + vm.margin_pages))
        return cls(
            floor=vm.floor_pages,
            demand=demand,
            at_hand=at_hand,
            buffer=buffer,
            margin=margin,
            held=clamped(vm, max(margin, vm.held_pages)),
            spread=clamped(vm, vm.maximum_pages),
        )

    def capped(self, most: int) -> Self:
        """Return the same with no height above *most*."""
        return type(self)(*(min(pages, most) for pages in msgspec.structs.astuple(self)))


class Level(msgspec.Struct, frozen=True, gc=False):
    """One row of the table.

    Attributes:
        name: Its name in a plan and in the status.
        top: How far a VM rises in it.
        gives: Which VMs give when memory runs out in it, as a sentence.
        is_short: Whether a VM below it is short of memory; without headroom it is not.
        is_survival: Whether what is kept ready is there for it.
        priority: The VMs that it is meant for; None: all.

    """

    name: str
    top: Callable[[Tops], int]
    gives: str
    is_short: bool
    is_survival: bool = False
    priority: Priority | None = None

    def is_for(self, vm: Vm) -> bool:
        """Return whether a VM rises in it."""
        return self.priority in (None, vm.priority)


def _floor(tops: Tops) -> int:
    return tops.floor


def _demand(tops: Tops) -> int:
    return tops.demand


def _at_hand(tops: Tops) -> int:
    return tops.at_hand


def _buffer(tops: Tops) -> int:
    return tops.buffer


#: The levels through which all VMs rise; the first is filled first.
LEVELS: Final = (
    Level(
        "floors",
        _floor,
        "not even the floors fit: every VM goes down to its floor",
        is_short=True,
        is_survival=True,
    ),
    Level(
        "demand high",
        _demand,
        "no buffers are left; low and normal priority go down to their floors, high gives by weight",
        is_short=True,
        is_survival=True,
        priority="high",
    ),
    Level(
        "demand normal",
        _demand,
        "no buffers are left; low priority goes down to its floor, normal gives by weight",
        is_short=True,
        is_survival=True,
        priority="normal",
    ),
    Level(
        "demand low",
        _demand,
        "no buffers are left; low gives first",
        is_short=True,
        is_survival=True,
        priority="low",
    ),
    Level(
        "at hand high",
        _at_hand,
        "all demand is met; low and normal priority have nothing more at hand, high has a part",
        is_short=True,
        is_survival=True,
        priority="high",
    ),
    Level(
        "at hand normal",
        _at_hand,
        "all demand is met; low priority has nothing more at hand, normal has a part",
        is_short=True,
        is_survival=True,
        priority="normal",
    ),
    Level(
        "at hand low",
        _at_hand,
        "all demand is met; low has less at hand before the others",
        is_short=True,
        is_survival=True,
        priority="low",
    ),
    Level(
        "buffer high",
        _buffer,
        "all demand is met; buffers give first, and only high priority keeps part of its buffers",
        is_short=True,
        priority="high",
    ),
    Level(
        "buffer normal",
        _buffer,
        "all demand is met; buffers give first: low priority has none left, normal keeps part",
        is_short=True,
        priority="normal",
    ),
    Level(
        "buffer low",
        _buffer,
        "all demand is met; buffers give first, those of low priority before the others",
        is_short=True,
        priority="low",
    ),
    Level(
        "margin",
        lambda tops: tops.margin,
        "all that is wanted fits; headroom gives first",
        is_short=False,
    ),
    Level(
        "held",
        lambda tops: tops.held,
        "all that is wanted fits; headroom gives first",
        is_short=False,
    ),
    Level(
        "spread",
        lambda tops: tops.spread,
        "all that is wanted fits",
        is_short=False,
    ),
)


class Climber(msgspec.Struct, frozen=True, gc=False):
    """One VM in a rise.

    Attributes:
        vm: Its weight and priority count.
        tops: How far it may rise.
        start: The pages that it has already, and that cost nothing.

    """

    vm: Vm
    tops: Tops
    start: int


def rise(climbers: Sequence[Climber], room: Callable[[Level], int]) -> tuple[list[int], Level | None]:
    """Raise all VMs through the levels and return what each reached, and the level that was cut.

    *room* is the number of pages that may be handed out until the end of a level, all levels before it
    included. The level that was cut is the first in which a VM stayed below the top; None: everything fits.
    """
    reached = [each.start for each in climbers]
    paid = 0
    cut: Level | None = None
    for level in LEVELS:
        left = room(level) - paid
        if cut is not None and left <= 0:
            break
        members = [i for i, each in enumerate(climbers) if level.is_for(each.vm)]
        needs = [max(0, level.top(climbers[i].tops) - reached[i]) for i in members]
        if cut is None and sum(needs) > left:
            cut = level
        weights = [climbers[i].vm.weight for i in members]
        for i, pages in zip(members, fill(needs, weights, left), strict=True):
            reached[i] += pages
            paid += pages
    return reached, cut


def wanted_pages(vm: Vm) -> int:
    """Return demand and buffer, or what should be at hand if that is more, within the bounds. Pages."""
    return clamped(vm, vm.demand_pages + max(vm.at_hand_pages, buffer_pages(vm)))


def buffer_pages(vm: Vm) -> int:
    """Return the buffer: a part of its demand, rounded up. Pages."""
    return -(-vm.demand_pages * vm.buffer_percent // 100)


def clamped(vm: Vm, pages: int) -> int:
    """Return *pages*, clamped to the floor and the maximum of a VM."""
    return max(vm.floor_pages, min(pages, vm.maximum_pages))


def _rounded_up(vm: Vm, pages: int) -> int:
    return vm.sizes.up(-(-pages // HUGE_PAGES) * HUGE_PAGES)
