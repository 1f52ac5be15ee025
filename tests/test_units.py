"""Sizes and durations as people write them."""

from collections.abc import Callable

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
        ("0.0078125TiB", 8 * GIB),
        ("8388608kB", 8 * GIB),
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


def test_what_is_quoted_is_short_and_without_control_characters() -> None:
    with pytest.raises(ValueError, match="is not a size") as caught:
        parse_size("\x1b[2J" + "9" * 400)
    assert len(str(caught.value)) < 120
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("parse", [parse_size, parse_duration])
def test_a_number_with_a_million_spaces_is_refused_before_the_square_of_its_length(
    parse: Callable[[str], int],
) -> None:
    with pytest.raises(ValueError, match=r"is not a (size|duration)"):
        parse("1" + " " * 1_000_000 + "x")


def test_a_size_of_hundreds_of_digits_is_written_and_not_computed_in_floats() -> None:
    assert format_size(10**400).endswith(" TiB")
    assert format_size(-(10**400)).startswith("-")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (1200 * MIB, "1200 MiB"),
        (1536 * MIB, "1.5 GiB"),
        (512 * MIB, "512 MiB"),
        (1200 * MIB + 4096, "1.17 GiB"),
        (10_001 * MIB, "9.77 GiB"),
        (1023, "1023 B"),
        (1025, "1025 B"),
        (0, "0 B"),
        (MIB - 1, "1024 KiB"),
    ],
)
def test_a_size_is_written_exactly_where_that_takes_few_digits(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "ns"), [("1s", 10**9), ("250ms", 250 * 10**6), ("2min", 120 * 10**9), ("1.5", 15 * 10**8)]
)
def test_a_duration_is_read_into_nanoseconds(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


def test_pages_cover_a_size_to_the_last_byte() -> None:
    assert [pages_covering(size) for size in (0, 1, 4096, 4097)] == [0, 1, 1, 2]
    assert format_pages(pages_covering(512 * MIB)) == "512 MiB"
