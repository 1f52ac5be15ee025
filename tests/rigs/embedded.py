"""The embedded guest without a process: a test holds the guest's end of its hardware."""

from dynmem.vm.embedded.guest import EmbeddedGuest
from dynmem.vm.embedded.hardware import Hardware
from dynmem.vm.embedded.process import GuestProcess


class GuestWithoutProcess(EmbeddedGuest):
    """A platform for `Machine`; `hardware.guest_end` is the guest's end of the present life."""

    hardware: Hardware

    async def _start(self, hardware: Hardware) -> GuestProcess | None:
        self.hardware = hardware
        hardware.guest_end.setblocking(False)
        return None
