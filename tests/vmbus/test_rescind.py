"""A channel that is rescinded, released, offered again: what the guest may still post, and what it gets."""

from __future__ import annotations

import struct
import uuid

import pytest
from tests.rigs.bus import BusEnds

from dynmem import vmbus
from dynmem.errors import LocalProtocolError
from dynmem.limits import VMBUS_CHANNELS_MAX
from dynmem.units import PAGE_SIZE
from dynmem.vmbus import ChannelState
from dynmem.vmbus.memory import FlatMemory, GpadlMemory
from dynmem.vmbus.rejection import Rejection
from dynmem.vmbus.ring import initialize
from dynmem.wire import vmbus as wire
from dynmem.wire.status import STATUS_UNSUCCESSFUL
from dynmem.wire.synic import HvStatus
from dynmem.wire.versions import VERSION_4_1, VERSION_5_2, VERSION_5_3

PFNS = range(16, 26)
CONTACT = wire.InitiateContact(VERSION_5_3, 0, wire.contact_target(2), 0, 0)


def header(gpadl: int, relid: int = 1, have: int = 10) -> wire.GpadlHeader:
    """Ten pages, of which the header names some."""
    words = struct.pack(f"<{have}Q", *PFNS[:have])
    return wire.GpadlHeader(relid, gpadl, 88, 1, struct.pack("<II", 10 * PAGE_SIZE, 0) + words)


def asked(machine: BusEnds, message: wire.Message) -> list[wire.Message]:
    """What the host says to a post."""
    assert machine.post(message) is HvStatus.SUCCESS
    return machine.answers()


def offered(machine: BusEnds) -> vmbus.Channel:
    """A machine whose guest has had its offers and opened nothing, and two rings in its memory."""
    machine.connect()
    pages = GpadlMemory(machine.memory, PFNS)
    initialize(pages, 0)
    initialize(pages, 5)
    return machine.bus.channels[1]


def test_a_guest_that_has_not_read_of_the_rescind_is_answered_and_not_blamed(machine: BusEnds) -> None:
    channel = offered(machine)
    assert asked(machine, header(6, have=4)) == []
    machine.bus.rescind(channel)
    assert machine.answers() == [wire.RescindChannelOffer(1)]
    assert asked(machine, wire.GpadlBody(1, 6, struct.pack("<6Q", *PFNS[4:]))) == [wire.GpadlCreated(1, 6, 0)]
    assert asked(machine, header(7)) == [wire.GpadlCreated(1, 7, 0)]
    refusal = wire.OpenChannelResult(1, 0x55, STATUS_UNSUCCESSFUL)
    assert asked(machine, wire.OpenChannel(1, 0x55, 7, 0, 5)) == [refusal]
    assert asked(machine, wire.ModifyChannel(1, 0)) == [wire.ModifyChannelResponse(1, STATUS_UNSUCCESSFUL)]
    assert asked(machine, wire.CloseChannel(1)) == []
    for gpadl in (6, 7):
        assert asked(machine, wire.GpadlTeardown(1, gpadl)) == [wire.GpadlTorndown(gpadl)]
    assert asked(machine, wire.RelidReleased(1)) == []
    assert machine.bus.rejected == {}
    assert machine.bus.channels == {}


def test_what_linux_posts_when_its_driver_goes_is_not_counted(opened: BusEnds) -> None:
    """A rescinded channel is closed by it first; without a rescind, rmmod releases a closed one."""
    opened.bus.rescind(opened.bus.channels[1])
    opened.answers()
    assert asked(opened, wire.CloseChannel(1)) == []
    assert asked(opened, wire.RelidReleased(1)) == []
    again = BusEnds()
    offered(again)
    assert asked(again, wire.RelidReleased(1)) == []
    assert opened.bus.rejected == again.bus.rejected == {}


def test_a_closed_channel_that_the_guest_releases_is_gone_for_it_with_its_gpadls_until_it_asks_again(
    machine: BusEnds,
) -> None:
    channel = offered(machine)
    assert asked(machine, header(7)) == [wire.GpadlCreated(1, 7, 0)]
    assert asked(machine, wire.RelidReleased(1)) == []
    assert channel.state is ChannelState.UNOFFERED
    assert machine.bus.snapshot().gpadls == ()
    assert machine.bus.signal_event(channel.connection_id, 0) is HvStatus.INVALID_CONNECTION_ID
    assert asked(machine, header(7)) == [wire.GpadlCreated(1, 7, STATUS_UNSUCCESSFUL)]
    assert asked(machine, wire.OpenChannel(1, 1, 7, 0, 5))[0] == wire.OpenChannelResult(
        1, 1, STATUS_UNSUCCESSFUL
    )
    assert asked(machine, wire.RelidReleased(1)) == []
    assert set(machine.bus.rejected) == {
        Rejection.GPADL_OF_UNKNOWN_CHANNEL,
        Rejection.OPEN_OF_CHANNEL_NOT_CLOSED,
        Rejection.RELEASE_OF_CHANNEL_IN_USE,
    }
    asked(machine, CONTACT)
    assert asked(machine, wire.RequestOffers()) == [channel.offer_message(), wire.AllOffersDelivered()]


def test_an_open_or_faulted_channel_is_not_released(opened: BusEnds) -> None:
    channel = opened.bus.channels[1]
    for state in (ChannelState.OPEN, ChannelState.FAULTED):
        assert channel.state is state
        assert asked(opened, wire.RelidReleased(1)) == []
        if state is ChannelState.OPEN:
            channel.break_off("a packet that is not one")
    assert opened.bus.rejected == {Rejection.RELEASE_OF_CHANNEL_IN_USE: 2}


@pytest.mark.parametrize("version", [VERSION_4_1, VERSION_5_2, VERSION_5_3])
def test_interrupts_are_neither_ended_nor_begun_by_moving_them(machine: BusEnds, version: int) -> None:
    for was_for, moved_to in ((0, wire.TARGET_VP_NONE), (wire.TARGET_VP_NONE, 1), (0, 2)):
        two: BusEnds = type(machine)(vp_count=2, max_version=version)
        offered(two)
        connection = 4 if version >= VERSION_5_2 else 1
        two.post(header(7), connection)
        two.post(wire.OpenChannel(1, 1, 7, was_for, 5), connection)
        two.answers()
        two.post(wire.ModifyChannel(1, moved_to), connection)
        refusals = [wire.ModifyChannelResponse(1, STATUS_UNSUCCESSFUL)]
        assert two.answers() == (refusals if version == VERSION_5_3 else [])
        assert two.bus.channels[1].target_vp == was_for
        assert sum(two.bus.rejected.values()) == 1


# offered again


def test_a_guest_is_offered_a_device_again_when_it_has_released_the_channel(opened: BusEnds) -> None:
    there = opened.bus.channels[1]
    there.break_off("a packet that is not one")
    opened.bus.rescind(there)
    assert opened.bus.offer(there.offer) is there
    assert opened.answers() == [wire.RescindChannelOffer(1)]
    assert there.state is ChannelState.REOFFERED
    assert asked(opened, wire.OpenChannel(1, 9, 0xE1E10, 0, 5)) == [
        wire.OpenChannelResult(1, 9, STATUS_UNSUCCESSFUL)
    ]
    assert asked(opened, wire.RelidReleased(1)) == [there.offer_message()]
    assert opened.bus.channels[1].state is ChannelState.CLOSED
    opened.bus.take_events()
    assert opened.bus.snapshot().gpadls == ()
    assert opened.bus.rejected == {}


def test_a_client_whose_channel_broke_opens_it_again_by_itself(opened: BusEnds) -> None:
    for round_number in range(3):
        here, there = opened.ends()
        opened.client_events.clear()
        opened.bus_events.clear()
        there.break_off("a packet that is not one")
        opened.bus.rescind(there)
        opened.bus.offer(there.offer)
        opened.pump()
        again = opened.client.channels[1]
        assert opened.client_events == [vmbus.Closed(here), vmbus.Rescinded(here), vmbus.Offered(again)]
        assert opened.bus_events == [
            vmbus.ChannelFaulted(there, "a packet that is not one"),
            vmbus.ChannelClosed(there),
        ]
        opened.open(pfns=range(30 + 10 * round_number, 40 + 10 * round_number))
        assert again.send(b"12345678")
        assert there.receive() is not None
        assert there.send(b"87654321")
        assert again.receive() is not None
    assert opened.bus.rejected == {}


def test_an_offer_that_waits_for_the_release_can_be_rescinded_too(machine: BusEnds) -> None:
    channel = offered(machine)
    machine.bus.rescind(channel)
    machine.bus.offer(channel.offer)
    machine.bus.rescind(channel)
    assert machine.answers() == [wire.RescindChannelOffer(1)]
    assert asked(machine, wire.RelidReleased(1)) == []
    assert machine.bus.channels == {}


@pytest.mark.parametrize("ending", [wire.Unload(), CONTACT])
def test_a_guest_that_leaves_instead_is_offered_the_device_the_next_time(
    machine: BusEnds, ending: wire.Message
) -> None:
    channel = offered(machine)
    machine.bus.rescind(channel)
    machine.bus.offer(channel.offer)
    asked(machine, ending)
    assert channel.state is ChannelState.UNOFFERED
    asked(machine, CONTACT)
    assert asked(machine, wire.RequestOffers())[0] == channel.offer_message()


def test_a_device_that_is_plugged_in_later_is_offered_at_once_or_with_the_others(machine: BusEnds) -> None:
    second, third = (
        vmbus.Offer(uuid.UUID(int=5), uuid.UUID(int=number), f"new{number}") for number in (6, 7)
    )
    assert machine.bus.offer(second).relid == 2
    assert machine.answers() == []
    offered(machine)
    assert list(machine.client.channels) == [1, 2]
    channel = machine.bus.offer(third)
    assert machine.answers() == [channel.offer_message()]
    assert (channel.relid, channel.state) == (3, ChannelState.CLOSED)
    machine.bus.rescind(machine.bus.channels[2])
    machine.answers()
    asked(machine, wire.RelidReleased(2))
    assert machine.bus.offer(second).relid == 2  # nobody has that number any more


def test_one_device_is_not_offered_twice(machine: BusEnds) -> None:
    channel = offered(machine)
    other = vmbus.Offer(channel.offer.interface, channel.offer.instance, "another")
    with pytest.raises(LocalProtocolError, match="same identity"):
        machine.bus.offer(channel.offer)
    machine.bus.rescind(channel)
    with pytest.raises(LocalProtocolError, match="same identity"):
        machine.bus.offer(other)
    machine.bus.offer(channel.offer)
    with pytest.raises(LocalProtocolError, match="same identity"):
        machine.bus.offer(channel.offer)


def test_a_bus_has_as_many_channels_as_a_page_has_event_flags() -> None:
    offers = [vmbus.Offer(uuid.UUID(int=1), uuid.UUID(int=n), "dev") for n in range(VMBUS_CHANNELS_MAX + 1)]
    bus = vmbus.Bus(FlatMemory(memoryview(bytearray(PAGE_SIZE))), offers[:-1])
    assert list(bus.channels) == list(range(1, VMBUS_CHANNELS_MAX + 1))
    with pytest.raises(LocalProtocolError, match="2047 channels"):
        bus.offer(offers[-1])
