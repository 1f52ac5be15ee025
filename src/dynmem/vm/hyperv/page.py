"""The hypercall page: the code that a guest calls to reach its host, by a port instead of an instruction.

An OUT leaves the guest on every processor alike, and one to a port that a hypervisor knows can end in an
eventfd, without an exit to the machine: so signals, the most frequent call, have a port of their own.

    0x00  endbr64; is it HvSignalEvent, fast, with the flag number 0?
    0x1B  out SIGNAL_PORT, eax    the connection id; r9 is 0, the status, unless nobody listens to that id:
                                  then the machine sees the OUT and puts a status into r9
    0x21  out CALL_PORT, al       any other call: rcx, rdx and r8 as the guest passed them, rax is the result

Callers take rax and r9 to r11 as changed by a call, and nothing else is. The page begins with ENDBR64 because
Linux switches off indirect branch tracking for the whole guest if it does not.

A guest outside long mode passes other registers: its page has no short cut for signals.

The ports are part of what a saved guest has in its memory: they cannot change between versions.
"""

from typing import Final

from dynmem.units import PAGE_SIZE

SIGNAL_PORT: Final = 0xE0
CALL_PORT: Final = 0xE4
SIGNAL_OFFSET: Final = 0x1B
CALL_OFFSET: Final = 0x21
_INT3: Final = b"\xcc"  # a jump to the wrong place is an exception in the guest

_LONG: Final = (
    bytes.fromhex("f30f1efa")  # endbr64
    + bytes.fromhex("4881f95d000100")  # cmp rcx, HvSignalEvent | fast
    + bytes.fromhex("7514")  # jne call
    + bytes.fromhex("4889d0")  # mov rax, rdx
    + bytes.fromhex("48c1e820")  # shr rax, 32: the flag number
    + bytes.fromhex("750b")  # jnz call
    + bytes.fromhex("89d0")  # mov eax, edx: the connection id
    + bytes.fromhex("4531c9")  # xor r9d, r9d
    + bytes((0xE7, SIGNAL_PORT))  # out SIGNAL_PORT, eax
    + bytes.fromhex("4489c8")  # mov eax, r9d
    + b"\xc3"  # ret
    + bytes((0xE6, CALL_PORT))  # call: out CALL_PORT, al
    + b"\xc3"  # ret
)
_PROTECTED_HEAD: Final = bytes.fromhex("f30f1efb") + bytes((0xEB, CALL_OFFSET - 6))  # endbr32; jmp call
_PROTECTED: Final = _PROTECTED_HEAD.ljust(CALL_OFFSET, _INT3) + bytes((0xE6, CALL_PORT)) + b"\xc3"

PAGE: Final = _LONG.ljust(PAGE_SIZE, _INT3)
PROTECTED_PAGE: Final = _PROTECTED.ljust(PAGE_SIZE, _INT3)
