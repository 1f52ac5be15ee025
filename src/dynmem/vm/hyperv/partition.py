"""What a guest sees of Hyper-V by its MSRs: a partition, and its virtual processors with a SynIC each.

The table `REGISTERS` says which MSR can be read and written and which feature it comes with; the ranges of
the SynIC are `synic`'s, and those of a crash `crash`'s. Everything else is a #GP in the guest, as on Hyper-V.

Source: Hypervisor Top-Level Functional Specification; the rules for #GP as in OpenVMM hv1_emulator.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from dynmem.errors import LocalProtocolError
from dynmem.fair_lock import FairLock
from dynmem.vm.faults import Faults
from dynmem.vm.guest_crash import GuestCrash
from dynmem.vm.hyperv.cpuid import Features
from dynmem.vm.hyperv.crash import SUPPORTED, CrashRegisters
from dynmem.vm.hyperv.general_protection import GeneralProtectionError
from dynmem.vm.hyperv.page import CALL_OFFSET, CALL_PORT, PAGE, PROTECTED_PAGE, SIGNAL_OFFSET, SIGNAL_PORT
from dynmem.vm.hyperv.reference_clock import ReferenceClock
from dynmem.vm.hyperv.synic import Synic, vector_of
from dynmem.vmbus import OutgoingMessage, Signal
from dynmem.vmbus.memory import BadAddressError, GuestMemory
from dynmem.wire import hyperv as wire
from dynmem.wire.synic import MSR_SCONTROL, MSR_SINT0, SINT_COUNT, VMBUS_MESSAGE_TYPE, MessageSlot

__all__ = ["GeneralProtectionError", "Partition"]

_APIC_HZ: Final = 1_000_000_000  # what the timer of KVM's APIC counts
_OFFSET: Final = (1 << 12) - 1
_SYNIC_MSRS: Final = range(MSR_SCONTROL, MSR_SINT0 + SINT_COUNT)
_SINT_MSRS: Final = range(MSR_SINT0, MSR_SINT0 + SINT_COUNT)
_CRASH_MSRS: Final = range(wire.MSR_CRASH_P0, wire.MSR_CRASH_P0 + wire.CRASH_PARAMETERS)


class Partition:
    """The partition of one machine.

    Any thread may call any of its methods: there is one lock. `interrupt` is called with it held, so that a
    SINT is quiet as soon as the guest's write to it has ended; it may not call back. The host waits for that
    lock, too: it is a fair one, and whatever takes a kernel its time is done without it.
    """

    def __init__(
        self,
        memory: GuestMemory,
        features: Features,
        *,
        vp_count: int,
        interrupt: Callable[[int, int], None],
        route: Callable[[int, int, int], None],
        crashed: Callable[[GuestCrash], None],
        now_100ns: Callable[[], int],
        tsc: Callable[[int], int],
        faults: Faults,
        wants_reset: Callable[[], None] | None = None,
    ) -> None:
        """Make it as after power on.

        Args:
            memory: Guest memory; it must be safe to use from any thread.
            features: What is offered, as in the CPUID leaves.
            vp_count: How many virtual processors there are.
            interrupt: Raises a SINT of a processor: (vp, sint).
            route: Lets a SINT of a processor raise a vector: (vp, sint, vector). Called on that processor's
                thread, without the lock, before the SINT may interrupt with it.
            crashed: Called when the guest reports a crash, on the thread of that processor.
            now_100ns: The machine's clock, for the origin of the guest's reference time.
            tsc: Returns the TSC of a processor; called on its own thread, during its access to an MSR.
            faults: Where wrong behaviour is counted.
            wants_reset: Called when the guest resets itself by an MSR, if it is offered one.

        """
        self._lock: Final = FairLock()
        self._memory = memory
        self._features: Final = features
        self._route = route
        self._crashed = crashed
        self._wants_reset = wants_reset
        self._faults = faults
        self._clock: Final = ReferenceClock(features.tsc_hz, now_100ns=now_100ns, tsc=tsc)
        self._crash: Final = CrashRegisters(memory, faults)
        self._synics: Final = tuple(self._synic(vp, interrupt) for vp in range(vp_count))
        self._values: dict[int, int] = {}  # of the registers that only keep what the guest has written
        self._assist: list[int] = []
        self._page: bytes | None = None  # the hypercall page that the guest has
        self._clear()

    def _synic(self, vp: int, interrupt: Callable[[int, int], None]) -> Synic:
        return Synic(self._memory, lambda sint: interrupt(vp, sint), self._faults)

    def _clear(self) -> None:
        self._values = dict.fromkeys(
            (
                wire.MSR_GUEST_OS_ID,
                wire.MSR_HYPERCALL,
                wire.MSR_REFERENCE_TSC,
                wire.MSR_TSC_INVARIANT_CONTROL,
            ),
            0,
        )
        self._assist = [0] * len(self._synics)
        self._page = None

    def reset(self) -> None:
        """Make it as after power on. The callbacks are not called: the platform resets what it has itself."""
        with self._lock:
            self._clear()
            self._clock.reset()
            self._crash.reset()
            for synic in self._synics:
                synic.reset()

    # what a processor does

    def read_msr(self, vp: int, msr: int) -> int:
        """Return an MSR of a processor; raises GeneralProtectionError for one that it does not have."""
        with self._lock:
            if msr in _SYNIC_MSRS:
                return self._synics[vp].read_msr(msr)
            register = self._register(msr)
            if register.read is None:
                raise GeneralProtectionError(f"MSR {msr:#x} cannot be read")
            return register.read(self, vp)

    def write_msr(self, vp: int, msr: int, value: int, *, is_long_mode: bool = True) -> bool:
        """Set an MSR of a processor; return whether messages that wait may find room now.

        Whatever the value is, only GeneralProtectionError comes of it, and then nothing has changed.
        `is_long_mode` says what the processor runs in, which decides on the code of the hypercall page.
        """
        if msr == wire.MSR_CRASH_CTL:
            self._control_crash(value)
            return False
        if msr in _SINT_MSRS and (vector := vector_of(msr - MSR_SINT0, value)) is not None:
            self._route(vp, msr - MSR_SINT0, vector)
        with self._lock:
            if msr in _SYNIC_MSRS:
                return self._synics[vp].write_msr(msr, value)
            register = self._register(msr)
            if register.write is None:
                raise GeneralProtectionError(f"MSR {msr:#x} cannot be written")
            if value & register.reserved:
                raise GeneralProtectionError(f"MSR {msr:#x} cannot be {value:#x}: reserved bits are set")
            register.write(self, vp, value, is_long_mode)
        if msr == wire.MSR_RESET and value & wire.RESET_NOW and self._wants_reset is not None:
            self._wants_reset()
        return False

    def is_page_at(self, rip: int, port: int) -> bool:
        """Return whether an OUT to `port`, with RIP at it, can be the hypercall page's.

        Where the guest has mapped the page is not known: only that there is one, and where in it RIP is.
        """
        page = self._page
        if page is None:
            return False
        if port == SIGNAL_PORT:
            return page is PAGE and rip & _OFFSET == SIGNAL_OFFSET
        return port == CALL_PORT and rip & _OFFSET == CALL_OFFSET

    @property
    def calls_in_long_mode(self) -> bool:
        """Whether the hypercall page is that of long mode, with parameters in registers of 64 bits."""
        return self._page is PAGE

    # what the host does

    def deliver(self, message: OutgoingMessage) -> bool:
        """Put a message into the slot of its processor; False while that is full, or there is none."""
        slot = MessageSlot(VMBUS_MESSAGE_TYPE, message.payload)
        with self._lock:
            return self._has(message.vp) and self._synics[message.vp].deliver(message.sint, slot)

    def signal(self, signal: Signal) -> bool:
        """Set an event flag of its processor; False if there is no page for it."""
        with self._lock:
            return self._has(signal.vp) and self._synics[signal.vp].signal(signal.sint, signal.flag)

    def _has(self, vp: int) -> bool:
        return 0 <= vp < len(self._synics)

    # inside: the lock is held

    def _register(self, msr: int) -> "Register":
        register = REGISTERS.get(msr)
        if register is None or not register.is_offered(self._features):
            raise GeneralProtectionError(f"there is no MSR {msr:#x}")
        return register

    def _set_os_id(self, _vp: int, value: int, _is_long_mode: bool) -> None:
        """Keep it; without one there is no hypercall page."""
        self._values[wire.MSR_GUEST_OS_ID] = value
        if not value:
            self._values[wire.MSR_HYPERCALL] &= ~wire.HYPERCALL_ENABLED
            self._page = None

    def _set_hypercall(self, _vp: int, value: int, is_long_mode: bool) -> None:
        """Put the page where the guest wants it; without an identity of the guest it stays off."""
        if self._values[wire.MSR_HYPERCALL] & wire.HYPERCALL_LOCKED:
            raise GeneralProtectionError("the hypercall page is locked")
        if not self._values[wire.MSR_GUEST_OS_ID]:
            value &= ~wire.HYPERCALL_ENABLED
        page = None
        if value & wire.HYPERCALL_ENABLED:
            page = PAGE if is_long_mode else PROTECTED_PAGE
            self._write_page(value, page)
        self._page = page
        self._values[wire.MSR_HYPERCALL] = value

    def _set_reference_tsc(self, vp: int, value: int, _is_long_mode: bool) -> None:
        """Fill the page. Where none is offered, a write is kept: Linux makes one on its way out."""
        if value & wire.OVERLAY_ENABLED and not self._features.invariant_tsc:
            try:
                page = wire.encode_tsc_page(self._clock.page(vp))
            except LocalProtocolError:  # an origin that no page can hold: the guest reads the MSR instead
                page = wire.encode_tsc_page(wire.TscPage(0, 0, 0))
            self._write_page(value, page)
        self._values[wire.MSR_REFERENCE_TSC] = value

    def _write_page(self, register: int, content: bytes) -> None:
        """Write the page that a register names."""
        try:
            self._memory.write(register & ~_OFFSET, content)
        except BadAddressError as error:
            raise GeneralProtectionError(f"a page outside memory: {error}") from None

    def _set_assist_page(self, vp: int, value: int, _is_long_mode: bool) -> None:
        self._assist[vp] = value

    def _keep_tsc_invariant(self, _vp: int, value: int, _is_long_mode: bool) -> None:
        self._values[wire.MSR_TSC_INVARIANT_CONTROL] = value

    def _control_crash(self, value: int) -> None:
        with self._lock:
            self._register(wire.MSR_CRASH_CTL)
            crash = self._crash.control(value)
        if crash is not None:  # without the lock: the report takes its time
            self._crashed(crash)


class Register(NamedTuple):
    """One MSR of the table.

    Attributes:
        read: Returns its value on a processor; None: reading is a #GP.
        write: Takes (vp, value, is_long_mode); None: writing is a #GP.
        reserved: Bits that make any write a #GP.
        is_offered: Whether there is this MSR at all.

    """

    read: Callable[[Partition, int], int] | None
    write: Callable[[Partition, int, int, bool], None] | None = None
    reserved: int = 0
    is_offered: Callable[[Features], bool] = lambda _features: True


def _kept(msr: int) -> Callable[[Partition, int], int]:
    return lambda partition, _vp: partition._values[msr]


def _crash_parameter(number: int) -> Register:
    return Register(
        lambda partition, _vp: partition._crash.read(number),
        lambda partition, _vp, value, _is_long_mode: partition._crash.write(number, value),
        is_offered=lambda features: features.crash,
    )


REGISTERS: Final[Mapping[int, Register]] = {
    wire.MSR_GUEST_OS_ID: Register(_kept(wire.MSR_GUEST_OS_ID), Partition._set_os_id),
    wire.MSR_HYPERCALL: Register(
        _kept(wire.MSR_HYPERCALL), Partition._set_hypercall, reserved=wire.HYPERCALL_RESERVED
    ),
    wire.MSR_VP_INDEX: Register(lambda _partition, vp: vp),
    wire.MSR_RESET: Register(
        lambda _partition, _vp: 0,
        lambda _partition, _vp, _value, _is_long_mode: None,
        reserved=~wire.RESET_NOW,
        is_offered=lambda features: features.reset,
    ),
    wire.MSR_TIME_REF_COUNT: Register(
        lambda partition, vp: partition._clock.read(vp),
        is_offered=lambda features: not features.invariant_tsc,
    ),
    wire.MSR_REFERENCE_TSC: Register(
        _kept(wire.MSR_REFERENCE_TSC), Partition._set_reference_tsc, reserved=wire.OVERLAY_RESERVED
    ),
    wire.MSR_TSC_FREQUENCY: Register(lambda partition, _vp: partition._features.tsc_hz),
    wire.MSR_APIC_FREQUENCY: Register(lambda _partition, _vp: _APIC_HZ),
    wire.MSR_VP_ASSIST_PAGE: Register(
        lambda partition, vp: partition._assist[vp],
        Partition._set_assist_page,
        reserved=wire.OVERLAY_RESERVED,
    ),
    wire.MSR_TSC_INVARIANT_CONTROL: Register(
        _kept(wire.MSR_TSC_INVARIANT_CONTROL),
        Partition._keep_tsc_invariant,
        reserved=~wire.TSC_INVARIANT_EXPOSED,
        is_offered=lambda features: features.invariant_tsc,
    ),
    **{msr: _crash_parameter(number) for number, msr in enumerate(_CRASH_MSRS)},
    wire.MSR_CRASH_CTL: Register(
        lambda _partition, _vp: SUPPORTED, is_offered=lambda features: features.crash
    ),
}
