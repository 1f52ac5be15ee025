"""Whatever a guest posts, signals or writes, the bus answers where there is an answer and goes on."""

from __future__ import annotations

import struct
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rigs.bus import BusEnds

from dynmem import vmbus
from dynmem.direction import Direction
from dynmem.errors import LocalProtocolError
from dynmem.limits import GPADL_PAGES_MAX, GPADLS_MAX, VMBUS_EVENTS_MAX, VMBUS_QUEUE_MAX
from dynmem.units import PAGE_SIZE
from dynmem.vmbus import BusState
from dynmem.vmbus.channel import TRANSITIONS, ChannelEvent, ChannelState
from dynmem.vmbus.host import RULES
from dynmem.vmbus.memory import FlatMemory
from dynmem.vmbus.rejection import Rejection
from dynmem.wire import vmbus as wire
from dynmem.wire.status import STATUS_CONNECTION_REFUSED, STATUS_UNSUCCESSFUL
from dynmem.wire.synic import HvStatus
from dynmem.wire.versions import VERSION_5_3, VERSION_6_0, VERSION_WIN10

CONTACT = wire.InitiateContact(VERSION_5_3, 0, wire.contact_target(2), 0, 0)
REFUSED = wire.VersionResponse(False, 0, 0)


def gpadl_range(pages: int, byte_offset: int = 0) -> bytes:
    return struct.pack("<II", pages * PAGE_SIZE & 0xFFFF_FFFF, byte_offset)


def gpadl_header(gpadl: int, pages: int, here: int | None = None, relid: int = 1) -> wire.GpadlHeader:
    """A header that declares `pages` pages and brings the first `here` of them."""
    count = min(pages, 26) if here is None else here
    words = struct.pack(f"<{count}Q", *range(16, 16 + count))
    return wire.GpadlHeader(relid, gpadl, 8 + 8 * pages, 1, gpadl_range(pages) + words)


def offered(machine: BusEnds) -> BusEnds:
    machine.connect()
    machine.client.take_events()
    return machine


# every fault that a guest can trigger in QEMU 10.2.2's VMBus, by reading its source


def test_a_body_for_a_full_gpadl_is_counted(machine: BusEnds) -> None:
    bus = offered(machine).bus
    assert machine.post(gpadl_header(7, 2)) is HvStatus.SUCCESS
    assert machine.answers() == [wire.GpadlCreated(1, 7, 0)]
    assert machine.post(wire.GpadlBody(1, 7, bytes(8))) is HvStatus.SUCCESS
    assert machine.answers() == []
    assert bus.rejected == {Rejection.STRAY_GPADL_BODY: 1}


@pytest.mark.parametrize("range_buflen", [0, 4, 7])
def test_a_gpadl_header_shorter_than_a_range_is_answered_with_an_error(
    machine: BusEnds, range_buflen: int
) -> None:
    offered(machine)
    ranges = struct.pack("<II", 0xFFFF_F000, 0)[:range_buflen]
    assert machine.post(wire.GpadlHeader(1, 7, range_buflen, 1, ranges)) is HvStatus.SUCCESS
    assert machine.answers() == [wire.GpadlCreated(1, 7, STATUS_UNSUCCESSFUL)]


def test_an_unload_before_any_contact_is_refused(machine: BusEnds) -> None:
    assert machine.post(wire.Unload()) is HvStatus.INVALID_HYPERCALL_INPUT
    assert machine.answers() == []
    assert machine.bus.take_events() == []


@pytest.mark.parametrize("vp", [1, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_contact_from_a_processor_that_is_not_there_is_answered_on_the_first(
    machine: BusEnds, vp: int
) -> None:
    contact = wire.InitiateContact(VERSION_5_3, vp, wire.contact_target(2), 0, 0)
    assert machine.post(contact) is HvStatus.SUCCESS
    message = machine.bus.next_message()
    assert message is not None
    assert message.vp == 0
    assert machine.answers() == [REFUSED]
    assert machine.bus.state is BusState.DISCONNECTED


@pytest.mark.parametrize("vp", [1, 0x7FFF_FFFF, 0xFFFF_FFFE])
def test_an_open_for_a_processor_that_is_not_there_is_answered_with_an_error(
    machine: BusEnds, vp: int
) -> None:
    offered(machine)
    machine.post(gpadl_header(7, 10))
    machine.post(wire.OpenChannel(1, 3, 7, vp, 5))
    assert machine.answers() == [
        wire.GpadlCreated(1, 7, 0),
        wire.OpenChannelResult(1, 3, STATUS_UNSUCCESSFUL),
    ]
    assert machine.bus.channels[1].state is ChannelState.CLOSED


def test_an_event_flag_other_than_zero_is_no_port(opened: BusEnds) -> None:
    for flag in (1, 2047, 2048, 2049, 0xFFFF):
        assert opened.bus.signal_event(17, flag) is HvStatus.INVALID_PORT_ID


# GPADLs


@pytest.mark.parametrize(
    "header",
    [
        wire.GpadlHeader(1, 7, 24, 2, gpadl_range(1) + bytes(8) + gpadl_range(0)),
        wire.GpadlHeader(1, 7, 16, 0, gpadl_range(1) + bytes(8)),
        wire.GpadlHeader(1, 7, 16, 1, gpadl_range(1, byte_offset=8) + bytes(8)),
        wire.GpadlHeader(1, 7, 16, 1, struct.pack("<II", 4095, 0) + bytes(8)),
        wire.GpadlHeader(1, 7, 8, 1, gpadl_range(0)),
        wire.GpadlHeader(1, 7, 0xFFFF, 1, struct.pack("<II", 0xFFFF_F000, 0) + bytes(8)),
        wire.GpadlHeader(1, 7, 24, 1, gpadl_range(1) + bytes(16)),
        wire.GpadlHeader(9, 7, 16, 1, gpadl_range(1) + bytes(8)),
    ],
    ids=["two ranges", "no range", "offset", "part of a page", "no page", "16 TiB", "too long", "no channel"],
)
def test_a_wrong_gpadl_is_answered_with_an_error(machine: BusEnds, header: wire.GpadlHeader) -> None:
    offered(machine)
    machine.post(header)
    assert machine.answers() == [wire.GpadlCreated(header.child_relid, 7, STATUS_UNSUCCESSFUL)]
    assert sum(machine.bus.rejected.values()) == 1


def test_a_gpadl_id_used_twice_is_refused_and_the_first_stays(machine: BusEnds) -> None:
    offered(machine)
    machine.post(gpadl_header(7, 30, here=26))
    machine.post(gpadl_header(7, 2))
    assert machine.answers() == [wire.GpadlCreated(1, 7, STATUS_UNSUCCESSFUL)]
    machine.post(wire.GpadlBody(1, 7, bytes(8 * 28)))  # four are missing; the rest is padding
    assert machine.answers() == [wire.GpadlCreated(1, 7, 0)]


def test_the_pages_and_the_number_of_gpadls_are_bounded(machine: BusEnds) -> None:
    offered(machine)
    created = 0
    for gpadl in range(GPADLS_MAX + 1):
        machine.post(gpadl_header(gpadl, 8190, here=26))
        if answers := machine.answers():
            assert answers == [wire.GpadlCreated(1, gpadl, STATUS_UNSUCCESSFUL)]
            break
        created += 1
    assert created == GPADL_PAGES_MAX // 8190
    for gpadl in range(created):
        machine.post(wire.GpadlTeardown(1, gpadl))
        assert machine.answers() == [wire.GpadlTorndown(gpadl)]
    for gpadl in range(GPADLS_MAX):
        machine.post(gpadl_header(gpadl, 1))
        assert machine.answers() == [wire.GpadlCreated(1, gpadl, 0)]
    machine.post(gpadl_header(GPADLS_MAX, 1))
    assert machine.answers() == [wire.GpadlCreated(1, GPADLS_MAX, STATUS_UNSUCCESSFUL)]


def test_tearing_down_the_rings_of_an_open_channel_faults_it(opened: BusEnds) -> None:
    _, there = opened.ends()
    assert there.gpadl_id is not None
    opened.post(wire.GpadlTeardown(1, there.gpadl_id))
    assert opened.answers() == [wire.GpadlTorndown(0xE1E10)]
    (event,) = opened.bus.take_events()
    assert isinstance(event, vmbus.ChannelFaulted)
    assert there.fault == event.reason
    opened.post(wire.CloseChannel(1))
    assert opened.bus.take_events() == [vmbus.ChannelClosed(there)]
    assert there.fault is None


def test_a_teardown_of_an_unknown_gpadl_is_answered_but_not_one_of_another_channel(machine: BusEnds) -> None:
    several = type(machine)(devices=2)
    several.connect()
    several.post(wire.GpadlTeardown(1, 99))
    assert several.answers() == [wire.GpadlTorndown(99)]
    several.post(gpadl_header(7, 2, relid=1))
    several.answers()
    several.post(wire.GpadlTeardown(2, 7))
    assert several.answers() == []
    several.post(wire.OpenChannel(2, 1, 7, 0, 2))
    assert several.answers() == [wire.OpenChannelResult(2, 1, STATUS_UNSUCCESSFUL)]


# opening and closing


@pytest.mark.parametrize(
    ("pages", "downstream"), [(10, 0), (10, 1), (10, 9), (10, 10), (10, 0xFFFF_FFFF), (3, 2)]
)
def test_an_open_without_room_for_two_rings_is_answered_with_an_error(
    machine: BusEnds, pages: int, downstream: int
) -> None:
    offered(machine)
    machine.post(gpadl_header(7, pages))
    machine.post(wire.OpenChannel(1, 1, 7, 0, downstream))
    assert machine.answers()[1:] == [wire.OpenChannelResult(1, 1, STATUS_UNSUCCESSFUL)]
    machine.post(gpadl_header(8, 4))
    machine.post(wire.OpenChannel(1, 2, 8, 0, 2))
    assert machine.answers()[1:] == [wire.OpenChannelResult(1, 2, 0)]


def test_an_open_with_an_unfinished_or_unknown_gpadl_or_channel_is_answered(machine: BusEnds) -> None:
    offered(machine)
    machine.post(gpadl_header(7, 30, here=10))
    for relid, gpadl in ((1, 7), (1, 8), (2, 7), (0xFFFF_FFFF, 7)):
        machine.post(wire.OpenChannel(relid, 5, gpadl, 0, 2))
        assert machine.answers() == [wire.OpenChannelResult(relid, 5, STATUS_UNSUCCESSFUL)]


def test_an_open_channel_is_not_opened_twice(opened: BusEnds) -> None:
    opened.post(wire.OpenChannel(1, 9, 0xE1E10, 0, 5))
    assert opened.answers() == [wire.OpenChannelResult(1, 9, STATUS_UNSUCCESSFUL)]
    assert opened.bus.channels[1].is_open


def test_a_channel_opened_for_no_processor_gets_no_interrupts(machine: BusEnds) -> None:
    offered(machine)
    machine.post(gpadl_header(7, 10))
    machine.post(wire.OpenChannel(1, 1, 7, wire.TARGET_VP_NONE, 5))
    assert machine.bus.channels[1].send(b"12345678")
    assert machine.bus.take_signals() == []


def test_interrupts_move_to_the_processor_the_guest_names(machine: BusEnds) -> None:
    several = type(machine)(vp_count=4)
    several.connect()
    several.open()
    several.post(wire.ModifyChannel(1, 3))
    assert several.answers() == [wire.ModifyChannelResponse(1, 0)]
    assert several.bus.channels[1].send(b"12345678")
    assert several.bus.take_signals() == [vmbus.Signal(3, 2, 1)]
    several.post(wire.ModifyChannel(1, 4))
    assert several.answers() == [wire.ModifyChannelResponse(1, STATUS_UNSUCCESSFUL)]


def test_closing_or_releasing_what_is_not_there_is_counted(opened: BusEnds) -> None:
    for message in (wire.CloseChannel(2), wire.RelidReleased(1), wire.RelidReleased(0xFFFF_FFFF)):
        opened.post(message)
    opened.post(wire.CloseChannel(1))
    opened.post(wire.CloseChannel(1))
    assert opened.answers() == []
    assert sum(opened.bus.rejected.values()) == 4


# contact


@pytest.mark.parametrize("version", [0, 1, 12, VERSION_5_3 + 1, VERSION_WIN10 - 1, VERSION_6_0, 0xFFFF_FFFF])
def test_a_version_that_never_was_is_not_supported(machine: BusEnds, version: int) -> None:
    machine.post(wire.InitiateContact(version, 0, wire.contact_target(2), 0, 0))
    assert machine.answers() == [REFUSED]


def test_a_new_contact_begins_anew(opened: BusEnds) -> None:
    there = opened.bus.channels[1]
    opened.post(CONTACT)
    assert opened.bus.take_events() == [vmbus.ChannelClosed(there)]
    assert there.state is ChannelState.UNOFFERED
    assert opened.answers() == [wire.VersionResponse(True, 0, 4)]
    opened.post(wire.OpenChannel(1, 1, 0xE1E10, 0, 5))
    assert opened.answers() == []
    assert opened.bus.rejected == {Rejection.UNEXPECTED: 1}


def test_a_host_before_5_0_has_no_connection_4(machine: BusEnds) -> None:
    old = type(machine)(max_version=VERSION_WIN10)
    assert old.post(CONTACT, connection_id=4) is HvStatus.INVALID_CONNECTION_ID
    assert old.post(CONTACT, connection_id=1) is HvStatus.SUCCESS
    for connection_id in (0, 2, 3, 5, 17, 0xFFFF_FFFF):
        assert machine.post(CONTACT, connection_id) is HvStatus.INVALID_CONNECTION_ID


def test_a_socket_request_is_refused_with_an_answer(opened: BusEnds) -> None:
    one, two = uuid.UUID(int=1), uuid.UUID(int=2)
    opened.post(wire.TlConnectRequest(one, two))
    assert opened.answers() == [wire.TlConnectResult(one, two, STATUS_CONNECTION_REFUSED)]


# bounds


def test_posts_are_refused_while_the_guest_takes_no_answers(opened: BusEnds) -> None:
    statuses = [opened.post(wire.GpadlTeardown(1, number)) for number in range(VMBUS_QUEUE_MAX + 3)]
    assert statuses.count(HvStatus.SUCCESS) == VMBUS_QUEUE_MAX
    assert set(statuses[VMBUS_QUEUE_MAX:]) == {HvStatus.INSUFFICIENT_BUFFERS}
    opened.bus.message_delivered()
    assert opened.post(wire.GpadlTeardown(1, 1)) is HvStatus.SUCCESS
    assert opened.post(CONTACT) is HvStatus.SUCCESS  # a guest that starts anew waits for no old answers
    assert opened.answers() == [wire.VersionResponse(True, 0, 4)]


def test_posts_are_refused_while_nobody_takes_the_events(opened: BusEnds) -> None:
    statuses = []
    for _ in range(VMBUS_EVENTS_MAX + 10):
        statuses.append(opened.post(CONTACT))
        opened.post(wire.Unload())
    assert statuses[-1] is HvStatus.INSUFFICIENT_BUFFERS
    assert len(opened.bus.take_events()) == VMBUS_EVENTS_MAX


def test_a_hypervisor_message_of_another_type_is_refused(machine: BusEnds) -> None:
    assert machine.bus.post_message(4, 2, wire.encode(CONTACT)) is HvStatus.INVALID_HYPERCALL_INPUT
    for payload in (b"", bytes(7), bytes(8), bytes(241), wire.encode(CONTACT)[:-1]):
        assert machine.post(payload) is HvStatus.INVALID_HYPERCALL_INPUT


def test_offers_are_distinct() -> None:
    offer = vmbus.Offer(uuid.UUID(int=1), uuid.UUID(int=2), "twice")
    with pytest.raises(LocalProtocolError):
        vmbus.Bus(FlatMemory(memoryview(bytearray(PAGE_SIZE))), [offer, offer])


# rings


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, 0xFFFF_FFFF),
        (0, 4),
        (0, 8),
        (PAGE_SIZE, 0xFFFF_FFFF),
        (PAGE_SIZE, 0x0001_0006),
        (PAGE_SIZE + 4, 0),
    ],
)
def test_a_malformed_packet_faults_its_channel_and_the_bus_lives_on(
    machine: BusEnds, offset: int, value: int
) -> None:
    several = type(machine)(devices=2)
    several.connect()
    several.open(1, range(16, 26))
    several.open(2, range(32, 42))
    several.bus_events.clear()
    here, there = several.ends()
    assert here.send(b"12345678")
    several.memory.store32(16 * PAGE_SIZE + offset, value)
    assert there.receive() is None
    assert there.state is ChannelState.FAULTED
    (event,) = several.bus.take_events()
    assert event == vmbus.ChannelFaulted(there, there.fault or "")
    several.memory.store32(16 * PAGE_SIZE, 32)
    assert there.receive() is None
    assert not there.send(b"12345678")
    assert several.bus.take_events() == []
    other_here, other_there = several.ends(2)
    assert other_here.send(b"12345678")
    assert other_there.receive() is not None
    here.close()
    several.pump()
    several.open(1, range(16, 26))
    assert several.ends()[0].send(b"12345678")
    assert there.receive() is not None


def test_a_hostile_index_faults_the_channel_that_sends(opened: BusEnds) -> None:
    _, there = opened.ends()
    opened.memory.store32(21 * PAGE_SIZE + 4, 3)
    assert not there.send(b"12345678")
    assert there.state is ChannelState.FAULTED


def test_a_hostile_index_faults_the_channel_that_waits_for_room(opened: BusEnds) -> None:
    _, there = opened.ends()
    while there.send(bytes(1000)):
        pass
    opened.memory.store32(21 * PAGE_SIZE + 4, 3)
    assert not there.writable
    assert there.state is ChannelState.FAULTED


def test_ring_pages_outside_memory_fault_when_they_are_touched(machine: BusEnds) -> None:
    offered(machine)
    pfns = [16, 1 << 51, 17, 18, 19, 20]
    ranges = gpadl_range(6) + struct.pack("<6Q", *pfns)
    machine.post(wire.GpadlHeader(1, 7, 8 + 48, 1, ranges))
    machine.post(wire.OpenChannel(1, 1, 7, 0, 3))
    there = machine.bus.channels[1]
    assert there.is_open
    machine.memory.store32(16 * PAGE_SIZE, 32)
    assert there.receive() is None
    assert there.state is ChannelState.FAULTED


def test_control_pages_outside_memory_fail_the_open(machine: BusEnds) -> None:
    offered(machine)
    machine.post(wire.GpadlHeader(1, 7, 40, 1, gpadl_range(4) + struct.pack("<4Q", 1 << 51, 1, 2, 3)))
    machine.post(wire.OpenChannel(1, 1, 7, 0, 2))
    assert machine.answers()[-1] == wire.OpenChannelResult(1, 1, STATUS_UNSUCCESSFUL)


# the tables


def test_the_channel_table_knows_what_every_state_does_when_the_guest_is_forgotten() -> None:
    lasting = set(ChannelState) - {ChannelState.GONE}
    for event in (ChannelEvent.FORGET,):
        assert {state for state, moved in TRANSITIONS if moved is event} == lasting
    assert {after for (_, event), after in TRANSITIONS.items() if event is ChannelEvent.OPEN} == {
        ChannelState.OPEN
    }
    assert ChannelState.GONE not in {state for state, _ in TRANSITIONS}


def test_only_messages_of_the_guest_have_rules() -> None:
    for message in RULES:
        assert wire.TABLE.by_class[message].direction is Direction.GUEST_TO_HOST


def plausible_posts() -> st.SearchStrategy[bytes]:
    """Messages of known types whose words are often ids that exist."""
    word = st.sampled_from([0, 1, 2, 5, 7, 8, 0xE1E10, 0xE1E11, 88, 4096, 0xA000, 0xFFFF_FFFF, 1 << 16 | 24])
    known = st.integers(1, 29)
    return st.builds(
        lambda number, words: struct.pack(f"<II{len(words)}I", number, 0, *words),
        known,
        st.lists(word, max_size=58),
    )


@given(st.lists(st.one_of(plausible_posts(), st.binary(max_size=250)), max_size=40), st.booleans())
@settings(max_examples=80, deadline=None)
def test_no_post_raises_and_the_guest_can_always_begin_anew(posts: list[bytes], connected: bool) -> None:
    memory = FlatMemory(memoryview(bytearray(64 * PAGE_SIZE)))
    bus = vmbus.Bus(memory, [vmbus.Offer(uuid.UUID(int=1), uuid.UUID(int=2), "dev")])
    if connected:
        for message in (CONTACT, wire.RequestOffers(), gpadl_header(7, 10), wire.OpenChannel(1, 1, 7, 0, 5)):
            assert bus.post_message(4, 1, wire.encode(message)) is HvStatus.SUCCESS
    for payload in posts:
        assert bus.post_message(4, 1, payload) in set(HvStatus)
        bus.channels[1].receive()
        bus.channels[1].send(b"12345678")
        assert len(bus.take_events()) <= 4
        if bus.next_message() is not None:
            bus.message_delivered()
    assert bus.post_message(4, 1, wire.encode(CONTACT)) is HvStatus.SUCCESS
    assert bus.state is BusState.CONNECTED
