"""QEMU's trace events for what a guest gives up, run by run, as its hv-balloon.c emits them.

The ranges of a message are taken in the order in which they came. What is guest memory (`both` 1) and what is
not (`both` 0) are followed separately; a piece that touches the run before it joins it. A run that reaches
into the memory that hv-balloon adds ("our range", all of it, added yet or not) is reported in parts: what
lies before our range, what lies in it, what remains behind. Any other run is all remainder.

QEMU calls what the guest gives up "removed". Memory of our range that is mapped and not added is not guest
memory here, and is never counted as removed; to QEMU it is memory like any other.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from dynmem import trace_events
from dynmem.dm.stores import GivenUp
from dynmem.limits import VM_REMOVED_RUNS_TRACED_MAX
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
    """The memory that hv-balloon adds.

    Attributes:
        start: Its first page.
        pages: All its pages, added or not.
        given: Those that the guest has given up, counted from its first page.
    """

    start: int
    pages: int
    given: PageSet


class TracedPages(GuestPages):
    """The accounts of a device, and a trace of the ranges that a guest's message adds to them."""

    def __init__(
        self, now_ns: Callable[[], int], trace: Trace, our_range: Callable[[], OurRange | None]
    ) -> None:
        super().__init__(now_ns)
        self._trace = trace
        self._our_range = our_range

    def add_given(self, ranges: bytes) -> GivenUp:
        if any(self._trace.on(event) for event in (_RESPONSE, _REMAINDER, _HOLE, _COMMON)):
            _Message(self._trace, self, self._our_range()).follow(ranges)
        return super().add_given(ranges)


class _Message:
    """One message: the run of each kind that the next piece may join, and what it has named of our range."""

    def __init__(self, trace: Trace, pages: GuestPages, ours: OurRange | None) -> None:
        self._trace = trace
        self._pages = pages
        self._ours = ours
        self._runs: dict[int, tuple[int, int]] = {}  # start and end, by `both`
        self._named = PageSet(ours.pages) if ours is not None else None
        self._left = VM_REMOVED_RUNS_TRACED_MAX

    def follow(self, ranges: bytes) -> None:
        """Trace each run once nothing can join it any more."""
        for start, count in zip(*(part.tolist() for part in page_ranges.unpack(ranges)), strict=True):
            if not self._left:
                return
            for piece_start, piece_end, both in self._pieces(start, count):
                self._add(piece_start, piece_end, both)
        for both in (1, 0):
            self._end(both)

    def _pieces(self, start: int, count: int) -> list[tuple[int, int, int]]:
        """Cut a range at the borders of guest memory: start, end and `both` of each piece, ascending."""
        named = joined(page_ranges.span(start, count))
        parts = (moved(part.ranges.packed(), part.memory.first_page) for part in self._pages.parts(named))
        inside = joined(b"".join(parts))
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
            new = self._new(ours, low, high) if both else 0
            self._trace(_COMMON, high - low, low, *whole, ours.pages, ours.start, new, both)
            start = high
        if start < end:
            self._trace(_REMAINDER, end - start, start, both)

    def _new(self, ours: OurRange, low: int, high: int) -> int:
        """Count the pages of our range that were not given up before, in this message or earlier."""
        assert self._named is not None
        named = page_ranges.span(low - ours.start, high - low)
        fresh = without(joined(named), joined(ours.given.intersect(named)))
        return self._named.add(fresh.packed()).new
