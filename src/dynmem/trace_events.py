"""The trace events of QEMU's VMBus and hv-balloon: names, parameters and formats as in QEMU, and directions.

The pure rooms are given a `Trace` and call it where QEMU calls the event, with the event's object and its
values: ``trace(trace_events.VMBUS_CLOSE_CHANNEL, relid)``. The type checker holds the values to the event's
parameters, in number and type. Where computing the values costs something, the caller asks first:
``if trace.on(trace_events.HV_BALLOON_REMOVE_RESPONSE)``. `NO_TRACE` is off for every event.

Values are printed as C prints them: a ``%d`` of an unsigned word is signed (no target VP is -1).

Source: QEMU hw/hyperv/trace-events; docs/devel/tracing.rst (log backend).
"""

import functools
import re
import uuid
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVarTuple

from dynmem.direction import Direction

UP: Final = Direction.GUEST_TO_HOST
DOWN: Final = Direction.HOST_TO_GUEST
_Values = TypeVarTuple("_Values")

_CONVERSION: Final = re.compile(r"%[diuxsp]")
_BITS: Final = {"u16": 16, "u32": 32, "u64": 64, "int": 32, "uint": 32, "pointer": 64}
# what a conversion can have written
_WORDS: Final = {
    "%s": "([A-Z0-9_]{1,64})",
    "%p": "(0x[0-9a-f]{1,16}|[(]nil[)])",
    "%x": "([0-9a-f]{1,16})",
}


class Parameter(NamedTuple):
    """A value of an event.

    Attributes:
        name: What QEMU calls it.
        kind: Its type in C: ``string``, ``pointer`` or an integer's.
        conversion: Its place in the format.

    """

    name: str
    kind: str
    conversion: str

    def text(self, value: int | str) -> str:
        """Return `value` as C's printf writes it."""
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
        """Return the value that was written as `text`; a negative number of an unsigned type wraps."""
        if self.kind == "string":
            return text
        number = 0 if text == "(nil)" else int(text, 16 if self.conversion in ("%x", "%p") else 10)
        return number if self.kind == "int" else number & (1 << _BITS[self.kind]) - 1


class Event(Generic[*_Values]):
    """One event, generic in the types of its values.

    Attributes:
        name: QEMU's name.
        direction: The way of the message that it is about, if it is about one.
        parameters: In the order of a call's values, which is also that of the text.

    """

    def __init__(self, name: str, direction: Direction | None, text_format: str, *parameters: str) -> None:
        """Build it from what QEMU's trace-events file says; each of `parameters` is a C type and a name."""
        self.name: Final = name
        self.direction: Final = direction
        self._literals = tuple(_CONVERSION.split(text_format))
        conversions = _CONVERSION.findall(text_format)
        split = (parameter.split(" ") for parameter in parameters)
        self.parameters: Final = tuple(
            Parameter(word, kind, conversion)
            for (kind, word), conversion in zip(split, conversions, strict=True)
        )

    def text(self, values: Sequence[Any]) -> str:
        """Return the event's text; one value for each parameter."""
        parts = [self._literals[0]]
        for parameter, value, literal in zip(self.parameters, values, self._literals[1:], strict=True):
            parts += (parameter.text(value), literal)
        return "".join(parts)

    def parse(self, text: str) -> dict[str, int | str] | None:
        """Return the values in a text of this event, by parameter; None if it is not one."""
        found = self._pattern.fullmatch(text)
        if found is None:
            return None
        return {
            parameter.name: parameter.value(word)
            for parameter, word in zip(self.parameters, found.groups(), strict=True)
        }

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        """The text as an expression; compiled late, since only readers of logs need it."""
        parts = [re.escape(self._literals[0])]
        for parameter, literal in zip(self.parameters, self._literals[1:], strict=True):
            parts += (_WORDS.get(parameter.conversion, "(-?[0-9]{1,20})"), re.escape(literal))
        return re.compile("".join(parts))


AnyEvent: TypeAlias = Event[*tuple[Any, ...]]

VMBUS_RECV_MESSAGE: Final = Event[int, int](
    "vmbus_recv_message", UP, "type %d size %d", "u32 type", "u32 size"
)
VMBUS_SIGNAL_EVENT: Final = Event[()]("vmbus_signal_event", UP, "")
VMBUS_CHANNEL_NOTIFY_GUEST: Final = Event[int](
    "vmbus_channel_notify_guest", DOWN, "channel #%d", "u32 chan_id"
)
VMBUS_POST_MSG: Final = Event[int, int]("vmbus_post_msg", DOWN, "type %d size %d", "u32 type", "u32 size")
VMBUS_MSG_CB: Final = Event[int]("vmbus_msg_cb", None, "message status %d", "int status")
VMBUS_PROCESS_INCOMING_MESSAGE: Final = Event[int](
    "vmbus_process_incoming_message", UP, "type %d", "u32 message_type"
)
VMBUS_INITIATE_CONTACT: Final = Event[int, int, int, int, int, int](
    "vmbus_initiate_contact",
    UP,
    "version %d.%d target vp %d mon pages 0x%x,0x%x int page 0x%x",
    "u16 major",
    "u16 minor",
    "u32 vcpu",
    "u64 monitor_page1",
    "u64 monitor_page2",
    "u64 interrupt_page",
)
VMBUS_SEND_OFFER: Final = Event[int, int](
    "vmbus_send_offer", DOWN, "channel #%d dev %p", "u32 chan_id", "pointer dev"
)
VMBUS_TERMINATE_OFFERS: Final = Event[()]("vmbus_terminate_offers", None, "")
VMBUS_GPADL_HEADER: Final = Event[int, int](
    "vmbus_gpadl_header", UP, "gpadl #%d gfns %d", "u32 gpadl_id", "u16 num_gfns"
)
VMBUS_GPADL_BODY: Final = Event[int]("vmbus_gpadl_body", UP, "gpadl #%d", "u32 gpadl_id")
VMBUS_GPADL_CREATED: Final = Event[int]("vmbus_gpadl_created", DOWN, "gpadl #%d", "u32 gpadl_id")
VMBUS_GPADL_TEARDOWN: Final = Event[int]("vmbus_gpadl_teardown", UP, "gpadl #%d", "u32 gpadl_id")
VMBUS_GPADL_TORNDOWN: Final = Event[int]("vmbus_gpadl_torndown", DOWN, "gpadl #%d", "u32 gpadl_id")
VMBUS_OPEN_CHANNEL: Final = Event[int, int, int](
    "vmbus_open_channel",
    UP,
    "channel #%d gpadl #%d target vp %d",
    "u32 chan_id",
    "u32 gpadl_id",
    "u32 target_vp",
)
VMBUS_CHANNEL_OPEN: Final = Event[int, int](
    "vmbus_channel_open", DOWN, "channel #%d status %d", "u32 chan_id", "u32 status"
)
VMBUS_CLOSE_CHANNEL: Final = Event[int]("vmbus_close_channel", UP, "channel #%d", "u32 chan_id")
HV_BALLOON_STATE_CHANGE: Final = Event[str]("hv_balloon_state_change", None, "-> %s", "string tostr")
HV_BALLOON_INCOMING_VERSION: Final = Event[int, int](
    "hv_balloon_incoming_version", UP, "incoming proto version %u.%u", "u16 major", "u16 minor"
)
HV_BALLOON_INCOMING_CAPS: Final = Event[int]("hv_balloon_incoming_caps", UP, "incoming caps 0x%x", "u32 caps")
HV_BALLOON_OUTGOING_UNBALLOON: Final = Event[int, int, int, int](
    "hv_balloon_outgoing_unballoon",
    DOWN,
    "posting unballoon %u for %u @ 0x%x, remaining %u",
    "u32 trans_id",
    "u64 count",
    "u64 start",
    "u64 rempages",
)
HV_BALLOON_INCOMING_UNBALLOON: Final = Event[int](
    "hv_balloon_incoming_unballoon", UP, "incoming unballoon response %u", "u32 trans_id"
)
HV_BALLOON_OUTGOING_HOT_ADD: Final = Event[int, int, int](
    "hv_balloon_outgoing_hot_add",
    DOWN,
    "posting hot add %u for %u @ 0x%x",
    "u32 trans_id",
    "u64 count",
    "u64 start",
)
HV_BALLOON_INCOMING_HOT_ADD: Final = Event[int, int, int](
    "hv_balloon_incoming_hot_add",
    UP,
    "incoming hot add response %u, result %u, count %u",
    "u32 trans_id",
    "u32 result",
    "u32 count",
)
HV_BALLOON_OUTGOING_BALLOON: Final = Event[int, int, int](
    "hv_balloon_outgoing_balloon",
    DOWN,
    "posting balloon %u for %u, remaining %u",
    "u32 trans_id",
    "u64 count",
    "u64 rempages",
)
HV_BALLOON_INCOMING_BALLOON: Final = Event[int, int, int](
    "hv_balloon_incoming_balloon",
    UP,
    "incoming balloon response %u, ranges %u, more %u",
    "u32 trans_id",
    "u32 range_count",
    "u32 more_pages",
)
HV_BALLOON_OUR_RANGE_ADD: Final = Event[int, int](
    "hv_balloon_our_range_add", None, "adding our range %u @ 0x%x", "u64 count", "u64 start"
)
HV_BALLOON_REMOVE_RESPONSE: Final = Event[int, int, int](
    "hv_balloon_remove_response",
    None,
    "processing remove response range %u @ 0x%x, both %u",
    "u64 count",
    "u64 start",
    "uint both",
)
HV_BALLOON_REMOVE_RESPONSE_HOLE: Final = Event[int, int, int, int, int, int](
    "hv_balloon_remove_response_hole",
    None,
    "response range hole %u @ 0x%x from range %u @ 0x%x, before our start 0x%x, both %u",
    "u64 counthole",
    "u64 starthole",
    "u64 countrange",
    "u64 startrange",
    "u64 starthpr",
    "uint both",
)
HV_BALLOON_REMOVE_RESPONSE_COMMON: Final = Event[int, int, int, int, int, int, int, int](
    "hv_balloon_remove_response_common",
    None,
    "response common range %u @ 0x%x from range %u @ 0x%x with our %u @ 0x%x, removed %u, both %u",
    "u64 countcommon",
    "u64 startcommon",
    "u64 countrange",
    "u64 startrange",
    "u64 counthpr",
    "u64 starthpr",
    "u64 removed",
    "uint both",
)
HV_BALLOON_REMOVE_RESPONSE_REMAINDER: Final = Event[int, int, int](
    "hv_balloon_remove_response_remainder",
    None,
    "remove response remaining range %u @ 0x%x, both %u",
    "u64 count",
    "u64 start",
    "uint both",
)
HV_BALLOON_MAP_SLOT: Final = Event[int, int, int](
    "hv_balloon_map_slot",
    None,
    "mapping memslot %u / %u @ 0x%x",
    "uint idx",
    "uint total_slots",
    "u64 offset",
)
HV_BALLOON_UNMAP_SLOT: Final = Event[int, int, int](
    "hv_balloon_unmap_slot",
    None,
    "unmapping memslot %u / %u @ 0x%x",
    "uint idx",
    "uint total_slots",
    "u64 offset",
)
EVENTS: Final[tuple[AnyEvent, ...]] = tuple(value for value in vars().values() if isinstance(value, Event))
BY_NAME: Final[dict[str, AnyEvent]] = {event.name: event for event in EVENTS}


def matching(patterns: Sequence[str]) -> frozenset[str]:
    """Return the names that `patterns` (with ``*`` and ``?``) turn on or, with ``-`` in front, off again."""
    on: set[str] = set()
    for pattern in patterns:
        glob = pattern.removeprefix("-")
        found = {name for name in BY_NAME if fnmatchcase(name, glob)}
        on = on - found if pattern.startswith("-") else on | found
    return frozenset(on)


def stable_pointer(identity: uuid.UUID) -> int:
    """Return a stand-in for a device's address (``%p``): for one device the same number at every start."""
    folded = identity.int ^ identity.int >> 64
    return 0x5500_0000_0000 | folded & 0xFF_FFFF_FFF0


class Trace:
    """Where events go: `sink` gets the name and the text of those that are on."""

    __slots__ = ("_on", "_sink")

    def __init__(self, names: frozenset[str], sink: Callable[[str, str], None]) -> None:
        self._on, self._sink = names, sink

    def on(self, event: AnyEvent) -> bool:
        """Return whether the event is on."""
        return event.name in self._on

    def __call__(self, event: Event[*_Values], *values: *_Values) -> None:
        """Emit the event, if it is on; `values` in the order of its parameters."""
        if event.name in self._on:
            self._sink(event.name, event.text(values))


def _drop(name: str, text: str) -> None:
    """Drop an event."""


#: Off for every event, and the default wherever a trace is accepted.
NO_TRACE: Final = Trace(frozenset(), _drop)
