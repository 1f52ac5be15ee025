"""The synthetic interrupt controller of one virtual processor: its MSRs, message slots and event flags.

The guest names two of its pages by MSR. The host writes messages into one, with a slot for each SINT, and
sets event flags in the other. A slot that is still full when the next message comes is marked as pending: the
guest then writes EOM when it has emptied it. Each side looks again after its own write, with a fence between,
so the two never wait for each other.

Source: Hypervisor Top-Level Functional Specification, SynIC; QEMU hw/hyperv/hyperv.c; Linux drivers/hv/hv.c.
"""

from collections.abc import Callable
from typing import Final

from dynmem.units import PAGE_SHIFT
from dynmem.vm.faults import Faults
from dynmem.vm.hyperv.general_protection import GeneralProtectionError
from dynmem.vmbus.memory import BadAddressError, GuestMemory
from dynmem.wire.synic import (
    EVENT_FLAG_COUNT,
    EVENT_FLAGS_BYTES,
    MESSAGE_SLOT_BYTES,
    MSR_EOM,
    MSR_SCONTROL,
    MSR_SIEFP,
    MSR_SIMP,
    MSR_SINT0,
    MSR_SVERSION,
    PAGE_MSR_ENABLED,
    SINT_COUNT,
    SLOT_FLAG_PENDING,
    MessageSlot,
    encode_slot,
)

SINT_MASKED: Final = 1 << 16
SINT_AUTO_EOI: Final = 1 << 17
SINT_POLLING: Final = 1 << 18
SINT_VECTOR: Final = 0xFF
BAD_PAGE: Final = "synic page outside memory"
AUTO_EOI: Final = "auto-EOI"
SCONTROL_ENABLED: Final = 1
_VERSION: Final = 1
_FIRST_VECTOR: Final = 16  # those below are the processor's own exceptions
_TYPE_BYTES: Final = 4
_FLAGS_SHIFT: Final = 8  # the slot's flags are the second byte of its second word


def vector_of(sint: int, register: int) -> int | None:
    """Return the vector that a SINT interrupts with; None for one that is masked or polled.

    Raises GeneralProtectionError for one that cannot be.
    """
    if register & (SINT_MASKED | SINT_POLLING):
        return None
    vector = register & SINT_VECTOR
    if vector < _FIRST_VECTOR:
        raise GeneralProtectionError(f"SINT {sint} cannot have vector {vector}")
    return vector


class Synic:
    """One processor's SynIC over guest memory, everything off at first."""

    def __init__(
        self,
        memory: GuestMemory,
        interrupt: Callable[[int], None],
        faults: Faults,
    ) -> None:
        """Make it, switched off.

        Args:
            memory: Where the pages are.
            interrupt: Raises a SINT in the guest; called for one that is not masked.
            faults: Where pages outside memory are counted.

        """
        self._memory = memory
        self._interrupt = interrupt
        self._faults = faults
        self._registers: dict[int, int] = {}
        self._sints: list[int] = []
        self.reset()

    def reset(self) -> None:
        """Switch everything off, as after power on; nobody is called."""
        self._registers = {MSR_SCONTROL: 0, MSR_SIEFP: 0, MSR_SIMP: 0}
        self._sints = [SINT_MASKED] * SINT_COUNT

    def read_msr(self, msr: int) -> int:
        """Return one MSR. Raises GeneralProtectionError if it is none of a SynIC."""
        if msr in self._registers:
            return self._registers[msr]
        if MSR_SINT0 <= msr < MSR_SINT0 + SINT_COUNT:
            return self._sints[msr - MSR_SINT0]
        if msr == MSR_SVERSION:
            return _VERSION
        if msr == MSR_EOM:
            return 0
        raise GeneralProtectionError(f"a SynIC has no MSR {msr:#x}")

    def write_msr(self, msr: int, value: int) -> bool:
        """Set one MSR; return whether messages that wait for a slot may find it free now.

        EOM stores nothing. Raises GeneralProtectionError if it is none of a SynIC that can be written, and
        for a vector below 16 that is not masked.
        """
        if msr in self._registers:
            self._registers[msr] = value
            return msr != MSR_SIEFP
        if MSR_SINT0 <= msr < MSR_SINT0 + SINT_COUNT:
            self._set_sint(msr - MSR_SINT0, value)
            return True
        if msr == MSR_EOM:
            return True
        raise GeneralProtectionError(f"a SynIC has no MSR {msr:#x} that can be written")

    def _set_sint(self, sint: int, value: int) -> None:
        vector = vector_of(sint, value)
        if value & SINT_AUTO_EOI and vector is not None:
            self._faults.note(
                AUTO_EOI, f"SINT {sint} is to end its interrupts by itself, which it cannot here"
            )
        self._sints[sint] = value

    def deliver(self, sint: int, message: MessageSlot) -> bool:
        """Put a message into its slot and interrupt the guest; False while the slot is full or missing."""
        page = self._page(MSR_SIMP)
        if page is None:
            return False
        address = page + sint * MESSAGE_SLOT_BYTES
        try:
            if self._memory.load32(address) and self._still_full(address):
                return False
            data = encode_slot(message)
            self._memory.write(address + _TYPE_BYTES, data[_TYPE_BYTES:])
            self._memory.fence()  # the type says that the rest is there
            self._memory.store32(address, message.message_type)
        except BadAddressError as error:
            self._faults.note(BAD_PAGE, str(error))
            return False
        self._raise(sint)
        return True

    def signal(self, sint: int, flag: int) -> bool:
        """Set an event flag and interrupt the guest; False if it has no event page.

        The guest may clear flags of the same word meanwhile: one that it has just cleared may be set again,
        and the guest looks at that channel again.
        """
        page = self._page(MSR_SIEFP)
        if page is None or not 0 <= flag < EVENT_FLAG_COUNT:
            return False
        address = page + sint * EVENT_FLAGS_BYTES + flag // 32 * 4
        try:
            self._memory.store32(address, self._memory.load32(address) | 1 << flag % 32)
        except BadAddressError as error:
            self._faults.note(BAD_PAGE, str(error))
            return False
        self._memory.fence()
        self._raise(sint)
        return True

    def _page(self, msr: int) -> int | None:
        """Return the address of the page that an MSR names; None while it, or the SynIC, is off."""
        value = self._registers[msr]
        if not self._registers[MSR_SCONTROL] & SCONTROL_ENABLED or not value & PAGE_MSR_ENABLED:
            return None
        return value >> PAGE_SHIFT << PAGE_SHIFT

    def _still_full(self, address: int) -> bool:
        """Ask for an EOM, and look again: the guest may have emptied the slot before it saw that."""
        word = address + _TYPE_BYTES
        self._memory.store32(word, self._memory.load32(word) | SLOT_FLAG_PENDING << _FLAGS_SHIFT)
        self._memory.fence()
        return self._memory.load32(address) != 0

    def _raise(self, sint: int) -> None:
        if not self._sints[sint] & (SINT_MASKED | SINT_POLLING):
            self._interrupt(sint)
