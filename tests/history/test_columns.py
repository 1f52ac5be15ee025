"""Columns of numbers and texts: what was packed comes out again, and nothing else does."""

import contextlib
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.history.block import Block, decode, encode
from dynmem.history.columns import (
    MalformedError,
    Reader,
    pack,
    pack_texts,
    skip,
    skip_texts,
    unpack,
    unpack_texts,
    varint,
)
from dynmem.limits import HISTORY_BLOCK_BYTES_MAX, HISTORY_BLOCK_ROWS_MAX

NUMBERS = st.one_of(
    st.integers(-3, 3), st.integers(0, 1 << 20).map(lambda n: n << 12), st.integers(-(1 << 80), 1 << 80)
)
COLUMNS = st.lists(st.one_of(st.none(), NUMBERS), min_size=1, max_size=40)


@given(COLUMNS)
def test_a_column_comes_out_as_it_was(column: list[int | None]) -> None:
    reader, other = Reader(pack(column)), Reader(pack(column))
    assert unpack(reader, len(column)) == column
    skip(other, len(column))
    assert reader.is_at_end
    assert other.is_at_end


@given(st.lists(st.sampled_from(["", "movable", "why\0not", "\udcff"]), min_size=1, max_size=40))
def test_texts_come_out_as_they_were(texts: list[str]) -> None:
    reader, other = Reader(pack_texts(texts)), Reader(pack_texts(texts))
    assert unpack_texts(reader, len(texts)) == texts
    skip_texts(other, len(texts))
    assert reader.is_at_end
    assert other.is_at_end


def test_a_figure_that_stays_takes_the_same_few_bytes_however_long_it_stays() -> None:
    assert len(pack([1 << 40] * 10)) == len(pack([1 << 40] * 10_000)) <= 8
    assert pack([None] * 100) == b"\0"


def test_sizes_in_whole_pages_that_move_a_little_take_a_byte_a_row() -> None:
    column = [(1 << 30) + (at % 7) * 4096 for at in range(1000)]
    assert len(pack(column)) < 1020


@settings(max_examples=300)
@given(st.binary(max_size=60), st.integers(1, 20))
def test_whatever_stands_in_a_block_raises_one_named_error(data: bytes, rows: int) -> None:
    for read in (
        lambda: decode(data),
        lambda: decode(zlib.compress(b"\1" + data)),
        lambda: decode(zlib.compress(b"\1" + data), ()),
        lambda: unpack(Reader(data), rows),
        lambda: unpack_texts(Reader(data), rows),
    ):
        with contextlib.suppress(MalformedError):
            read()


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_block_with_a_byte_that_is_wrong_raises_one_named_error(at: int, change: int) -> None:
    block = Block(3, {"actual_bytes": [1, None, 1 << 50], "at_ms": [5, 6, 7]}, {"reason": ["", "a", "b"]})
    data = bytearray(encode(block))
    assert decode(bytes(data)) == Block(
        3, {"actual_bytes": [1, None, 1 << 50], "at_ms": [5, 6, 7]}, {"reason": ["", "a", "b"]}
    )
    data[at % len(data)] ^= change
    with contextlib.suppress(MalformedError):
        decode(bytes(data))


def test_no_more_of_a_block_is_decompressed_than_one_may_have() -> None:
    with pytest.raises(MalformedError, match="has no end"):
        decode(zlib.compress(b"\1\0" + bytes(HISTORY_BLOCK_BYTES_MAX)))


def test_columns_of_a_later_version_are_left_out() -> None:
    plain = zlib.decompress(encode(Block(2, {"actual_bytes": [1, 2]}, {})))
    later = zlib.compress(plain + b"\xfe\x7f\1\4")  # a figure with a number that nobody knows yet
    assert decode(later) == Block(2, {"actual_bytes": [1, 2]}, {})


def test_a_block_of_another_version_or_with_more_behind_it_or_more_rows_than_any_is_none() -> None:
    whole = encode(Block(2, {"actual_bytes": [1, 2]}, {}))
    for data, said in (
        (whole + b"x", "more behind it"),
        (zlib.compress(b"\2" + zlib.decompress(whole)[1:]), "version 2"),
        (zlib.compress(b"\1" + varint(HISTORY_BLOCK_ROWS_MAX + 1)), "rows"),
        (zlib.compress(b"\1\0"), "0 rows"),
        (zlib.compress(zlib.decompress(whole) + b"\xfe\x7f\3\144"), "ends too soon"),  # a column of later
    ):
        with pytest.raises(MalformedError, match=said):
            decode(data)


def test_an_hour_of_the_quickest_sweeps_is_no_more_rows_than_a_block_may_have() -> None:
    sweeps = 3600 * 10
    assert decode(zlib.compress(b"\1" + varint(sweeps))).rows == sweeps


def test_a_number_is_no_longer_than_any_that_is_packed() -> None:
    longest = (1 << 7 * 20) - 1
    assert Reader(varint(longest)).varint() == longest
    with pytest.raises(MalformedError, match="has no end"):
        Reader(varint(longest + 1)).varint()


@pytest.mark.parametrize("text", ["1,2", "1,2,3,4"])
def test_a_column_in_decimal_has_a_number_for_each_row_that_is_known(text: str) -> None:
    packed = varint(len(text)) + text.encode()
    for column, rows in ((b"\3" + packed, 3), (b"\13\7" + packed, 5)):
        with pytest.raises(MalformedError, match="too many or too few numbers"):
            unpack(Reader(column), rows)


def test_a_column_in_words_of_which_nothing_is_known_is_none_and_is_passed_over() -> None:
    column = b"\12\10\0\1\0"  # words with gaps, of 8 bytes, and no row is known
    with pytest.raises(MalformedError, match="has 0 numbers"):
        unpack(Reader(column), 3)
    reader = Reader(column)
    skip(reader, 3)
    assert reader.is_at_end


@pytest.mark.parametrize("place", [1, -1])
def test_a_text_that_a_block_does_not_have_is_not_named(place: int) -> None:
    texts = varint(1) + varint(1) + b"a"
    assert unpack_texts(Reader(texts + pack([0, 0])), 2) == ["a", "a"]
    with pytest.raises(MalformedError, match="names a text"):
        unpack_texts(Reader(texts + pack([0, place])), 2)
