"""Reserved channels, interrupts that move, monitor pages, and the events that QEMU's traces name."""

from __future__ import annotations

import struct

import pytest
from tests.rigs.bus import BusEnds

from dynmem import vmbus
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.trace_events import BY_NAME, Trace
from dynmem.units import PAGE_SIZE
from dynmem.vmbus.channel import ChannelState
from dynmem.vmbus.memory import GpadlMemory
from dynmem.vmbus.ring import initialize
from dynmem.wire import vmbus as wire
from dynmem.wire.status import STATUS_UNSUCCESSFUL
from dynmem.wire.synic import VMBUS_SINT, HvStatus
from dynmem.wire.versions import VERSION_4_1, VERSION_5_2, VERSION_5_3, VERSION_WIN8_1, VERSION_WIN10

PFNS = range(16, 22)
OPEN = wire.OpenReservedChannel(1, 1, 5, 7, 3)


def ready(machine: BusEnds, **options: object) -> BusEnds:
    """Two processors, GPADL 7 made over two empty rings, nothing open."""
    two: BusEnds = type(machine)(vp_count=2, **options)  # type: ignore[arg-type]
    two.connect()
    pages = GpadlMemory(two.memory, PFNS)
    initialize(pages, 0)
    initialize(pages, 3)
    two.post(wire.GpadlHeader(1, 7, 56, 1, struct.pack("<II6Q", 6 * PAGE_SIZE, 0, *PFNS)))
    two.answers()
    return two


def taken(machine: BusEnds) -> vmbus.OutgoingMessage:
    """The one message that the bus has for the guest."""
    message = machine.bus.next_message()
    assert message is not None
    machine.bus.message_delivered()
    assert machine.bus.next_message() is None
    return message


def test_a_reserved_channel_answers_where_it_was_opened_and_closed_from(machine: BusEnds) -> None:
    two = ready(machine)
    channel = two.bus.channels[1]
    two.post(OPEN)
    assert taken(two) == vmbus.OutgoingMessage(1, 5, wire.encode(wire.OpenChannelResult(1, 0, 0)))
    assert two.bus.take_events() == [vmbus.ChannelOpened(channel)]
    assert channel.send(b"12345678")
    assert two.bus.take_signals() == []  # its guest looks by itself
    two.post(wire.CloseReservedChannel(1, 0, 6))
    assert taken(two) == vmbus.OutgoingMessage(0, 6, wire.encode(wire.CloseReservedChannelResponse(1)))
    assert two.bus.take_events() == [vmbus.ChannelClosed(channel)]
    assert channel.state is ChannelState.CLOSED


def test_a_reserved_channel_is_neither_closed_nor_moved_as_an_ordinary_one(machine: BusEnds) -> None:
    two = ready(machine)
    two.post(OPEN)
    two.answers()
    two.post(wire.CloseChannel(1))
    assert two.bus.channels[1].is_open
    two.post(wire.ModifyChannel(1, 0))
    assert two.answers() == [wire.ModifyChannelResponse(1, STATUS_UNSUCCESSFUL)]
    two.post(wire.CloseReservedChannel(1, 0, 2))
    two.post(wire.OpenChannel(1, 1, 7, 0, 3))  # the next time it is an ordinary one
    two.post(wire.CloseReservedChannel(1, 0, 2))
    assert two.bus.channels[1].is_open
    two.post(wire.CloseChannel(1))
    assert not two.bus.channels[1].is_open


@pytest.mark.parametrize(("vp", "sint"), [(2, 5), (0xFFFF_FFFF, 2), (0, 16), (0, 0xFFFF_FFFF)])
def test_a_reserved_channel_for_a_place_that_is_not_there_is_counted(
    machine: BusEnds, vp: int, sint: int
) -> None:
    two = ready(machine)
    two.post(wire.OpenReservedChannel(1, vp, sint, 7, 3))
    assert not two.bus.channels[1].is_open
    two.post(OPEN)
    two.answers()
    two.post(wire.CloseReservedChannel(1, vp, sint))
    assert two.bus.channels[1].is_open
    assert two.answers() == []
    assert sum(two.bus.rejected.values()) == 2


def test_a_reserved_channel_without_its_gpadl_is_refused_where_it_was_asked_for(machine: BusEnds) -> None:
    two = ready(machine)
    two.post(wire.OpenReservedChannel(1, 1, 5, 8, 3))
    refusal = wire.OpenChannelResult(1, 0, STATUS_UNSUCCESSFUL)
    assert taken(two) == vmbus.OutgoingMessage(1, 5, wire.encode(refusal))
    assert not two.bus.channels[1].reserved


def test_before_4_0_there_are_no_reserved_channels(machine: BusEnds) -> None:
    two = ready(machine, max_version=VERSION_WIN8_1)
    assert two.post(OPEN, 1) is HvStatus.INVALID_HYPERCALL_INPUT
    assert not two.bus.channels[1].is_open


def test_a_driver_moves_its_interrupts_and_hears_of_it_from_5_3_on(machine: BusEnds) -> None:
    two = ready(machine)
    two.client.channels[1].open(range(32, 38), 3, target_vp=1)
    two.pump()
    here, there = two.ends()
    assert there.target_vp == 1
    two.client_events.clear()
    for vp, moved in ((0, True), (2, False)):
        here.modify(vp)
        with pytest.raises(LocalProtocolError, match="cannot be moved"):
            here.modify(0)  # one at a time
        two.pump()
        assert two.client_events.pop() == vmbus.Modified(here, moved)
        assert there.target_vp == 0


@pytest.mark.parametrize("version", [VERSION_4_1, VERSION_5_2])
def test_a_driver_of_before_5_3_moves_its_interrupts_without_an_answer(
    machine: BusEnds, version: int
) -> None:
    two = ready(machine, max_version=version)
    two.client.channels[1].open(range(32, 38), 3)
    two.pump()
    here, there = two.ends()
    here.modify(1)
    here.modify(1)
    two.client_events.clear()
    two.pump()
    assert there.target_vp == 1
    assert two.client_events == []


def test_interrupts_stay_where_they_are_before_4_1_and_while_closed(machine: BusEnds) -> None:
    two = ready(machine, max_version=VERSION_WIN10)
    here = two.client.channels[1]
    for _ in range(2):
        with pytest.raises(LocalProtocolError, match="cannot be moved"):
            here.modify(1)
        here.open(range(32, 38), 3)
        two.pump()
        if here.state is vmbus.GuestChannelState.OPEN:
            break


def test_an_answer_to_no_move_is_refused_and_a_late_one_ignored(opened: BusEnds) -> None:
    here, _ = opened.ends()
    answer = wire.encode(wire.ModifyChannelResponse(1, 0))
    with pytest.raises(RemoteProtocolError, match="MODIFYCHANNEL_RESPONSE"):
        opened.client.receive_message(answer)
    here.modify(0)
    here.close()
    opened.client.receive_message(answer)
    assert here.state is vmbus.GuestChannelState.TEARING_DOWN


def test_monitor_pages_are_accepted_until_the_guest_leaves_and_no_offer_uses_them(machine: BusEnds) -> None:
    contact = wire.InitiateContact(VERSION_5_3, 0, wire.contact_target(VMBUS_SINT), 0x5000, 0x6000)
    machine.post(contact)
    assert machine.answers() == [wire.VersionResponse(True, 0, 4)]
    assert machine.bus.monitor_pages == (0x5000, 0x6000)
    machine.post(wire.RequestOffers())
    offer = machine.answers()[0]
    assert isinstance(offer, wire.OfferChannel)
    assert not offer.monitor_allocated
    machine.post(wire.Unload())
    assert machine.bus.monitor_pages == (0, 0)


def traced(machine: BusEnds) -> list[str]:
    """The lines of the trace of a new bus for that machine."""
    lines: list[str] = []

    def sink(name: str, text: str) -> None:
        lines.append(f"{name} {text}".rstrip())

    trace = Trace(frozenset(name for name in BY_NAME if name.startswith("vmbus_")), sink)
    offers = [channel.offer for channel in machine.bus.channels.values()]
    machine.bus = vmbus.Bus(machine.memory, offers, trace=trace)
    return lines


PAGES = struct.pack("<II", PAGE_SIZE, 0) + bytes(8)
BEFORE_JUDGING: list[tuple[wire.Message, list[str]]] = [
    (wire.GpadlHeader(9, 7, 16, 1, PAGES), ["vmbus_gpadl_header gpadl #7 gfns 1"]),
    (wire.GpadlHeader(1, 7, 24, 2, PAGES + bytes(8)), ["vmbus_gpadl_header gpadl #7 gfns 1"]),
    (wire.GpadlHeader(1, 7, 16, 9, PAGES), ["vmbus_gpadl_header gpadl #7 gfns 65529"]),  # as C counts
    (wire.GpadlHeader(1, 7, 4, 1, b"1234"), []),  # too short for a range
    (wire.GpadlBody(1, 7, bytes(8)), ["vmbus_gpadl_body gpadl #7"]),
    (
        wire.GpadlTeardown(1, 7),
        ["vmbus_gpadl_teardown gpadl #7", "vmbus_gpadl_torndown gpadl #7"],
    ),
    (
        wire.OpenChannel(9, 1, 7, 0, 2),
        [
            "vmbus_open_channel channel #9 gpadl #7 target vp 0",
            "vmbus_channel_open channel #9 status -2147418113",
        ],
    ),
    (wire.CloseChannel(9), ["vmbus_close_channel channel #9"]),
    (wire.RelidReleased(9), []),
    (wire.RequestOffers(), []),  # the second time
]


@pytest.mark.parametrize(
    ("message", "events"), BEFORE_JUDGING, ids=lambda value: type(value).__name__ if value else "-"
)
def test_what_a_guest_posts_is_traced_before_it_is_judged_as_qemu_does(
    machine: BusEnds, message: wire.Message, events: list[str]
) -> None:
    lines = traced(machine)
    number = wire.TABLE.of(message).number
    machine.post(message)
    assert lines[1:] == [f"vmbus_process_incoming_message type {number}"]  # nobody is connected
    machine.connect()
    lines.clear()
    machine.post(message)
    assert lines[:2] == [
        f"vmbus_recv_message type {number} size {len(wire.encode(message))}",
        f"vmbus_process_incoming_message type {number}",
    ]
    assert [line for line in lines[2:] if not line.startswith("vmbus_post_msg")] == events


def test_a_post_without_a_whole_header_is_not_traced(machine: BusEnds) -> None:
    lines = traced(machine)
    machine.post(bytes([14, 0, 0, 0, 0, 0, 0]))
    assert lines == []
    machine.post(bytes([14, 0, 0, 0, 0, 0, 0, 0]))
    machine.post(bytes([18, 0, 0, 0, 0, 0, 0, 0]))  # not before 4.0, and not with QEMU
    assert lines == [
        "vmbus_recv_message type 14 size 8",
        "vmbus_process_incoming_message type 14",
        "vmbus_recv_message type 18 size 8",
    ]


def test_the_life_of_a_channel_is_traced_with_qemus_events(machine: BusEnds) -> None:
    lines = traced(machine)
    machine.connect()
    machine.open(1, range(16, 56), 20)
    here, there = machine.ends()
    assert there.send(b"12345678")
    here.close()
    machine.pump()
    machine.bus.signal_event(2, 0)
    flow = ("vmbus_recv_message", "vmbus_process_incoming_message", "vmbus_post_msg", "vmbus_msg_cb")
    assert [
        line for line in lines if not line.startswith(flow) and not line.startswith("vmbus_send_offer")
    ] == [
        "vmbus_initiate_contact version 5.3 target vp 0 mon pages 0x0,0x0 int page 0x2",
        "vmbus_terminate_offers",
        "vmbus_gpadl_header gpadl #925200 gfns 40",
        "vmbus_gpadl_body gpadl #925200",
        "vmbus_gpadl_created gpadl #925200",
        "vmbus_open_channel channel #1 gpadl #925200 target vp 0",
        "vmbus_channel_open channel #1 status 0",
        "vmbus_channel_notify_guest channel #1",
        "vmbus_close_channel channel #1",
        "vmbus_gpadl_teardown gpadl #925200",
        "vmbus_gpadl_torndown gpadl #925200",
        "vmbus_signal_event",
    ]
    assert lines[:2] == ["vmbus_recv_message type 14 size 40", "vmbus_process_incoming_message type 14"]
    assert lines[3:5] == ["vmbus_post_msg type 15 size 16", "vmbus_msg_cb message status 0"]
    assert sum(line.startswith("vmbus_send_offer channel #1 dev 0x") for line in lines) == 1
