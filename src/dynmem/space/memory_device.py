"""Memory devices, and the part of the guest's addresses where they are plugged.

The interface is QEMU's (include/hw/mem/memory-device.h), the checks and their texts those of
hw/mem/memory-device.c.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from dynmem.errors import LocalProtocolError
from dynmem.space.address_space import AddressSpace, Section
from dynmem.space.assign import Taken, assign_address
from dynmem.space.memslots import SAFE_MAX_MEMSLOTS, Memslots, SlotConsumer, SlotUse, decide_limit
from dynmem.space.region import Container, MemoryDeviceError, NoRoomError, Region


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """One device in query-memory-devices.

    Attributes:
        kind: "dimm" or "hv-balloon".
        identity: The name that the user gave it. This and the rest are left out if None.
        address: In bytes, as are the sizes.
        size: Bytes that the guest can use now.
        max_size: Bytes that there can be at most.
        memdev: The path of the backend, /objects/ID.
        slot: The DIMM slot.
        node: The NUMA node.
        hotplugged: Whether it was plugged after the start.
        hotpluggable: Whether it can be unplugged.
    """

    kind: str
    identity: str | None = None
    address: int | None = None
    size: int | None = None
    max_size: int | None = None
    memdev: str | None = None
    slot: int | None = None
    node: int | None = None
    hotplugged: bool | None = None
    hotpluggable: bool | None = None

    def to_json(self) -> dict[str, object]:
        """Return QEMU's MemoryDeviceInfo; hv-balloon's address is called ``memaddr`` there."""
        data = {
            "id": self.identity,
            "memaddr" if self.kind == "hv-balloon" else "addr": self.address,
            "size": self.size,
            "max-size": self.max_size,
            "slot": self.slot,
            "node": self.node,
            "memdev": self.memdev,
            "hotplugged": self.hotplugged,
            "hotpluggable": self.hotpluggable,
        }
        return {"type": self.kind, "data": {name: value for name, value in data.items() if value is not None}}


class MemoryDevice(Protocol):
    """A device with memory of its own, all of it in one region at one address.

    A subclass gets the defaults of the optional callbacks.
    """

    @property
    def identity(self) -> str | None:
        """The name that the user gave it."""

    def get_addr(self) -> int:
        """Return its guest address in bytes; 0 before one was given or assigned."""

    def set_addr(self, address: int) -> None:
        """Take this address (bytes): called by pre_plug once every check has passed."""

    def get_memory_region(self) -> Region | None:
        """Return the region, the same one each time; None for a device without memory.

        Raises MemoryDeviceError if the device is not ready to have one.
        """

    def device_info(self) -> DeviceInfo:
        """Return its entry in query-memory-devices."""

    def get_plugged_size(self) -> int:
        """Return the bytes that the guest can use now; not called before it is plugged."""
        region = self.get_memory_region()
        return 0 if region is None else region.size

    def get_memslots(self) -> int:
        """Return the most memory slots that the device will use, that is, regions mapped at once."""
        return 1

    def get_min_alignment(self) -> int:
        """Return the alignment in bytes that the device requires; the region's own counts as well."""
        return 1

    @property
    def decides_memslots(self) -> bool:
        """Whether the device decides on its slots in `decide_memslots`."""
        return False

    def decide_memslots(self, limit: int) -> None:
        """Decide on 1 to `limit` slots, which `get_memslots` then returns. Each pre_plug calls it again.

        Only called if the device `decides_memslots`.
        """
        raise LocalProtocolError(f"a device that uses {self.get_memslots()} slots cannot use {limit}")


class PlacedDevice(MemoryDevice):
    """A device that keeps its name, and the address (bytes) that it was made with or is given."""

    def __init__(self, identity: str | None, address: int = 0) -> None:
        self._identity = identity
        self._address = address

    @property
    def identity(self) -> str | None:
        return self._identity

    def get_addr(self) -> int:
        return self._address

    def set_addr(self, address: int) -> None:
        self._address = address


class _Plugged(NamedTuple):
    """A plugged device: its region, and the slots that it required then."""

    device: MemoryDevice
    region: Region | None
    slots: int

    @property
    def size(self) -> int:
        """Bytes of the region."""
        return 0 if self.region is None else self.region.size


class DeviceMemory:
    """The addresses for memory devices, `size` bytes from `base` on; none when `size` is 0."""

    def __init__(
        self,
        space: AddressSpace,
        base: int,
        size: int,
        memslots: Memslots,
        warn: Callable[[str], None],
        *,
        capacity: int | None = None,
    ) -> None:
        """Begin with nothing plugged; QEMU's warnings go to `warn`.

        `capacity` bounds the sizes of all devices together (maxmem minus boot memory) if `size` is larger,
        since alignment leaves gaps; without it `size` does. All in bytes.
        """
        self.base: Final = base
        self.size: Final = size
        self.capacity: Final = size if capacity is None else capacity
        self._space = space
        self._memslots = memslots
        self._warn = warn
        self._plugged: list[_Plugged] = []
        self._used = 0
        space.listen(self)

    @property
    def devices(self) -> tuple[MemoryDevice, ...]:
        """The plugged devices by address, those without memory first."""
        return tuple(
            sorted((plugged.device for plugged in self._plugged), key=lambda device: device.get_addr())
        )

    @property
    def used_bytes(self) -> int:
        """Bytes of the regions of all plugged devices."""
        return sum(plugged.size for plugged in self._plugged)

    @property
    def slot_use(self) -> SlotUse:
        """Memory slots used and required."""
        return SlotUse(self._used, sum(plugged.slots for plugged in self._plugged))

    def reserved_memslots(self) -> int:
        """Return the slots that plugged devices may still use, so others must not."""
        return self.slot_use.reserved

    @property
    def has_decided_memslots(self) -> bool:
        """Whether a plugged device has decided on more than one slot, by what was free then."""
        return any(plugged.device.decides_memslots and plugged.slots > 1 for plugged in self._plugged)

    def infos(self) -> list[DeviceInfo]:
        """Return the entries of query-memory-devices, by address."""
        return [device.device_info() for device in self.devices]

    def plugged_size(self) -> int:
        """Return the bytes of all devices that the guest can use now."""
        return sum(plugged.device.get_plugged_size() for plugged in self._plugged)

    def region_size(self, device: MemoryDevice) -> int:
        """Return the bytes of a device's region, 0 without one. Raises MemoryDeviceError as that does."""
        region = device.get_memory_region()
        return 0 if region is None else region.size

    def pre_plug(self, device: MemoryDevice, legacy_align: int | None = None) -> None:
        """Check that `device` can be plugged, and set its address.

        `legacy_align` (bytes) replaces the alignment that device and region require, as in old machine
        types. Raises MemoryDeviceError in QEMU's words; then nothing has changed.
        """
        address = self.place(device, legacy_align)
        if address is not None:
            device.set_addr(address)

    def place(self, device: MemoryDevice, legacy_align: int | None = None) -> int | None:
        """Make all checks and return the address (bytes) that `pre_plug` would set; None without memory."""
        region = device.get_memory_region()
        if region is None:
            return None
        if self.size == 0:
            raise MemoryDeviceError(
                "the configuration is not prepared for memory devices"
                " (e.g., for memory hotplug), consider specifying the maxmem option"
            )
        self._check_addable(device, region)
        if region.size % region.alignment:
            raise MemoryDeviceError(f"backend memory size must be multiple of {region.alignment:#x}")
        if legacy_align is None:
            alignment = max(device.get_min_alignment(), region.alignment)
        else:
            alignment = legacy_align
        if self.base % alignment:
            self._warn(
                f"the alignment ({alignment:#x}) exceeds the expected maximum alignment, memory will get"
                " fragmented and not all 'maxmem' might be usable for memory devices."
            )
        return assign_address(
            self.base,
            self.size,
            self._taken(),
            hint=device.get_addr(),
            size=region.size,
            alignment=alignment,
        )

    def plug(self, device: MemoryDevice) -> None:
        """Map the device's region at its address; `pre_plug` has succeeded just before.

        Raises LocalProtocolError if it is plugged already, MemoryDeviceError if its place is taken; then
        nothing has changed.
        """
        if self._find(device) is not None:
            raise LocalProtocolError("the memory device is plugged already")
        region = device.get_memory_region()
        if region is None:
            self._plugged.append(_Plugged(device, None, 0))
            return
        plugged = _Plugged(device, region, device.get_memslots())
        self._plugged.append(plugged)
        if isinstance(region, Container):
            region.slots_max = plugged.slots
        try:
            self._space.map(region, device.get_addr())
        except MemoryDeviceError:
            self._forget(plugged)
            raise

    def unplug(self, device: MemoryDevice) -> None:
        """Unmap the device's region; its address and its slots are free again.

        Raises LocalProtocolError if the device is not plugged.
        """
        plugged = self._find(device)
        if plugged is None:
            raise LocalProtocolError("the memory device is not plugged")
        if plugged.region is not None:
            self._space.unmap(plugged.region)
        self._forget(plugged)

    def check_consumer(self, consumer: SlotConsumer) -> None:
        """Raise MemoryDeviceError, in QEMU's words, if `consumer` comes too late to get enough slots.

        For a back end that maps guest memory and is added while devices are plugged: it would use a slot for
        every section.
        """
        if self.has_decided_memslots and consumer.slots_max < SAFE_MAX_MEMSLOTS:
            raise MemoryDeviceError(
                "some memory device (like virtio-mem) decided how many memory slots to use based on the"
                " overall number of memory slots; this vhost backend would further restricts the overall"
                " number of memory slots"
            )
        used, reserved = len(self._space.sections), self.reserved_memslots()
        if used + reserved > consumer.slots_max:
            raise MemoryDeviceError(
                f"vhost backend memory slots limit ({consumer.slots_max}) is less than current number of used"
                f" ({used}) and reserved ({reserved}) memory slots for memory devices."
            )

    def section_added(self, section: Section) -> None:
        if self._is_inside(section):
            self._count_used(1)

    def section_removed(self, section: Section) -> None:
        if self._is_inside(section):
            self._count_used(-1)

    def _count_used(self, change: int) -> None:
        """Count a slot that memory takes among the addresses for memory devices, of a device or not."""
        self._used += change
        if self._used > self.slot_use.required:
            self._warn("Memory devices use more memory slots than indicated as required.")

    def _check_addable(self, device: MemoryDevice, region: Region) -> None:
        """Let the device decide on slots, then raise MemoryDeviceError if slots or bytes are too few."""
        if device.decides_memslots:
            limit = decide_limit(
                self._memslots,
                self.slot_use,
                size=region.size,
                space=self.capacity,
                space_used=self.used_bytes,
            )
            device.decide_memslots(limit)
        self._memslots.check_free(device.get_memslots() + self.reserved_memslots())
        if self.used_bytes + region.size > self.capacity:
            raise NoRoomError(
                f"not enough space, currently {self.used_bytes:#x} in use of total space for memory devices"
                f" {self.capacity:#x}"
            )

    def _find(self, device: MemoryDevice) -> _Plugged | None:
        """Return the entry of a plugged device."""
        return next((plugged for plugged in self._plugged if plugged.device is device), None)

    def _forget(self, plugged: _Plugged) -> None:
        """Drop the entry of a device whose region is not mapped any more."""
        self._plugged.remove(plugged)
        if isinstance(plugged.region, Container):
            plugged.region.slots_max = None

    def _taken(self) -> list[Taken]:
        """Return what the plugged devices occupy, by address."""
        return sorted(
            Taken(plugged.device.get_addr(), plugged.size, plugged.device.identity)
            for plugged in self._plugged
            if plugged.size
        )

    def _is_inside(self, section: Section) -> bool:
        return section.address < self.base + self.size and self.base < section.address + section.size
