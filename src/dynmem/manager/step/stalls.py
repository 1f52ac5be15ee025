"""Guests that stop on the way to a target: what that means, and when they are asked again.

A guest that gives no more has met its floor; one that takes no more has what it can take. Either way the
target is brought back to the size it has, as far as floor and maximum allow, since a target left beyond it
would pull at the guest for ever. It is asked again when its demand has fallen, or after a pause that doubles
each time, if somebody is short; it is offered more again after such a pause, or when its demand has risen
beyond what it has. One that stopped because the next step of hot add would lead beyond the target is there.
"""

from dynmem.manager.step.changes import ALREADY_HELD, Change
from dynmem.manager.step.facts import ManagerSettings
from dynmem.manager.step.record import Record, Stopped
from dynmem.manager.step.safeguards import (
    PROGRESS_PAGES,
    RETRY_FIRST_PERIODS,
    RETRY_LONGEST_NS,
    band_pages,
    stall_ns,
)
from dynmem.units import NS_PER_S, format_pages


def find_stall(record: Record, now_ns: int, settings: ManagerSettings) -> Change | None:
    """The change that brings the target of a guest that has stopped back to the size it has, or None."""
    actual, target = record.actual_pages, record.target_pages
    if actual is None or target is None or actual == target:
        return None
    if actual > max(target, record.mark_pages) + PROGRESS_PAGES:
        return _grown_unasked(record, actual, target, now_ns)
    if now_ns - record.mark_ns < stall_ns(settings.period_ns):
        return None
    giving = actual > target
    if giving:
        back = min(actual, max(target, record.maximum_pages))
    else:
        back = max(actual, min(target, record.floor_pages))
    if back == target:
        return None
    sizes = record.sizes
    if not giving and actual >= sizes.whole_pages and target - actual < sizes.step_pages:
        record.set_target(back, now_ns)
        step = format_pages(sizes.step_pages)
        reason = (
            f"has {format_pages(actual)} of {format_pages(target)}: memory is added to it in steps of {step}"
        )
        return Change(record, back, reason, ALREADY_HELD)
    before = record.stopped if giving else record.declined
    pause = 2 * before.pause_ns if before else RETRY_FIRST_PERIODS * settings.period_ns
    pause = min(pause, RETRY_LONGEST_NS)
    stop = Stopped(actual, record.demand_pages, now_ns + pause, pause)
    size, asked, wait = format_pages(actual), format_pages(target), pause // NS_PER_S
    if giving:
        record.stopped = stop
        reason = (
            f"floor met: it gives no more at {size}, {asked} was asked; left alone until its demand falls, "
            f"or for {wait} s"
        )
    else:
        record.declined = stop
        reason = f"takes no more at {size}, {asked} was offered; not offered again for {wait} s"
    record.set_target(back, now_ns)
    return Change(record, back, reason, ALREADY_HELD)


def _grown_unasked(record: Record, actual: int, target: int, now_ns: int) -> Change | None:
    """It has more than it was asked to have: somebody else set its balloon, or the guest let the air out.

    That is a fact and no floor: the size it has is taken over, as far as its maximum allows, and the next
    plan decides anew, with what the guest says then.
    """
    taken_over = max(target, min(actual, record.maximum_pages))
    if taken_over == target:
        return None
    record.set_target(taken_over, now_ns)
    reason = (
        f"grew to {format_pages(actual)} though {format_pages(target)} was asked: by somebody else's command,"
        " or by its guest"
    )
    return Change(record, taken_over, reason, ALREADY_HELD)


def forgive(record: Record, now_ns: int, *, somebody_is_short: bool) -> None:
    """Drop what was concluded from a stall, when there is reason to ask again."""
    stopped, declined = record.stopped, record.declined
    if stopped is not None:
        fallen = stopped.demand_pages - record.demand_pages >= band_pages(record.maximum_pages)
        if fallen:
            record.stopped = None
        elif now_ns >= stopped.retry_at_ns and somebody_is_short:
            # Kept with its pause, so that the next one is longer; at 0 it holds nothing.
            stopped.at_pages = 0
    if declined is not None and (now_ns >= declined.retry_at_ns or _needs_more(record, declined)):
        declined.at_pages = record.maximum_pages


def _needs_more(record: Record, declined: Stopped) -> bool:
    """Whether its demand has risen since it took no more, beyond what it has."""
    risen = record.demand_pages - declined.demand_pages
    return risen >= band_pages(record.maximum_pages) and record.demand_pages > (record.actual_pages or 0)
