"""The SynIC's inputs and slots, byte by byte."""

from collections.abc import Callable

import pytest

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.wire import synic
from dynmem.wire.synic import MessageSlot, PostMessageInput, SignalEventInput


def test_a_post_is_256_bytes_with_its_words_in_place() -> None:
    octets = synic.encode_post(PostMessageInput(4, 1, b"payload"))
    assert len(octets) == 256
    assert octets[:23] == bytes.fromhex("04000000000000000100000007000000") + b"payload"
    assert synic.decode_post(octets) == PostMessageInput(4, 1, b"payload")


def test_a_slot_is_256_bytes_with_its_words_in_place() -> None:
    octets = synic.encode_slot(MessageSlot(1, b"payload", pending=True, sender=0x1122))
    assert len(octets) == 256
    assert octets[:23] == bytes.fromhex("01000000070100002211000000000000") + b"payload"
    assert synic.decode_slot(octets) == MessageSlot(1, b"payload", True, 0x1122)
    assert synic.decode_slot(bytes(256)) == MessageSlot(0, b"")


def test_a_signal_is_eight_bytes() -> None:
    assert synic.encode_signal(SignalEventInput(17, 0)).hex() == "1100000000000000"
    assert synic.decode_signal((17 | 3 << 32).to_bytes(8, "little")) == SignalEventInput(17, 3)


def test_payloads_above_240_bytes_are_refused_both_ways() -> None:
    for message in (PostMessageInput(1, 1, bytes(241)), PostMessageInput(1, 1 << 32, b"")):
        with pytest.raises(LocalProtocolError):
            synic.encode_post(message)
    for slot in (MessageSlot(1, bytes(241)), MessageSlot(-1, b"")):
        with pytest.raises(LocalProtocolError):
            synic.encode_slot(slot)
    with pytest.raises(LocalProtocolError):
        synic.encode_signal(SignalEventInput(1, 1 << 16))
    post = bytearray(synic.encode_post(PostMessageInput(1, 1, bytes(240))))
    post[12] = 241
    with pytest.raises(RemoteProtocolError):
        synic.decode_post(bytes(post))
    slot_octets = bytearray(synic.encode_slot(MessageSlot(1, b"")))
    slot_octets[4] = 241
    with pytest.raises(RemoteProtocolError):
        synic.decode_slot(bytes(slot_octets))


@pytest.mark.parametrize("decode", [synic.decode_post, synic.decode_slot])
def test_a_short_page_piece_is_refused(decode: object) -> None:
    assert callable(decode)
    with pytest.raises(RemoteProtocolError):
        decode(bytes(255))


def test_a_short_signal_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        synic.decode_signal(bytes(7))


def test_event_flags_are_bits_from_the_lowest_of_the_first_byte() -> None:
    octets = synic.encode_event_flags({0, 9, 2047})
    assert octets == b"\x01\x02" + bytes(253) + b"\x80"
    assert synic.decode_event_flags(octets) == (0, 9, 2047)
    for flag in (-1, 2048):
        with pytest.raises(LocalProtocolError):
            synic.encode_event_flags([flag])


@pytest.mark.parametrize(
    "decode", [synic.decode_event_flags, synic.decode_event_page, synic.decode_message_page]
)
@pytest.mark.parametrize("length", [0, 255, 257, 4095, 4097])
def test_a_page_of_another_length_is_refused(decode: Callable[[bytes], object], length: int) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(bytes(length))


def test_a_slot_that_lies_spoils_its_whole_message_page() -> None:
    page = bytearray(4096)
    assert synic.decode_message_page(bytes(page)) == (MessageSlot(0, b""),) * 16
    page[15 * 256 + 4] = 241
    with pytest.raises(RemoteProtocolError):
        synic.decode_message_page(bytes(page))
