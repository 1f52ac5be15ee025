"""QEMU's trace events for what a guest gives up, range by range, as its hv-balloon.c emits them.

A range is split at the memory that hv-balloon adds ("our range"): what lies before it, what lies in the part
of it that is added, what remains behind. `both` is 1 for guest memory and 0 for what is none.
"""

from typing import Final, NamedTuple

from dynmem import trace_events
from dynmem.pages import ranges as page_ranges
from dynmem.pages.algebra import joined, moved, without
from dynmem.pages.page_set import PageSet
from dynmem.trace_events import Trace
from dynmem.vm.balloon.accounts import GuestPages

_RESPONSE: Final = trace_events.HV_BALLOON_REMOVE_RESPONSE
_HOLE: Final = trace_events.HV_BALLOON_REMOVE_RESPONSE_HOLE
_COMMON: Final = trace_events.HV_BALLOON_REMOVE_RESPONSE_COMMON
_REMAINDER: Final = trace_events.HV_BALLOON_REMOVE_RESPONSE_REMAINDER


class OurRange(NamedTuple):
    """The memory that hv-balloon adds: its first page, the pages of it that are added, those given up."""

    start: int
    added: int
    given: PageSet


def trace_removed(trace: Trace, ranges: bytes, pages: GuestPages, ours: OurRange | None) -> None:
    """Trace a message of ranges that is about to be entered in `pages`."""
    if not any(trace.on(event) for event in (_RESPONSE, _REMAINDER, _HOLE, _COMMON)):
        return
    named = joined(ranges)
    parts = (moved(part.ranges.packed(), part.memory.first_page) for part in pages.parts(named))
    inside = joined(b"".join(parts))
    for both, found in ((1, inside), (0, without(named, inside))):
        for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True):
            _trace_range(trace, start, end - start, both, ours)


def _trace_range(trace: Trace, start: int, count: int, both: int, ours: OurRange | None) -> None:
    """Trace one range."""
    trace(_RESPONSE, count, start, both)
    end = start + count
    if ours is not None:
        whole = (count, start)
        if start < ours.start:
            hole = min(end, ours.start) - start
            trace(_HOLE, hole, start, *whole, ours.start, both)
        low, high = max(start, ours.start), min(end, ours.start + ours.added)
        if low < high:
            named = page_ranges.span(low - ours.start, high - low)
            new = high - low - page_ranges.page_count(ours.given.intersect(named))
            trace(_COMMON, high - low, low, *whole, ours.added, ours.start, new, both)
        start = max(start, ours.start + ours.added)
    if start < end:
        trace(_REMAINDER, end - start, start, both)
