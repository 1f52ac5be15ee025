"""Guest-physical memory in the guest's own address space.

A stretch of addresses is reserved once, without committing memory, and every slot is mapped into it at base +
guest-physical address, so that one array covers RAM and all slots added later. Addresses between slots are
reserved but not mapped: touching one ends the process, as a machine check would end a guest.
"""

import ctypes
import mmap
import os
from typing import Final

import numpy as np

from dynmem.errors import RemoteProtocolError
from dynmem.guest.pattern import PAGE_WORDS, Memory
from dynmem.limits import GUEST_ADDRESS_BYTES_MAX
from dynmem.units import GIB, PAGE_SHIFT, PAGE_SIZE

_PROT_NONE: Final = 0
_MAP_FIXED: Final = 0x10
_MAP_NORESERVE: Final = 0x4000
_NOTHING: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE  # addresses without memory
_ALIGNMENT: Final = (
    GIB  # alignment of address 0, so that slots of huge pages, up to 1 GiB, can be mapped in place
)
_MAP_FAILED: Final = ctypes.c_void_p(-1).value

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.restype = ctypes.c_int
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class GuestRam:
    """The slots of one guest, mapped shared."""

    def __init__(self) -> None:
        self._reserved = _map(None, GUEST_ADDRESS_BYTES_MAX + _ALIGNMENT, _PROT_NONE, _NOTHING, -1, 0)
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
        _map(
            self._base + gpa,
            size,
            mmap.PROT_READ | mmap.PROT_WRITE,
            mmap.MAP_SHARED | _MAP_FIXED,
            descriptor,
            offset,
        )
        self._slots[slot] = (gpa, gpa + size)

    def unmap_slot(self, slot: int) -> None:
        """Unmap a slot, none of which may be in use. Raises RemoteProtocolError if there is none."""
        self.pages(slot)
        start, end = self._slots.pop(slot)
        _map(self._base + start, end - start, _PROT_NONE, _NOTHING | _MAP_FIXED, -1, 0)

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
        _libc.munmap(self._reserved, GUEST_ADDRESS_BYTES_MAX + _ALIGNMENT)


def _map(address: int | None, size: int, protection: int, flags: int, descriptor: int, offset: int) -> int:
    mapped = _libc.mmap(address, size, protection, flags, descriptor, offset)
    if mapped == _MAP_FAILED or mapped is None:
        number = ctypes.get_errno()
        raise RemoteProtocolError(f"{size} bytes of guest memory cannot be mapped: {os.strerror(number)}")
    return int(mapped)
