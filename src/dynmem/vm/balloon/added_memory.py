"""Memory beyond the boot size, added to the guest by the protocol: the `HotAddSource` of the host's end.

The memory is cut into slots; a slot is mapped while anything of it is added or about to be. What the guest
has of the memory is an `AddedPages`, what it has given up of that a `Memory`, as with all other memory.

Source: QEMU hw/hyperv/hv-balloon.c and hv-balloon-our_range_memslots.c. There memory goes only at a
reset; here a guest that can may also remove it permanently.
"""

import logging
from collections.abc import Callable
from typing import Final

import numpy as np

from dynmem import trace_events
from dynmem.dm.stores import GivenUp, Reservation
from dynmem.memory.backend import Backend
from dynmem.pages import ranges as page_ranges
from dynmem.pages.algebra import Ranges, joined, within, without
from dynmem.space.region import Container, MemoryDeviceError, RamRegion
from dynmem.trace_events import NO_TRACE, Trace
from dynmem.units import MIB, PAGE_SHIFT
from dynmem.vm.balloon.accounts import Memory
from dynmem.vm.balloon.added_pages import AddedPages
from dynmem.vm.balloon.given_trace import OurRange

_LOG: Final = logging.getLogger("dynmem.vm")
SLOT_ALIGNMENT: Final = 128 * MIB  # of slots' sizes: HV_BALLOON_HA_MEMSLOT_SIZE_ALIGN


class AddedMemory:
    """Memory of one backend, as a source of hot adds (`HotAddSource`).

    Attributes:
        memory: What the guest has given up of it.

    """

    def __init__(
        self,
        backend: Backend,
        container: Container,
        *,
        is_mapped: Callable[[int, int], bool],
        trace: Trace = NO_TRACE,
    ) -> None:
        """Begin with nothing added and one slot.

        Args:
            backend: The memory, a multiple of 4 KiB.
            container: Where its slots are mapped, at their offsets in the backend.
            is_mapped: Whether the guest has acknowledged all memory of a size in bytes from an address on.
            trace: Where QEMU's trace events go.
        """
        self.backend: Final = backend
        self._container = container
        self._is_mapped = is_mapped
        self._trace = trace
        pages = backend.size >> PAGE_SHIFT
        self._added = AddedPages(pages)
        self.memory: Final = Memory.of([(0, backend.size)], backend, present=self._added.present)
        self._slot_pages = pages
        self.slots: int = 1
        self._mapped: set[int] = set()
        self._alignment = 1  # of the reservation, in pages
        self._reserved: tuple[int, int] | None = None  # start and end, pages of this memory
        self._is_our_range = False  # something was to be added since the last reset

    def cut_into(self, limit: int) -> None:
        """Use at most `limit` slots, of equal size except the last; nothing is mapped yet.

        Each has a file of its own, if that can be. Raises BackendError.
        """
        size = -(-self.backend.size // limit)
        size += -size % SLOT_ALIGNMENT
        self.slots = -(-self.backend.size // size)
        self._slot_pages = min(size, self.backend.size) >> PAGE_SHIFT
        self.backend.cut(self._slot_pages << PAGE_SHIFT)

    @property
    def added_bytes(self) -> int:
        """Bytes that the guest has of it, given up or not."""
        return len(self._added) << PAGE_SHIFT

    @property
    def our_range(self) -> OurRange | None:
        """What the trace calls our range, once there is one."""
        if not self._is_our_range:
            return None
        first = self.memory.first_page
        spans = (self._slot_span(slot) for slot in sorted(self._mapped))
        mapped = joined(b"".join(page_ranges.span(first + start, end - start) for start, end in spans))
        return OurRange(first, self.memory.pages, mapped, self.memory.given)

    # the source of hot adds

    @property
    def added_pages(self) -> int:
        """Pages that the guest has of it, given up or not."""
        return len(self._added)

    @property
    def most_pages(self) -> int:
        return self.memory.pages

    def reserve(self, pages: int, alignment: int, end: int) -> Reservation | None:
        """Reserve memory and map the slots that it lies in."""
        first = self.memory.first_page
        if not self._is_our_range:
            self._is_our_range = True
            self._trace(trace_events.HV_BALLOON_OUR_RANGE_ADD, self.memory.pages, first)
        found = self._added.find(pages, alignment, first, end - first) if pages else None
        if found is None:
            return None
        start, pages = found
        self._alignment = alignment
        self._reserved = (start, start + pages)
        try:
            self._follow()
        except MemoryDeviceError as error:
            _LOG.warning("no memory can be added to the guest: %s", error)
            self.cancel()
            return None
        return Reservation(first + start, pages)

    def is_mapped(self) -> bool:
        """Return whether the guest has mapped the slots, and all that it removed has been discarded."""
        assert self._reserved is not None
        start, end = self._reserved
        if self.memory.is_freeing:
            return False
        return self._is_mapped(self.memory.first_page + start << PAGE_SHIFT, end - start << PAGE_SHIFT)

    def backed(self, reserved: Reservation) -> Reservation | None:
        """Reduce the reservation to the longest piece that the host has memory for."""
        assert self._reserved is not None
        start, end = self._reserved
        refused = self.backend.reserve(page_ranges.span(start, end - start))
        if not refused:
            return reserved
        self._reserved = self._longest(start, end, refused)
        had = 0 if self._reserved is None else self._reserved[1] - self._reserved[0]
        _LOG.warning(
            "the host has no huge pages for %d of the %d bytes to add to the guest",
            end - start - had << PAGE_SHIFT,
            end - start << PAGE_SHIFT,
        )
        self._follow()
        if self._reserved is None:
            return None
        start, end = self._reserved
        return Reservation(self.memory.first_page + start, end - start)

    def _longest(self, start: int, end: int, refused: bytes) -> tuple[int, int] | None:
        """Return the longest aligned piece, start and end, of [start, end) without what is refused.

        [8,24), alignment 4, refused [13,14)   ->  left [8,13) [14,24), from 8 on [0,5) [6,16)
        rounded inwards to blocks of 4: [0,1) [2,4)   ->  the second is the longest: 8 + 2 * 4 to 8 + 4 * 4
        """
        left = without(Ranges.span(start, end), joined(refused))
        low = -(-(left.starts.astype(np.int64) - start) // self._alignment)
        high = (left.ends.astype(np.int64) - start) // self._alignment
        if not low.size or (high - low).max() <= 0:
            return None
        at = int((high - low).argmax())
        return start + int(low[at]) * self._alignment, start + int(high[at]) * self._alignment

    def confirm(self, pages: int) -> None:
        """Add the first `pages` pages of the reservation to the guest."""
        assert self._reserved is not None
        start, end = self._reserved
        self._added.add(start, pages)
        self._reserved = (start + pages, end) if start + pages < end else None

    def cancel(self) -> None:
        """Free what is left of the reservation."""
        self._reserved = None
        self._follow()

    def remove(self, ranges: bytes) -> GivenUp:
        """Remove added pages permanently and have them discarded, in O(bytes).

        If the message names a page that is in the balloon, or was removed before, all of it is rejected.
        """
        named = page_ranges.page_count(ranges)
        distinct = joined(ranges)
        duplicates, pages = named - distinct.page_count, distinct.page_count
        first = self.memory.first_page
        here = within(distinct, Ranges.span(first, first + self.memory.pages))
        own = self._added.present(here.relative_to(first))
        if own.is_empty or self.memory.given.overlaps(own.packed()):
            return GivenUp(0, duplicates, pages)
        if self._added.remove(own):
            self._follow()
        page_pages = self.backend.page_size >> PAGE_SHIFT
        self.memory.free(own.packed() if page_pages == 1 else self._added.unused(own, page_pages))
        return GivenUp(own.page_count, duplicates, pages - own.page_count)

    # the power cycle

    def power_cycle(self, wanted_pages: int) -> bytes:
        """Begin again without a guest, and return what is to be discarded.

        Slots in use stay, added whole, until they hold `wanted_pages`: the next guest finds them as memory at
        its start. With 0 none stays.
        """
        kept = self._slots_for(wanted_pages)
        backed = [slot for slot in kept if self._is_backed(slot)]
        if backed != kept:
            _LOG.warning(
                "%d of %d slots are dropped at the reset: the host has no huge pages for them",
                len(kept) - len(backed),
                len(kept),
            )
        kept = backed
        self._added.clear()
        self._reserved = None
        for slot in kept:
            start, end = self._slot_span(slot)
            self._added.add(start, end - start)
        self._is_our_range = bool(kept)
        self._follow()
        rest = (self._slot_span(slot) for slot in range(self.slots) if slot not in kept)
        return page_ranges.merge(b"".join(page_ranges.span(start, end - start) for start, end in rest))

    def _slots_for(self, pages: int) -> list[int]:
        """Return the lowest slots in use that together hold `pages`."""
        chosen = []
        for slot in sorted(self._mapped):
            if pages <= 0:
                break
            start, end = self._slot_span(slot)
            pages -= end - start
            chosen.append(slot)
        return chosen

    # slots

    def _slot_span(self, slot: int) -> tuple[int, int]:
        """Return start and end of a slot, in pages of this memory."""
        start = slot * self._slot_pages
        return start, min(start + self._slot_pages, self.memory.pages)

    def _is_backed(self, slot: int) -> bool:
        """Return whether the host has memory for all of a slot."""
        start, end = self._slot_span(slot)
        return not self.backend.reserve(page_ranges.span(start, end - start), in_parts=False)

    def _is_used(self, slot: int) -> bool:
        """Return whether anything of a slot is added, or about to be."""
        start, end = self._slot_span(slot)
        if self._reserved is not None and self._reserved[0] < end and start < self._reserved[1]:
            return True
        return self._added.overlaps(start, end)

    def _follow(self) -> None:
        """Map the slots that are in use and unmap the others. Raises MemoryDeviceError."""
        used = {slot for slot in range(self.slots) if self._is_used(slot)}
        for slot in sorted(self._mapped - used):
            start, _ = self._slot_span(slot)
            self._trace(trace_events.HV_BALLOON_UNMAP_SLOT, slot, self.slots, start << PAGE_SHIFT)
            self._container.unmap(start << PAGE_SHIFT)
            self._mapped.discard(slot)
        for slot in sorted(used - self._mapped):
            if not self._is_backed(slot):  # nor could the guest map it
                raise MemoryDeviceError("the host has no huge pages for it")
            start, end = (page << PAGE_SHIFT for page in self._slot_span(slot))
            self._container.map(start, RamRegion(f"memslot-{slot}", self.backend, start, end - start))
            self._trace(trace_events.HV_BALLOON_MAP_SLOT, slot, self.slots, start)
            self._mapped.add(slot)
