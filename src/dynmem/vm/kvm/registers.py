"""The registers that the first processor of a guest starts with, for each boot protocol.

Source: Linux Documentation/arch/x86/boot.rst (64-bit boot protocol); Xen docs/misc/pvh.pandoc, which PVH
guests follow; Intel SDM volume 3, segment descriptors and control registers.
"""

from typing import Final

from dynmem.vm.kvm import api
from dynmem.vm.kvm.boot import layout, linux64
from dynmem.vm.kvm.boot.loader import Entry

_CODE: Final = 0x0B  # types of segments: execute and read, accessed
_DATA: Final = 0x03  # read and write, accessed
_TSS: Final = 0x0B  # busy
_LDT: Final = 0x02
_FLAT_LIMIT: Final = 0xFFFF_FFFF
_CR0_PE: Final = 1 << 0
_CR0_ET: Final = 1 << 4
_CR0_PG: Final = 1 << 31
_CR4_PAE: Final = 1 << 5
_EFER_LME: Final = 1 << 8
EFER_LMA: Final = 1 << 10
_RFLAGS: Final = 1 << 1  # always set


def start_at(vcpu: int, entry: Entry) -> None:
    """Set the registers of a processor to begin at a kernel's entry; OSError."""
    special = api.Sregs()
    api.call(vcpu, api.GET_SREGS, special)
    is_long = entry.protocol == "linux64"
    special.cs = _segment(linux64.CODE_SELECTOR, _CODE, is_long=is_long)
    data = _segment(linux64.DATA_SELECTOR, _DATA)
    special.ds = special.es = special.fs = special.gs = special.ss = data
    special.tr = api.Segment(limit=0x67, type=_TSS, present=1)
    special.ldt = api.Segment(type=_LDT, present=1)
    special.gdt = api.DescriptorTable(base=layout.GDT, limit=linux64.GDT_LIMIT if is_long else 0)
    special.cr0 = _CR0_PE | _CR0_ET | (_CR0_PG if is_long else 0)
    special.cr3 = entry.cr3
    special.cr4 = _CR4_PAE if is_long else 0
    special.efer = _EFER_LME | EFER_LMA if is_long else 0
    api.call(vcpu, api.SET_SREGS, special)
    registers = api.Regs(rip=entry.rip, rflags=_RFLAGS)
    if is_long:
        registers.rsi = entry.argument
    else:
        registers.rbx = entry.argument
    api.call(vcpu, api.SET_REGS, registers)


def _segment(selector: int, kind: int, *, is_long: bool = False) -> api.Segment:
    """Return a flat segment: of 32 bits, or of 64."""
    return api.Segment(
        limit=_FLAT_LIMIT, selector=selector, type=kind, present=1, s=1, g=1, db=not is_long, l=is_long
    )
