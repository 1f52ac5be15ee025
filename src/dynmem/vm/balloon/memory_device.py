"""hv-balloon as a memory device: a container over its memory backend, with slots that are mapped on demand.

Source: QEMU hw/hyperv/hv-balloon.c.
"""

from collections.abc import Callable
from typing import Final

from dynmem.memory.backend import Backend
from dynmem.space.memory_device import DeviceInfo, PlacedDevice
from dynmem.space.region import Container, MemoryDeviceError, backend_alignment
from dynmem.trace_events import NO_TRACE, Trace
from dynmem.units import GIB, PAGE_SHIFT, PAGE_SIZE
from dynmem.vm.balloon.added_memory import AddedMemory

# The largest that a guest can ask of a hot add (four bits: 2^15 MiB), so that it can have any.
ALIGNMENT: Final = 32 * GIB


def check_memdev(memdev: str, backend: Backend, *, is_busy: bool) -> None:
    """Raise MemoryDeviceError, in QEMU's words, for a backend that hv-balloon cannot use."""
    if is_busy:
        raise MemoryDeviceError(f"'memdev' property specifies a busy memdev: {memdev}")
    if backend.size % PAGE_SIZE:
        raise MemoryDeviceError(f"'memdev' property memdev size has to be a multiple of {PAGE_SIZE:#x}")


def check_address(address: int) -> None:
    """Raise MemoryDeviceError, in QEMU's words, for an address without a backend."""
    if address:  # the words name the wrong property
        raise MemoryDeviceError("'memdev' property must not be set without a memdev")


class HotAddedMemory(AddedMemory, PlacedDevice):
    """The device, and the source of hot adds. It has its address (pre_plug) before a guest runs."""

    def __init__(
        self,
        identity: str | None,
        backend: Backend,
        *,
        address: int = 0,
        is_mapped: Callable[[int, int], bool],
        memdev: str | None = None,
        trace: Trace = NO_TRACE,
    ) -> None:
        """Begin with nothing added.

        Args:
            identity: The id of the hv-balloon device.
            backend: The memory, a multiple of 4 KiB.
            address: Where it lies in guest memory, in bytes; 0: anywhere.
            is_mapped: Whether the guest has acknowledged all memory of a size in bytes from an address on.
            memdev: The backend's path, for query-memory-devices.
            trace: Where QEMU's trace events go.
        """
        self._region = Container("hv-balloon", backend.size, backend_alignment(backend))
        AddedMemory.__init__(self, backend, self._region, is_mapped=is_mapped, trace=trace)
        PlacedDevice.__init__(self, identity, address)
        self._memdev = memdev

    def set_addr(self, address: int) -> None:
        super().set_addr(address)
        self.memory.move(address >> PAGE_SHIFT)

    def get_plugged_size(self) -> int:
        return self.added_bytes

    def get_memory_region(self) -> Container:
        return self._region

    def get_memslots(self) -> int:
        return self.slots

    @property
    def decides_memslots(self) -> bool:
        return True

    def decide_memslots(self, limit: int) -> None:
        # slots of 128 MiB or multiples, as many as the limit allows
        self.cut_into(limit)

    def get_min_alignment(self) -> int:
        return ALIGNMENT

    def device_info(self) -> DeviceInfo:
        return DeviceInfo(
            kind="hv-balloon",
            identity=self.identity,
            address=self.get_addr(),
            size=self.added_bytes,
            max_size=self.backend.size,
            memdev=self._memdev,
        )


class WithoutMemory(PlacedDevice):
    """hv-balloon without a backend: still a memory device, as in QEMU, listed with a size of 0."""

    def get_memory_region(self) -> None:
        return None

    def get_plugged_size(self) -> int:
        return 0

    def device_info(self) -> DeviceInfo:
        return DeviceInfo(kind="hv-balloon", identity=self.identity, max_size=0)
