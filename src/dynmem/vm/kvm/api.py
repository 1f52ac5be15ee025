"""KVM's interface: requests, structures and exit reasons by their names in linux/kvm.h, and the call itself.

Calls go through ctypes: it releases the interpreter lock, as `fcntl.ioctl` does, but a KVM_RUN that a signal
interrupts, which is the usual end of one, costs no exception.

Source: Linux include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h, API version 12.
"""

import ctypes
import os
from typing import Final, TypeAlias

API_VERSION: Final = 12

_TYPE: Final = 0xAE  # KVMIO
_WRITE: Final = 1 << 30
_READ: Final = 2 << 30

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_ioctl: Final = _LIBC.ioctl
_ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
_ioctl.restype = ctypes.c_int

Argument: TypeAlias = int | ctypes.Structure | ctypes.Array[ctypes.c_char]


class _Structure(ctypes.Structure):
    """A structure whose bytes are as the kernel's; fields that are not named are 0."""


class MemoryRegion(_Structure):
    """struct kvm_userspace_memory_region: one memory slot; a size of 0 removes it."""

    _fields_ = (
        ("slot", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("guest_phys_addr", ctypes.c_uint64),
        ("memory_size", ctypes.c_uint64),
        ("userspace_addr", ctypes.c_uint64),
    )


class EnableCap(_Structure):
    """struct kvm_enable_cap."""

    _fields_ = (
        ("cap", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("args", ctypes.c_uint64 * 4),
        ("pad", ctypes.c_uint8 * 64),
    )


class MsrFilterRange(_Structure):
    """struct kvm_msr_filter_range: a bit for each MSR from `base` on; 0 denies it, which is an exit."""

    _fields_ = (
        ("flags", ctypes.c_uint32),
        ("nmsrs", ctypes.c_uint32),
        ("base", ctypes.c_uint32),
        ("bitmap", ctypes.c_void_p),
    )


class MsrFilter(_Structure):
    """struct kvm_msr_filter."""

    _fields_ = (("flags", ctypes.c_uint32), ("ranges", MsrFilterRange * 16))


class PitConfig(_Structure):
    """struct kvm_pit_config."""

    _fields_ = (("flags", ctypes.c_uint32), ("pad", ctypes.c_uint32 * 15))


class IrqLevel(_Structure):
    """struct kvm_irq_level."""

    _fields_ = (("irq", ctypes.c_uint32), ("level", ctypes.c_uint32))


class Irqfd(_Structure):
    """struct kvm_irqfd: writing to `fd` raises `gsi`."""

    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("gsi", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("resamplefd", ctypes.c_uint32),
        ("pad", ctypes.c_uint8 * 16),
    )


class Ioeventfd(_Structure):
    """struct kvm_ioeventfd: a write of `datamatch` to `addr` adds 1 to `fd` instead of an exit."""

    _fields_ = (
        ("datamatch", ctypes.c_uint64),
        ("addr", ctypes.c_uint64),
        ("len", ctypes.c_uint32),
        ("fd", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint8 * 36),
    )


class Irqchip(_Structure):
    """struct kvm_irq_routing_irqchip: a pin of an interrupt controller."""

    _fields_ = (("irqchip", ctypes.c_uint32), ("pin", ctypes.c_uint32))


class Msi(_Structure):
    """struct kvm_irq_routing_msi."""

    _fields_ = (
        ("address_lo", ctypes.c_uint32),
        ("address_hi", ctypes.c_uint32),
        ("data", ctypes.c_uint32),
        ("devid", ctypes.c_uint32),
    )


class _Route(ctypes.Union):
    """The union in struct kvm_irq_routing_entry."""

    _fields_ = (("irqchip", Irqchip), ("msi", Msi), ("pad", ctypes.c_uint32 * 8))


class RoutingEntry(_Structure):
    """struct kvm_irq_routing_entry: what one GSI raises."""

    _fields_ = (
        ("gsi", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("u", _Route),
    )


class CpuidEntry(_Structure):
    """struct kvm_cpuid_entry2."""

    _fields_ = (
        ("function", ctypes.c_uint32),
        ("index", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("eax", ctypes.c_uint32),
        ("ebx", ctypes.c_uint32),
        ("ecx", ctypes.c_uint32),
        ("edx", ctypes.c_uint32),
        ("padding", ctypes.c_uint32 * 3),
    )


class Regs(_Structure):
    """struct kvm_regs."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
            *(f"r{number}" for number in range(8, 16)),
            *("rip", "rflags"),
        )
    )


class Segment(_Structure):
    """struct kvm_segment."""

    _fields_ = (
        ("base", ctypes.c_uint64),
        ("limit", ctypes.c_uint32),
        ("selector", ctypes.c_uint16),
        *((name, ctypes.c_uint8) for name in ("type", "present", "dpl", "db", "s", "l", "g", "avl")),
        ("unusable", ctypes.c_uint8),
        ("padding", ctypes.c_uint8),
    )


class DescriptorTable(_Structure):
    """struct kvm_dtable."""

    _fields_ = (("base", ctypes.c_uint64), ("limit", ctypes.c_uint16), ("padding", ctypes.c_uint16 * 3))


class Sregs(_Structure):
    """struct kvm_sregs."""

    _fields_ = (
        *((name, Segment) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
        ("gdt", DescriptorTable),
        ("idt", DescriptorTable),
        *((name, ctypes.c_uint64) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")),
        ("interrupt_bitmap", ctypes.c_uint64 * 4),
    )


class MsrEntry(_Structure):
    """struct kvm_msrs with one entry."""

    _fields_ = (
        ("nmsrs", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("index", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("data", ctypes.c_uint64),
    )


def _request(number: int, direction: int = 0, size: int = 0) -> int:
    """Return the number of a request as the kernel's _IOC makes it; `size` is its structure's."""
    return direction | size << 16 | _TYPE << 8 | number


def _in(number: int, structure: type[ctypes.Structure]) -> int:
    return _request(number, _WRITE, ctypes.sizeof(structure))


def _out(number: int, structure: type[ctypes.Structure]) -> int:
    return _request(number, _READ, ctypes.sizeof(structure))


# of /dev/kvm
GET_API_VERSION: Final = _request(0x00)
CREATE_VM: Final = _request(0x01)
CHECK_EXTENSION: Final = _request(0x03)
GET_VCPU_MMAP_SIZE: Final = _request(0x04)
GET_SUPPORTED_CPUID: Final = _request(0x05, _READ | _WRITE, 8)
# of a virtual machine
CREATE_VCPU: Final = _request(0x41)
SET_USER_MEMORY_REGION: Final = _in(0x46, MemoryRegion)
SET_TSS_ADDR: Final = _request(0x47)
SET_IDENTITY_MAP_ADDR: Final = _request(0x48, _WRITE, 8)
CREATE_IRQCHIP: Final = _request(0x60)
IRQ_LINE: Final = _in(0x61, IrqLevel)
SET_GSI_ROUTING: Final = _request(0x6A, _WRITE, 8)
IRQFD: Final = _in(0x76, Irqfd)
CREATE_PIT2: Final = _in(0x77, PitConfig)
IOEVENTFD: Final = _in(0x79, Ioeventfd)
ENABLE_CAP: Final = _in(0xA3, EnableCap)
X86_SET_MSR_FILTER: Final = _in(0xC6, MsrFilter)
# of a virtual processor
RUN: Final = _request(0x80)
SET_REGS: Final = _in(0x82, Regs)
GET_SREGS: Final = _out(0x83, Sregs)
SET_SREGS: Final = _in(0x84, Sregs)
GET_MSRS: Final = _request(0x88, _READ | _WRITE, 8)
SET_MSRS: Final = _request(0x89, _WRITE, 8)
SET_CPUID2: Final = _request(0x90, _WRITE, 8)
GET_TSC_KHZ: Final = _request(0xA3)

# capabilities (KVM_CAP_*)
CAP_NR_MEMSLOTS: Final = 10
CAP_NR_VCPUS: Final = 9
CAP_MAX_VCPUS: Final = 66
CAP_X86_USER_SPACE_MSR: Final = 188

# exit reasons (KVM_EXIT_*)
EXIT_IO: Final = 2
EXIT_MMIO: Final = 6
EXIT_SHUTDOWN: Final = 8
EXIT_FAIL_ENTRY: Final = 9
EXIT_INTR: Final = 10
EXIT_INTERNAL_ERROR: Final = 17
EXIT_SYSTEM_EVENT: Final = 24
EXIT_X86_RDMSR: Final = 29
EXIT_X86_WRMSR: Final = 30

MEM_READONLY: Final = 1 << 1  # of a memory slot
MSR_EXIT_REASON_FILTER: Final = 1 << 2
MSR_FILTER_READ_AND_WRITE: Final = 3
IOEVENTFD_DATAMATCH_PIO: Final = 1 | 2
IRQ_ROUTING_IRQCHIP: Final = 1
IRQ_ROUTING_MSI: Final = 2


def call(fd: int, request: int, argument: Argument = 0) -> int:
    """Carry out a request; raise OSError with the kernel's errno if it fails.

    `argument` is a number, or a structure that the kernel reads or fills.
    """
    number = argument if isinstance(argument, int) else ctypes.addressof(argument)
    result = int(_ioctl(fd, request, number))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def run(vcpu: int) -> int:
    """Run a virtual processor until its next exit; return 0 or an errno (EINTR: somebody kicked it)."""
    return ctypes.get_errno() if _ioctl(vcpu, RUN, 0) < 0 else 0
