"""Formats an entry as one line, for people or as JSON."""

from typing import Final

import msgspec

from dynmem.trace.decode import Entry, Value
from dynmem.units import NS_PER_S

_RANGES_SHOWN: Final = 4
_WHOLE: Final = 36  # characters of bytes and text: the length of a GUID
_SHOWN: Final = 24
_HEXADECIMAL: Final = frozenset(
    (
        "caps",
        "gpadl",
        "ringbuffer_gpadl",
        "version",
        "interrupt_page",
        "monitor_page1",
        "monitor_page2",
        "creation_status",
        "status",
        "max_page_number",
    )
)
_ADDRESSES: Final = ("start", "offset", "dev", "monitor_page", "interrupt_page", "caps")  # of events


def as_json(entry: Entry) -> bytes:
    """Return ``{"time", "direction", "layer", "name", "fields"}``; time in seconds, null if unknown."""
    return msgspec.json.encode(
        {
            "time": None if entry.time_ns is None else entry.time_ns / NS_PER_S,
            "direction": None if entry.direction is None else entry.direction.value,
            "layer": entry.layer,
            "name": entry.name,
            "fields": entry.fields,
        }
    )


def as_text(entry: Entry) -> str:
    """Return ``TIME DIRECTION LAYER NAME field=value ...``; long values are shortened, visibly."""
    seconds, rest = divmod(entry.time_ns or 0, NS_PER_S)
    time = "-" if entry.time_ns is None else f"{seconds}.{rest // 1000:06}"
    direction = "   " if entry.direction is None else entry.direction.value
    show = _shown_value_of_event if entry.layer == "trace" else _shown
    fields = "".join(f" {name}={show(name, value)}" for name, value in entry.fields.items())
    return f"{time:>12} {direction} {entry.layer:5} {entry.name}{fields}"


def _shown_value_of_event(name: str, value: Value) -> str:
    """Return an event's value: addresses in hex, everything else as a number or a word."""
    if isinstance(value, int) and name.startswith(_ADDRESSES):
        return f"{value:#x}"
    return str(value)


def _shown(name: str, value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        pages = sum(count for _, count in value)
        shown = [f"{start:#x}+{count}" for start, count in value[:_RANGES_SHOWN]]
        more = [f"{len(value) - _RANGES_SHOWN} more"] if len(value) > _RANGES_SHOWN else []
        return f"[{', '.join(shown + more)}: {pages} pages]"
    if isinstance(value, int):
        return f"{value:#x}" if name in _HEXADECIMAL else str(value)
    if value is None:
        return "-"
    if len(value) <= _WHOLE:
        return value or '""'
    return f"{value[:_SHOWN]}... ({len(value)} digits)"
