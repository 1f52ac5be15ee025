"""One nudge for a guest that never reports, to see whether it has a driver at all.

A guest with virtio-balloon that sends no statistics may have no driver, or one whose service is not running,
as in Windows. Its monitor cannot tell them apart; a size that moves can. So in enforce mode such a VM is
asked once for 16 MiB, if its minimum allows that: a target that is safe to leave, should the manager end now.

    nudged --> its size moved: a driver is there       --> the 16 MiB are given back
           --> nothing moved until it has stalled      --> withdrawn, and nothing more is sent to this guest

It is withdrawn since a target without a driver would be met whenever one is loaded. Neither way makes the VM
movable: without reports nobody knows what its guest needs.
"""

from typing import Final

from dynmem.manager.step.changes import ALREADY_HELD, Change
from dynmem.manager.step.facts import VIRTIO_BALLOON
from dynmem.manager.step.record import Nudge, Record
from dynmem.manager.step.safeguards import ARRIVED_PAGES, PROGRESS_PAGES, stall_ns
from dynmem.manager.step.standing import Standing
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE, format_pages

NUDGE_PAGES: Final = 16 * MIB // PAGE_SIZE
# A guest that can report has done so by then, also if its statistics had to be turned on first.
NUDGE_AFTER_NS: Final = 10 * NS_PER_S


def nudge(record: Record, standing: Standing, now_ns: int, period_ns: int) -> Change | None:
    """Return the nudge that is due for a VM, or what takes it back; record it."""
    if not standing.awaits_report or not record.adopted:
        return None
    if record.nudge is None:
        record.nudge = _begun(record, now_ns)
        return None if record.nudge is None else _asked(record, record.nudge, now_ns)
    made, actual = record.nudge, record.actual_pages or 0
    if made.answered is None:
        moved = made.before_pages - actual >= PROGRESS_PAGES
        if not moved and now_ns - made.asked_ns < stall_ns(period_ns):
            return None
        made.answered = moved
    return _taken_back(record, made, now_ns) if record.target_pages == made.asked_pages else None


def _begun(record: Record, now_ns: int) -> Nudge | None:
    """Return the nudge that may be made now; None: not this VM, or not yet."""
    facts, actual, target = record.facts, record.actual_pages or 0, record.target_pages or 0
    is_empty = facts.balloon_bytes + ARRIVED_PAGES * PAGE_SIZE >= (facts.boot_bytes or 0)
    may = facts.device == VIRTIO_BALLOON and facts.may_balloon and not facts.is_actual_former
    if not (may and is_empty and not facts.plugged_bytes):
        return None
    asked = actual - NUDGE_PAGES
    is_left_over = target == asked  # by a manager before this one
    is_time = now_ns - record.began_ns >= NUDGE_AFTER_NS
    if not is_left_over and not (is_time and record.arrived and asked >= record.floor_pages):
        return None
    return Nudge(actual, asked, now_ns)


def _asked(record: Record, made: Nudge, now_ns: int) -> Change:
    record.retarget(made.asked_pages, now_ns)
    size = format_pages(made.before_pages - made.asked_pages)
    return Change(
        record,
        made.asked_pages,
        f"nudged by {size}: its guest has never reported, and only a size that moves shows a driver",
    )


def _taken_back(record: Record, made: Nudge, now_ns: int) -> Change:
    record.retarget(made.before_pages, now_ns)
    size = format_pages(made.before_pages - made.asked_pages)
    reason = (
        f"given back the {size} of its nudge: its driver is there and sends no statistics; in Windows, start"
        " the balloon's service"
        if made.answered
        else f"nudge withdrawn: its guest gave nothing of {size}: load the virtio_balloon driver in it"
    )
    return Change(record, made.before_pages, reason, ALREADY_HELD)
