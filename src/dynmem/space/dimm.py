"""The memory module ``pc-dimm``: one backend as one piece of RAM, in one of the machine's DIMM slots.

The checks come in QEMU's order and words (hw/mem/pc-dimm.c).
"""

from collections.abc import Iterable
from typing import Final

from dynmem.space.memory_device import DeviceInfo, DeviceMemory, PlacedDevice
from dynmem.space.region import (
    MemoryDeviceError,
    NoFreeSlotError,
    NoSlotsError,
    RamRegion,
    Region,
    RegionBackend,
)

UNASSIGNED_SLOT: Final = -1  # the property's value when the user named no slot


class PcDimm(PlacedDevice):
    """A DIMM: all of its backend is RAM as soon as it is plugged."""

    def __init__(
        self,
        identity: str | None,
        backend: RegionBackend | None,
        *,
        addr: int = 0,
        slot: int | None = None,
        node: int = 0,
        memdev: str = "",
        hotplugged: bool = True,
    ) -> None:
        """Describe the module; nothing is checked before `pre_plug_dimm`.

        `addr` (bytes) 0 and `slot` None (or -1) mean any; `memdev` is the name of the backend, which is None
        if the request did not name one.
        """
        super().__init__(identity, addr)
        self._region = None if backend is None else RamRegion(identity or "pc-dimm", backend, 0, backend.size)
        self.backend: Final = backend
        self.slot: int | None = None if slot == UNASSIGNED_SLOT else slot
        self.node: Final = node
        self.memdev: Final = memdev
        self.hotplugged: Final = hotplugged

    def get_memory_region(self) -> Region:
        if self._region is None:
            raise MemoryDeviceError("'memdev' property must be set")
        return self._region

    def device_info(self) -> DeviceInfo:
        return DeviceInfo(
            kind="dimm",
            identity=self.identity,
            address=self.get_addr(),
            size=self.get_memory_region().size,
            memdev=f"/objects/{self.memdev}",
            slot=UNASSIGNED_SLOT if self.slot is None else self.slot,
            node=self.node,
            hotplugged=self.hotplugged,
            hotpluggable=True,
        )


def assign_slot(hint: int | None, slots: int, taken: Iterable[int]) -> int:
    """Return the DIMM slot for a module: `hint`, or if that is None the first free one of `slots`.

    Raises MemoryDeviceError in QEMU's words.
    """
    if slots <= 0:
        raise NoSlotsError("no slots where allocated, please specify the 'slots' option")
    busy = frozenset(taken)
    if hint is not None:
        if not 0 <= hint < slots:
            raise MemoryDeviceError(f"invalid slot number {hint}, valid range is [0-{slots - 1}]")
        if hint in busy:
            raise MemoryDeviceError(f"slot {hint} is busy")
        return hint
    for slot in range(slots):
        if slot not in busy:
            return slot
    raise NoFreeSlotError("no free slots available")


def pre_plug_dimm(
    memory: DeviceMemory,
    dimm: PcDimm,
    slots: int,
    *,
    is_busy: bool = False,
    legacy_align: int | None = None,
) -> None:
    """Check that `dimm` can be plugged, and set its slot (one of `slots`) and its address.

    `is_busy`: its backend is in use already. There is one NUMA node. Raises MemoryDeviceError; then nothing
    has changed.
    """
    taken = [device.slot for device in memory.devices if isinstance(device, PcDimm)]
    slot = assign_slot(dimm.slot, slots, (number for number in taken if number is not None))
    address = memory.place(dimm, legacy_align)
    if dimm.node:
        raise MemoryDeviceError(
            f"'DIMM property node has value {dimm.node}' which exceeds the number of numa nodes: 1"
        )
    if is_busy:
        raise MemoryDeviceError(f"can't use already busy memdev: {dimm.memdev}")
    if address is not None:
        dimm.set_addr(address)
    dimm.slot = slot
