"""What a virtual processor and this process share: why it left the guest, and with which registers.

One structure, mapped (struct kvm_run). Its fields are read through views of three widths, since an exit is
too frequent for a structure of ctypes: 10 us of it are Python's.

Source: Linux include/uapi/linux/kvm.h, struct kvm_run; arch/x86/include/uapi/asm/kvm.h, kvm_sync_regs.
"""

import mmap
from typing import Final

# offsets of fields, in units of the view that reads them
_IMMEDIATE_EXIT: Final = 1  # bytes
_EXIT_REASON: Final = 8 // 4
_EXIT: Final = 32  # the union that describes the exit begins here
_IO_IS_OUT: Final = _EXIT
_IO_SIZE: Final = _EXIT + 1
_IO_PORT: Final = (_EXIT + 2) // 2
_IO_COUNT: Final = (_EXIT + 4) // 4
_IO_OFFSET: Final = (_EXIT + 8) // 8
_MMIO_DATA: Final = _EXIT + 8
_MMIO_IS_WRITE: Final = _EXIT + 20
_MSR_ERROR: Final = _EXIT
_MSR_INDEX: Final = (_EXIT + 12) // 4
_MSR_DATA: Final = (_EXIT + 16) // 8
_VALID_REGS: Final = 288 // 8
_DIRTY_REGS: Final = 296 // 8
_REGS: Final = 304 // 8
_SYNC_REGS: Final = 1  # KVM_SYNC_X86_REGS
_OUT: Final = 1

# registers, in the order of struct kvm_regs
RAX: Final = 0
RBX: Final = 1
RCX: Final = 2
RDX: Final = 3
RSI: Final = 4
RDI: Final = 5
R8: Final = 8
R9: Final = 9
RIP: Final = 16


class RunPage:
    """The page of one virtual processor. Its thread's, but for `ask_to_leave`."""

    def __init__(self, vcpu: int, size: int) -> None:
        """Map it; OSError."""
        self._map: Final = mmap.mmap(vcpu, size)
        view = memoryview(self._map)
        self._bytes: Final = view
        self._halves: Final = view.cast("H")
        self._words: Final = view.cast("I")
        self._quads: Final = view.cast("Q")
        self._quads[_VALID_REGS] = _SYNC_REGS  # every exit brings the registers with it

    def ask_to_leave(self) -> None:
        """Make the current run, or else the next one, end at once (EINTR). Any thread may call it.

        A signal must follow: a processor that is in the guest sees this only when it leaves it.
        """
        self._bytes[_IMMEDIATE_EXIT] = 1

    def stay(self) -> None:
        """Let the next run enter the guest."""
        self._bytes[_IMMEDIATE_EXIT] = 0

    @property
    def exit_reason(self) -> int:
        """One of KVM_EXIT_*."""
        return self._words[_EXIT_REASON]

    @property
    def detail(self) -> str:
        """The first words of the exit's description, for a log."""
        return self._bytes[_EXIT : _EXIT + 24].hex(" ", 4)

    # port I/O

    @property
    def io(self) -> tuple[bool, int, int, int]:
        """Whether the guest writes, the port, the size of an access in bytes, and how many there are."""
        count = self._words[_IO_COUNT]
        return self._bytes[_IO_IS_OUT] == _OUT, self._halves[_IO_PORT], self._bytes[_IO_SIZE], count

    @property
    def io_data(self) -> memoryview:
        """The bytes that the guest writes, or that it will read."""
        start = self._quads[_IO_OFFSET]
        return self._bytes[start : start + self._bytes[_IO_SIZE] * self._words[_IO_COUNT]]

    # memory that is not there

    def answer_mmio(self) -> None:
        """Let the guest read ones; a write goes nowhere."""
        if not self._bytes[_MMIO_IS_WRITE]:
            self._bytes[_MMIO_DATA : _MMIO_DATA + 8] = b"\xff" * 8

    # model specific registers

    @property
    def msr(self) -> tuple[int, int]:
        """The register, and the value that is written."""
        return self._words[_MSR_INDEX], self._quads[_MSR_DATA]

    def answer_msr(self, value: int = 0, *, is_wrong: bool = False) -> None:
        """Give the guest the value that it reads, or #GP."""
        self._bytes[_MSR_ERROR] = is_wrong
        self._quads[_MSR_DATA] = value

    # registers

    def register(self, number: int) -> int:
        """Return a register as it was at the exit."""
        return self._quads[_REGS + number]

    def set_register(self, number: int, value: int) -> None:
        """Change a register before the next run.

        Not RIP: an instruction that left the guest is finished in the next run if RIP still points to it.
        """
        self._quads[_REGS + number] = value
        self._quads[_DIRTY_REGS] = _SYNC_REGS

    def close(self) -> None:
        """Unmap it."""
        for view in (self._quads, self._words, self._halves, self._bytes):
            view.release()
        self._map.close()
