"""What a guest's processors say of themselves."""

import pytest

from dynmem.vm.kvm import cpuid
from dynmem.vm.kvm.api import CpuidEntry

SIZES, TERABYTE = 0x8000_0008, 1 << 40


@pytest.mark.parametrize(
    ("eax", "addresses"),
    [
        (0x3027, TERABYTE // 2),  # 39 bits
        (0x3030, 256 * TERABYTE),
        (0x30_3934, 256 * TERABYTE),  # 52, of which a guest has 48
    ],
)
def test_a_guest_has_as_many_addresses_as_kvm_says(eax: int, addresses: int) -> None:
    assert cpuid.addresses([CpuidEntry(function=1, eax=99), CpuidEntry(function=SIZES, eax=eax)]) == addresses


def test_without_that_leaf_there_are_64_gib_of_addresses() -> None:
    assert cpuid.addresses([]) == TERABYTE // 16


def test_each_processor_has_its_own_number_and_all_know_how_many_they_are() -> None:
    entries = [CpuidEntry(function=function) for function in (1, 0xB, SIZES, 0x8000_001E)]
    one, topology, sizes, amd = cpuid.of_processor(entries, (), number=5, count=8)
    assert (one.ebx >> 24, one.ebx >> 16 & 0xFF) == (5, 8)
    assert one.ecx >> 31 == one.edx >> 28 & 1 == 1
    assert topology.edx == amd.eax == 5
    assert sizes.ecx == 7
    assert entries[0].ebx == 0  # the host's own are as they were


def test_a_single_processor_has_no_threads() -> None:
    (one,) = cpuid.of_processor([CpuidEntry(function=1)], (), number=0, count=1)
    assert one.edx >> 28 & 1 == 0
