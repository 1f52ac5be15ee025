"""Where the answer to a contact goes, and all that follows it, and what the answer says."""

from __future__ import annotations

import pytest
from tests.rigs.bus import BusEnds

from dynmem.units import PAGE_SIZE
from dynmem.wire import vmbus as wire
from dynmem.wire.status import ConnectionState
from dynmem.wire.synic import VMBUS_SINT
from dynmem.wire.versions import VERSION_5_0, VERSION_5_3, VERSION_WIN10, VERSIONS

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
@pytest.mark.parametrize("version", [VERSION_WIN10, VERSION_5_3])
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


@pytest.mark.parametrize("version", VERSIONS)
def test_a_contact_is_answered_with_the_connection_to_post_on(machine: BusEnds, version: int) -> None:
    """Linux reads it from 5.0 on only."""
    machine.post(contact(version, 0), connection(version))
    message = machine.bus.next_message()
    assert message is not None
    assert message.payload[8:] == bytes([1, 0, 0, 0, connection(version), 0, 0, 0])
