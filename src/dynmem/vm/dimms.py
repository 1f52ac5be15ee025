"""DIMMs of one machine: plugged at the start or by device_add, unplugged when the guest lets go of them.

The guest is asked to let go and answers when it likes, or never. Until then the DIMM stays as it is.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dynmem.errors import DynmemError
from dynmem.space.dimm import PcDimm, pre_plug_dimm
from dynmem.units import PAGE_SHIFT
from dynmem.vm.balloon.device import HvBalloon
from dynmem.vm.embedded.hardware import Hardware
from dynmem.vm.events import Emit
from dynmem.vm.faults import Faults
from dynmem.vm.memory_map import MachineMemory
from dynmem.vm.options.memory import DimmOptions
from dynmem.wire import hardware as wire


class DeviceError(DynmemError):
    """A device cannot be plugged or unplugged; the text is QEMU's where QEMU has one."""


class NoSuchDeviceError(DeviceError):
    """There is no device, or object, of that name."""


class Devices:
    """The DIMMs of a machine, `dimms` by id; one without an id is called ``device[N]``, as in QEMU's paths.

    `hardware` is the guest's, or None between two guests.
    """

    def __init__(
        self, memory: MachineMemory, balloon: HvBalloon | None, emit: Emit, faults: Faults, *, slots: int
    ) -> None:
        self._memory = memory
        self._balloon = balloon
        self._emit = emit
        self._faults = faults
        self._slots = slots
        self._dimms: dict[str, PcDimm] = {}
        self._named: dict[str, DimmOptions] = {}
        self._attempts = 0  # to plug one without an id
        self._leaving: dict[int, str] = {}  # that the guest was asked to let go of, by slot of its hardware
        self.dimms: Final[Mapping[str, PcDimm]] = MappingProxyType(self._dimms)
        self.hardware: Hardware | None = None
        self._had_guest = False  # the machine has been started: what comes now is hot-plugged

    def path(self, name: str) -> str:
        """The QOM path of a DIMM."""
        folder = "peripheral" if self._named[name].identity is not None else "peripheral-anon"
        return f"/machine/{folder}/{name}"

    def plug(self, options: DimmOptions) -> PcDimm:
        """Plug a DIMM, also while the guest runs.

        Raises DeviceError and MemoryDeviceError; then nothing has changed.
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
            hotplugged=self._had_guest,
        )
        pre_plug_dimm(self._memory.devices, dimm, self._slots, is_busy=objects.is_busy(memdev))
        backend = objects.take(memdev)
        self._memory.devices.plug(dimm)
        self._dimms[name], self._named[name] = dimm, options
        if self._balloon is not None:
            self._balloon.memory_plugged(dimm.get_addr() >> PAGE_SHIFT, backend)
        number = self._memory.slots.number_at(dimm.get_addr())
        if self.hardware is not None and number is not None:
            self.hardware.plug(number)
        return dimm

    def is_unplugging(self, name: str) -> bool:
        """Whether the guest has been asked to let go of a DIMM and has not answered."""
        return name in self._leaving.values()

    def request_unplug(self, name: str) -> None:
        """Ask the guest to let go of a DIMM; asking again while it has not answered changes nothing.

        DEVICE_DELETED or DEVICE_UNPLUG_GUEST_ERROR follows, or nothing ever. Raises NoSuchDeviceError.
        """
        if name not in self._dimms:
            raise NoSuchDeviceError(f"Device '{name}' not found")
        number = self._memory.slots.number_at(self._dimms[name].get_addr())
        if self.hardware is not None and number is not None and not self.is_unplugging(name):
            self._leaving[number] = name
            self.hardware.unplug(number)

    def guest_changed(self, hardware: Hardware | None) -> None:
        """Another guest, which has not been asked for anything, or none."""
        self.hardware = hardware
        self._had_guest = True
        self._leaving.clear()

    async def answered(self, answer: wire.UnplugAnswered) -> None:
        """The guest has let go of a DIMM, or will not."""
        name = self._leaving.pop(answer.slot, None)
        if name is None:
            self._faults.note(
                "unplug", f"the guest answered for slot {answer.slot}, which it was not asked for"
            )
            return
        told = {"path": self.path(name)} | ({"device": name} if self._named[name].identity else {})
        if not answer.is_done:
            self._emit("DEVICE_UNPLUG_GUEST_ERROR", told)
            return
        dimm = self._dimms.pop(name)
        options = self._named.pop(name)
        if self._balloon is not None:
            # nothing of it is being discarded any more when its backend may be closed
            await self._balloon.memory_unplugged(dimm.get_addr() >> PAGE_SHIFT)
        self._memory.devices.unplug(dimm)
        self._memory.objects.give(options.memdev)
        self._emit("DEVICE_DELETED", told)

    def _is_taken(self, identity: str) -> bool:
        return identity in self._dimms or (self._balloon is not None and identity == self._balloon.identity)

    def _next_name(self) -> str:
        """A name for a DIMM without an id, used up whatever becomes of it; none that is somebody's id."""
        while True:
            self._attempts += 1
            name = f"device[{self._attempts - 1}]"
            if not self._is_taken(name):
                return name
