"""The two parsers: whatever comes, in whatever pieces, comes out as values or as sentences."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.errors import RemoteProtocolError
from dynmem.qmp.framing import LineReader, decode_line, encode_line
from dynmem.qmp.parser import Malformed, ValueReader

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NOISE = st.lists(
    st.sampled_from(
        [b"{", b"}", b"[", b"]", b":", b",", b'"', b"'", b"\\", b"\\u", b"1", b"-", b"e", b"\xff", b"\n"]
    )
    | st.binary(max_size=4)
).map(b"".join)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


@settings(max_examples=60)
@given(st.lists(VALUES, max_size=4), st.lists(st.integers(0, 10_000), max_size=6), st.booleans())
def test_any_json_comes_out_as_it_went_in(values: list[Any], cuts: list[int], escaped: bool) -> None:
    data = b"".join(
        json.dumps(value, ensure_ascii=escaped).encode("utf-8", "surrogatepass") + b"\n" for value in values
    )
    reader = ValueReader()
    found = [value for piece in pieces(data, cuts) for value in reader.feed(piece)]
    assert found == values


@settings(max_examples=200)
@given(NOISE, st.lists(st.integers(0, 10_000), max_size=6))
def test_noise_gives_values_and_sentences_and_its_cuts_do_not_matter(data: bytes, cuts: list[int]) -> None:
    whole, cut = ValueReader(), ValueReader()
    found = [value for piece in pieces(data, cuts) for value in cut.feed(piece)]
    assert repr(found) == repr(whole.feed(data))
    assert all(value.desc.startswith("JSON") for value in found if isinstance(value, Malformed))


@given(NOISE, st.lists(st.integers(0, 10_000), max_size=6))
def test_only_a_protocol_error_leaves_the_line_reader(data: bytes, cuts: list[int]) -> None:
    reader = LineReader(message_bytes_max=64)
    try:
        for piece in pieces(data + b"\n", cuts):
            assert all(isinstance(decode_line(line), dict) for line in reader.feed(piece) if line.strip())
    except RemoteProtocolError:
        pass


def test_a_message_above_the_limit_is_said_and_reading_goes_on() -> None:
    reader = ValueReader(message_bytes_max=100)
    assert reader.feed(b'"' + b"x" * 200) == [Malformed("JSON token size limit exceeded")]
    assert reader.feed(b'\n{"a":1}') == [{"a": 1}]
    assert reader.feed(b"[" + b"1," * 50 + b"1")[0] == Malformed("JSON token size limit exceeded")


def test_a_line_above_the_limit_is_refused_whether_or_not_it_ends() -> None:
    for data in (b"{" * 65, b'{"a": "' + b"x" * 60 + b'"}\n'):
        with pytest.raises(RemoteProtocolError, match="longer than 64 bytes"):
            list(LineReader(message_bytes_max=64).feed(data))


def test_a_line_is_written_as_qemu_writes_it() -> None:
    line = encode_line({"return": {"a": [1, "é"]}, "id": None})
    assert line == b'{"return": {"a": [1, "\\u00e9"]}, "id": null}\r\n'
    assert [decode_line(each) for each in LineReader().feed(line)] == [
        {"return": {"a": [1, "é"]}, "id": None}
    ]
