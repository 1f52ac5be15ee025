"""The CPUID leaves by which a guest knows that it runs on Hyper-V, and what of it there is.

Only what is offered here has to work: the MSRs of `partition` follow the same features.

Source: Hypervisor Top-Level Functional Specification, feature and interface discovery; Linux
arch/x86/kernel/cpu/mshyperv.c.
"""

import struct
from typing import Final, NamedTuple

_FIRST: Final = 0x4000_0000
_VENDOR: Final = struct.unpack("<III", b"Microsoft Hv")
_INTERFACE: Final = int.from_bytes(b"Hv#1", "little")
_BUILD: Final = 14393
_VERSION: Final = 10 << 16  # 10.0, as Windows Server 2016 says

# leaf 3, EAX: which MSRs there are
REFERENCE_COUNTER: Final = 1 << 1
SYNIC: Final = 1 << 2
HYPERCALL: Final = 1 << 5
VP_INDEX: Final = 1 << 6
RESET: Final = 1 << 7
REFERENCE_TSC: Final = 1 << 9
FREQUENCIES: Final = 1 << 11
INVARIANT_TSC: Final = 1 << 15
# leaf 3, EBX: which hypercalls; bit 12 would say that this is the root partition
POST_MESSAGES: Final = 1 << 4
SIGNAL_EVENTS: Final = 1 << 5
EXTENDED_HYPERCALLS: Final = 1 << 20
# leaf 3, EDX
FREQUENCIES_THERE: Final = 1 << 8
CRASH: Final = 1 << 10
# leaf 4, EAX: a guest that uses auto-EOI would never end an interrupt here, and hang
DEPRECATE_AUTO_EOI: Final = 1 << 9
_NEVER_NOTIFY_SPINS: Final = 0xFFFF_FFFF


class Features(NamedTuple):
    """What a partition offers besides SynIC and hypercalls.

    Attributes:
        tsc_hz: How fast the guest's TSC counts; above 10 MHz.
        invariant_tsc: Whether it counts at that rate whatever the processor does. A guest that cannot rely on
            it gets a reference counter and its page instead.
        free_page_reporting: Whether the guest may return free pages by itself.
        vp_max: The most virtual processors that there can be.
        crash: Whether the guest can report a crash.
        reset: Whether it can reset the machine by an MSR.

    """

    tsc_hz: int
    invariant_tsc: bool
    free_page_reporting: bool
    vp_max: int
    crash: bool = True
    reset: bool = False


class Leaf(NamedTuple):
    """One leaf: the function that selects it, and its four registers."""

    function: int
    eax: int
    ebx: int
    ecx: int
    edx: int


def leaves(features: Features) -> tuple[Leaf, ...]:
    """Return all leaves of the hypervisor's range.

    A guest looks for them if bit 31 of leaf 1's ECX is set. With an invariant TSC, bit 8 of 0x80000007's EDX
    is to be set, too.
    """
    msrs = SYNIC | HYPERCALL | VP_INDEX | FREQUENCIES
    msrs |= INVARIANT_TSC if features.invariant_tsc else REFERENCE_COUNTER | REFERENCE_TSC
    msrs |= RESET if features.reset else 0
    calls = POST_MESSAGES | SIGNAL_EVENTS
    calls |= EXTENDED_HYPERCALLS if features.free_page_reporting else 0
    others = FREQUENCIES_THERE | (CRASH if features.crash else 0)
    contents = (
        (_FIRST + 5, *_VENDOR),
        (_INTERFACE, 0, 0, 0),
        (_BUILD, _VERSION, 0, 0),
        (msrs, calls, 0, others),
        (DEPRECATE_AUTO_EOI, _NEVER_NOTIFY_SPINS, 0, 0),
        (features.vp_max, features.vp_max, 0, 0),
    )
    return tuple(Leaf(_FIRST + number, *registers) for number, registers in enumerate(contents))
