"""The guest's synthetic interrupt controller: its two pages, message slots, event flags and posted messages.

Clearing an event flag is a load and a store, because Python has no atomic exchange: a flag that the host sets
in between is lost, and one that is stored back is seen twice. So a flag only means "look at the channels",
and the driver then looks at all of them.

Source: Linux drivers/hv/hv.c (hv_synic_enable_regs) and vmbus_drv.c (vmbus_on_msg_dpc); Hypervisor Top-Level
Functional Specification, SynIC.
"""

from typing import Final, Protocol

from dynmem.units import PAGE_SHIFT
from dynmem.vmbus.memory import GuestMemory
from dynmem.wire import synic

_SLOT: Final = synic.VMBUS_SINT * synic.MESSAGE_SLOT_BYTES
_FLAGS: Final = synic.VMBUS_SINT * synic.EVENT_FLAGS_BYTES
_SLOT_HEAD: Final = 4  # payload size in the low byte, flags in the next
_PENDING: Final = synic.SLOT_FLAG_PENDING << 8
_VECTOR: Final = 0xF3  # the interrupt vector that Linux gives VMBus; nothing here delivers it
_MESSAGES_AT_ONCE: Final = 64


class Hypervisor(Protocol):
    """What a kernel needs from the machine it runs on; `dynmem.guest.hardware.Hardware` implements it."""

    def hypercall(self, control: int, input_gpa: int) -> synic.HvStatus:
        """Make a hypercall and wait for its status."""

    def write_msr(self, msr: int, value: int) -> synic.HvStatus:
        """Write a synthetic MSR and wait until that is done."""

    def signal(self, connection_id: int) -> None:
        """Signal the host."""


class Synic:
    """SINT 2 of one virtual processor, and the page that messages are posted from."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        memory: GuestMemory,
        *,
        message_page: int,
        event_page: int,
        input_page: int,
    ) -> None:
        self._hypervisor = hypervisor
        self._memory = memory
        self._slot = (message_page << PAGE_SHIFT) + _SLOT
        self._flags = (event_page << PAGE_SHIFT) + _FLAGS
        self._input = input_page << PAGE_SHIFT
        for page in (message_page, event_page):
            memory.write(page << PAGE_SHIFT, bytes(1 << PAGE_SHIFT))
        enabled = synic.PAGE_MSR_ENABLED
        hypervisor.write_msr(synic.MSR_SIMP, message_page << PAGE_SHIFT | enabled)
        hypervisor.write_msr(synic.MSR_SIEFP, event_page << PAGE_SHIFT | enabled)
        hypervisor.write_msr(synic.MSR_SINT0 + synic.VMBUS_SINT, _VECTOR)
        hypervisor.write_msr(synic.MSR_SCONTROL, enabled)

    def take_messages(self) -> list[bytes]:
        """Empty the message slot as often as the host fills it. Returns the payloads for VMBus."""
        payloads = []
        for _ in range(_MESSAGES_AT_ONCE):
            if not self._memory.load32(self._slot):
                break
            message = synic.decode_slot(self._memory.read(self._slot, synic.MESSAGE_SLOT_BYTES))
            self._memory.store32(self._slot, 0)
            self._memory.fence()  # empty the slot before checking whether another message waits
            if self._memory.load32(self._slot + _SLOT_HEAD) & _PENDING:
                self._hypervisor.write_msr(synic.MSR_EOM, 0)
            if message.message_type == synic.VMBUS_MESSAGE_TYPE:
                payloads.append(message.payload)
        return payloads

    def clear_flag(self, flag: int) -> None:
        """Clear the event flag of a channel."""
        word = self._flags + flag // 32 * 4
        if self._memory.load32(word):
            self._memory.store32(word, 0)
            self._memory.fence()  # clear the flag before the ring is read

    def post(self, connection_id: int, payload: bytes) -> synic.HvStatus:
        """Post a message."""
        message = synic.PostMessageInput(connection_id, synic.VMBUS_MESSAGE_TYPE, payload)
        self._memory.write(self._input, synic.encode_post(message))
        return self._hypervisor.hypercall(synic.HYPERCALL_POST_MESSAGE, self._input)
