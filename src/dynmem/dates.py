"""Dates as ISO 8601 writes them. Only arithmetic: it reads neither a clock nor the system's time zone."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from dynmem.units import NS_PER_S

#: A date with its time, to the microsecond, and its distance from UTC.
ISO_8601: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d(?::?\d\d)?)", re.ASCII
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NS_PER_MICROSECOND: Final = 1000


def format_date(since_epoch_ns: int) -> str:
    """Return a point in time in UTC: ``2026-03-02T11:20:41.007512Z``."""
    date = _EPOCH + timedelta(microseconds=since_epoch_ns // _NS_PER_MICROSECOND)
    return date.isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_date(text: str) -> int:
    """Return the nanoseconds since the epoch. Raises ValueError if the text is not such a date."""
    if ISO_8601.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a date: write it like 2026-03-02T11:20:41Z")
    passed = datetime.fromisoformat(text) - _EPOCH
    seconds = passed.days * 24 * 3600 + passed.seconds
    return seconds * NS_PER_S + passed.microseconds * _NS_PER_MICROSECOND
