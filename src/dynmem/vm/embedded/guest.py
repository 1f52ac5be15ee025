"""The embedded guest as a platform: each life is a process with hardware and a SynIC of its own.

A reset of the machine is a power cycle of this and of nothing else: the process is ended, whatever it is
doing, and a new one gets a new hardware socket. So nothing that a guest did to its hardware outlives it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from dynmem.errors import DynmemError
from dynmem.limits import GUEST_ADDRESS_BYTES_MAX
from dynmem.space.dimm import PcDimm
from dynmem.vm.embedded.calls import Calls
from dynmem.vm.embedded.hardware import Hardware
from dynmem.vm.embedded.keeper import MEANS
from dynmem.vm.embedded.output import Output
from dynmem.vm.embedded.process import GuestProcess
from dynmem.vm.embedded.slots import SlotMap
from dynmem.vm.faults import Faults
from dynmem.vm.hyperv.synic import Synic
from dynmem.vm.options.machine import VmOptions
from dynmem.vm.platform import GuestCalls, GuestEnding, Owner
from dynmem.vm.shortage import cannot_start
from dynmem.vmbus import OutgoingMessage, Signal
from dynmem.vmbus.memory import GuestMemory
from dynmem.wire.synic import VMBUS_MESSAGE_TYPE, VMBUS_SINT, MessageSlot


class _Life:
    """One guest from power on to power off; `process` once it has been started."""

    def __init__(
        self, memory: GuestMemory, slots: SlotMap, *, wake: Callable[[], None], faults: Faults
    ) -> None:
        self.hardware: Final = Hardware(wake)
        self.synic: Final = Synic(memory, self.hardware.interrupt, faults)
        self.calls: Final = Calls(
            self.hardware, slots, self.synic, wake=wake, hang_up=self.hang_up, faults=faults
        )
        self.process: GuestProcess | None = None

    def hang_up(self) -> None:
        """End a guest that has closed its hardware: it could do nothing more."""
        if self.process is not None:
            self.process.kill()


class EmbeddedGuest:
    """A `Platform` whose guest is a process that ends by itself, or is ended.

    Attributes:
        slots: The guest's memory slots.

    """

    vp_count: Final = 1
    ram_hole: range = range(0)
    addresses: Final = GUEST_ADDRESS_BYTES_MAX

    def __init__(
        self,
        options: VmOptions,
        memory: GuestMemory,
        owner: Owner,
        faults: Faults,
    ) -> None:
        self._options: Final = options
        self._memory = memory
        self._owner = owner
        self._faults = faults
        self.slots: Final = SlotMap(faults)
        self._output: Final = Output(options.console.path)
        self._life: _Life | None = None
        self._means: tuple[str, ...] = MEANS

    @property
    def thread_ids(self) -> Sequence[int]:
        process = None if self._life is None else self._life.process
        return () if process is None else (process.pid,)

    async def power_on(self, doorbells: Iterable[int]) -> None:
        try:
            life = self._life = _Life(self._memory, self.slots, wake=self._owner.wake, faults=self._faults)
            hardware = life.hardware
            life.process = await self._start(hardware)
            # from here on at once: memory that is plugged meanwhile must not come between slots and start
            self.slots.connect(hardware)
            hardware.bind_sint(VMBUS_SINT)
            for connection_id in doorbells:
                hardware.bind_doorbell(connection_id)
            hardware.start()
        except OSError as error:
            await self.power_off()
            raise cannot_start(error.errno or 0, "its hardware") from None
        except DynmemError:
            await self.power_off()
            raise

    async def _start(self, hardware: Hardware) -> GuestProcess | None:
        """Start the process."""
        with self._output.connected() as ends:
            fd = hardware.guest_end.fileno()
            process = await GuestProcess.start(
                self._options.guest, fd, self._owner.exited, ends, means=self._means
            )
        self._means = self._means[self._means.index(process.means) :]  # what is not there is not tried again
        hardware.guest_end.close()
        return process

    async def power_off(self) -> None:
        if self._life is None:
            return
        life = self._life
        if life.process is not None:
            await life.process.end()
        await self._output.disconnect()
        life.hardware.close()
        self.slots.disconnect()
        self._life = None

    @property
    def pid(self) -> int:
        """The guest's process."""
        assert self._life is not None
        assert self._life.process is not None
        return self._life.process.pid

    def kill(self) -> None:
        if self._life is not None and self._life.process is not None:
            self._life.process.kill()

    def close(self) -> None:
        pass  # nothing outlives a guest

    async def freeze(self) -> None:
        if self._life is not None and self._life.process is not None:
            await self._life.process.freeze()

    def thaw(self) -> None:
        if self._life is not None and self._life.process is not None:
            self._life.process.thaw()

    @property
    def ending(self) -> GuestEnding | None:
        process = None if self._life is None else self._life.process
        return None if process is None else process.ending

    async def serve(self, calls: GuestCalls) -> None:
        if self._life is not None:
            await self._life.calls.serve(calls)

    def deliver(self, message: OutgoingMessage) -> bool:
        slot = MessageSlot(VMBUS_MESSAGE_TYPE, message.payload)
        return self._life is not None and self._life.synic.deliver(message.sint, slot)

    def signal(self, signal: Signal) -> None:
        if self._life is not None:
            self._life.synic.signal(signal.sint, signal.flag)

    def plug(self, dimm: PcDimm) -> None:
        number = self.slots.number_at(dimm.get_addr())
        if self._life is not None and number is not None:
            self._life.hardware.plug(number)

    def unplug(self, dimm: PcDimm) -> bool:
        number = self.slots.number_at(dimm.get_addr())
        if self._life is None or number is None:
            return False
        self._life.hardware.unplug(number)
        return True
