"""Trace events of our hv-balloon beside those of QEMU's own, for the same orders to the same kernel.

They say the same in the same order, but for what DIFFERENCES lists.
"""

from collections.abc import Sequence
from typing import Any, Final

from dynmem.trace.lines import EventLine, parse
from dynmem.units import MIB

#: What is not compared, each with its reason: an event, "event.field", or a rule of `operations`.
DIFFERENCES: Final = {
    "vmbus_initiate_contact": "Linux takes 5.3 from our bus at once; QEMU's knows nothing above 4.0, so that"
    " Linux asks it again and again. Where its pages are differs from boot to boot.",
    "vmbus_channel_notify_guest": "QEMU signals after the message's event, and ours when the packet is in the"
    " ring; only a full or an empty ring signals at all.",
    "vmbus_msg_cb": "It says when the guest has emptied its slot.",
    "vmbus_signal_event": "It is there only when a guest signals by hypercall.",
    "vmbus_recv_message.size": "A guest of 5.0 and later posts larger ones.",
    "vmbus_post_msg.size": "QEMU pads an offer to 200 bytes; from 5.0 on a VERSION_RESPONSE has 16.",
    "vmbus_send_offer.dev": "The address of a device in its process.",
    "a message that is posted twice": "QEMU builds a message again when its slot was full; ours waits.",
    "*.trans_id": "Both ends number what they send, and an earlier request makes the next number larger.",
    "hv_balloon_remove_response_*": "They follow from the ranges that the guest gives: their sum counts.",
    "a second request": "A guest that gives less than was asked for is asked for the rest, with both.",
    "hv_balloon_map_slot": "A slot has 128 MiB with ours and 256 MiB with QEMU's: what is mapped counts.",
}

_CONTACT, _VERSION_RESPONSE = 14, 15  # come as often as a version is proposed


def events_of(log: str) -> list[EventLine]:
    """Return the events of a trace log."""
    return [line for line in map(parse, log.splitlines()) if isinstance(line, EventLine)]


def bus_events(events: Sequence[EventLine]) -> list[tuple[str, dict[str, Any]]]:
    """Return what the bus did, once each, without the differences."""
    found: list[tuple[str, dict[str, Any]]] = []
    for event in events:
        if not event.name.startswith("vmbus") or event.name in DIFFERENCES:
            continue
        values = {
            name: value for name, value in event.values.items() if f"{event.name}.{name}" not in DIFFERENCES
        }
        if values.get("type", values.get("message_type")) in (_CONTACT, _VERSION_RESPONSE):
            continue
        if (event.name, values) not in found:
            found.append((event.name, values))
    return found


def operations(events: Sequence[EventLine], *, added: int) -> list[dict[str, Any]]:
    """Return what the device did from one rest (S_IDLE) to the next; `added` is all it can add, in bytes."""
    done: list[dict[str, Any]] = [{}]
    for event in events:
        if event.name.startswith("hv_balloon"):
            _add(done[-1], event.name.removeprefix("hv_balloon_"), event.values, added)
            if event.values.get("tostr") == "S_IDLE":
                done.append({})
    assert done.pop() == {}, "it was recorded to the end of an operation"
    return done


def _add(operation: dict[str, Any], name: str, values: dict[str, Any], added: int) -> None:
    """Add an event to the operation that it is part of."""
    match name:
        case "state_change":
            states = operation.setdefault("states", [])
            if values["tostr"] not in states:
                states.append(values["tostr"])
        case "outgoing_balloon":
            operation.setdefault("asked", values["count"])
        case "remove_response":
            operation["given"] = operation.get("given", 0) + values["count"]
        case "outgoing_unballoon":
            operation["returned"] = operation.get("returned", 0) + values["count"]
        case "map_slot":
            operation["mapped MiB"] = (values["idx"] + 1) * (added // values["total_slots"]) // MIB
        case "incoming_balloon" | "incoming_unballoon":
            operation["answered"] = True
        case _ if not name.startswith("remove_response_"):
            told = {key: value for key, value in values.items() if key != "trans_id"}
            operation.setdefault(name, []).append(told)
