"""What a guest's processors say of themselves: what the host's KVM supports, and Hyper-V as the hypervisor.

Source: Linux Documentation/virt/kvm/api.rst (KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2); Intel SDM volume 2 and
AMD APM volume 3 on CPUID.
"""

import ctypes
from collections.abc import Iterable, Sequence
from typing import Final

from dynmem.vm.hyperv.cpuid import Leaf
from dynmem.vm.kvm import api

_ENTRIES_MAX: Final = 256
_HYPERVISOR_LEAVES: Final = range(0x4000_0000, 0x4001_0000)
_FEATURES: Final = 1
_TOPOLOGY: Final = frozenset({0xB, 0x1F})
_AMD_TOPOLOGY: Final = 0x8000_001E
_POWER: Final = 0x8000_0007
_SIZES: Final = 0x8000_0008  # of addresses; on AMD also the number of threads
_GUEST_BITS_SHIFT: Final = 16  # of EAX, where they are fewer than the processor's own
_BITS_WITHOUT_LEAF: Final = 36
_IS_HYPERVISOR: Final = 1 << 31  # of leaf 1, ECX
_HAS_THREADS: Final = 1 << 28  # of leaf 1, EDX
_INVARIANT_TSC: Final = 1 << 8  # of leaf 0x80000007, EDX


def supported(kvm: int) -> list[api.CpuidEntry]:
    """Return what this host's KVM supports, without its own leaves as a hypervisor; OSError."""
    table = _table([api.CpuidEntry()] * _ENTRIES_MAX)
    api.call(kvm, api.GET_SUPPORTED_CPUID, table)
    count = int.from_bytes(table.raw[:4], "little")
    size = ctypes.sizeof(api.CpuidEntry)
    entries = [api.CpuidEntry.from_buffer_copy(table, 8 + size * number) for number in range(count)]
    return [entry for entry in entries if entry.function not in _HYPERVISOR_LEAVES]


def has_invariant_tsc(entries: Iterable[api.CpuidEntry]) -> bool:
    """Return whether the time stamp counter runs at one rate, whatever the processor does."""
    return any(entry.function == _POWER and entry.edx & _INVARIANT_TSC for entry in entries)


def addresses(entries: Iterable[api.CpuidEntry]) -> int:
    """Return how many bytes of addresses a guest's processors have: above them it finds no memory."""
    sizes = next((entry.eax for entry in entries if entry.function == _SIZES), _BITS_WITHOUT_LEAF)
    return 1 << (sizes >> _GUEST_BITS_SHIFT & 0xFF or sizes & 0xFF)


def of_processor(
    entries: Iterable[api.CpuidEntry], hypervisor: Iterable[Leaf], *, number: int, count: int
) -> list[api.CpuidEntry]:
    """Return the leaves of processor `number` of `count`, which are threads of one package."""
    leaves = [_numbered(api.CpuidEntry.from_buffer_copy(entry), number, count) for entry in entries]
    leaves += [
        api.CpuidEntry(function=leaf.function, eax=leaf.eax, ebx=leaf.ebx, ecx=leaf.ecx, edx=leaf.edx)
        for leaf in hypervisor
    ]
    return leaves


def _numbered(entry: api.CpuidEntry, number: int, count: int) -> api.CpuidEntry:
    """Put the processor's number, which is its APIC id, where the leaf has it."""
    if entry.function == _FEATURES:
        entry.ebx = entry.ebx & 0xFFFF | count << 16 | number << 24
        entry.ecx |= _IS_HYPERVISOR
        entry.edx |= _HAS_THREADS if count > 1 else 0
    elif entry.function in _TOPOLOGY:
        entry.edx = number
    elif entry.function == _AMD_TOPOLOGY:
        entry.eax, entry.ebx, entry.ecx = number, number, 0
    elif entry.function == _SIZES:
        entry.ecx = entry.ecx & ~0xFFFF | count - 1
    return entry


def set_leaves(vcpu: int, leaves: Sequence[api.CpuidEntry]) -> None:
    """Give a processor its leaves; OSError."""
    api.call(vcpu, api.SET_CPUID2, _table(leaves))


def _table(entries: Sequence[api.CpuidEntry]) -> "ctypes.Array[ctypes.c_char]":
    data = len(entries).to_bytes(8, "little") + b"".join(bytes(entry) for entry in entries)
    return ctypes.create_string_buffer(data, len(data))
