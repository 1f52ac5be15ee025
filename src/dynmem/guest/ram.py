"""Guest-physical memory in the guest's own address space.

A stretch of addresses is reserved once, without committing memory, and every slot is mapped into it at base +
guest-physical address, so that one array covers RAM and all slots added later. Addresses between slots are
reserved but not mapped: touching one ends the process, as a machine check would end a guest.
"""

import ctypes
import os
from typing import Final

import numpy as np

from dynmem import mappings
from dynmem.errors import RemoteProtocolError
from dynmem.guest.pattern import PAGE_WORDS, Memory
from dynmem.limits import GUEST_ADDRESS_BYTES_MAX
from dynmem.units import GIB, PAGE_SHIFT, PAGE_SIZE

_ALIGNMENT: Final = (
    GIB  # alignment of address 0, so that slots of huge pages, up to 1 GiB, can be mapped in place
)
_RESERVED_BYTES: Final = GUEST_ADDRESS_BYTES_MAX + _ALIGNMENT


class GuestRam:
    """The slots of one guest, mapped shared."""

    def __init__(self) -> None:
        self._reserved = mappings.reserve(_RESERVED_BYTES)
        if self._reserved < 0:
            raise _cannot_map(_RESERVED_BYTES, -self._reserved)
        self._base = -(-self._reserved // _ALIGNMENT) * _ALIGNMENT
        self._slots: dict[int, tuple[int, int]] = {}
        everything = (ctypes.c_uint64 * (GUEST_ADDRESS_BYTES_MAX // 8)).from_address(self._base)
        words = np.frombuffer(memoryview(everything).cast("B"), np.uint64)
        self.memory: Memory = words.reshape(-1, PAGE_WORDS)

    def map_slot(self, slot: int, gpa: int, size: int, descriptor: int, offset: int) -> None:
        """Map `size` bytes of `descriptor` from `offset` on at `gpa`. Raises RemoteProtocolError."""
        if slot in self._slots:
            raise RemoteProtocolError(f"slot {slot} is mapped already")
        if not size or gpa % PAGE_SIZE or size % PAGE_SIZE or offset % PAGE_SIZE:
            raise RemoteProtocolError(f"slot {slot} is empty or not a number of whole pages")
        if gpa + size > GUEST_ADDRESS_BYTES_MAX:
            raise RemoteProtocolError(f"slot {slot} ends above {GUEST_ADDRESS_BYTES_MAX:#x}")
        if any(gpa < end and start < gpa + size for start, end in self._slots.values()):
            raise RemoteProtocolError(f"slot {slot} overlaps another one")
        if number := mappings.map_file(self._base + gpa, size, descriptor, offset):
            raise _cannot_map(size, number)
        self._slots[slot] = (gpa, gpa + size)

    def unmap_slot(self, slot: int) -> None:
        """Unmap a slot, none of which may be in use. Raises RemoteProtocolError if there is none."""
        self.pages(slot)
        start, end = self._slots.pop(slot)
        if number := mappings.clear(self._base + start, end - start):
            raise _cannot_map(end - start, number)

    def is_mapped(self, start: int, end: int) -> bool:
        """Return whether there is memory at every page from `start` up to `end`."""
        at = start << PAGE_SHIFT
        for first, last in sorted(self._slots.values()):
            if first <= at < last:
                at = last
        return at >= end << PAGE_SHIFT

    @property
    def mapped_pages(self) -> int:
        """Pages in all slots."""
        return sum(end - start for start, end in self._slots.values()) >> PAGE_SHIFT

    @property
    def slots(self) -> tuple[int, ...]:
        """The numbers of all slots."""
        return tuple(self._slots)

    def view(self, slot: int) -> memoryview:
        """Return the bytes of a slot."""
        start, end = self._slots[slot]
        return self.memory[start >> PAGE_SHIFT : end >> PAGE_SHIFT].data.cast("B")

    def pages(self, slot: int) -> range:
        """Return the guest page numbers of a slot. Raises RemoteProtocolError if there is none."""
        if slot not in self._slots:
            raise RemoteProtocolError(f"slot {slot} is not mapped")
        start, end = self._slots[slot]
        return range(start >> PAGE_SHIFT, end >> PAGE_SHIFT)

    def close(self) -> None:
        """Unmap everything; arrays and views of the memory must not be used after this."""
        self._slots.clear()
        mappings.release(self._reserved, _RESERVED_BYTES)


def _cannot_map(size: int, number: int) -> RemoteProtocolError:
    return RemoteProtocolError(f"{size} bytes of guest memory cannot be mapped: {os.strerror(number)}")
