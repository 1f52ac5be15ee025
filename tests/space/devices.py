"""Memory and devices for the tests of memory devices: as plain as the interface allows."""

from dataclasses import dataclass, field

from dynmem.space.address_space import AddressSpace, Section
from dynmem.space.memory_device import DeviceInfo, DeviceMemory, MemoryDevice
from dynmem.space.memslots import Memslots
from dynmem.space.region import Container, MemoryDeviceError, RamRegion, Region
from dynmem.units import GIB, PAGE_SIZE

BASE = 32 * GIB


@dataclass(frozen=True, eq=False)
class Memory:
    """Memory of which only the size counts; nothing is allocated."""

    size: int
    kind: str = "memory-backend-memfd"
    page_size: int = PAGE_SIZE


@dataclass
class Consumer:
    """Somebody with `slots_max` slots, of which others have taken `taken`."""

    slots_max: int
    taken: int = 0
    name: str = "somebody"

    @property
    def slots_free(self) -> int:
        return self.slots_max - self.taken

    def section_added(self, section: Section) -> None:
        self.taken += 1

    def section_removed(self, section: Section) -> None:
        self.taken -= 1


@dataclass
class Log:
    """What a listener hears, in order: "+" or "-" and the section."""

    heard: list[tuple[str, Section]] = field(default_factory=list)

    def section_added(self, section: Section) -> None:
        self.heard.append(("+", section))

    def section_removed(self, section: Section) -> None:
        self.heard.append(("-", section))

    def names(self) -> list[str]:
        return [f"{sign}{section.name}" for sign, section in self.heard]


class SlottedDevice(MemoryDevice):
    """A device with a container, `slots` pieces of which can be mapped; it may decide how many by itself."""

    def __init__(
        self,
        size: int,
        *,
        slots: int = 4,
        address: int = 0,
        identity: str | None = None,
        alignment: int = 1,
        is_automatic: bool = False,
        claimed: int | None = None,
        readonly: bool = False,
    ) -> None:
        self.backend = Memory(size)
        self.container = Container(identity or "slotted", size, PAGE_SIZE)
        self.slots = slots
        self._address = address
        self._identity = identity
        self._alignment = alignment
        self._is_automatic = is_automatic
        self._claimed = claimed
        self._readonly = readonly
        self.limits: list[int] = []

    @property
    def identity(self) -> str | None:
        return self._identity

    def get_addr(self) -> int:
        return self._address

    def set_addr(self, address: int) -> None:
        self._address = address

    def get_memory_region(self) -> Region:
        return self.container

    def get_plugged_size(self) -> int:
        return sum(region.size for _, region in self.container.subregions)

    def get_memslots(self) -> int:
        return self.slots if self._claimed is None else self._claimed

    def get_min_alignment(self) -> int:
        return self._alignment

    @property
    def decides_memslots(self) -> bool:
        return self._is_automatic

    def decide_memslots(self, limit: int) -> None:
        self.limits.append(limit)
        self.slots = limit

    def device_info(self) -> DeviceInfo:
        return DeviceInfo(kind="hv-balloon", identity=self._identity, address=self._address)

    def map_piece(self, number: int, size: int) -> None:
        """Map piece `number`, each of `size` bytes."""
        offset = number * size
        self.container.map(offset, RamRegion(f"piece {number}", self.backend, offset, size, self._readonly))


class EmptyDevice(MemoryDevice):
    """A device without memory, like hv-balloon without a memdev; `error` is why it could not have any."""

    def __init__(self, error: str = "") -> None:
        self._error = error

    @property
    def identity(self) -> str | None:
        return None

    def get_addr(self) -> int:
        return 0

    def set_addr(self, address: int) -> None:
        raise AssertionError("a device without memory gets no address")

    def get_memory_region(self) -> Region | None:
        if self._error:
            raise MemoryDeviceError(self._error)
        return None

    def device_info(self) -> DeviceInfo:
        return DeviceInfo(kind="hv-balloon")


class World:
    """An address space with device memory at BASE, whoever consumes slots, and what was warned of."""

    def __init__(
        self, size: int, *consumers: Consumer, capacity: int | None = None, base: int = BASE
    ) -> None:
        self.space = AddressSpace()
        self.log = Log()
        self.space.listen(self.log)
        self.memslots = Memslots()
        for consumer in consumers:
            self.memslots.add(consumer)
            self.space.listen(consumer)
        self.warnings: list[str] = []
        self.memory = DeviceMemory(
            self.space, base, size, self.memslots, self.warnings.append, capacity=capacity
        )

    def plug(self, device: MemoryDevice) -> None:
        self.memory.pre_plug(device)
        self.memory.plug(device)

    def state(self) -> tuple[object, ...]:
        """Everything that anybody can see."""
        return (
            self.memory.devices,
            [(device.get_addr(), device.get_plugged_size()) for device in self.memory.devices],
            self.memory.used_bytes,
            self.memory.slot_use,
            self.memory.reserved_memslots(),
            self.memory.has_decided_memslots,
            self.memory.infos(),
            self.memory.plugged_size(),
            self.space.sections,
            list(self.log.heard),
            [consumer.slots_free for consumer in self.memslots.consumers],
            list(self.warnings),
        )
