"""The guest's client and the host's bus talk to each other over one memory, from contact to unload."""

from __future__ import annotations

import msgspec
import pytest
from tests.rigs.bus import BusEnds

from dynmem import vmbus
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.units import PAGE_SIZE
from dynmem.vmbus.guest_channel import TRANSITIONS, GuestChannelEvent, GuestChannelState
from dynmem.vmbus.rejection import Rejection
from dynmem.wire import dm
from dynmem.wire import vmbus as wire
from dynmem.wire.synic import EVENT_CONNECTION_ID, HvStatus
from dynmem.wire.versions import (
    VERSION_4_1,
    VERSION_5_0,
    VERSION_5_3,
    VERSION_WIN7,
    VERSION_WIN8,
    VERSION_WIN8_1,
    VERSION_WIN10,
    VERSION_WS2008,
    VERSIONS,
)


def machine_of(machine: BusEnds, **options: object) -> BusEnds:
    """Another machine with other options."""
    return type(machine)(**options)  # type: ignore[arg-type]


def test_a_guest_connects_and_is_offered_the_device(machine: BusEnds) -> None:
    machine.connect()
    channel = machine.client.channels[1]
    assert machine.client_events == [
        vmbus.Connected(VERSION_5_3),
        vmbus.Offered(channel),
        vmbus.OffersDelivered(),
    ]
    assert channel.offer.interface == dm.BALLOON_DEVICE_TYPE
    assert channel.offer.connection_id == machine.bus.channels[1].connection_id == 17
    assert channel.offer.is_dedicated_interrupt
    assert machine.bus.rejected == {}


def test_a_channel_opens_carries_packets_both_ways_and_closes(machine: BusEnds) -> None:
    machine.connect()
    machine.open()
    here, there = machine.ends()
    assert machine.client_events.pop() == vmbus.Opened(here)
    assert machine.bus_events == [vmbus.ChannelOpened(there)]
    assert here.send(b"question", 5)
    assert machine.client.take_doorbells() == [17]
    assert machine.bus.signal_event(17, 0) is HvStatus.SUCCESS
    question = there.receive()
    assert question is not None
    assert (question.data, question.trans_id) == (b"question", 5)
    assert there.receive() is None
    assert there.send(b"answer..", trans_id=6, completion=True)
    assert machine.bus.take_signals() == [vmbus.Signal(vp=0, sint=2, flag=1)]
    assert machine.bus.take_signals() == []
    assert machine.client.receive_event(1) == [here]
    answer = here.receive()
    assert answer is not None
    assert (answer.data, answer.trans_id, answer.flags) == (b"answer..", 6, 1)
    here.close()
    assert here.state is vmbus.GuestChannelState.TEARING_DOWN
    machine.pump()
    assert machine.client_events[-1] == vmbus.Closed(here)
    assert machine.bus_events[-1] == vmbus.ChannelClosed(there)
    assert here.receive() is None
    assert not here.send(b"")
    assert there.receive() is None
    assert not there.send(b"")
    assert not there.writable


def test_a_closed_channel_opens_again_over_other_pages(machine: BusEnds) -> None:
    machine.connect()
    for first_page in (16, 200, 16):
        machine.open(pfns=range(first_page, first_page + 8), downstream=4)
        here, there = machine.ends()
        assert here.send(b"12345678")
        packet = there.receive()
        assert packet is not None
        assert packet.data == b"12345678"
        here.close()
        machine.pump()
    assert machine.bus.rejected == {}
    assert [type(event) for event in machine.bus_events] == [vmbus.ChannelOpened, vmbus.ChannelClosed] * 3


@pytest.mark.parametrize("pages", [4, 26, 27, 54, 55, 500])
def test_a_gpadl_spreads_over_as_many_bodies_as_it_needs(machine: BusEnds, pages: int) -> None:
    machine.connect()
    scattered = [1 + (number * 7) % 1009 for number in range(pages)]
    machine.open(pfns=scattered, downstream=2)
    here, there = machine.ends()
    assert here.state is vmbus.GuestChannelState.OPEN
    sent = 0
    while there.send(sent.to_bytes(8, "little") * 400):
        sent += 1
    for number in range(sent):
        packet = here.receive()
        assert packet is not None
        assert packet.data == number.to_bytes(8, "little") * 400
    assert here.receive() is None
    assert machine.bus.rejected == {}


@pytest.mark.parametrize("newest", VERSIONS)
def test_the_newest_version_of_both_is_agreed_on(machine: BusEnds, newest: int) -> None:
    older = machine_of(
        machine, max_version=newest, versions=(*vmbus.LINUX_VERSIONS, VERSION_WIN7, VERSION_WS2008)
    )
    older.connect()
    assert older.client.version == older.bus.version == newest
    older.open()
    here, there = older.ends()
    assert here.send(b"12345678")
    assert older.client.take_doorbells() == [EVENT_CONNECTION_ID if newest == VERSION_WS2008 else 17]
    assert there.receive() is not None


def test_a_host_without_a_common_version_is_given_up(machine: BusEnds) -> None:
    older = machine_of(machine, max_version=VERSION_WIN7)
    older.connect()
    assert older.client_events == [vmbus.Failed("the host agreed to none of our versions")]
    assert older.client.state is vmbus.ClientState.DISCONNECTED
    assert older.bus.version is None


def test_before_5_0_the_guest_posts_on_connection_1(machine: BusEnds) -> None:
    for version, connection_id in ((VERSION_5_0, 4), (VERSION_4_1, 1)):
        client = vmbus.Client(machine.memory, versions=(version,))
        client.connect()
        assert [post.connection_id for post in client.take_posts()] == [connection_id]


def test_before_2_4_signals_go_through_the_interrupt_page(machine: BusEnds) -> None:
    page = 100 * PAGE_SIZE
    old = machine_of(machine, max_version=VERSION_WIN7, versions=(VERSION_WIN7,), interrupt_page=page)
    old.connect()
    old.open()
    here, there = old.ends()
    assert there.send(b"12345678")
    assert old.bus.take_signals() == [vmbus.Signal(0, 2, 0)]
    assert old.memory.load32(page) == 1 << 1
    assert old.client.receive_event(0) == [here]
    assert here.send(b"12345678")
    assert old.memory.load32(page + PAGE_SIZE // 2) == 1 << 1
    assert old.client.take_doorbells() == [17]


def test_an_interrupt_page_outside_memory_is_counted_and_survived(machine: BusEnds) -> None:
    old = machine_of(machine, max_version=VERSION_WIN7, versions=(VERSION_WIN7,), interrupt_page=1 << 50)
    old.connect()
    old.open()
    assert old.bus.channels[1].send(b"12345678")
    assert old.bus.rejected == {Rejection.INTERRUPT_PAGE_OUTSIDE_MEMORY: 1}


def test_several_devices_keep_their_packets_and_signals_apart(machine: BusEnds) -> None:
    several = machine_of(machine, devices=3)
    several.connect()
    assert [event.channel.relid for event in several.client_events if isinstance(event, vmbus.Offered)] == [
        1,
        2,
        3,
    ]
    for relid in (3, 1, 2):
        several.open(relid, range(relid * 32, relid * 32 + 10))
    for relid, channel in several.bus.channels.items():
        assert channel.send(bytes([relid]) * 8)
    assert [signal.flag for signal in several.bus.take_signals()] == [1, 2, 3]
    for relid, here in several.client.channels.items():
        packet = here.receive()
        assert packet is not None
        assert packet.data == bytes([relid]) * 8


def test_a_full_ring_resumes_when_the_guest_has_read(opened: BusEnds) -> None:
    here, there = opened.ends()
    sent = 0
    while there.send(bytes(2000)):
        sent += 1
    assert not there.writable
    opened.client.take_doorbells()
    while opened.client.take_doorbells() != [17]:
        assert here.receive() is not None
    assert there.writable
    assert there.send(bytes(2000))
    received = 0
    while here.receive() is not None:
        received += 1
    assert 0 < received <= sent + 1


def test_unloading_closes_everything_and_the_guest_can_connect_again(opened: BusEnds) -> None:
    here, there = opened.ends()
    opened.client.unload()
    opened.pump()
    assert opened.client_events[-2:] == [vmbus.Closed(here), vmbus.Unloaded()]
    assert opened.bus_events[-2:] == [vmbus.ChannelClosed(there), vmbus.GuestUnloaded()]
    assert opened.client.channels == {}
    assert there.state is vmbus.ChannelState.UNOFFERED
    opened.connect()
    opened.open()
    assert opened.client.channels[1].state is vmbus.GuestChannelState.OPEN


def test_before_3_0_a_guest_leaves_without_an_answer(machine: BusEnds) -> None:
    old = machine_of(machine, max_version=VERSION_WIN8)
    old.connect()
    old.client.unload()
    assert old.client.take_posts() == []
    assert old.client.take_events() == [vmbus.Unloaded()]


@pytest.mark.parametrize("was_open", [True, False])
def test_a_rescinded_channel_is_let_go_of_by_both_ends(machine: BusEnds, was_open: bool) -> None:
    machine.connect()
    if was_open:
        machine.open()
    here, there = machine.ends()
    machine.bus.rescind(there)
    assert not there.send(b"")
    assert there.receive() is None
    machine.pump()
    assert machine.client.channels == {}
    assert machine.bus.channels == {}
    assert there.state is vmbus.ChannelState.GONE
    closed = [vmbus.Closed(here)] if was_open else []
    assert machine.client_events[-len(closed) - 1 :] == [*closed, vmbus.Rescinded(here)]
    assert machine.bus_events[-1:] == ([vmbus.ChannelClosed(there)] if was_open else [])
    with pytest.raises(LocalProtocolError):
        machine.bus.rescind(there)
    with pytest.raises(LocalProtocolError):
        here.open(range(16, 26), 5)


def test_a_device_unplugged_before_any_contact_is_never_offered(machine: BusEnds) -> None:
    machine.bus.rescind(machine.bus.channels[1])
    machine.connect()
    assert machine.client_events == [vmbus.Connected(VERSION_5_3), vmbus.OffersDelivered()]


def test_a_reset_forgets_the_guest_but_not_the_devices(opened: BusEnds) -> None:
    there = opened.bus.channels[1]
    opened.bus.reset()
    assert opened.bus.take_events() == [vmbus.ChannelClosed(there)]
    assert opened.bus.next_message() is None
    assert opened.bus.signal_event(17, 0) is HvStatus.INVALID_CONNECTION_ID
    opened.client = vmbus.Client(opened.memory)
    opened.connect()
    opened.open()
    assert there.state is vmbus.ChannelState.OPEN


def test_a_busy_slot_gets_the_same_message_until_it_takes_it(machine: BusEnds) -> None:
    machine.client.connect()
    (post,) = machine.client.take_posts()
    machine.bus.post_message(post.connection_id, 1, post.payload)
    first = machine.bus.next_message()
    assert first == machine.bus.next_message()
    machine.bus.message_delivered()
    assert machine.bus.next_message() is None


def test_a_refused_open_gives_the_pages_back_and_says_why(machine: BusEnds) -> None:
    machine.connect()
    here = machine.client.channels[1]
    here.open(range(16, 26), 5)
    machine.memory.store32(16 * PAGE_SIZE + 4, 12345)  # no index
    machine.pump()
    (failed,) = (event for event in machine.client_events if isinstance(event, vmbus.Failed))
    assert failed.channel is here
    assert "0x8000ffff" in failed.reason
    assert here.state is vmbus.GuestChannelState.CLOSED
    machine.open()
    assert machine.client.channels[1].state is vmbus.GuestChannelState.OPEN


def test_ring_pages_outside_memory_fail_the_open(machine: BusEnds) -> None:
    machine.connect()
    with pytest.raises(RemoteProtocolError):  # the guest's own pages must exist
        machine.client.channels[1].open([1 << 40] * 4, 2)


@pytest.mark.parametrize(("pages", "downstream"), [(3, 2), (4, 1), (4, 3), (10, 9), (10, 0), (8191, 100)])
def test_pages_that_are_not_two_rings_are_our_own_error(
    machine: BusEnds, pages: int, downstream: int
) -> None:
    machine.connect()
    with pytest.raises(LocalProtocolError):
        machine.client.channels[1].open([1] * pages, downstream)


def test_a_client_used_out_of_order_is_our_own_error(opened: BusEnds) -> None:
    with pytest.raises(LocalProtocolError):
        opened.client.connect()
    with pytest.raises(LocalProtocolError):
        opened.client.channels[1].open(range(16, 26), 5)
    fresh = vmbus.Client(opened.memory)
    with pytest.raises(LocalProtocolError):
        fresh.unload()


@pytest.mark.parametrize(
    "message",
    [
        wire.VersionResponse(True, 0, 4),
        wire.UnloadResponse(),
        wire.RescindChannelOffer(9),
        wire.GpadlCreated(1, 0xE1E10, 0),
        wire.OpenChannelResult(1, 0xE1E10, 0),
        wire.CloseChannel(1),
        wire.ModifyChannelResponse(1, 0),
    ],
)
def test_a_host_out_of_order_is_refused_and_changes_nothing(opened: BusEnds, message: wire.Message) -> None:
    with pytest.raises(RemoteProtocolError):
        opened.client.receive_message(wire.encode(message))
    assert opened.client.take_posts() == []
    assert opened.client.take_events() == []
    here, there = opened.ends()
    assert there.send(b"12345678")
    assert here.receive() is not None


def test_a_host_that_offers_a_relid_twice_or_out_of_range_is_refused(opened: BusEnds) -> None:
    offer = opened.bus.channels[1].offer_message()
    for relid in (0, 1, 2048, 0xFFFF_FFFF):
        message = wire.encode(msgspec.structs.replace(offer, child_relid=relid))
        with pytest.raises(RemoteProtocolError):
            opened.client.receive_message(message)
    assert list(opened.client.channels) == [1]


def test_a_late_answer_for_a_channel_that_is_gone_is_ignored(machine: BusEnds) -> None:
    machine.connect()
    machine.client.channels[1].open(range(16, 26), 5)
    machine.client.receive_message(wire.encode(wire.RescindChannelOffer(1)))
    for message in (
        wire.GpadlCreated(1, 0xE1E10, 0),
        wire.OpenChannelResult(1, 1, 0),
        wire.GpadlTorndown(0xE1E10),
    ):
        machine.client.receive_message(wire.encode(message))
    assert [type(event) for event in machine.client.take_events()] == [vmbus.Closed, vmbus.Rescinded]


def test_a_message_under_way_while_unloading_is_ignored(opened: BusEnds) -> None:
    opened.client.unload()
    opened.client.receive_message(wire.encode(wire.RescindChannelOffer(1)))
    assert opened.client.take_events() == []
    opened.pump()
    assert opened.client_events[-1] == vmbus.Unloaded()


def test_a_broken_ring_from_the_host_is_the_drivers_to_handle(opened: BusEnds) -> None:
    here, there = opened.ends()
    assert there.send(b"12345678")
    opened.memory.store32(21 * PAGE_SIZE, 0xFFFF_FFFF)
    with pytest.raises(RemoteProtocolError):
        here.receive()
    here.close()
    opened.pump()
    assert opened.client_events[-1] == vmbus.Closed(here)


def test_a_refused_post_is_reported(machine: BusEnds) -> None:
    machine.connect()
    machine.client.post_refused(HvStatus.INVALID_HYPERCALL_INPUT)
    (failed,) = machine.client.take_events()
    assert isinstance(failed, vmbus.Failed)
    assert "INVALID_HYPERCALL_INPUT" in failed.reason


def test_versions_are_tried_in_the_order_of_linux() -> None:
    assert vmbus.LINUX_VERSIONS[0] == VERSION_5_3
    assert list(vmbus.LINUX_VERSIONS) == sorted(vmbus.LINUX_VERSIONS, reverse=True)
    assert set(vmbus.LINUX_VERSIONS) == set(VERSIONS) - {VERSION_WS2008, VERSION_WIN7}
    assert {VERSION_WIN8_1, VERSION_WIN10} <= set(vmbus.LINUX_VERSIONS)


def test_a_guest_has_its_pages_again_only_when_the_host_said_so_or_the_device_is_gone() -> None:
    ends = (GuestChannelState.CLOSED, GuestChannelState.RESCINDED)
    free = {event for (_, event), after in TRANSITIONS.items() if after in ends}
    assert free == {GuestChannelEvent.REFUSE_GPADL, GuestChannelEvent.RELEASE, GuestChannelEvent.RESCIND}
    assert set(TRANSITIONS.values()) == set(GuestChannelState)
    lasting = set(GuestChannelState) - {GuestChannelState.RESCINDED}
    assert {state for state, event in TRANSITIONS if event is GuestChannelEvent.RESCIND} == lasting
    assert {state for state, _ in TRANSITIONS} == lasting
