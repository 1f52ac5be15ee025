"""What a partition of Hyper-V is on the wire, besides its SynIC: synthetic MSRs and the reference TSC page.

Source: Hypervisor Top-Level Functional Specification, chapters on the hypercall interface, on timers and on
guest crash enlightenment; Linux include/asm-generic/hyperv-tlfs.h.
"""

import struct
from typing import Final

import msgspec

from dynmem.errors import LocalProtocolError, RemoteProtocolError

MSR_GUEST_OS_ID: Final = 0x4000_0000
MSR_HYPERCALL: Final = 0x4000_0001
MSR_VP_INDEX: Final = 0x4000_0002
MSR_RESET: Final = 0x4000_0003
MSR_TIME_REF_COUNT: Final = 0x4000_0020
MSR_REFERENCE_TSC: Final = 0x4000_0021
MSR_TSC_FREQUENCY: Final = 0x4000_0022
MSR_APIC_FREQUENCY: Final = 0x4000_0023
MSR_VP_ASSIST_PAGE: Final = 0x4000_0073
MSR_CRASH_P0: Final = 0x4000_0100
MSR_CRASH_CTL: Final = 0x4000_0105
MSR_TSC_INVARIANT_CONTROL: Final = 0x4000_0118
CRASH_PARAMETERS: Final = 5

# MSR_HYPERCALL; the page's address is in bits 12 and up
HYPERCALL_ENABLED: Final = 1
HYPERCALL_LOCKED: Final = 1 << 1
HYPERCALL_RESERVED: Final = 0xFFC
# MSR_REFERENCE_TSC and MSR_VP_ASSIST_PAGE; likewise
OVERLAY_ENABLED: Final = 1
OVERLAY_RESERVED: Final = 0xFFE
# MSR_CRASH_CTL
CRASH_NOTIFY: Final = 1 << 63
CRASH_HAS_TEXT: Final = 1 << 62  # P3 is its address, P4 its length
# MSR_TSC_INVARIANT_CONTROL
TSC_INVARIANT_EXPOSED: Final = 1
# MSR_RESET
RESET_NOW: Final = 1

REFERENCE_HZ: Final = 10_000_000
_TSC_PAGE: Final = struct.Struct("<IIQq")


class TscPage(msgspec.Struct, frozen=True, gc=False):
    """The reference TSC page: time in units of 100 ns is (TSC * scale >> 64) + offset.

    A `sequence` of 0 says that the page is not to be used, and MSR_TIME_REF_COUNT is to be read.
    """

    sequence: int
    scale: int
    offset: int


def encode_tsc_page(page: TscPage) -> bytes:
    """Return the beginning of the page; the rest of it is zeros."""
    try:
        return _TSC_PAGE.pack(page.sequence, 0, page.scale, page.offset)
    except struct.error as error:
        raise LocalProtocolError(f"the reference TSC page cannot be encoded: {error}") from error


def decode_tsc_page(data: bytes) -> TscPage:
    """Return the page that begins with `data`."""
    if len(data) < _TSC_PAGE.size:
        raise RemoteProtocolError(f"a reference TSC page has {_TSC_PAGE.size} bytes, not {len(data)}")
    sequence, _, scale, offset = _TSC_PAGE.unpack_from(data)
    return TscPage(sequence, scale, offset)
