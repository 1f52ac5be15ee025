"""Memory regions: a part of a backend as RAM, and the container whose slots are mapped on demand.

A region says what the guest would see; the address space says where.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from dynmem.errors import DynmemError
from dynmem.units import MIB, PAGE_SIZE

ANONYMOUS_ALIGNMENT: Final = 2 * MIB  # of memory-backend-ram on x86, shared or not, as in QEMU


class MemoryDeviceError(DynmemError):
    """Memory cannot be placed, mapped or plugged; the text is QEMU's where QEMU has one."""


class NoRoomError(MemoryDeviceError):
    """The devices together would be larger than maxmem allows."""


class NoSlotsError(MemoryDeviceError):
    """The machine has no DIMM slots at all."""


class NoFreeSlotError(MemoryDeviceError):
    """Every DIMM slot has a module."""


class RegionBackend(Protocol):
    """What a region needs to know about the memory behind it."""

    @property
    def kind(self) -> str:
        """The backend's type, like ``memory-backend-ram``."""

    @property
    def size(self) -> int:
        """Bytes of all of it."""

    @property
    def page_size(self) -> int:
        """Bytes of one host page of it."""


def backend_alignment(backend: RegionBackend) -> int:
    """Return the alignment in bytes of a region of `backend` (QEMU's memory_region_get_alignment)."""
    if backend.kind == "memory-backend-ram":
        return max(ANONYMOUS_ALIGNMENT, backend.page_size)
    return backend.page_size


class RamRegion:
    """`size` bytes of a backend from `offset` on, as RAM, or as ROM when it is `readonly`."""

    def __init__(
        self, name: str, backend: RegionBackend, offset: int, size: int, readonly: bool = False
    ) -> None:
        """Describe the part, in bytes. Raises MemoryDeviceError unless it lies in the backend."""
        if offset % PAGE_SIZE or size % PAGE_SIZE or offset < 0 or size <= 0:
            raise MemoryDeviceError(
                f"region {name!r} must be whole pages of {PAGE_SIZE} bytes, not {size:#x} at {offset:#x}"
            )
        if offset + size > backend.size:
            raise MemoryDeviceError(
                f"region {name!r} ends at {offset + size:#x}, its backend at {backend.size:#x}"
            )
        self.name: Final = name
        self.backend: Final = backend
        self.offset: Final = offset
        self.size: Final = size
        self.readonly: Final = readonly
        self.is_mapped = False  # in a container or an address space: one place at a time

    @property
    def alignment(self) -> int:
        """Bytes that its address and its size should be a multiple of."""
        return backend_alignment(self.backend)

    def stretches(self) -> Iterable[tuple[int, "RamRegion"]]:
        """Return all RAM in the region: the offset in it, and the region that is there."""
        return ((0, self),)


class Container:
    """Addresses in which RAM regions come and go; the rest is empty.

    It holds only RAM or only ROM at a time. While the container is plugged it holds at most as many regions
    as its device has memory slots (QEMU include/hw/mem/memory-device.h).
    """

    def __init__(self, name: str, size: int, alignment: int) -> None:
        """Make an empty container of `size` bytes. Raises MemoryDeviceError unless both are whole pages."""
        if size <= 0 or size % PAGE_SIZE:
            raise MemoryDeviceError(f"container {name!r} must be whole pages, not {size:#x} bytes")
        if alignment < PAGE_SIZE or alignment & (alignment - 1):
            raise MemoryDeviceError(
                f"the alignment of container {name!r} must be a power of two, not {alignment:#x}"
            )
        self.name: Final = name
        self.size: Final = size
        self.alignment: Final = alignment
        self.is_mapped = False
        self.slots_max: int | None = None  # memory slots of its device, while it is plugged
        self.on_change: Callable[[], None] | None = None  # of the address space that shows it
        self._subregions: dict[int, RamRegion] = {}

    @property
    def subregions(self) -> tuple[tuple[int, RamRegion], ...]:
        """The mapped regions as (offset in bytes, region), by offset."""
        return tuple(sorted(self._subregions.items(), key=lambda item: item[0]))

    def stretches(self) -> Iterable[tuple[int, RamRegion]]:
        """Return all RAM in the container: the same as `subregions`."""
        return self.subregions

    def map(self, offset: int, region: RamRegion) -> None:
        """Map `region` at `offset` (bytes). Raises MemoryDeviceError; then nothing has changed."""
        self._check(offset, region)
        self._subregions[offset] = region
        region.is_mapped = True
        if self.on_change is not None:
            self.on_change()

    def unmap(self, offset: int) -> RamRegion:
        """Unmap the region at `offset` and return it. Raises MemoryDeviceError if none begins there."""
        region = self._subregions.pop(offset, None)
        if region is None:
            raise MemoryDeviceError(f"no region is mapped at {offset:#x} of {self.name!r}")
        region.is_mapped = False
        if self.on_change is not None:
            self.on_change()
        return region

    def restore(self, subregions: tuple[tuple[int, RamRegion], ...]) -> None:
        """Map exactly what `subregions` was earlier, for an address space that undoes a transaction."""
        for region in self._subregions.values():
            region.is_mapped = False
        self._subregions = dict(subregions)
        for region in self._subregions.values():
            region.is_mapped = True

    def _check(self, offset: int, region: RamRegion) -> None:
        """Raise MemoryDeviceError unless `region` may be mapped at `offset`."""
        if not isinstance(region, RamRegion):
            raise MemoryDeviceError(f"only RAM can be mapped into {self.name!r}, not {type(region).__name__}")
        if region.is_mapped:
            raise MemoryDeviceError(f"region {region.name!r} is mapped already")
        if offset < 0 or offset % PAGE_SIZE or offset + region.size > self.size:
            raise MemoryDeviceError(
                f"region {region.name!r} ({region.size:#x} bytes) does not fit at {offset:#x} of {self.name}"
            )
        if self.slots_max is not None and len(self._subregions) >= self.slots_max:
            raise MemoryDeviceError(f"{self.name!r} may use no more than {self.slots_max} memory slots")
        for other_offset, other in self._subregions.items():
            if other.readonly != region.readonly:
                raise MemoryDeviceError(f"{self.name!r} can hold RAM or ROM, not both")
            if offset < other_offset + other.size and other_offset < offset + region.size:
                raise MemoryDeviceError(
                    f"region {region.name!r} at {offset:#x} would overlap {other.name!r} at {other_offset:#x}"
                )


Region = RamRegion | Container  # what an address space maps
