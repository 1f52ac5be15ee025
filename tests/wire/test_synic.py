"""The SynIC's inputs and slots, byte by byte."""

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
