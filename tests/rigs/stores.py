"""What the two ends of the protocol keep their pages in, as plain sets."""

from tests.rigs.pages import packed, pages_of

from dynmem.dm import GivenUp
from dynmem.dm.blocks import Added
from dynmem.dm.stores import Reservation
from dynmem.limits import DM_RANGES_PER_MESSAGE
from dynmem.pages import ranges
from dynmem.pages.page_set import PageSet


class PlainStore:
    """The device's set of given-up pages, as a plain set; knows what may be given back."""

    def __init__(self, total_pages: int) -> None:
        self.total_pages = total_pages
        self.pages: set[int] = set()

    @property
    def removed_pages(self) -> int:
        return len(self.pages)

    def add_given(self, batch: bytes) -> GivenUp:
        new = duplicates = rejected = 0
        starts, counts = ranges.unpack(batch)
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            if count == 0 or start + count > self.total_pages:
                rejected += count
                continue
            for page in range(start, start + count):
                if page in self.pages:
                    duplicates += 1
                else:
                    new += 1
                    self.pages.add(page)
        return GivenUp(new, duplicates, rejected)

    def remove_for_guest(self, max_pages: int, max_ranges: int) -> bytes:
        taken = sorted(self.pages)[: min(max_pages, max_ranges)]
        self.pages.difference_update(taken)
        return packed(*((page, 1) for page in taken))

    def undo(self, batch: bytes) -> None:
        pages = pages_of(batch)
        assert self.pages.isdisjoint(pages)
        self.pages.update(pages)


class SetStore:
    """The same on a page set, as the device has it: for many pages."""

    def __init__(self, total_pages: int) -> None:
        self.pages = PageSet(total_pages)

    @property
    def removed_pages(self) -> int:
        return len(self.pages)

    def add_given(self, batch: bytes) -> GivenUp:
        added = self.pages.add(batch)
        return GivenUp(added.new, added.duplicates, added.rejected)

    def remove_for_guest(self, max_pages: int, max_ranges: int) -> bytes:
        return self.pages.take(max_pages, max_ranges)

    def undo(self, batch: bytes) -> None:
        assert self.pages.add(batch).duplicates == 0


class PlainSource:
    """Memory to add, as plain sets: `pages` of it from page `start` on, mapped when the test says so."""

    def __init__(self, start: int, pages: int, *, mapped: bool = True) -> None:
        self.most_pages = pages
        self.free = set(range(start, start + pages))
        self.reserved: list[int] = []
        self.given: set[int] = set()
        self.mapped = mapped
        self.without_memory = False  # of the host's: what is reserved cannot be had after all

    @property
    def added_pages(self) -> int:
        return len(self.given)

    def reserve(self, pages: int, alignment: int, end: int) -> Reservation | None:
        assert not self.reserved
        usable = {page for page in self.free if page < end}
        start = next((p for p in sorted(usable) if p % alignment == 0), None)
        if start is None:
            return None
        stop = start
        while stop - start < pages and all(p in usable for p in range(stop, stop + alignment)):
            stop += alignment
        self.reserved = list(range(start, stop))
        self.free.difference_update(self.reserved)
        return Reservation(start, stop - start) if stop > start else None

    def is_mapped(self) -> bool:
        return self.mapped

    def backed(self, reserved: Reservation) -> Reservation | None:
        if self.without_memory:
            self.cancel()
            return None
        return reserved

    def confirm(self, pages: int) -> None:
        taken, self.reserved = self.reserved[:pages], self.reserved[pages:]
        assert len(taken) == pages
        self.given.update(taken)

    def cancel(self) -> None:
        assert self.reserved
        self.free.update(self.reserved)
        self.reserved = []

    def remove(self, batch: bytes) -> GivenUp:
        pages = pages_of(batch)
        back = self.given.intersection(pages)
        self.given -= back
        self.free |= back
        return GivenUp(len(back), 0, len(pages) - len(back))


class PlainPages:
    """A guest's page allocator, as plain sets: free pages go in runs of `run` from the top."""

    def __init__(self, total_pages: int, *, used: int = 0, run: int = 1) -> None:
        self.free = set(range(used, total_pages))
        self.used = used
        self.run = run
        self.ballooned: set[int] = set()

    @property
    def available_pages(self) -> int:
        return len(self.free)

    @property
    def committed_pages(self) -> int:
        return self.used

    def allocate_for_balloon(self, pages: int) -> bytes:
        chosen = sorted(self.free, reverse=True)[: min(pages, DM_RANGES_PER_MESSAGE * self.run)]
        self.free.difference_update(chosen)
        self.ballooned.update(chosen)
        spans: list[tuple[int, int]] = []
        for page in reversed(chosen):
            if spans and sum(spans[-1]) == page and spans[-1][1] < self.run:
                spans[-1] = (spans[-1][0], spans[-1][1] + 1)
            else:
                spans.append((page, 1))
        kept = spans[:DM_RANGES_PER_MESSAGE]
        for start, count in spans[DM_RANGES_PER_MESSAGE:]:
            self.free.update(range(start, start + count))
            self.ballooned.difference_update(range(start, start + count))
        return packed(*kept)

    def free_from_balloon(self, batch: bytes) -> None:
        pages = pages_of(batch)
        assert self.ballooned.issuperset(pages)
        self.ballooned.difference_update(pages)
        self.free.update(pages)


class PlainBlocks:
    """A kernel that adds what it is told; the test says how often it is short, and where its barrier is."""

    def __init__(self, alignment: int, barrier: int) -> None:
        self.alignment_pages = alignment
        self.calls: list[tuple[int, int]] = []
        self.short: list[int] = []  # pages that the next attempts come to before resources run out
        self.barrier = barrier
        self.added: set[int] = set()
        self.flags: tuple[int, int] | None = None
        self.probes = 0  # attempts to add a page of the memory at boot
        self.unsupported = False

    def hot_add(self, start: int, pages: int) -> Added:
        if pages < self.alignment_pages and start < self.alignment_pages:
            self.probes += 1
            return Added(0, is_unsupported=self.unsupported)
        self.calls.append((start, pages))
        assert self.added.isdisjoint(range(start, start + pages))
        if self.unsupported:
            return Added(0, is_unsupported=True)
        if self.short:
            count = self.short.pop(0)
            self.added.update(range(start, start + count))
            return Added(count, is_short=True)
        count = max(0, min(pages, self.barrier - start))
        self.added.update(range(start, start + count))
        return Added(count)

    def hot_remove(self, pages: int, virtual_node: int, qos_flags: int) -> bytes:
        self.flags = (virtual_node, qos_flags)
        chosen = sorted(self.added)[: min(pages, 100)]
        self.added.difference_update(chosen)
        return packed(*((page, 1) for page in chosen))

    def put_back(self, batch: bytes) -> None:
        self.added.update(pages_of(batch))
