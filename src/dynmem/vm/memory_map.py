"""All memory of one machine: objects, the address space with its listeners, and the room for devices.

    0 ............ boot memory ... next 32 GiB boundary ......... device memory: hv-balloon's, DIMMs

Boot memory is one backend. Where the platform has a hole in the addresses, the guest has it in two pieces.
Everything that is mapped in the address space is guest memory for the bus and a memory slot of the platform.
"""

import logging
from functools import partial
from typing import Final

from dynmem.errors import ConfigError, DynmemError
from dynmem.limits import GUEST_ADDRESS_BYTES_MAX
from dynmem.memory.backend import Backend, MemfdBackend
from dynmem.space.address_space import AddressSpace
from dynmem.space.memory_device import DeviceMemory
from dynmem.space.memslots import Memslots
from dynmem.space.region import RamRegion
from dynmem.trace_events import Trace
from dynmem.vm.balloon.memory_device import (
    HotAddedMemory,
    WithoutMemory,
    check_address,
    check_memdev,
)
from dynmem.vm.guest_memory import MappedMemory
from dynmem.vm.objects import Objects
from dynmem.vm.options.hints import backend_hint, boot_hint, device_hint, naming, there_are
from dynmem.vm.options.machine import BalloonOptions, VmOptions
from dynmem.vm.options.memory import AUTOMATIC_MEMDEV, BackendOptions
from dynmem.vm.platform import MemorySlots, round_hole

OWN_MEMORY: Final = "pc.ram"  # what QEMU calls boot memory that the machine makes itself
_LOG: Final = logging.getLogger("dynmem.vm")


class MachineMemory:
    """The memory of one machine.

    Attributes:
        objects: Memory backends by id.
        boot: Boot memory.
        boot_identity: Its id.
        boot_ram: Where the guest has it: address and bytes of each piece, ascending.
        space: Guest physical addresses.
        devices: Device memory, and what is plugged there.

    """

    def __init__(
        self,
        options: VmOptions,
        guest: MappedMemory,
        slots: MemorySlots,
        *,
        ram_hole: range = range(0),
        addresses: int = GUEST_ADDRESS_BYTES_MAX,
    ) -> None:
        """Make objects and boot memory, and map it for the bus (`guest`) and the platform (`slots`).

        Raises ConfigError.
        """
        self.objects: Final = Objects()
        self._guest = guest
        self._is_mapped = slots.is_mapped
        self.boot_identity: Final = options.memory_backend or OWN_MEMORY
        self._own: Backend | None = None
        try:
            self.boot_ram: Final = round_hole(options.memory_bytes, ram_hole)
            with naming("-m"):
                for_devices = options.memory.device_memory(sum(self.boot_ram[-1]), addresses)
            for each in options.objects:
                with naming(f"--object '{each.identity}'", partial(backend_hint, each)):
                    self.objects.make(each)
            self.boot: Final = self._boot_memory(options)
        except BaseException:
            self.close()
            raise
        self.space: Final = AddressSpace()
        self.space.listen(guest)
        self.space.listen(slots)
        memslots = Memslots()
        memslots.add(slots)
        offset = 0
        for address, size in self.boot_ram:
            self.space.map(RamRegion("guest-ram", self.boot, offset, size), address)
            offset += size
        memory = options.memory
        self.devices: Final = DeviceMemory(
            self.space,
            for_devices.start,
            len(for_devices),
            memslots,
            _LOG.warning,
            capacity=memory.maximum - memory.size,
        )

    def _boot_memory(self, options: VmOptions) -> Backend:
        identity = options.memory_backend
        if identity is None:
            if OWN_MEMORY in self.objects:
                raise ConfigError(
                    f"--object: the id {OWN_MEMORY!r} is reserved for the machine's own memory: use another"
                )
            with naming("-m"):
                self._own = MemfdBackend(options.memory_bytes, "guest-ram")
            return self._own
        if identity not in self.objects:
            raise ConfigError(f"--machine: there is no object {identity!r} ({there_are(self.objects)})")
        size = self.objects[identity].size
        if size != options.memory_bytes:
            with naming("--machine", lambda _: boot_hint(options.memory, identity, size)):
                raise ConfigError("Machine memory size does not match the size of the memory backend")
        return self.objects.take(identity)

    def device_hint(self, options: VmOptions, memdev: str, error: DynmemError) -> str:
        """Return what helps with a device of the options that cannot be plugged."""
        sizes = {identity: backend.size for identity, backend in self.objects.items()}
        return device_hint(
            options.memory, objects=sizes, memdev=memdev, used=self.devices.used_bytes, error=error
        )

    def plug_hot_added(self, options: VmOptions, trace: Trace) -> HotAddedMemory | None:
        """Plug the memory that hv-balloon adds, if it has any. Raises ConfigError."""
        balloon = options.balloon
        if balloon is None:
            return None
        hint = partial(self.device_hint, options, balloon.memdev or "")
        with naming(f"--device '{balloon.identity}'", hint):
            return self._plug_hot_added(options, balloon, trace)

    def _plug_hot_added(
        self, options: VmOptions, balloon: BalloonOptions, trace: Trace
    ) -> HotAddedMemory | None:
        memdev = balloon.memdev or self._automatic_memdev(options)
        if memdev is None:
            check_address(balloon.address)
            self.devices.plug(WithoutMemory(balloon.identity))
            return None
        if memdev not in self.objects:
            raise ConfigError(f"there is no object {memdev!r}")
        check_memdev(memdev, self.objects[memdev], is_busy=self.objects.is_busy(memdev))
        device = HotAddedMemory(
            balloon.identity,
            self.objects[memdev],
            address=balloon.address,
            is_mapped=self._is_mapped,
            memdev=f"/objects/{memdev}",
            trace=trace,
        )
        self.devices.pre_plug(device)
        self.objects.take(memdev)
        self.devices.plug(device)
        return device

    def _automatic_memdev(self, options: VmOptions) -> str | None:
        """Make a backend for all memory up to the maximum, if the options leave its use open."""
        memory = options.memory
        if not memory.can_grow or memory.slots or options.dimms or AUTOMATIC_MEMDEV in self.objects:
            return None
        size = memory.maximum - memory.size
        self.objects.make(BackendOptions("memory-backend-memfd", AUTOMATIC_MEMDEV, size))
        return AUTOMATIC_MEMDEV

    @property
    def backends(self) -> list[Backend]:
        """All that guest memory consists of."""
        own = [self._own] if self._own is not None else []
        return [*own, *self.objects.busy]

    @property
    def resident_bytes(self) -> int:
        """Bytes of all guest memory that the host holds now, in RAM or swap."""
        return sum(backend.resident_bytes() for backend in self.backends)

    def close(self) -> None:
        """Release everything."""
        self._guest.release()
        if self._own is not None:
            self._own.close()
        self.objects.close()
