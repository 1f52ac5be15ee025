"""The trace events of QEMU's VMBus and hv-balloon, with parameters and formats, so that our logs read alike.

The pure rooms are given a `Trace` and call it where QEMU calls the event: ``trace("vmbus_signal_event")``.
Where building the values costs something they ask first: ``if trace.on("hv_balloon_remove_response")``.
`NO_TRACE` is off for every event.

Values are printed as C prints them: a ``%d`` of an unsigned word is signed (no target VP is -1).

Source: QEMU hw/hyperv/trace-events; docs/devel/tracing.rst (log backend).
"""

import re
import uuid
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

_CONVERSION: Final = re.compile(r"%[diuxsp]")
_BITS: Final = {"u16": 16, "u32": 32, "u64": 64, "int": 32, "uint": 32, "pointer": 64}

_WORDS: Final = {  # what a conversion may have written
    "%s": "([A-Z0-9_]{1,64})",
    "%p": "(0x[0-9a-f]{1,16}|[(]nil[)])",
    "%x": "([0-9a-f]{1,16})",
}


class Parameter(NamedTuple):
    """A value of an event: its name, its type in C (``string``, ``pointer`` or an integer) and conversion."""

    name: str
    kind: str
    conversion: str

    def text(self, value: int | str) -> str:
        """`value` as C's printf writes it."""
        if self.kind == "string":
            return str(value)
        bits = _BITS[self.kind]
        number = int(value) & (1 << bits) - 1
        if self.conversion == "%d":
            wide = max(bits, 32)  # shorter integers become int
            return str(number - (1 << wide) if number >> wide - 1 else number)
        if self.conversion == "%p":
            return f"{number:#x}" if number else "(nil)"
        return f"{number:x}" if self.conversion == "%x" else str(number)

    def value(self, text: str) -> int | str:
        """The value that was written as `text`; the negative numbers of unsigned types are not."""
        if self.kind == "string":
            return text
        number = 0 if text == "(nil)" else int(text, 16 if self.conversion in ("%x", "%p") else 10)
        return number if self.kind == "int" else number & (1 << _BITS[self.kind]) - 1


class Event:
    """One event. `parameters` are in the order of its call, which is also that of its text."""

    __slots__ = ("_literals", "_pattern", "name", "parameters")

    def __init__(self, name: str, text_format: str, *parameters: str) -> None:
        self.name = name
        self._literals = tuple(_CONVERSION.split(text_format))
        conversions = _CONVERSION.findall(text_format)
        split = (parameter.split(" ") for parameter in parameters)
        self.parameters = tuple(
            Parameter(word, kind, conversion)
            for (kind, word), conversion in zip(split, conversions, strict=True)
        )
        self._pattern = re.compile(self._expression())

    def text(self, values: Sequence[int | str]) -> str:
        """The event's text; one value for each parameter."""
        parts = [self._literals[0]]
        for parameter, value, literal in zip(self.parameters, values, self._literals[1:], strict=True):
            parts += (parameter.text(value), literal)
        return "".join(parts)

    def parse(self, text: str) -> dict[str, int | str] | None:
        """The values in a text of this event, by parameter; None if it is not one."""
        found = self._pattern.fullmatch(text)
        if found is None:
            return None
        return {
            parameter.name: parameter.value(word)
            for parameter, word in zip(self.parameters, found.groups(), strict=True)
        }

    def _expression(self) -> str:
        parts = [re.escape(self._literals[0])]
        for parameter, literal in zip(self.parameters, self._literals[1:], strict=True):
            parts += (_WORDS.get(parameter.conversion, "(-?[0-9]{1,20})"), re.escape(literal))
        return "".join(parts)


EVENTS: Final = (
    Event("vmbus_recv_message", "type %d size %d", "u32 type", "u32 size"),
    Event("vmbus_signal_event", ""),
    Event("vmbus_channel_notify_guest", "channel #%d", "u32 chan_id"),
    Event("vmbus_post_msg", "type %d size %d", "u32 type", "u32 size"),
    Event("vmbus_msg_cb", "message status %d", "int status"),
    Event("vmbus_process_incoming_message", "type %d", "u32 message_type"),
    Event(
        "vmbus_initiate_contact",
        "version %d.%d target vp %d mon pages 0x%x,0x%x int page 0x%x",
        "u16 major",
        "u16 minor",
        "u32 vcpu",
        "u64 monitor_page1",
        "u64 monitor_page2",
        "u64 interrupt_page",
    ),
    Event("vmbus_send_offer", "channel #%d dev %p", "u32 chan_id", "pointer dev"),
    Event("vmbus_terminate_offers", ""),
    Event("vmbus_gpadl_header", "gpadl #%d gfns %d", "u32 gpadl_id", "u16 num_gfns"),
    Event("vmbus_gpadl_body", "gpadl #%d", "u32 gpadl_id"),
    Event("vmbus_gpadl_created", "gpadl #%d", "u32 gpadl_id"),
    Event("vmbus_gpadl_teardown", "gpadl #%d", "u32 gpadl_id"),
    Event("vmbus_gpadl_torndown", "gpadl #%d", "u32 gpadl_id"),
    Event(
        "vmbus_open_channel",
        "channel #%d gpadl #%d target vp %d",
        "u32 chan_id",
        "u32 gpadl_id",
        "u32 target_vp",
    ),
    Event("vmbus_channel_open", "channel #%d status %d", "u32 chan_id", "u32 status"),
    Event("vmbus_close_channel", "channel #%d", "u32 chan_id"),
    Event("hv_balloon_state_change", "-> %s", "string tostr"),
    Event("hv_balloon_incoming_version", "incoming proto version %u.%u", "u16 major", "u16 minor"),
    Event("hv_balloon_incoming_caps", "incoming caps 0x%x", "u32 caps"),
    Event(
        "hv_balloon_outgoing_unballoon",
        "posting unballoon %u for %u @ 0x%x, remaining %u",
        "u32 trans_id",
        "u64 count",
        "u64 start",
        "u64 rempages",
    ),
    Event("hv_balloon_incoming_unballoon", "incoming unballoon response %u", "u32 trans_id"),
    Event(
        "hv_balloon_outgoing_hot_add",
        "posting hot add %u for %u @ 0x%x",
        "u32 trans_id",
        "u64 count",
        "u64 start",
    ),
    Event(
        "hv_balloon_incoming_hot_add",
        "incoming hot add response %u, result %u, count %u",
        "u32 trans_id",
        "u32 result",
        "u32 count",
    ),
    Event(
        "hv_balloon_outgoing_balloon",
        "posting balloon %u for %u, remaining %u",
        "u32 trans_id",
        "u64 count",
        "u64 rempages",
    ),
    Event(
        "hv_balloon_incoming_balloon",
        "incoming balloon response %u, ranges %u, more %u",
        "u32 trans_id",
        "u32 range_count",
        "u32 more_pages",
    ),
    Event("hv_balloon_our_range_add", "adding our range %u @ 0x%x", "u64 count", "u64 start"),
    Event(
        "hv_balloon_remove_response",
        "processing remove response range %u @ 0x%x, both %u",
        "u64 count",
        "u64 start",
        "uint both",
    ),
    Event(
        "hv_balloon_remove_response_hole",
        "response range hole %u @ 0x%x from range %u @ 0x%x, before our start 0x%x, both %u",
        "u64 counthole",
        "u64 starthole",
        "u64 countrange",
        "u64 startrange",
        "u64 starthpr",
        "uint both",
    ),
    Event(
        "hv_balloon_remove_response_common",
        "response common range %u @ 0x%x from range %u @ 0x%x with our %u @ 0x%x, removed %u, both %u",
        "u64 countcommon",
        "u64 startcommon",
        "u64 countrange",
        "u64 startrange",
        "u64 counthpr",
        "u64 starthpr",
        "u64 removed",
        "uint both",
    ),
    Event(
        "hv_balloon_remove_response_remainder",
        "remove response remaining range %u @ 0x%x, both %u",
        "u64 count",
        "u64 start",
        "uint both",
    ),
    Event(
        "hv_balloon_map_slot",
        "mapping memslot %u / %u @ 0x%x",
        "uint idx",
        "uint total_slots",
        "u64 offset",
    ),
    Event(
        "hv_balloon_unmap_slot",
        "unmapping memslot %u / %u @ 0x%x",
        "uint idx",
        "uint total_slots",
        "u64 offset",
    ),
)
BY_NAME: Final = {event.name: event for event in EVENTS}


def matching(patterns: Sequence[str]) -> frozenset[str]:
    """The events that `patterns` (with ``*`` and ``?``) turn on or, with ``-`` in front, off again."""
    on: set[str] = set()
    for pattern in patterns:
        glob = pattern.removeprefix("-")
        found = {name for name in BY_NAME if fnmatchcase(name, glob)}
        on = on - found if pattern.startswith("-") else on | found
    return frozenset(on)


def stable_pointer(identity: uuid.UUID) -> int:
    """What stands for a device's address (``%p``): the same number for the same device at every start."""
    folded = identity.int ^ identity.int >> 64
    return 0x5500_0000_0000 | folded & 0xFF_FFFF_FFF0


class Trace:
    """Where events go: `sink` gets the name and the text of those that are on."""

    __slots__ = ("_on", "_sink")

    def __init__(self, names: frozenset[str], sink: Callable[[str, str], None]) -> None:
        self._on, self._sink = names, sink

    def on(self, name: str) -> bool:
        """Whether anybody listens to the event."""
        return name in self._on

    def __call__(self, name: str, *values: int | str) -> None:
        """The event happens; `values` in the order of its parameters."""
        if name in self._on:
            self._sink(name, BY_NAME[name].text(values))


def _nowhere(name: str, text: str) -> None:
    """Take an event that nobody wants."""


NO_TRACE: Final = Trace(frozenset(), _nowhere)
