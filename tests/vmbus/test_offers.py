"""What an offer says of a channel, byte for byte: type, mode, instance."""

from __future__ import annotations

import struct
import uuid

import pytest

from dynmem.errors import LocalProtocolError
from dynmem.vmbus import Bus, Offer, PipeMode
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import vmbus as wire
from dynmem.wire.synic import MESSAGE_CONNECTION_ID_4, VMBUS_MESSAGE_TYPE, VMBUS_SINT, HvStatus
from dynmem.wire.versions import VERSION_5_3

TYPE = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
TYPE_OCTETS = bytes.fromhex("33221100 5544 7766 8899 aabbccddeeff")
FIRST = uuid.UUID("10111213-1415-1617-1819-1a1b1c1d1e1f")
FIRST_OCTETS = bytes.fromhex("13121110 1514 1716 1819 1a1b1c1d1e1f")
SECOND = uuid.UUID(int=FIRST.int + 1)
SECOND_OCTETS = FIRST_OCTETS[:-1] + b"\x20"
USER_DATA = bytes(range(1, 121))


def offered(*offers: Offer) -> list[bytes]:
    """The offers as a guest of version 5.3 gets them."""
    bus = Bus(FlatMemory(memoryview(bytearray(4096))), offers)
    for message in (
        wire.InitiateContact(VERSION_5_3, 0, wire.contact_target(VMBUS_SINT), 0, 0),
        wire.RequestOffers(),
    ):
        said = bus.post_message(MESSAGE_CONNECTION_ID_4, VMBUS_MESSAGE_TYPE, wire.encode(message))
        assert said is HvStatus.SUCCESS
    payloads = []
    while (outgoing := bus.next_message()) is not None:
        payloads.append(outgoing.payload)
        bus.message_delivered()
    return payloads[1:-1]  # the first answers the contact, the last says that these were all


def test_an_offer_names_the_type_and_the_instance_of_its_device() -> None:
    first, second = offered(Offer(TYPE, FIRST, "one"), Offer(TYPE, SECOND, "two", 3))
    assert (first[8:24], first[24:40]) == (TYPE_OCTETS, FIRST_OCTETS)
    assert (second[8:24], second[24:40]) == (TYPE_OCTETS, SECOND_OCTETS)
    numbers = [struct.unpack_from("<HHI", offer, 180) for offer in (first, second)]
    assert numbers == [(0, 0, 1), (3, 0, 2)]  # sub-channel, optional megabytes of MMIO, relid
    assert [struct.unpack_from("<I", offer, 192) for offer in (first, second)] == [(17,), (18,)]


@pytest.mark.parametrize(
    ("pipe", "flags", "mode"),
    [(None, 0, USER_DATA[:4]), (PipeMode.BYTES, 0x10, bytes(4)), (PipeMode.MESSAGES, 0x10, b"\4\0\0\0")],
    ids=["packets", "pipe-of-bytes", "pipe-of-messages"],
)
def test_an_offer_says_whether_its_channel_is_a_pipe_and_of_what(
    pipe: PipeMode | None, flags: int, mode: bytes
) -> None:
    user_data = USER_DATA if pipe is None else bytes(4) + USER_DATA[4:]
    (offer,) = offered(Offer(TYPE, FIRST, "one", user_defined=user_data, pipe=pipe))
    assert struct.unpack_from("<HH", offer, 56) == (flags, 0)  # flags, megabytes of MMIO
    assert offer[60:180] == mode + USER_DATA[4:]


def test_the_mode_of_a_pipe_and_the_bytes_of_its_device_do_not_share_a_place() -> None:
    with pytest.raises(LocalProtocolError, match="first four"):
        Offer(TYPE, FIRST, "one", user_defined=USER_DATA, pipe=PipeMode.BYTES)


def test_an_offer_carries_the_flags_and_the_address_space_of_its_device() -> None:
    first, second = offered(
        Offer(TYPE, FIRST, "one", flags=0x2001, mmio_megabytes=8),
        Offer(TYPE, SECOND, "two", pipe=PipeMode.BYTES, flags=1, mmio_megabytes=0xFFFF),
    )
    assert struct.unpack_from("<HH", first, 56) == (0x2001, 8)
    assert struct.unpack_from("<HH", second, 56) == (0x11, 0xFFFF)


@pytest.mark.parametrize("name", ["flags", "mmio_megabytes", "sub_channel_index"])
@pytest.mark.parametrize("value", [-1, 0x1_0000])
def test_what_does_not_fit_an_offer_is_our_own_error(name: str, value: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"{name} of an offer is a number of 16 bits"):
        Offer(TYPE, FIRST, "one", **{name: value})  # type: ignore[arg-type]


def test_the_flag_of_a_pipe_goes_with_its_mode() -> None:
    with pytest.raises(LocalProtocolError, match="0x10"):
        Offer(TYPE, FIRST, "one", flags=0x10)
