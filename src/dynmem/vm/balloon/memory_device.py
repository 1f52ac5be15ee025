"""hv-balloon's memory device: a container over its memory backend, with slots that are mapped on demand.

Source: QEMU hw/hyperv/hv-balloon.c.
"""

from collections.abc import Callable
from typing import Final

from dynmem.memory.backend import Backend
from dynmem.space.memory_device import DeviceInfo, MemoryDevice
from dynmem.space.region import Container, MemoryDeviceError, RamRegion, backend_alignment
from dynmem.trace_events import NO_TRACE, Trace
from dynmem.units import GIB, PAGE_SHIFT, PAGE_SIZE
from dynmem.vm.balloon.added_memory import AddedMemory

ALIGNMENT: Final = 32 * GIB  # the largest that a guest can ask of a hot add (four bits: 2^15 MiB)


def check_memdev(memdev: str, backend: Backend, *, is_busy: bool) -> None:
    """Refuse a backend that hv-balloon cannot have. Raises MemoryDeviceError, in QEMU's words."""
    if is_busy:
        raise MemoryDeviceError(f"'memdev' property specifies a busy memdev: {memdev}")
    if backend.size % PAGE_SIZE:
        raise MemoryDeviceError(f"'memdev' property memdev size has to be a multiple of {PAGE_SIZE:#x}")


def check_address(address: int) -> None:
    """Refuse an address for a device without a backend. Raises MemoryDeviceError, in QEMU's words."""
    if address:  # the words name the wrong property
        raise MemoryDeviceError("'memdev' property must not be set without a memdev")


class _Slots:
    """Puts slots of a backend into the device's container."""

    def __init__(self, container: Container, backend: Backend) -> None:
        self._container = container
        self._backend = backend

    def map_slot(self, slot: int, offset: int, size: int) -> None:
        self._container.map(offset, RamRegion(f"memslot-{slot}", self._backend, offset, size))

    def unmap_slot(self, slot: int, offset: int) -> None:
        self._container.unmap(offset)


class HotAddedMemory(AddedMemory, MemoryDevice):
    """The device, and the source of hot adds. It has its address (pre_plug) before a guest runs."""

    def __init__(
        self,
        identity: str | None,
        backend: Backend,
        *,
        address: int = 0,
        is_mapped: Callable[[int, int], bool],
        startup_last: bool = False,
        memdev: str | None = None,
        trace: Trace = NO_TRACE,
    ) -> None:
        """Begin with nothing added.

        Args:
            identity: the id of the hv-balloon device.
            backend: the memory, a multiple of 4 KiB.
            address: where it is to lie in guest memory, in bytes; 0: anywhere.
            is_mapped: whether the guest has every slot in so many bytes from an address on.
            startup_last: whether a reset keeps added memory, as far as the guest's size asks for it.
            memdev: the backend's path, for query-memory-devices.
            trace: where QEMU's trace events go.

        """
        self._container = Container("hv-balloon", backend.size, backend_alignment(backend))
        super().__init__(
            backend,
            slots=_Slots(self._container, backend),
            is_mapped=is_mapped,
            startup_last=startup_last,
            trace=trace,
        )
        self._identity = identity
        self._address = address
        self._memdev = memdev

    @property
    def identity(self) -> str | None:
        """The id of the hv-balloon device."""
        return self._identity

    def get_addr(self) -> int:
        """Where it lies, in bytes; 0: nowhere yet."""
        return self._address

    def set_addr(self, address: int) -> None:
        """Lie at `address`."""
        self._address = address
        self.memory.first_page = address >> PAGE_SHIFT

    def get_plugged_size(self) -> int:
        """Bytes that are added, given up or not."""
        return self.added_bytes

    def get_memory_region(self) -> Container:
        return self._container

    def get_memslots(self) -> int:
        """How many slots it may use."""
        return self.slots

    @property
    def decides_memslots(self) -> bool:
        return True

    def decide_memslots(self, limit: int) -> None:
        """Use as many slots as go, of 128 MiB or multiples."""
        self.cut_into(limit)

    def get_min_alignment(self) -> int:
        """So that whatever a guest asks of a hot add can be had."""
        return ALIGNMENT

    def device_info(self) -> DeviceInfo:
        """What query-memory-devices says of it."""
        return DeviceInfo(
            kind="hv-balloon",
            identity=self._identity,
            address=self._address,
            size=self.added_bytes,
            max_size=self.backend.size,
            memdev=self._memdev,
        )
