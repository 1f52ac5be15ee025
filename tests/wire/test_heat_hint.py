"""Heat hints: words as Linux sends them, and what is not a range."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.wire.heat_hint import COLD_DISCARD, HINT_RANGES_MAX, Span, decode_hint_ranges, encode_hint


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def test_a_range_of_large_pages_is_read_as_linux_6_12_sent_it() -> None:
    assert decode_hint_ranges(words(0xC400801)) == [Span(0xC400, 2 * 512)]


@pytest.mark.parametrize(
    ("word", "span"),
    [
        (0, Span(0, 1)),
        (0x5000 | 0x7FF, Span(5, 2048)),
        (0x800, Span(0, 512)),
        (0x200000 | 0xFFF, Span(512, 2048 * 512)),
        (~0xFFF & (1 << 64) - 1, Span((1 << 52) - 1, 1)),
        (~0x1FFFFF & (1 << 64) - 1 | 0x800, Span((1 << 52) - 512, 512)),
    ],
)
def test_bit_11_says_which_pages_a_range_counts(word: int, span: Span) -> None:
    assert decode_hint_ranges(words(word)) == [span]
    assert encode_hint(COLD_DISCARD, [span]) == words(2, word)


@pytest.mark.parametrize("bit", range(12, 21))
def test_large_pages_of_another_size_or_with_reserved_bits_are_refused(bit: int) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_hint_ranges(words(0x800 | 1 << bit))


def test_half_a_range_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_hint_ranges(bytes(12))


@pytest.mark.parametrize(
    "span", [Span(0, 0), Span(1, 2049), Span(0, 2049 * 512), Span(1 << 52, 1), Span(-1, 1)]
)
def test_what_no_range_can_say_is_not_sent(span: Span) -> None:
    with pytest.raises(LocalProtocolError):
        encode_hint(COLD_DISCARD, [span])


@given(st.lists(st.tuples(st.integers(0, (1 << 31) - 1), st.integers(1, 2048)), max_size=HINT_RANGES_MAX))
def test_what_is_sent_is_read_again(spans: list[tuple[int, int]]) -> None:
    sent = [Span(*span) for span in spans]
    assert decode_hint_ranges(encode_hint(COLD_DISCARD, sent)[8:]) == sent
