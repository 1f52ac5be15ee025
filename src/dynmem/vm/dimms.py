"""DIMMs of one machine: plugged at the start or by device_add, unplugged when the guest releases them.

The guest is asked to release a DIMM and answers when it likes, or never. Until then the DIMM stays as it is.
A guest with ACPI may also eject one by itself.

Source of the status codes: ACPI specification 6.3.5 (_OST).
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from dynmem.errors import DynmemError
from dynmem.space.dimm import PcDimm, pre_plug_dimm
from dynmem.units import PAGE_SHIFT
from dynmem.vm.balloon.device import HvBalloon
from dynmem.vm.events import Events
from dynmem.vm.faults import Faults
from dynmem.vm.memory_map import MachineMemory
from dynmem.vm.options.memory import DimmOptions
from dynmem.vm.platform import Platform


class DeviceError(DynmemError):
    """A device cannot be plugged or unplugged; the text is QEMU's where QEMU has one."""


class NoSuchDeviceError(DeviceError):
    """No device, or object, has that name."""


# What a guest's report is about: a request to eject, and an ejection that the guest began itself.
_EJECTIONS: Final = (0x3, 0x103)
# Of an ejection: it has not worked, or is not possible, or something is in use. 0x84 is "in progress".
_REFUSALS: Final = (0x1, 0x80, 0x81, 0x82, 0x83)


class SlotStatus(NamedTuple):
    """What a guest has last reported of a slot, by ACPI's _OST; zeros before it has.

    Attributes:
        slot: Its number.
        identity: The id of the DIMM in it, if there is one and it has one.
        source: Which event it is about.
        status: What came of that.

    """

    slot: int
    identity: str | None
    source: int
    status: int

    def to_json(self) -> dict[str, object]:
        """Return QEMU's ACPIOSTInfo."""
        device = {} if self.identity is None else {"device": self.identity}
        figures = {"source": self.source, "status": self.status}
        return {**device, "slot": str(self.slot), "slot-type": "DIMM", **figures}


class Dimms:
    """The DIMMs of a machine.

    Attributes:
        by_name: Each DIMM by its id; one without an id is called ``device[N]``, as in QEMU's paths.

    """

    def __init__(
        self,
        memory: MachineMemory,
        platform: Platform,
        balloon: HvBalloon | None,
        events: Events,
        faults: Faults,
        *,
        slots: int,
    ) -> None:
        self._memory = memory
        self._platform = platform
        self._balloon = balloon
        self._events = events
        self._faults = faults
        self._slots = slots
        self._dimms: dict[str, PcDimm] = {}
        self._options: dict[str, DimmOptions] = {}
        self._attempts = 0  # to plug one without an id
        self._reported: dict[int, tuple[int, int]] = {}  # by slot: source and status
        self._leaving: dict[int, str] = {}  # that the guest was asked to release, by address
        self.by_name: Final[Mapping[str, PcDimm]] = MappingProxyType(self._dimms)

    def path(self, name: str) -> str:
        """Return the QOM path of a DIMM."""
        folder = "peripheral" if self._options[name].identity is not None else "peripheral-anon"
        return f"/machine/{folder}/{name}"

    def plug(self, options: DimmOptions, *, hotplugged: bool = True) -> PcDimm:
        """Plug a DIMM and announce it to the guest, if one runs.

        `hotplugged` is as in QOM. Raises DeviceError and MemoryDeviceError; then nothing has changed.
        """
        objects, memdev = self._memory.objects, options.memdev
        if options.identity is not None and self._is_taken(options.identity):
            raise DeviceError(f"Duplicate device ID '{options.identity}'")
        name = options.identity or self._next_name()
        if memdev not in objects:
            raise NoSuchDeviceError(f"Device '{memdev}' not found")
        dimm = PcDimm(
            options.identity,
            objects[memdev],
            addr=options.address,
            slot=options.slot,
            node=options.node,
            memdev=memdev,
            hotplugged=hotplugged,
        )
        pre_plug_dimm(self._memory.devices, dimm, self._slots, is_busy=objects.is_busy(memdev))
        backend = objects.take(memdev)
        self._memory.devices.plug(dimm)
        self._dimms[name], self._options[name] = dimm, options
        if self._balloon is not None:
            self._balloon.memory_plugged(dimm.get_addr() >> PAGE_SHIFT, backend)
        self._platform.plug(dimm)
        return dimm

    def is_unplugging(self, name: str) -> bool:
        """Return whether the guest has been asked to release a DIMM and has not answered."""
        return name in self._leaving.values()

    def request_unplug(self, name: str) -> None:
        """Ask the guest to release a DIMM; asking again while it has not answered changes nothing.

        DEVICE_DELETED or DEVICE_UNPLUG_GUEST_ERROR follows, or never anything. Raises NoSuchDeviceError.
        """
        if name not in self._dimms:
            raise NoSuchDeviceError(f"Device '{name}' not found")
        dimm = self._dimms[name]
        if not self.is_unplugging(name) and self._platform.unplug(dimm):
            self._leaving[dimm.get_addr()] = name

    def guest_gone(self) -> None:
        """Forget what the guest was asked to release: it is gone, and the next one has not been asked."""
        self._leaving.clear()

    async def unplug_answered(self, address: int, *, is_done: bool) -> None:
        """Unplug a DIMM that the guest has released, or report that it does not release it."""
        name = self._leaving.pop(address, None)
        if name is None:
            self._faults.note(
                "unplug", f"the guest answered for memory at {address:#x}, which it was not asked to release"
            )
            return
        if is_done:
            await self._unplug(name)
        else:
            self._events.unplug_refused(self.path(name), self._options[name].identity)

    async def ejected(self, slot: int) -> None:
        """Unplug the DIMM in a slot, which the guest has ejected, whether it was asked to or not."""
        name = self._in_slot(slot)
        assert name is not None
        self._leaving.pop(self._dimms[name].get_addr(), None)
        await self._unplug(name)

    def reported(self, slot: int, source: int, status: int) -> None:
        """Report what a guest says of a slot; if it does not release the DIMM there, that it does not."""
        self._reported[slot] = source, status
        self._events.slot_reported(self._status(slot).to_json())
        name = self._in_slot(slot)
        if name is None or source not in _EJECTIONS or status not in _REFUSALS:
            return
        if self._leaving.pop(self._dimms[name].get_addr(), None) is not None:
            self._events.unplug_refused(self.path(name), self._options[name].identity)

    def statuses(self) -> Iterator[SlotStatus]:
        """Yield what is known of each slot."""
        return map(self._status, range(self._slots))

    def _status(self, slot: int) -> SlotStatus:
        name = self._in_slot(slot)
        identity = None if name is None else self._options[name].identity
        return SlotStatus(slot, identity, *self._reported.get(slot, (0, 0)))

    def _in_slot(self, slot: int) -> str | None:
        """Return the name of the DIMM in a slot."""
        return next((name for name, dimm in self._dimms.items() if dimm.slot == slot), None)

    async def _unplug(self, name: str) -> None:
        """Unplug a DIMM that the guest does not use any more."""
        path, identity = self.path(name), self._options[name].identity
        dimm = self._dimms.pop(name)
        options = self._options.pop(name)
        if self._balloon is not None:
            # nothing of it is being discarded any more when its backend may be closed
            await self._balloon.memory_unplugged(dimm.get_addr() >> PAGE_SHIFT)
        self._memory.devices.unplug(dimm)
        self._memory.objects.release(options.memdev)
        self._events.device_deleted(path, identity)

    def _is_taken(self, identity: str) -> bool:
        return identity in self._dimms or (self._balloon is not None and identity == self._balloon.identity)

    def _next_name(self) -> str:
        """Return an unused name for a DIMM without an id; it is used up even if the plug fails."""
        while True:
            self._attempts += 1
            name = f"device[{self._attempts - 1}]"
            if not self._is_taken(name):
                return name
