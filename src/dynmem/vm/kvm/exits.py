"""What a guest leaves its processor for: ports, model specific registers, the hypercall page, its end.

Everything here runs on the processor's own thread.
"""

from collections.abc import Callable
from typing import Final, Protocol

from dynmem.vm.hyperv.general_protection import GeneralProtectionError
from dynmem.vm.hyperv.page import CALL_PORT, SIGNAL_PORT
from dynmem.vm.hyperv.partition import Partition
from dynmem.vm.kvm import api, run_page
from dynmem.vm.kvm.board.ports import Ports
from dynmem.vm.kvm.run_page import RunPage
from dynmem.wire.hyperv import MSR_HYPERCALL
from dynmem.wire.synic import HvStatus, HypercallInput

# KVM leaves RIP at the OUT, and passes it in the next run; unless it had to emulate the instruction, as a
# nested one may have to: then RIP is behind it already (seen on Linux 6.18 in Firecracker).
_OUT_BYTES: Final = 2
_LOW: Final = (1 << 32) - 1
# the registers of the control word, the input and the output; outside long mode the high half first
_LONG_PARAMETERS: Final = (run_page.RCX, run_page.RDX, run_page.R8)
_PROTECTED_PARAMETERS: Final = (
    (run_page.RDX, run_page.RAX),
    (run_page.RBX, run_page.RCX),
    (run_page.RDI, run_page.RSI),
)
_HYPERCALL_PORTS: Final = frozenset({CALL_PORT, SIGNAL_PORT})


class MakeCalls(Protocol):
    """What carries out hypercalls for a processor's thread; `calls.Calls`."""

    def make(self, made: HypercallInput) -> int:
        """Return the result of a hypercall, when it is carried out."""

    def retry_messages(self) -> None:
        """Have messages that wait for room delivered."""


class Exits:
    """Serves the exits of one guest's life; it is a `vcpu.ServeExit`.

    Args:
        ports: The devices.
        partition: Hyper-V's registers.
        calls: Where hypercalls are carried out.
        is_long_mode: Returns whether a processor runs 64-bit code, on its own thread.
        triple_fault: Called when a processor has shut down.
        failed: Called, with a phrase, when KVM can't go on.

    """

    def __init__(
        self,
        ports: Ports,
        partition: Partition,
        calls: MakeCalls,
        *,
        is_long_mode: Callable[[int], bool],
        triple_fault: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._ports = ports
        self._partition = partition
        self._calls = calls
        self._is_long_mode = is_long_mode
        self._triple_fault = triple_fault
        self._failed = failed
        self._servers: Final = {
            api.EXIT_IO: self._io,
            api.EXIT_MMIO: self._mmio,
            api.EXIT_X86_RDMSR: self._read_msr,
            api.EXIT_X86_WRMSR: self._write_msr,
            api.EXIT_SHUTDOWN: self._shut_down,
            api.EXIT_INTR: self._nothing,
        }

    def __call__(self, vp: int, page: RunPage) -> None:
        server = self._servers.get(page.exit_reason)
        if server is None:
            self._failed(
                f"KVM's exit {page.exit_reason} on vCPU {vp} at {page.register(run_page.RIP):#x}:"
                f" {page.detail}"
            )
            return
        server(vp, page)

    def _io(self, vp: int, page: RunPage) -> None:
        is_out, port, size, count = page.io
        if is_out and port in _HYPERCALL_PORTS and self._is_hypercall(page, port):
            if port == CALL_PORT:
                self._hypercall(page)
            else:  # a known connection has a doorbell, and would not have left the guest
                page.set_register(run_page.R9, HvStatus.INVALID_CONNECTION_ID)
        elif is_out:
            data = page.io_data
            if count == 1:
                self._ports.write(port, size, int.from_bytes(data, "little"))
            else:
                self._ports.write_string(port, size, bytes(data))
        elif count == 1:
            page.io_data[:] = self._ports.read(port, size).to_bytes(size, "little")
        else:
            page.io_data[:] = self._ports.read_string(port, size, count)

    def _is_hypercall(self, page: RunPage, port: int) -> bool:
        """Return whether an OUT that left the guest may be the hypercall page's.

        Any program of the guest that may use ports could imitate it, and would only make a hypercall. What
        this prevents is that a probe of ports loses a register.
        """
        rip = page.register(run_page.RIP)
        return any(self._partition.is_page_at(rip - passed, port) for passed in (0, _OUT_BYTES))

    def _hypercall(self, page: RunPage) -> None:
        """Carry out a call, whose parameters are where the guest's mode has them."""
        if self._partition.calls_in_long_mode:
            call = HypercallInput(*(page.register(each) for each in _LONG_PARAMETERS))
            page.set_register(run_page.RAX, self._calls.make(call))
            return
        call = HypercallInput(*(_joined(page, *pair) for pair in _PROTECTED_PARAMETERS))
        result = self._calls.make(call)
        page.set_register(run_page.RAX, result & _LOW)
        page.set_register(run_page.RDX, result >> 32)

    def _mmio(self, vp: int, page: RunPage) -> None:
        page.answer_mmio()

    def _read_msr(self, vp: int, page: RunPage) -> None:
        msr, _ = page.msr
        try:
            page.answer_msr(self._partition.read_msr(vp, msr))
        except GeneralProtectionError:
            page.answer_msr(is_wrong=True)

    def _write_msr(self, vp: int, page: RunPage) -> None:
        msr, value = page.msr
        try:
            is_long = msr != MSR_HYPERCALL or self._is_long_mode(vp)  # it matters for no other
            may_fit = self._partition.write_msr(vp, msr, value, is_long_mode=is_long)
        except GeneralProtectionError:
            page.answer_msr(is_wrong=True)
            return
        page.answer_msr()
        if may_fit:
            self._calls.retry_messages()

    def _shut_down(self, vp: int, page: RunPage) -> None:
        self._triple_fault()

    def _nothing(self, vp: int, page: RunPage) -> None:
        """Go on: a signal came, and not from us."""


def _joined(page: RunPage, high: int, low: int) -> int:
    return (page.register(high) & _LOW) << 32 | page.register(low) & _LOW
