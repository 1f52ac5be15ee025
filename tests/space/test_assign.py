"""Where memory devices go: QEMU's rules, against a model that tries every address."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.space.assign import Taken, assign_address
from dynmem.space.region import MemoryDeviceError
from dynmem.units import GIB, MIB, TIB

BASE = 4 * GIB
FRAGMENTED = (
    "could not find position in guest address space for memory device - memory fragmented due to alignments"
)


def place(
    *taken: Taken, hint: int = 0, size: int = GIB, alignment: int = 2 * MIB, space: int = 8 * GIB
) -> int:
    return assign_address(BASE, space, taken, hint=hint, size=size, alignment=alignment)


def test_the_first_device_is_at_the_base() -> None:
    assert place() == BASE


def test_a_device_goes_into_the_first_gap_that_it_fits_into() -> None:
    low, high = Taken(BASE, GIB, "low"), Taken(BASE + 3 * GIB, GIB, "high")
    assert place(low, high) == BASE + GIB
    assert place(low, high, size=2 * GIB) == BASE + GIB
    assert place(low, high, size=3 * GIB) == BASE + 4 * GIB
    assert place(high) == BASE


def test_a_gap_counts_from_its_first_aligned_address() -> None:
    odd = Taken(BASE, 2 * MIB, "odd")
    assert place(odd, alignment=GIB) == BASE + GIB
    assert place(odd, Taken(BASE + GIB, GIB, None), alignment=GIB) == BASE + 2 * GIB
    assert assign_address(BASE + MIB, 8 * GIB, (), hint=0, size=GIB, alignment=GIB) == BASE + GIB


def test_a_device_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(MemoryDeviceError, match=f"^{FRAGMENTED}$"):
        place(size=9 * GIB)
    with pytest.raises(MemoryDeviceError, match=f"^{FRAGMENTED}$"):
        place(Taken(BASE + GIB, 6 * GIB, "in the middle"), size=2 * GIB)
    with pytest.raises(MemoryDeviceError, match=f"^{FRAGMENTED}$"):
        place(Taken(BASE, 2 * MIB, "low"), size=8 * GIB - 2 * MIB, alignment=GIB)


def test_a_device_beyond_every_address_is_too_big() -> None:
    with pytest.raises(MemoryDeviceError, match=r"^can't add memory device, device too big$"):
        place(size=1 << 64)
    with pytest.raises(MemoryDeviceError, match=r"^can't add memory device, device too big$"):
        place(size=GIB, alignment=1 << 64)
    with pytest.raises(MemoryDeviceError, match=f"^{FRAGMENTED}$"):
        place(size=(1 << 64) - BASE)  # up to the last address there is


def test_the_address_asked_for_is_given() -> None:
    assert place(hint=BASE + 2 * MIB) == BASE + 2 * MIB
    assert place(hint=BASE + 7 * GIB) == BASE + 7 * GIB
    assert (
        place(Taken(BASE, GIB, "before"), Taken(BASE + 2 * GIB, GIB, "after"), hint=BASE + GIB) == BASE + GIB
    )


@pytest.mark.parametrize("hint", [1, BASE + 4096, BASE + 2 * MIB - 1, (1 << 64) - 1])
def test_an_address_that_is_not_aligned_is_refused(hint: int) -> None:
    with pytest.raises(MemoryDeviceError, match=r"^address must be aligned to 0x200000 bytes$"):
        place(hint=hint)


@pytest.mark.parametrize(
    "hint", [2 * MIB, BASE - 2 * MIB, BASE + 7 * GIB + 2 * MIB, TIB, (1 << 64) - 2 * MIB]
)
def test_an_address_outside_device_memory_is_refused(hint: int) -> None:
    text = (
        f"can't add memory device [{hint:#x}:0x40000000],"
        " usable range for memory devices [0x100000000:0x200000000]"
    )
    with pytest.raises(MemoryDeviceError, match=f"^{re.escape(text)}$"):
        place(hint=hint)


@pytest.mark.parametrize(("identity", "shown"), [("dimm0", "dimm0"), (None, "(unnamed)"), ("", "")])
@pytest.mark.parametrize("hint", [BASE + GIB, BASE + 2 * MIB, BASE + 2 * GIB - 2 * MIB])
def test_an_address_that_another_device_has_is_refused(identity: str | None, shown: str, hint: int) -> None:
    text = f"address range conflicts with memory device id='{shown}'"
    with pytest.raises(MemoryDeviceError, match=f"^{re.escape(text)}$"):
        place(Taken(BASE + GIB, GIB, identity), hint=hint)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, int, list[Taken]]:
    """A base, a size, and devices in it that do not overlap, in units of one byte."""
    base, space = draw(st.integers(1, 40)), draw(st.integers(1, 60))
    taken, at = [], base
    for gap, size in draw(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=8)):
        if at + gap + size > base + space:
            break
        taken.append(Taken(at + gap, size, "other"))
        at += gap + size
    return base, space, taken


@given(layouts(), st.integers(0, 110), st.integers(1, 30), st.sampled_from([1, 2, 4, 8, 16]))
def test_every_placement_is_what_trying_all_addresses_finds(
    layout: tuple[int, int, list[Taken]], hint: int, size: int, alignment: int
) -> None:
    base, space, taken = layout
    held = {byte for other in taken for byte in range(other.address, other.address + other.size)}
    fitting = [
        address
        for address in range(base, base + space - size + 1)
        if address % alignment == 0 and not held.intersection(range(address, address + size))
    ]
    if hint:
        fitting = [address for address in fitting if address == hint]
    try:
        address = assign_address(base, space, taken, hint=hint, size=size, alignment=alignment)
    except MemoryDeviceError:
        assert fitting == []
    else:
        assert address == fitting[0]
