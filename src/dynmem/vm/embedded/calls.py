"""What the embedded guest says over its hardware, taken in bounded numbers: calls, answers, doorbells."""

from collections.abc import Callable

from dynmem.errors import RemoteProtocolError
from dynmem.limits import VM_HYPERCALLS_PER_TURN
from dynmem.vm.embedded.hardware import Hardware
from dynmem.vm.embedded.slots import SlotMap
from dynmem.vm.faults import Faults
from dynmem.vm.hyperv.general_protection import GeneralProtectionError
from dynmem.vm.hyperv.synic import Synic
from dynmem.vm.platform import GuestCalls
from dynmem.wire import hardware as wire
from dynmem.wire.synic import HvStatus, HypercallInput, hypercall_status


class Calls:
    """Serves one life of the guest. `hang_up` is called when the guest has closed its hardware."""

    def __init__(
        self,
        hardware: Hardware,
        slots: SlotMap,
        synic: Synic,
        *,
        wake: Callable[[], None],
        hang_up: Callable[[], None],
        faults: Faults,
    ) -> None:
        self._hardware = hardware
        self._slots = slots
        self._synic = synic
        self._wake = wake
        self._hang_up = hang_up
        self._faults = faults

    async def serve(self, machine: GuestCalls) -> None:
        """Take what the guest has sent and the doorbells that it rang."""
        hardware = self._hardware
        if hardware.calls.ready:
            await self._take(machine)
        for doorbell in hardware.doorbells.values():
            if doorbell.ready:
                doorbell.take()

    async def _take(self, machine: GuestCalls) -> None:
        for _ in range(VM_HYPERCALLS_PER_TURN):
            try:
                message = self._hardware.receive()
            except RemoteProtocolError as error:
                self._faults.note("hardware", str(error))
                continue
            except EOFError:
                self._hang_up()
                return
            if message is None:
                self._hardware.await_call()
                return
            await self._obey(machine, message)
            if machine.is_over:
                break
        self._wake()  # there may be more, but others first

    async def _obey(self, machine: GuestCalls, message: wire.Message) -> None:
        """Take one message: a call, or what the guest says of its slots."""
        if isinstance(message, wire.Hypercall):
            result = await machine.hypercall(HypercallInput(message.control, message.input_gpa))
            self._hardware.reply(message.sequence, hypercall_status(result))
        elif isinstance(message, wire.WriteMsr):
            self._write_msr(machine, message)
        elif isinstance(message, wire.SlotMapped | wire.SlotUnmapped):
            self._slots.acknowledged(message)
        elif isinstance(message, wire.UnplugAnswered):
            await self._unplug_answered(machine, message)
        else:
            self._faults.note("hardware", f"the guest sent {type(message).__name__}, which only a host sends")

    def _write_msr(self, machine: GuestCalls, message: wire.WriteMsr) -> None:
        status = HvStatus.SUCCESS
        try:
            if self._synic.write_msr(message.msr, message.value):
                machine.retry_messages()
        except GeneralProtectionError as error:  # this guest has no exceptions: it gets a status
            status = HvStatus.INVALID_PARAMETER
            self._faults.note("call refused", f"a write to MSR {message.msr:#x}: {error}")
        self._hardware.reply(message.sequence, status)

    async def _unplug_answered(self, machine: GuestCalls, message: wire.UnplugAnswered) -> None:
        address = self._slots.address_of(message.slot)
        if address is None:
            self._faults.note("unplug", f"the guest answered for slot {message.slot}, which is not in use")
            return
        await machine.unplug_answered(address, is_done=message.is_done)
