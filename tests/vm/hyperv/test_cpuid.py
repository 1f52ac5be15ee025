"""The CPUID leaves, number by number, as stock kernels took them."""

import pytest
from tests.rigs.partition import FEATURES

from dynmem.vm.hyperv.cpuid import Features, Leaf, leaves

ALL = FEATURES._replace(invariant_tsc=True, reset=False)
LEAVES = (
    Leaf(0x40000000, 0x40000005, 0x7263694D, 0x666F736F, 0x76482074),  # "Microsoft Hv"
    Leaf(0x40000001, 0x31237648, 0, 0, 0),  # "Hv#1"
    Leaf(0x40000002, 14393, 0x000A0000, 0, 0),
    Leaf(0x40000003, 0x8864, 0x100030, 0, 0x500),
    Leaf(0x40000004, 0x200, 0xFFFFFFFF, 0, 0),
    Leaf(0x40000005, 64, 64, 0, 0),
)


def test_a_guest_is_offered_what_there_is() -> None:
    assert leaves(ALL) == LEAVES


@pytest.mark.parametrize(
    ("features", "eax", "ebx", "edx"),
    [
        (ALL._replace(invariant_tsc=False), 0x0A66, 0x100030, 0x500),
        (ALL._replace(free_page_reporting=False), 0x8864, 0x30, 0x500),
        (ALL._replace(crash=False), 0x8864, 0x100030, 0x100),
        (ALL._replace(reset=True), 0x88E4, 0x100030, 0x500),
    ],
)
def test_each_feature_is_a_bit_of_the_third_leaf(features: Features, eax: int, ebx: int, edx: int) -> None:
    assert leaves(features)[3] == Leaf(0x40000003, eax, ebx, 0, edx)


@pytest.mark.parametrize("features", [FEATURES, ALL])
def test_no_guest_is_taken_for_the_root_or_uses_auto_eoi(features: Features) -> None:
    found = leaves(features)
    assert not found[3].ebx & 1 << 12
    assert found[4].eax & 1 << 9
