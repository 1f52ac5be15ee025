"""The reference TSC page, byte by byte."""

import pytest

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.wire.hyperv import TscPage, decode_tsc_page, encode_tsc_page

PAGE = TscPage(1, 0x1234, -2)


def test_the_page_has_sequence_scale_and_a_signed_offset() -> None:
    data = encode_tsc_page(PAGE)
    assert data == bytes.fromhex("01000000 00000000 3412000000000000 feffffffffffffff")
    assert decode_tsc_page(data + bytes(9)) == PAGE


def test_less_than_the_beginning_of_a_page_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_tsc_page(bytes(23))


@pytest.mark.parametrize("page", [TscPage(1 << 32, 0, 0), TscPage(0, 1 << 64, 0), TscPage(0, 0, 1 << 63)])
def test_numbers_that_have_no_room_are_not_written(page: TscPage) -> None:
    with pytest.raises(LocalProtocolError):
        encode_tsc_page(page)
