"""What the plan may divide: the budget, less what cannot be had, and how far others have to make up for that.

    what a VM takes beside the plan           who makes up for it
    what it holds or was granted              every other VM
    what it owes and is late with             every other VM
    a few pages by which it missed a target   every other VM
    what it is due because it was released    every other VM: it is the operator's order
    at a start, what it has not touched       nobody at first; then, while it does not report, buffers and the
                                              demand of lower priorities, as for a reservation
    what it holds above its own maximum       buffers and headroom: no VM gives what it needs for that

The last rows are limits on what the others give, not on what is counted: measured free, from which every
grant comes, is less by all of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from dynmem.manager.step.record import Record
from dynmem.manager.step.safeguards import REPORT_PATIENCE_NS
from dynmem.policy import Holder, Priority, Vm, least_pages
from dynmem.units import MIB, PAGE_SIZE, format_pages, format_size

# Who holds less is not worth naming.
HOLDER_PAGES_MIN: Final = 32 * MIB // PAGE_SIZE


class Taken(msgspec.Struct, frozen=True):
    """What one VM takes of the room. Pages.

    Attributes:
        record: The VM.
        pages: All that it takes.
        text: Why, in words.
        untouched: The part that it has not touched, if it is starting.
        above: The part that it holds above its own maximum.
        is_new: Whether it still has time to report.
    """

    record: Record
    pages: int
    text: str
    untouched: int = 0
    above: int = 0
    is_new: bool = False

    @property
    def spared(self) -> int:
        """The part that nobody makes up for yet."""
        return self.untouched if self.is_new else 0

    @property
    def limits(self) -> tuple[tuple[int, Priority | None], ...]:
        """The parts that only some make up for, each with the lowest priority whose demand is spared.

        None: nobody makes up for it.
        """
        above = min(self.above, self.pages)
        start = None if self.is_new else self.record.config.priority
        return (above, "low"), (min(self.untouched, self.pages - above), start)


def taken_by_movable(record: Record, late_pages: int, *, emergency: bool) -> Taken:
    """Return what a VM of the plan takes beyond its size.

    That is what stays resident or, in an emergency, what is there now; what it owes and is late with; and the
    few pages by which it missed its target.
    """
    beyond = record.excess_pages if emergency else record.excess.pages
    pages, name = beyond + late_pages + record.left_over_pages, record.name
    if record.above_pages:
        maximum = format_size(record.config.maximum_bytes)
        text = f"{name} holds {format_pages(record.guest_pages or 0)}, its maximum is {maximum}"
    elif late_pages > beyond:
        text = f"{name} is late with {format_pages(late_pages)} that it owes"
    else:
        text = f"{name} holds {format_pages(beyond)} beyond what was assigned to it"
    return Taken(record, pages, text, above=record.above_pages)


def taken_by_fixed(
    record: Record, held_pages: int, untouched_pages: int, now_ns: int, *, paused: bool
) -> Taken:
    """Return what a VM takes that cannot be changed now."""
    name, held = record.name, format_pages(held_pages)
    if not record.reported:
        text = f"{name} has not reported since it started and counts as {held}"
        is_new = now_ns - record.began_ns < REPORT_PATIENCE_NS
        return Taken(record, held_pages, text, untouched_pages, record.above_pages, is_new)
    why = "paused" if paused else "frozen"
    return Taken(record, held_pages, f"{name} is {why} and keeps {held}", above=record.above_pages)


def holders_of(taken: Iterable[Taken], reserved: Mapping[str, int], lacking: int) -> tuple[Holder, ...]:
    """Return who holds memory that the VMs of the plan cannot have, in words; the largest first."""
    holders = [Holder(each.pages, each.text) for each in taken]
    holders += [
        Holder(pages, f"{format_pages(pages)} is reserved for {name}") for name, pages in reserved.items()
    ]
    rest = f"the rest of the host leaves {format_pages(lacking)} less than the budget"
    holders.append(Holder(lacking, rest))
    holders.sort(key=lambda each: -each.pages)
    return tuple(each for each in holders if each.pages > HOLDER_PAGES_MIN)


def room_for(views: Sequence[Vm], budget: int, taken: Iterable[Taken], *, sparing: bool) -> int:
    """Return the pages that the VMs of a plan and reservations may divide."""
    everything = tuple(taken)
    room = budget - sum(each.pages for each in everything)
    if not sparing:
        return room
    limited = [limit for each in everything for limit in each.limits if limit[0]]
    room += sum(pages for pages, _ in limited)
    for pages, priority in limited:
        if priority is None:
            continue
        room -= min(pages, max(0, room - least_pages(views, priority, keeping=True)))
    return room
