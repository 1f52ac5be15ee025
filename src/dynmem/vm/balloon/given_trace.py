"""QEMU's trace events for what a guest gives up, run by run, as its hv-balloon.c emits them.

The ranges of a message are taken in the order in which they came. What is guest memory (`both` 1) and what is
not (`both` 0) are followed separately; a piece that touches the run before it joins it. A run that reaches
into the memory that hv-balloon adds ("our range", all of it, added yet or not) is reported in parts: what
lies before our range, what lies in it, what remains behind. Any other run is all remainder.

QEMU calls what the guest gives up "removed". To QEMU all of our range that is mapped is memory, added yet or
not, and it also counts as removed what is no memory at all. Our accounts reject both, so the trace remembers
apart from them what QEMU would have counted since the last reset. (QEMU also returns that to the guest, and
ours does not; and of a range that begins outside memory and ends inside, QEMU counts other pages.)
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from dynmem import trace_events
from dynmem.dm.stores import GivenUp
from dynmem.limits import VM_REMOVED_RUNS_TRACED_MAX
from dynmem.pages import ranges as page_ranges
from dynmem.pages.algebra import Ranges, joined, moved, within, without
from dynmem.pages.page_set import PageSet
from dynmem.trace_events import Trace
from dynmem.vm.balloon.accounts import GuestPages

_RESPONSE: Final = trace_events.HV_BALLOON_REMOVE_RESPONSE
_HOLE: Final = trace_events.HV_BALLOON_REMOVE_RESPONSE_HOLE
_COMMON: Final = trace_events.HV_BALLOON_REMOVE_RESPONSE_COMMON
_REMAINDER: Final = trace_events.HV_BALLOON_REMOVE_RESPONSE_REMAINDER


class OurRange(NamedTuple):
    """The memory that hv-balloon adds.

    Attributes:
        start: Its first page.
        pages: All its pages, added or not.
        mapped: Those that are mapped.
        given: Those that the guest has given up, counted from its first page.
    """

    start: int
    pages: int
    mapped: Ranges
    given: PageSet

    def within(self, start: int, end: int) -> bytes:
        """Return what of [start, end) lies in it, counted from its first page."""
        low, high = max(start, self.start), min(end, self.start + self.pages)
        return page_ranges.span(low - self.start, high - low) if low < high else b""


class TracedPages(GuestPages):
    """The accounts of a device, and a trace of the ranges that a guest's message adds to them."""

    def __init__(
        self, now_ns: Callable[[], int], trace: Trace, our_range: Callable[[], OurRange | None]
    ) -> None:
        super().__init__(now_ns)
        self._trace = trace
        self._our_range = our_range
        self._rejected: dict[int, PageSet] = {}  # of our range, by `both`: what only QEMU counts

    def add_given(self, ranges: bytes) -> GivenUp:
        if not any(self._trace.on(event) for event in (_RESPONSE, _REMAINDER, _HOLE, _COMMON)):
            return super().add_given(ranges)
        ours = self._our_range()
        if ours is not None and not self._rejected:
            self._rejected = {both: PageSet(ours.pages) for both in (0, 1)}
        _Message(self._trace, self, ours, self._rejected).follow(ranges)
        given = super().add_given(ranges)
        if ours is not None:
            named = (ours.within(start, start + count) for start, count in _spans(ranges))
            self._rejected[1].drop(ours.given.intersect(b"".join(named)))
        return given

    def clear(self) -> None:
        self._rejected = {}
        super().clear()

    def other_memory(self, named: Ranges, ours: OurRange | None) -> Ranges:
        """Return what of the ranges lies in memory other than our range."""
        parts = (part for part in self.parts(named) if ours is None or part.memory.first_page != ours.start)
        return joined(b"".join(moved(part.ranges.packed(), part.memory.first_page) for part in parts))


def _spans(ranges: bytes) -> list[tuple[int, int]]:
    """Return start and count of each range, in order of arrival."""
    starts, counts = page_ranges.unpack(ranges)
    return list(zip(starts.tolist(), counts.tolist(), strict=True))


class _Message:
    """One message: the run of each kind that the next piece may join."""

    def __init__(
        self, trace: Trace, pages: TracedPages, ours: OurRange | None, rejected: dict[int, PageSet]
    ) -> None:
        self._trace = trace
        self._pages = pages
        self._ours = ours
        self._rejected = rejected
        self._runs: dict[int, tuple[int, int]] = {}  # start and end, by `both`
        self._left = VM_REMOVED_RUNS_TRACED_MAX

    def follow(self, ranges: bytes) -> None:
        """Trace each run once nothing can join it any more."""
        for start, count in _spans(ranges):
            if not self._left:
                return
            for piece_start, piece_end, both in self._pieces(start, count):
                self._add(piece_start, piece_end, both)
        for both in (1, 0):
            self._end(both)

    def _pieces(self, start: int, count: int) -> list[tuple[int, int, int]]:
        """Cut a range at the borders of guest memory: start, end and `both` of each piece, ascending."""
        named = joined(page_ranges.span(start, count))
        inside = self._pages.other_memory(named, self._ours)
        if self._ours is not None:
            inside = joined(inside.packed() + within(named, self._ours.mapped).packed())
        return sorted(
            (first, last, both)
            for both, found in ((1, inside), (0, without(named, inside)))
            for first, last in zip(found.starts.tolist(), found.ends.tolist(), strict=True)
        )

    def _add(self, start: int, end: int, both: int) -> None:
        run = self._runs.get(both)
        if run is not None and start == run[1]:
            self._runs[both] = (run[0], end)
        elif run is not None and end == run[0]:
            self._runs[both] = (start, run[1])
        else:
            self._end(both)
            self._runs[both] = (start, end)

    def _end(self, both: int) -> None:
        """Trace the run that nothing joins any more, if there is one."""
        run = self._runs.pop(both, None)
        if run is None or not self._left:
            return
        self._left -= 1
        start, end = run
        self._trace(_RESPONSE, end - start, start, both)
        ours = self._ours
        if ours is not None and start < ours.start + ours.pages and ours.start < end:
            whole = (end - start, start)
            if start < ours.start:
                self._trace(_HOLE, ours.start - start, start, *whole, ours.start, both)
            low, high = max(start, ours.start), min(end, ours.start + ours.pages)
            new = self._new(ours, start, end, both)
            self._trace(_COMMON, high - low, low, *whole, ours.pages, ours.start, new, both)
            start = high
        if start < end:
            self._trace(_REMAINDER, end - start, start, both)

    def _new(self, ours: OurRange, start: int, end: int, both: int) -> int:
        """Count the pages of our range that were not named before, in this message or earlier."""
        named = ours.within(start, end)
        known = ours.given.intersect(named) if both else b""
        return self._rejected[both].add(without(joined(named), joined(known)).packed()).new
