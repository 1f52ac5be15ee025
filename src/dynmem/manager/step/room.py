"""What the plan may divide: the budget, less what cannot be had, and how far others have to make up for that.

    what a VM takes beside the plan           who makes up for it
    what it holds or was granted              every other VM
    what it owes and is late with             every other VM
    what it is due because it was released    every other VM: it is the operator's order
    at a start, what it has not touched       buffers and the demand of lower priorities, as for a reservation
    what it holds above its own maximum       buffers and headroom: no VM gives what it needs for that

The last two rows are limits on what the others give, not on what is counted: measured free, from which every
grant comes, is less by all of it.
"""

from collections.abc import Iterable, Sequence

import msgspec

from dynmem.manager.step.record import Record
from dynmem.policy import Priority, Vm, least_pages


class Taken(msgspec.Struct, frozen=True):
    """What one VM takes of the room. Pages.

    Attributes:
        record: The VM.
        pages: All that it takes.
        untouched: The part that it has not touched, if it is starting.
        above: The part that it holds above its own maximum.
    """

    record: Record
    pages: int
    untouched: int = 0
    above: int = 0

    @property
    def limits(self) -> tuple[tuple[int, Priority], ...]:
        """The parts that only some make up for: each with the lowest priority whose demand is spared."""
        above = min(self.above, self.pages)
        return (above, "low"), (min(self.untouched, self.pages - above), self.record.config.priority)


def room_for(views: Sequence[Vm], budget: int, taken: Iterable[Taken], *, sparing: bool) -> int:
    """Return the pages that the VMs of a plan and reservations may divide."""
    everything = tuple(taken)
    room = budget - sum(each.pages for each in everything)
    if not sparing:
        return room
    limited = [limit for each in everything for limit in each.limits if limit[0]]
    room += sum(pages for pages, _ in limited)
    for pages, priority in limited:
        room -= min(pages, max(0, room - least_pages(views, priority, keeping=True)))
    return room
