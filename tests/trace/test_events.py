"""Trace events: each one's text is QEMU's to the letter, and what is off costs nothing and is not built."""

import uuid
from pathlib import Path
from typing import get_args

import pytest

from dynmem import trace_events
from dynmem.direction import Direction
from dynmem.trace_events import BY_NAME, EVENTS, NO_TRACE, Trace, matching, stable_pointer

CAPTURES = Path(__file__).resolve().parent.parent / "captures"

TEXTS: dict[str, tuple[tuple[int | str, ...], str]] = {  # written by hand, as QEMU prints them
    "vmbus_recv_message": ((14, 40), "type 14 size 40"),
    "vmbus_signal_event": ((), ""),
    "vmbus_channel_notify_guest": ((1,), "channel #1"),
    "vmbus_post_msg": ((15, 12), "type 15 size 12"),
    "vmbus_msg_cb": ((-11,), "message status -11"),
    "vmbus_process_incoming_message": ((14,), "type 14"),
    "vmbus_initiate_contact": (
        (4, 1, 0, 0x5547000, 0x5546000, 0x5548000),
        "version 4.1 target vp 0 mon pages 0x5547000,0x5546000 int page 0x5548000",
    ),
    "vmbus_send_offer": ((1, 0x55BA77C38CA0), "channel #1 dev 0x55ba77c38ca0"),
    "vmbus_terminate_offers": ((), ""),
    "vmbus_gpadl_header": ((925200, 10), "gpadl #925200 gfns 10"),
    "vmbus_gpadl_body": ((925200,), "gpadl #925200"),
    "vmbus_gpadl_created": ((925201,), "gpadl #925201"),
    "vmbus_gpadl_teardown": ((925202,), "gpadl #925202"),
    "vmbus_gpadl_torndown": ((925203,), "gpadl #925203"),
    "vmbus_open_channel": ((1, 925200, 0xFFFF_FFFF), "channel #1 gpadl #925200 target vp -1"),
    "vmbus_channel_open": ((2, 0x8000_FFFF), "channel #2 status -2147418113"),
    "vmbus_close_channel": ((3,), "channel #3"),
    "hv_balloon_state_change": (("S_POST_INIT_WAIT",), "-> S_POST_INIT_WAIT"),
    "hv_balloon_incoming_version": ((2, 0), "incoming proto version 2.0"),
    "hv_balloon_incoming_caps": ((0x1F,), "incoming caps 0x1f"),
    "hv_balloon_outgoing_unballoon": (
        (1, 24576, 0x5800, 7),
        "posting unballoon 1 for 24576 @ 0x5800, remaining 7",
    ),
    "hv_balloon_incoming_unballoon": ((52,), "incoming unballoon response 52"),
    "hv_balloon_outgoing_hot_add": ((2, 65536, 0x800000), "posting hot add 2 for 65536 @ 0x800000"),
    "hv_balloon_incoming_hot_add": (
        (54, 1, 65536),
        "incoming hot add response 54, result 1, count 65536",
    ),
    "hv_balloon_outgoing_balloon": ((0, 24576, 100), "posting balloon 0 for 24576, remaining 100"),
    "hv_balloon_incoming_balloon": ((51, 48, 0), "incoming balloon response 51, ranges 48, more 0"),
    "hv_balloon_our_range_add": ((131072, 0x800000), "adding our range 131072 @ 0x800000"),
    "hv_balloon_remove_response": (
        (24576, 0x5800, 1),
        "processing remove response range 24576 @ 0x5800, both 1",
    ),
    "hv_balloon_remove_response_hole": (
        (1, 0xA, 2, 0xB, 0xC, 0),
        "response range hole 1 @ 0xa from range 2 @ 0xb, before our start 0xc, both 0",
    ),
    "hv_balloon_remove_response_common": (
        (1, 0xA, 2, 0xB, 3, 0xC, 4, 1),
        "response common range 1 @ 0xa from range 2 @ 0xb with our 3 @ 0xc, removed 4, both 1",
    ),
    "hv_balloon_remove_response_remainder": (
        (5, 0x1F, 0),
        "remove response remaining range 5 @ 0x1f, both 0",
    ),
    "hv_balloon_map_slot": ((1, 4, 0x8000000), "mapping memslot 1 / 4 @ 0x8000000"),
    "hv_balloon_unmap_slot": ((0, 4, 0), "unmapping memslot 0 / 4 @ 0x0"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_an_event_reads_as_qemu_writes_it(name: str) -> None:
    values, text = TEXTS[name]
    assert BY_NAME[name].text(values) == text
    read = BY_NAME[name].parse(text)
    assert read is not None
    assert tuple(read.values()) == values
    assert BY_NAME[name].parse(text + "1x") is None


def test_every_event_has_its_text_written_down() -> None:
    assert set(TEXTS) == {event.name for event in EVENTS}


def test_an_event_is_bound_to_its_own_name_and_to_the_types_of_its_parameters() -> None:
    for event in EVENTS:
        assert getattr(trace_events, event.name.upper()) is event
        types = tuple(str if parameter.kind == "string" else int for parameter in event.parameters)
        assert get_args(event.__orig_class__) == types, event.name


def test_an_event_that_names_its_message_has_the_direction_of_that_message() -> None:
    for event in EVENTS:
        if "_incoming_" in event.name or "_recv_" in event.name:
            assert event.direction is Direction.GUEST_TO_HOST
        if "_outgoing_" in event.name or "_post_" in event.name:
            assert event.direction is Direction.HOST_TO_GUEST


@pytest.mark.parametrize("file", ["trace.log", "trace-linux-6.1.log"])
def test_each_line_of_a_log_of_qemu_is_the_text_of_its_event(file: str) -> None:
    lines = (CAPTURES / file).read_text().splitlines()
    for line in lines:
        name, _, text = line.partition(":")[2].partition(" ")
        values = BY_NAME[name].parse(text)
        assert values is not None
        assert BY_NAME[name].text(list(values.values())) == text
    assert len(lines) > 60


def test_a_pattern_turns_events_on_and_a_minus_off_again() -> None:
    assert matching(["hv_balloon_remove*"]) == {
        name for name in TEXTS if name.startswith("hv_balloon_remove")
    }
    assert matching(["vmbus_*", "-*gpadl*"]) == {
        name for name in TEXTS if name.startswith("vmbus_") and "gpadl" not in name
    }
    assert matching(["nothing"]) == frozenset()


def test_only_events_that_are_on_reach_the_sink() -> None:
    seen: list[tuple[str, str]] = []
    trace = Trace(matching(["vmbus_signal_event"]), lambda name, text: seen.append((name, text)))
    trace(trace_events.VMBUS_SIGNAL_EVENT)
    trace(trace_events.VMBUS_CLOSE_CHANNEL, 1)
    assert seen == [("vmbus_signal_event", "")]
    assert trace.on(trace_events.VMBUS_SIGNAL_EVENT)
    assert not trace.on(trace_events.VMBUS_CLOSE_CHANNEL)
    assert not any(NO_TRACE.on(event) for event in EVENTS)


def test_a_device_has_the_same_address_at_every_start() -> None:
    one, other = (
        uuid.UUID("f2a7a1c5-92f1-4a3c-8a3e-0d8b6b8a1f5d"),
        uuid.UUID("1eccfd72-4b41-45ef-b73a-4a6e44c12924"),
    )
    assert stable_pointer(one) == stable_pointer(one) != stable_pointer(other)
    assert 0x5500_0000_0000 <= stable_pointer(one) < 0x5600_0000_0000
