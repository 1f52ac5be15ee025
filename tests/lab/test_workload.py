"""Loads as the guest reads them, and reports out of whatever a serial port brings."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.errors import ConfigError
from dynmem.lab.workload import Load, latest_report
from dynmem.units import GIB, MIB, NS_PER_S

FIELDS = {
    "t": 1.5,
    "load": "running",
    "total_pages": 1000,
    "ballooned_pages": 0,
    "free_pages": 500,
    "available_pages": 600,
    "committed_pages": 300,
    "wanted_pages": 512,
    "held_pages": 256,
    "verified_pages": 7,
    "wrong_bytes": 0,
    "wrong_pages": 0,
    "oom_kills": 0,
    "oom_messages": 0,
    "orders": 1,
    "refused_orders": 0,
}


def line(**changes: object) -> bytes:
    return json.dumps(FIELDS | changes, separators=(",", ":")).encode() + b"\n"


def test_a_load_names_every_field_in_the_units_of_the_guest() -> None:
    load = Load(
        curve="sine",
        low_bytes=40 * MIB,
        high_bytes=GIB,
        period_ns=2 * NS_PER_S + NS_PER_S // 2,
        phase=0.25,
        rate_bytes=32 * MIB,
        reserve_bytes=48 * MIB,
        cache_bytes=16 * MIB,
        revive=True,
    )
    assert load.argument() == (
        "curve=sine,low=40,high=1024,period=2.500,phase=0.2500,rate=32,reserve=48,cache=16,revive=1"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"curve": "square"},
        {"low_bytes": 2 * MIB, "high_bytes": MIB},
        {"low_bytes": -1},
        {"high_bytes": 65 * 1024 * GIB},
        {"period_ns": 0},
        {"phase": 1.5},
        {"phase": float("nan")},
        {"rate_bytes": 1},
        {"reserve_bytes": -MIB},
        {"cache_bytes": -MIB},
    ],
)
def test_a_load_that_the_guest_would_refuse_is_refused_in_a_sentence(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=" "):
        Load(**wrong)  # type: ignore[arg-type]


def test_the_last_whole_report_counts() -> None:
    serial = line(t=1.0) + line(t=2.0) + line(t=3.0)[:-20]
    report = latest_report(serial)
    assert report is not None
    assert report.t == 2.0


def test_what_the_kernel_says_in_between_is_passed_over() -> None:
    serial = line(t=1.0) + b"[    3.14] Kernel panic - not syncing\r\n" + line(t=2.0)[:40] + b"oops\n"
    report = latest_report(serial)
    assert report is not None
    assert report.t == 1.0


def test_a_report_behind_words_of_the_kernel_on_its_line_is_read() -> None:
    report = latest_report(b"[    0.5] clocksource: " + line(t=4.0))
    assert report is not None
    assert report.t == 4.0


def test_what_a_load_goes_without_is_wanted_minus_held() -> None:
    short = latest_report(line(wanted_pages=512, held_pages=200))
    letting_go = latest_report(line(wanted_pages=100, held_pages=200))
    assert short is not None
    assert letting_go is not None
    assert (short.unmet_pages, letting_go.unmet_pages) == (312, 0)


@given(st.binary(max_size=400), st.integers(0, 400))
def test_no_bytes_from_a_guest_make_reading_them_fail(noise: bytes, cut: int) -> None:
    report = latest_report(noise + line()[cut:] + noise)
    assert report is None or report.t == 1.5


def test_a_report_with_a_word_that_is_no_utf_8_is_no_report() -> None:
    assert latest_report(line(load="?").replace(b"?", b"\xfe")) is None


def test_a_report_with_something_nested_deeply_is_no_report() -> None:
    assert latest_report(line().replace(b"}", b',"more":' + b"[" * 3000 + b"}")) is None


def test_a_number_as_text_is_no_report() -> None:
    assert latest_report(line(held_pages="256")) is None
