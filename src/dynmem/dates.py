"""Dates as ISO 8601 and people write them. Only arithmetic: it reads no clock and asks for no time zone."""

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


_AGO: Final = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|min|h|d|w)(?:\s+ago)?", re.ASCII | re.IGNORECASE)
_AGO_SECONDS: Final = {"s": 1, "min": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
_CLOCK: Final = re.compile(
    r"(?:(?P<day>today|yesterday|\d{4}-\d\d-\d\d)(?:\s+|t|$))?"
    r"(?:(?P<hour>\d{1,2})(?::(?P<minute>\d\d)(?::(?P<second>\d\d))?)?\s*(?P<half>am|pm)?)?",
    re.ASCII | re.IGNORECASE,
)
_NOON: Final = 12


def parse_moment(text: str, now: datetime) -> datetime:
    """Return a point in time as people write it, by a clock on the wall that shows *now* (without a zone).

    ``3am``, ``15:30``, ``yesterday 3am``, ``2026-03-02 03:00``, ``2h`` or ``7d`` ago, ``now``. A time of the
    day without a day is the last one that has been. A date as `parse_date` reads it has its zone with it.
    Raises ValueError with a sentence that quotes the text.
    """
    words = text.strip().lower()
    try:
        if ISO_8601.fullmatch(words.upper()):
            return datetime.fromisoformat(words.upper())
        if words == "now":
            return now
        if ago := _AGO.fullmatch(words):
            return now - timedelta(seconds=float(ago[1]) * _AGO_SECONDS[ago[2]])
        clock = _CLOCK.fullmatch(words) if words else None
        if clock is not None and (clock["hour"] is None or clock["minute"] or clock["half"]):
            return _by_clock(clock, now)
    except (ValueError, OverflowError):
        pass  # no such day, hour or year
    raise ValueError(
        f"{text!r} is not a time: write it like 3am, 15:30, 'yesterday 3am', '2026-03-02 03:00', 2h or 7d"
    )


def _by_clock(clock: re.Match[str], now: datetime) -> datetime:
    hour, minute, second = (int(clock[part] or 0) for part in ("hour", "minute", "second"))
    if clock["half"]:
        if not 1 <= hour <= _NOON:
            raise ValueError("a clock has twelve hours")
        hour = hour % _NOON + (_NOON if clock["half"] == "pm" else 0)
    day = clock["day"] or ""
    if day not in ("", "today", "yesterday"):
        return datetime.fromisoformat(day).replace(hour=hour, minute=minute, second=second)
    found = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
    if day == "yesterday" or (not day and found > now):
        found -= timedelta(days=1)
    return found
