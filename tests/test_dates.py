"""Points in time as ISO 8601 and people write them."""

import contextlib
import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.dates import format_date, parse_date, parse_moment


@given(st.integers(0, 1 << 62))
def test_a_written_date_reads_back_to_the_microsecond(ns: int) -> None:
    assert parse_date(format_date(ns)) == ns // 1000 * 1000


@pytest.mark.parametrize(
    "text", ["", "2026-03-02", "2026-03-02T11:20:41", "2026-13-02T11:20:41Z", "٢026-03-02T11:20:41Z"]
)
def test_what_is_not_a_date_with_its_distance_from_utc_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"date|month|Invalid"):
        parse_date(text)


NOW = datetime(2026, 3, 2, 14, 30, 5, 7)  # noqa: DTZ001 - a clock on the wall


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("now", "2026-03-02T14:30:05.000007"),
        ("3am", "2026-03-02T03:00:00"),
        ("3 AM", "2026-03-02T03:00:00"),
        ("12am", "2026-03-02T00:00:00"),
        ("12pm", "2026-03-02T12:00:00"),
        ("3:15pm", "2026-03-01T15:15:00"),  # it is not that late yet
        ("14:30", "2026-03-02T14:30:00"),
        ("23:59:59", "2026-03-01T23:59:59"),
        ("yesterday 3am", "2026-03-01T03:00:00"),
        ("today 23:00", "2026-03-02T23:00:00"),
        ("yesterday", "2026-03-01T00:00:00"),
        ("2026-02-28 22:00", "2026-02-28T22:00:00"),
        ("2026-02-28T22:00", "2026-02-28T22:00:00"),
        ("2026-02-28", "2026-02-28T00:00:00"),
        ("2026-03-01T02:00:00Z", "2026-03-01T02:00:00+00:00"),
        ("2026-03-01T02:00:00+02:00", "2026-03-01T02:00:00+02:00"),
        ("2h", "2026-03-02T12:30:05.000007"),
        ("90s ago", "2026-03-02T14:28:35.000007"),
        ("1.5d", "2026-03-01T02:30:05.000007"),
        ("1w", "2026-02-23T14:30:05.000007"),
    ],
)
def test_a_time_as_people_write_it(text: str, date: str) -> None:
    assert parse_moment(text, NOW) == datetime.fromisoformat(date)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "25:00",
        "13pm",
        "0am",
        "2026-02-30",
        "3:5",
        "noon",
        "-2h",
        "999999w",
        "10:00 10:00",
        "٣am",
        "2026-03-02 25:00",
    ],
)
def test_what_is_no_time_is_quoted_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text)) + " is not a time: write it like 3am"):
        parse_moment(text, NOW)


@given(st.text(max_size=30))
def test_whatever_is_written_as_a_time_raises_nothing_else(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_moment(text, NOW)
