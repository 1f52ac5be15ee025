"""Sizes and durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.units import GIB, MIB, format_pages, format_size, pages_covering, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 * MIB),
        ("2GiB", 2 * GIB),
        ("1.5g", 3 * GIB // 2),
        ("4096", 4096),
        ("10 mb", 10 * MIB),
        ("7B", 7),
    ],
)
def test_a_size_is_read_in_binary_units(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_a_bare_number_takes_the_default_unit() -> None:
    assert parse_size("512", default_unit="M") == 512 * MIB


@pytest.mark.parametrize("text", ["", "M", "-1M", "1X", "1e9", "٣M", "1.", "9" * 30])
def test_what_is_not_a_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@given(st.integers(0, 1 << 50))
def test_a_written_size_reads_back_within_its_two_decimals(size: int) -> None:
    assert abs(parse_size(format_size(size)) - size) <= size * 0.006 + 1


@pytest.mark.parametrize(
    ("text", "ns"), [("1s", 10**9), ("250ms", 250 * 10**6), ("2min", 120 * 10**9), ("1.5", 15 * 10**8)]
)
def test_a_duration_is_read_into_nanoseconds(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


def test_pages_cover_a_size_to_the_last_byte() -> None:
    assert [pages_covering(size) for size in (0, 1, 4096, 4097)] == [0, 1, 1, 2]
    assert format_pages(pages_covering(512 * MIB)) == "512 MiB"
