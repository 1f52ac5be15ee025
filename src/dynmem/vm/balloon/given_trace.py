"""QEMU's trace events for what a guest gives up, run by run, as its hv-balloon.c emits them.

The ranges of a message are taken in the order in which they came. What is guest memory (`both` 1) and what is
not (`both` 0) are followed separately; a piece that touches the run before it joins it. A run that reaches
into the memory that hv-balloon adds ("our range", all of it, added yet or not) is reported in parts: what
lies before our range, what lies in it, what remains behind. Any other run is all remainder.

QEMU calls what the guest gives up "removed". To QEMU all of our range that is mapped is memory, added yet or
not, and it also counts as removed what is no memory at all. Our accounts reject both, so the trace remembers
apart from them what QEMU would count in our range. (QEMU also returns that to the guest, and ours does not;
and of a range that begins outside memory and ends inside, QEMU counts other pages.)
"""

import bisect
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from dynmem import trace_events
from dynmem.dm.stores import GivenUp
from dynmem.limits import VM_REMOVED_RUNS_TRACED_MAX
from dynmem.pages import ranges as page_ranges
from dynmem.pages.algebra import Ranges, joined, within, without
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
        self._counted: dict[int, PageSet] = {}  # what QEMU counts of our range, by `both`

    def add_given(self, ranges: bytes) -> GivenUp:
        if any(self._trace.on(event) for event in (_RESPONSE, _REMAINDER, _HOLE, _COMMON)):
            ours = self._our_range()
            if ours is not None and not self._counted:
                self._counted = {both: PageSet(ours.pages) for both in (0, 1)}
            _Message(self._trace, self._borders(ours), ours, self._counted).follow(ranges)
        return super().add_given(ranges)

    def remove_for_guest(self, max_pages: int, max_ranges: int) -> bytes:
        ranges = super().remove_for_guest(max_pages, max_ranges)
        if self._counted:
            self._counted[1].drop(self._ours_of(ranges))
        return ranges

    def undo(self, ranges: bytes) -> None:
        super().undo(ranges)
        if self._counted:
            self._counted[1].add(self._ours_of(ranges))

    def _ours_of(self, ranges: bytes) -> bytes:
        """Return what of the ranges lies in our range, counted from its first page."""
        ours = self._our_range()
        assert ours is not None
        mine = within(joined(ranges), Ranges.span(ours.start, ours.start + ours.pages))
        return mine.relative_to(ours.start).packed()

    def clear(self) -> None:
        self._counted = {}
        super().clear()

    def _borders(self, ours: OurRange | None) -> list[int]:
        """Return where memory begins and ends, in turn. Of our range it is what is mapped."""
        spans = (page_ranges.span(piece.first_page, piece.pages) for piece, _ in self._pieces)
        memory = joined(b"".join(spans))
        if ours is not None:
            rest = without(memory, Ranges.span(ours.start, ours.start + ours.pages))
            memory = joined(rest.packed() + ours.mapped.packed())
        return [
            page for pair in zip(memory.starts.tolist(), memory.ends.tolist(), strict=True) for page in pair
        ]


class _Message:
    """One message: the run of each kind that the next piece may join."""

    def __init__(
        self, trace: Trace, borders: list[int], ours: OurRange | None, counted: dict[int, PageSet]
    ) -> None:
        self._trace = trace
        self._borders = borders
        self._ours = ours
        self._counted = counted
        self._runs: dict[int, tuple[int, int]] = {}  # start and end, by `both`
        self._left = VM_REMOVED_RUNS_TRACED_MAX

    def follow(self, ranges: bytes) -> None:
        """Trace each run once nothing can join it any more."""
        for start, count in zip(*(part.tolist() for part in page_ranges.unpack(ranges)), strict=True):
            for piece_start, piece_end, both in self._pieces(start, start + count):
                if not self._left:
                    return
                self._add(piece_start, piece_end, both)
        for both in (1, 0):
            self._end(both)

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Cut a range at the borders of guest memory: start, end and `both` of each piece, ascending.

        borders 0 8 12 16, [6,20)   ->  6 lies behind one border, so in memory until the next, 8
        [6,8) both 1, [8,12) both 0, [12,16) both 1, [16,20) both 0
        """
        at = bisect.bisect_right(self._borders, start)
        while start < end:
            stop = min([end, *self._borders[at : at + 1]])
            yield start, stop, at & 1
            start, at = stop, at + 1

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
        return self._counted[both].add(ours.within(start, end)).new
