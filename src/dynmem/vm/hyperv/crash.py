"""The crash registers: five numbers and the end of the log, by which a guest says why it cannot go on.

Source: Hypervisor Top-Level Functional Specification, guest crash enlightenment; Linux drivers/hv/vmbus_drv.c
(hv_panic_notify_crash and hyperv_report_panic_msg).
"""

from typing import Final

from dynmem.limits import VM_CRASH_TEXT_BYTES_MAX, VM_CRASHES_REPORTED_MAX
from dynmem.vm.faults import Faults
from dynmem.vm.guest_crash import GuestCrash
from dynmem.vmbus.memory import BadAddressError, GuestMemory
from dynmem.wire.hyperv import CRASH_HAS_TEXT, CRASH_NOTIFY, CRASH_PARAMETERS

SUPPORTED: Final = CRASH_NOTIFY | CRASH_HAS_TEXT  # what the guest reads from the control register
TEXT_OUTSIDE: Final = "crash text outside memory"
TOO_MANY: Final = "crash reports beyond those reported"


class CrashRegisters:
    """P0 to P4 and the control register, all zero at first."""

    def __init__(self, memory: GuestMemory, faults: Faults) -> None:
        self._memory = memory
        self._faults = faults
        self._parameters = [0] * CRASH_PARAMETERS
        self._reports = 0

    def read(self, number: int) -> int:
        """Return one of the five numbers."""
        return self._parameters[number]

    def write(self, number: int, value: int) -> None:
        """Set one of the five numbers."""
        self._parameters[number] = value

    def control(self, value: int) -> GuestCrash | None:
        """Take a write to the control register; return the crash that it reports, if it reports one.

        A guest reports one crash, or a second one in the kernel that was to save the first. What goes beyond
        a small number, up to the next reset, is counted only.
        """
        if not value & CRASH_NOTIFY:
            return None
        if self._reports >= VM_CRASHES_REPORTED_MAX:
            self._faults.note(TOO_MANY, f"the guest has reported {self._reports} crashes since its start")
            return None
        self._reports += 1
        p0, p1, p2, p3, p4 = self._parameters
        text = self._text(p3, p4) if value & CRASH_HAS_TEXT else ""
        return GuestCrash((p0, p1, p2, p3, p4), text)

    def _text(self, address: int, length: int) -> str:
        """Return the text in guest memory, no more than a page of it; "" if it lies outside memory."""
        try:
            data = self._memory.read(address, min(length, VM_CRASH_TEXT_BYTES_MAX))
        except BadAddressError as error:
            self._faults.note(TEXT_OUTSIDE, str(error))
            return ""
        return data.rstrip(b"\0").decode("utf-8", "replace")

    def reset(self) -> None:
        """Begin again."""
        self._parameters = [0] * CRASH_PARAMETERS
        self._reports = 0
