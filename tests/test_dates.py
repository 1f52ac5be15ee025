"""Points in time as ISO 8601 writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.dates import format_date, parse_date


@given(st.integers(0, 1 << 62))
def test_a_written_date_reads_back_to_the_microsecond(ns: int) -> None:
    assert parse_date(format_date(ns)) == ns // 1000 * 1000


@pytest.mark.parametrize(
    "text", ["", "2026-03-02", "2026-03-02T11:20:41", "2026-13-02T11:20:41Z", "٢026-03-02T11:20:41Z"]
)
def test_what_is_not_a_date_with_its_distance_from_utc_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"date|month|Invalid"):
        parse_date(text)
