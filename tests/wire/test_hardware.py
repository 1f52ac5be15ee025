"""The embedded guest's hardware datagrams."""

import pytest

from dynmem.direction import Direction
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.wire import hardware


def test_a_hypercall_and_its_reply_have_these_bytes() -> None:
    call = hardware.Hypercall(sequence=7, control=0x5C, input_gpa=0x1000, parameter2=3)
    assert hardware.encode(call).hex() == "07000000070000005c0000000000000000100000000000000300000000000000"
    assert hardware.encode(hardware.Reply(7, 18)).hex() == "060000000700000012000000"


def test_a_datagram_of_any_other_length_is_refused() -> None:
    for layout in hardware.TABLE.layouts:
        whole = layout.number.to_bytes(4, "little") + bytes(layout.size - 4)
        hardware.decode(whole)
        for wrong in (whole[:-1], whole + b"\0", whole.ljust(70_000, b"\0")):
            with pytest.raises(RemoteProtocolError):
                hardware.decode(wrong)


def test_only_messages_of_the_host_carry_descriptors() -> None:
    for message in hardware.WITH_DESCRIPTOR:
        assert hardware.TABLE.by_class[message].direction is Direction.HOST_TO_GUEST


def test_an_unknown_number_is_refused() -> None:
    for number in (0, 14, 0xFFFF_FFFF):
        with pytest.raises(RemoteProtocolError):
            hardware.decode(number.to_bytes(4, "little"))


def test_a_value_that_does_not_fit_is_our_own_error() -> None:
    with pytest.raises(LocalProtocolError):
        hardware.encode(hardware.SlotMapped(1 << 32))
