"""Where the answer to a contact goes, and all that follows it, and what the answer says."""

from __future__ import annotations

import msgspec
import pytest
from tests.rigs.bus import INSTANCE, BusEnds

from dynmem.limits import VMBUS_QUEUE_MAX
from dynmem.units import PAGE_SIZE
from dynmem.vmbus import BusState
from dynmem.vmbus.rejection import Rejection
from dynmem.wire import vmbus as wire
from dynmem.wire.status import ConnectionState
from dynmem.wire.synic import VMBUS_SINT, HvStatus
from dynmem.wire.versions import (
    VERSION_4_1,
    VERSION_5_0,
    VERSION_5_1,
    VERSION_5_3,
    VERSION_WIN7,
    VERSION_WIN8,
    VERSION_WIN8_1,
    VERSION_WIN10,
    VERSION_WS2008,
    VERSIONS,
)

PAGE = 100 * PAGE_SIZE


def contact(version: int, vp: int) -> wire.InitiateContact:
    target = wire.contact_target(VMBUS_SINT) if version >= VERSION_5_0 else PAGE
    return wire.InitiateContact(version, vp, target, 0, 0)


def connection(version: int) -> int:
    """The connection that a guest of this version posts on."""
    return 4 if version >= VERSION_5_0 else 1


def places(machine: BusEnds) -> list[tuple[int, int, int]]:
    """The processor, the SINT and the type of each message that the bus has to say."""
    found = []
    while (message := machine.bus.next_message()) is not None:
        found.append((message.vp, message.sint, int.from_bytes(message.payload[:4], "little")))
        machine.bus.message_delivered()
    return found


@pytest.mark.parametrize("vp", [0, 1, 2])
@pytest.mark.parametrize("version", [VERSION_WIN8_1, VERSION_WIN10, VERSION_5_3])
def test_every_message_goes_to_the_processor_that_made_contact(
    machine: BusEnds, version: int, vp: int
) -> None:
    three: BusEnds = type(machine)(vp_count=3, devices=2)
    posts = connection(version)
    three.post(contact(version, vp), posts)
    assert places(three) == [(vp, VMBUS_SINT, 15)]
    three.post(wire.RequestOffers(), posts)
    assert places(three) == [(vp, VMBUS_SINT, 1), (vp, VMBUS_SINT, 1), (vp, VMBUS_SINT, 4)]
    three.post(wire.GpadlTeardown(1, 7), posts)
    assert places(three) == [(vp, VMBUS_SINT, 12)]
    three.bus.rescind(three.bus.channels[2])
    assert places(three) == [(vp, VMBUS_SINT, 2)]
    three.post(wire.Unload(), posts)
    assert places(three) == [(vp, VMBUS_SINT, 17)]


def test_a_new_contact_moves_the_messages_to_its_own_processor(machine: BusEnds) -> None:
    two: BusEnds = type(machine)(vp_count=2)
    for vp in (1, 0, 1):
        two.post(contact(VERSION_5_3, vp))
        two.post(wire.RequestOffers())
        assert {(message_vp, sint) for message_vp, sint, _ in places(two)} == {(vp, VMBUS_SINT)}


def test_a_contact_for_a_processor_that_does_not_exist_is_refused_on_the_first(machine: BusEnds) -> None:
    for vp in (1, 0xFFFF_FFFF):
        machine.post(contact(VERSION_5_3, vp))
        message = machine.bus.next_message()
        assert message is not None
        assert (message.vp, message.sint) == (0, VMBUS_SINT)
        assert machine.answers() == [wire.VersionResponse(False, ConnectionState.SUCCESSFUL, 0)]
        assert machine.bus.version is None


def response_to(machine: BusEnds, message: wire.InitiateContact, posts: int) -> tuple[int, int, bytes]:
    """The processor, the SINT and the body of the one message that a contact leads to."""
    assert machine.post(message, posts) is HvStatus.SUCCESS
    response = machine.bus.next_message()
    assert response is not None
    machine.bus.message_delivered()
    assert machine.bus.next_message() is None
    return response.vp, response.sint, response.payload[8:]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_last_word_of_an_answer_is_the_connection_to_post_on_and_before_5_0_the_version(
    machine: BusEnds, version: int
) -> None:
    _, _, body = response_to(machine, contact(version, 0), connection(version))
    last_word = 4 if version >= VERSION_5_0 else version
    assert body == bytes([1, 0, 0, 0]) + last_word.to_bytes(4, "little")


@pytest.mark.parametrize("version", [VERSION_WIN7, VERSION_WIN8, VERSION_WIN10, VERSION_5_3])
def test_one_monitor_page_fails_a_contact_as_far_as_its_version_can_say_so(
    machine: BusEnds, version: int
) -> None:
    asked = msgspec.structs.replace(contact(version, 0), monitor_page1=0x1000)
    _, _, body = response_to(machine, asked, connection(version))
    last_word = 4 if version >= VERSION_5_0 else version
    failed = bytes([1, 2, 0, 0]) + last_word.to_bytes(4, "little")
    assert body == (failed if version >= VERSION_WIN8 else bytes(8))
    assert machine.bus.state is BusState.DISCONNECTED


@pytest.mark.parametrize("vp", [1, 2, 0xFFFF_FFFF])
@pytest.mark.parametrize("version", [VERSION_WS2008, VERSION_WIN7, VERSION_WIN8])
def test_before_3_0_every_message_goes_to_the_first_processor_whatever_the_contact_says(
    machine: BusEnds, version: int, vp: int
) -> None:
    two: BusEnds = type(machine)(vp_count=2)
    two.post(contact(version, vp), 1)
    assert two.bus.version == version
    two.post(wire.RequestOffers(), 1)
    assert places(two) == [(0, VMBUS_SINT, 15), (0, VMBUS_SINT, 1), (0, VMBUS_SINT, 4)]


def test_a_refusal_goes_to_the_processor_that_asked(machine: BusEnds) -> None:
    """A kdump kernel that boots on another processor waits there while it tries versions."""
    old: BusEnds = type(machine)(vp_count=2, max_version=VERSION_WIN10)
    for version in (VERSION_5_3, 0xFFFF_0000):
        assert response_to(old, contact(version, 1), 1) == (1, VMBUS_SINT, bytes(8))


@pytest.mark.parametrize("version", [VERSION_5_0, VERSION_5_3])
def test_on_connection_1_a_contact_names_no_sint_whatever_is_there(machine: BusEnds, version: int) -> None:
    for page in (PAGE, 5, 0x105):
        asked = msgspec.structs.replace(contact(version, 0), interrupt_page=page)
        vp, sint, body = response_to(machine, asked, 1)
        assert (vp, sint, body) == (0, VMBUS_SINT, bytes([1, 0, 0, 0, 4, 0, 0, 0]))
        assert machine.bus.version == version


def test_a_trust_level_is_named_from_5_1_on(machine: BusEnds) -> None:
    target = wire.contact_target(VMBUS_SINT, vtl=2)
    for version, supported in ((VERSION_5_0, 1), (VERSION_5_1, 0), (VERSION_5_3, 0)):
        asked = msgspec.structs.replace(contact(version, 0), interrupt_page=target)
        assert response_to(machine, asked, 4)[2][0] == supported


@pytest.mark.parametrize(
    ("target", "sint"),
    [
        (wire.contact_target(5), 5),
        (wire.contact_target(15), 15),
        (wire.contact_target(16), VMBUS_SINT),
        (wire.contact_target(0xFF), VMBUS_SINT),
        (wire.contact_target(VMBUS_SINT, vtl=2), VMBUS_SINT),
    ],
)
def test_a_contact_for_another_bus_is_refused_where_it_asked_and_ends_no_connection(
    machine: BusEnds, target: int, sint: int
) -> None:
    two: BusEnds = type(machine)(vp_count=2)
    two.connect()
    two.open()
    asked = msgspec.structs.replace(contact(VERSION_5_3, 1), interrupt_page=target)
    assert response_to(two, asked, 4) == (1, sint, bytes(8))
    assert two.bus.channels[1].is_open
    assert two.bus.rejected == {Rejection.CONTACT_FOR_ANOTHER_BUS: 1}


def test_contacts_for_another_bus_do_not_pile_up(machine: BusEnds) -> None:
    asked = msgspec.structs.replace(contact(VERSION_5_3, 0), interrupt_page=wire.contact_target(5))
    statuses = [machine.post(asked) for _ in range(VMBUS_QUEUE_MAX + 3)]
    assert statuses.count(HvStatus.INSUFFICIENT_BUFFERS) == 3
    assert machine.post(contact(VERSION_5_3, 0)) is HvStatus.SUCCESS
    assert places(machine) == [(0, VMBUS_SINT, 15)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_guest_gets_no_message_that_its_version_does_not_know(machine: BusEnds, version: int) -> None:
    """All that a host says to a guest that does everything, decoded as its version does."""
    machine.post(contact(version, 0), connection(version))
    assert machine.bus.version == version
    header = wire.GpadlHeader(1, 7, 16, 1, bytes([0, 0x10, 0, 0, 0, 0, 0, 0]) + bytes(8))
    numbers = []
    for message in (
        wire.RequestOffers(),
        header,
        wire.OpenChannel(1, 1, 7, 0, 2),
        wire.TlConnectRequest(INSTANCE, INSTANCE),
        wire.ModifyChannel(1, 0),
        wire.OpenReservedChannel(1, 0, 2, 7, 2),
        wire.GpadlTeardown(1, 7),
        wire.Unload(),
    ):
        machine.post(message, connection(version))
        while (posted := machine.bus.next_message()) is not None:
            machine.bus.message_delivered()
            wire.decode(posted.payload, version)
            numbers.append(posted.payload[0])
    assert (23 in numbers) == (version >= VERSION_4_1)
    assert (24 in numbers) == (version >= VERSION_5_3)
    assert (17 in numbers) == (version >= VERSION_WIN7)
