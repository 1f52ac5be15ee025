"""The guest's processor from power on to power off: hardware, SynIC and the process that is the guest.

A reset of the machine is a power cycle of this and of nothing else: the process is ended, whatever it thinks
of that, and a new one gets a new hardware socket. So nothing that a guest did to its hardware outlives it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from dynmem.trace.capture import Capture
from dynmem.vm.embedded.hardware import Hardware
from dynmem.vm.embedded.process import GuestProcess
from dynmem.vm.faults import Faults
from dynmem.vm.hyperv.hypercalls import Hypercalls
from dynmem.vm.hyperv.synic import Synic
from dynmem.vm.options.machine import GuestOptions
from dynmem.vmbus import Bus
from dynmem.vmbus.memory import GuestMemory
from dynmem.wire.synic import VMBUS_SINT


class Processor:
    """One life of the guest: `power_on`, then `power_off`. `wake` is called when the guest acts."""

    def __init__(
        self,
        memory: GuestMemory,
        bus: Bus,
        *,
        wake: Callable[[], None],
        faults: Faults,
        capture: Capture | None,
    ) -> None:
        self.hardware: Final = Hardware(wake)
        self.synic: Final = Synic(memory, self.hardware.interrupt, faults)
        self.hypercalls: Final = Hypercalls(memory, bus, capture)
        self._bus = bus
        self._process: GuestProcess | None = None

    def power_on(
        self, options: GuestOptions, console: Path | None, exited: Callable[[], None], *, again: bool
    ) -> None:
        """Start the guest on its hardware, to which memory has been sent. Raises ConfigError.

        `again`: it is not the machine's first guest, so the console goes on where the last one left it.
        """
        hardware = self.hardware
        hardware.bind_sint(VMBUS_SINT)
        for channel in self._bus.channels.values():
            hardware.bind_doorbell(channel.connection_id)
        self._process = GuestProcess(options, hardware.guest_end.fileno(), console, exited, append=again)
        hardware.guest_end.close()
        hardware.start()

    @property
    def pid(self) -> int:
        """The guest's process."""
        assert self._process is not None
        return self._process.pid

    def freeze(self) -> None:
        """Stop it in its tracks."""
        if self._process is not None:
            self._process.freeze()

    def thaw(self) -> None:
        """Let it go on."""
        if self._process is not None:
            self._process.thaw()

    def hang_up(self) -> None:
        """The guest has closed its hardware: without it there is nothing that it could still do."""
        if self._process is not None:
            self._process.kill()

    def ending(self) -> str | None:
        """How the guest ended, in words; None while it runs or when it said itself that all is well."""
        return self._process.ending() if self._process is not None else None

    async def power_off(self) -> None:
        """End the guest and wait until nothing of it is there; then let go of its hardware."""
        if self._process is not None:
            await self._process.end()
        self.hardware.close()
