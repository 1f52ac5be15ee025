"""AML terms, against the bytes of another compiler and a small reader of lengths."""

import pytest

from dynmem.vm.kvm import aml

# what iasl made of the same device (DSDT, without the table's header)
BY_IASL = bytes.fromhex(
    "103f5f53425f5b8238564d4253085f4849440d564d42757300085f55494400085f44444e0d564d42555300085f5354410a0f"
    "085f43525311080a052220007900"
)


def test_a_device_is_the_bytes_that_another_compiler_makes_of_it() -> None:
    device = aml.device(
        "VMBS",
        aml.name("_HID", aml.string("VMBus")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_DDN", aml.string("VMBUS")),
        aml.name("_STA", aml.integer(15)),
        aml.name("_CRS", aml.resources(aml.irq(5))),
    )
    assert aml.scope("_SB", device) == BY_IASL


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0xFFFF, "0bffff"),
        (0x10000, "0c00000100"),
        (0xFFFFFFFF, "0cffffffff"),
        (1 << 32, "0e0000000001000000"),
        ((1 << 64) - 1, "0effffffffffffffff"),
    ],
)
def test_an_integer_has_the_smallest_width_that_holds_it(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


def length_of(term: bytes, at: int) -> tuple[int, int]:
    """The length at `at`, and where what it counts ends."""
    more = term[at] >> 6
    length = term[at] & 0x3F
    if more:
        length = term[at] & 0xF | int.from_bytes(term[at + 1 : at + 1 + more], "little") << 4
    return length, at + length


@pytest.mark.parametrize(
    "size", [0, 1, 57, 58, 59, 60, 61, 62, 63, 64, 4000, 4090, 4091, 4092, 4096, 1_048_567, 1_048_568]
)
def test_a_length_counts_itself_and_everything_to_the_end(size: int) -> None:
    term = aml.buffer(bytes(size))
    assert length_of(term, 1)[1] == len(term)


def test_a_package_says_how_many_terms_it_has() -> None:
    assert aml.package(aml.integer(5), aml.integer(0)).hex() == "12" + "05" + "02" + "0a05" + "00"


def test_a_short_name_is_filled_up() -> None:
    assert aml.name("_S5", aml.integer(1)) == b"\x08_S5_\x01"
    assert aml.name("_HID", aml.integer(1)) == b"\x08_HID\x01"
