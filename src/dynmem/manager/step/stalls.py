"""Guests that stop on the way to a target: what that means, and when they are asked again.

A guest that gives no more has met its floor; one that takes no more has all that it can use. Either way the
target is brought back to the present size, as far as floor and maximum allow, since a target left beyond it
would pull at the guest permanently. The guest is asked again when its demand has fallen, or after a pause
that doubles each time, if a VM is short; it is offered more again after such a pause, or when its demand has
risen beyond its size. A guest that stopped because the next step of hot add would lead beyond the target has
arrived.

While its VMM may still keep the first request, to let the guest settle, each pause is the first one.

A guest that had its target and moved by itself was moved by another program, or emptied its balloon: its size
is taken over. One that was shrunk so, and needs no more, is not offered more for a while. But one that moved
where it had been asked to go only was slow: with hv-balloon, what a guest has been asked cannot be taken back
from it, and its size does not show how far it is.

A guest in need that takes no more is left a small offer, which stands: as soon as it takes that, it is
offered all of it again. Likewise a guest that is asked again and gives what it is asked starts with the short
pause the next time. Either has shown that it only was slow.

A guest may be unable to unplug memory, and still have something for its balloon. So where it has both, what
is stuck counts as no floor: the next plan asks the balloon, and virtio-mem again after the longest pause.
"""

from collections.abc import Mapping

import msgspec

from dynmem.manager.step.changes import ALREADY_HELD, Change
from dynmem.manager.step.facts import ManagerSettings
from dynmem.manager.step.record import Record, Stopped
from dynmem.manager.step.safeguards import (
    ARRIVED_PAGES,
    PROGRESS_PAGES,
    RETRY_FIRST_PERIODS,
    RETRY_LONGEST_NS,
    SETTLES_NS,
    band_pages,
    stall_ns,
)
from dynmem.units import NS_PER_S, format_pages, format_size


class Stall(msgspec.Struct, frozen=True):
    """A guest that stopped, or went elsewhere.

    Attributes:
        target: The size that its target is brought back to. Pages.
        reason: What happened, as a sentence.
        stopped: Where it gave no more, and when to ask again.
        declined: Where it took no more, and when to offer again.
        keeps: Whether it keeps this size for a while: it had run out of memory.
        stuck: What its virtio-mem devices are not asked to unplug. Bytes, by path.
    """

    target: int
    reason: str
    stopped: Stopped | None = None
    declined: Stopped | None = None
    keeps: bool = False
    stuck: Mapping[str, int] = msgspec.field(default_factory=dict)


def stall_of(
    record: Record, now_ns: int, settings: ManagerSettings, *, small_offers: bool = True
) -> Stall | None:
    """Return what becomes of the target of a guest that stopped or grew by itself; None: it is on its way."""
    actual, target = record.actual_pages, record.target_pages
    if actual is None or target is None or record.arrived:
        return None
    has_stopped = now_ns - record.mark_ns >= stall_ns(settings.period_ns)
    if actual > max(target, record.mark_pages) + PROGRESS_PAGES:
        stall = _grown(record, actual, target)
    elif actual > target and has_stopped:
        stall = _gives_no_more(record, actual, target, now_ns, settings)
    elif actual < target - band_pages(record.maximum_pages) and _may_stay_there(record, actual, target):
        stall = _shrunk(record, actual, target, now_ns, settings)
    elif actual < target and (has_stopped or record.deadlines.passed(now_ns)):
        stall = _takes_no_more(record, actual, target, now_ns, settings, small_offers=small_offers)
    else:
        return None
    return stall if stall.target != target else None


def apply(stall: Stall, record: Record, now_ns: int) -> Change:
    """Bring the target back and remember where the guest stopped; return the change."""
    if stall.stopped is not None:
        record.stopped = stall.stopped
    if stall.declined is not None:
        record.declined = stall.declined
    if stall.stuck:
        record.stuck, record.stuck_ns = {**record.stuck, **stall.stuck}, now_ns
    if stall.keeps:
        record.thrash.keep(stall.target, now_ns)
    record.retarget(stall.target, now_ns)
    return Change(record, stall.target, stall.reason, ALREADY_HELD, is_found=True)


def _grown(record: Record, actual: int, target: int) -> Stall:
    """Take over the size of a guest that grew beyond its target.

    It took late what it had been offered, another program set its balloon, or the guest emptied it: with a
    parachute, because it had run out of memory. That is a fact and not a floor: the next plan decides again,
    by what the guest reports then.
    """
    back = max(target, min(actual, record.maximum_pages))
    offered = record.declined
    if offered is not None and actual <= offered.asked_pages + ARRIVED_PAGES:
        reason = f"grew to {format_pages(actual)}: it took late what it had been offered"
    elif record.facts.deflates_on_oom:
        took = format_pages(actual - max(target, record.mark_pages))
        reason = (
            f"took back {took} by its parachute: it ran out of memory at {format_pages(record.mark_pages)}"
        )
        return Stall(target=back, reason=reason, keeps=True)
    else:
        reason = (
            f"grew to {format_pages(actual)} although the target was {format_pages(target)}: another program"
            " or the guest itself changed its balloon"
        )
    return Stall(target=back, reason=reason)


def _may_stay_there(record: Record, actual: int, target: int) -> bool:
    """Return whether it had its target before and needs no more than it has now.

    A guest in need is given what it was offered, whatever made it smaller.
    """
    return abs(record.mark_pages - target) <= ARRIVED_PAGES and record.demand_pages <= actual


def _shrunk(record: Record, actual: int, target: int, now_ns: int, settings: ManagerSettings) -> Stall:
    """Take over the size of a guest that had its target and went below it.

    It gave late what it had been asked for, or another program set its balloon, for a reason of its own: then
    the guest is not offered more for a while.
    """
    asked = record.stopped
    if asked is not None and actual >= asked.asked_pages - ARRIVED_PAGES:
        return Stall(
            target=max(actual, min(target, record.floor_pages)),
            reason=f"shrank to {format_pages(actual)}: it gave late what it had been asked for",
        )
    stop = _stop(record, record.declined, now_ns, settings)
    return Stall(
        target=max(actual, min(target, record.floor_pages)),
        reason=(
            f"shrank to {format_pages(actual)} although the target was {format_pages(target)}: another"
            f" program changed its balloon; not offered more for {stop.pause_ns / NS_PER_S:g} s"
        ),
        declined=stop,
    )


def _gives_no_more(record: Record, actual: int, target: int, now_ns: int, settings: ManagerSettings) -> Stall:
    stuck = _newly_stuck(record)
    if stuck and record.facts.may_plug and record.facts.may_balloon:
        kept = format_size(sum(stuck.values()))
        reason = f"unplugs no more at {format_pages(actual)}: {kept} is stuck, and its balloon gives the rest"
        return Stall(target=min(actual, max(target, record.maximum_pages)), reason=reason, stuck=stuck)
    stop = _stop(record, record.stopped, now_ns, settings)
    until = f"not asked again until its demand falls, or for {stop.pause_ns / NS_PER_S:g} s"
    if now_ns < record.settled_ns:
        wait = f"{SETTLES_NS // NS_PER_S} s"
        found = f"gives nothing yet at {format_pages(actual)}: its VMM may keep the first request for {wait}"
    else:
        found = (
            f"floor met: it gives no more at {format_pages(actual)}, the target was {format_pages(target)}"
        )
    back = min(actual, max(target, record.maximum_pages))
    return Stall(target=back, reason=f"{found}; {until}", stopped=stop)


def _newly_stuck(record: Record) -> dict[str, int]:
    """Return what each virtio-mem device was asked to unplug and has not, unless that is known."""
    return {
        each.path: each.size_bytes
        for each in record.facts.virtio_mems
        if each.path and each.size_bytes > max(each.requested_bytes, record.stuck.get(each.path, 0))
    }


def _takes_no_more(
    record: Record, actual: int, target: int, now_ns: int, settings: ManagerSettings, *, small_offers: bool
) -> Stall:
    back, sizes = max(actual, min(target, record.floor_pages)), record.sizes
    if actual >= sizes.whole_pages and target - actual < sizes.step_pages:
        step = format_pages(sizes.step_pages)
        return Stall(
            target=back,
            reason=f"at {format_pages(actual)} of {format_pages(target)}: it grows in steps of {step}",
        )
    if small_offers and record.demand_pages > actual:
        back = max(back, min(target, sizes.up(actual + band_pages(record.maximum_pages))))
        if back == target:  # the small offer stands
            return Stall(target, "")
    stop = _stop(record, record.declined, now_ns, settings)
    pause = f"{stop.pause_ns / NS_PER_S:g} s"
    again = (
        f"{format_pages(back)} stays offered, and more once it has taken that or in {pause}"
        if back > actual
        else f"not offered again for {pause}"
    )
    return Stall(
        target=back,
        reason=f"takes no more at {format_pages(actual)}, the target was {format_pages(target)}; {again}",
        declined=stop,
    )


def _stop(record: Record, before: Stopped | None, now_ns: int, settings: ManagerSettings) -> Stopped:
    """Return where the guest stopped, with a pause twice as long as the one before, once it has settled."""
    pause = RETRY_FIRST_PERIODS * settings.period_ns
    if before is not None and now_ns >= record.settled_ns:
        pause = 2 * before.pause_ns
    pause = min(pause, RETRY_LONGEST_NS)
    asked = record.target_pages or 0
    return Stopped(record.actual_pages or 0, record.demand_pages, now_ns + pause, pause, asked)


def forgive(record: Record, now_ns: int, *, is_any_short: bool) -> None:
    """Drop what was concluded from a stall when there is reason to ask again, or when it was mended."""
    stopped, declined = record.stopped, record.declined
    target = record.target_pages if record.target_pages is not None and record.arrived else None
    if stopped is not None:
        fallen = stopped.demand_pages - record.demand_pages >= band_pages(record.maximum_pages)
        if fallen or (target is not None and target < stopped.at_pages - ARRIVED_PAGES):
            record.stopped = None
        elif now_ns >= stopped.retry_at_ns and is_any_short:
            stopped.is_over = True
    if declined is not None:
        if target is not None and target > declined.at_pages + ARRIVED_PAGES:
            record.declined = None
        elif now_ns >= declined.retry_at_ns or _needs_more(record, declined):
            declined.is_over = True


def _needs_more(record: Record, declined: Stopped) -> bool:
    """Return whether its demand has risen since it took no more, beyond its size."""
    risen = record.demand_pages - declined.demand_pages
    return risen >= band_pages(record.maximum_pages) and record.demand_pages > (record.actual_pages or 0)
