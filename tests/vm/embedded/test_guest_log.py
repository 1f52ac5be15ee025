"""What a guest writes to its standard error is logged, line by line, within an allowance."""

import logging

import pytest
from tests.rigs.scenes import plays, until

from dynmem.limits import GUEST_LOG_BYTES_MAX, GUEST_LOG_BYTES_PER_MINUTE, GUEST_LOG_LINE_MAX
from dynmem.units import NS_PER_S
from dynmem.vm.embedded.guest_log import GuestLog, LogAllowance


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "dynmem.vm.guest")
    return caplog


@plays
async def test_lines_are_logged_whole_and_what_is_left_at_the_end_too(
    heard: pytest.LogCaptureFixture,
) -> None:
    log = GuestLog(LogAllowance())
    log.guest_end.sendall(b"one\ntw")
    await until(lambda: heard.messages)
    log.guest_end.sendall(b"o\n\n\x1b[2J\xff\tthe rest")
    log.guest_end.close()
    log.close()
    assert heard.messages == ["guest: one", "guest: two", r"guest: \x1b[2J\xff\tthe rest"]


@plays
async def test_a_guest_that_closes_its_log_or_never_ends_a_line_costs_nothing_more(
    heard: pytest.LogCaptureFixture,
) -> None:
    log = GuestLog(LogAllowance())
    log.guest_end.sendall(bytes(b"x" * (3 * GUEST_LOG_LINE_MAX)))
    log.guest_end.close()
    await until(lambda: len(heard.messages) == 2)
    await until(lambda: log._timer is not None)
    log.close()
    assert heard.messages == [f"guest: {'x' * GUEST_LOG_LINE_MAX}"] * 3


@plays
async def test_a_flood_is_logged_up_to_the_allowance_and_the_rest_is_counted(
    heard: pytest.LogCaptureFixture,
) -> None:
    now = 0
    allowance = LogAllowance(lambda: now)
    for _ in range(GUEST_LOG_BYTES_MAX):
        allowance.log("x" * 36)  # and what a line costs besides: 100 bytes
    logged = GUEST_LOG_BYTES_MAX // 100
    assert heard.messages == ["guest: " + "x" * 36] * logged + [
        "the guest logs too much: what follows is dropped"
    ]
    heard.clear()
    for _ in range(24 * 60 * 60):
        now += NS_PER_S
        for _ in range(3):
            allowance.log("x" * 36)
    assert sum(map(len, heard.messages)) < 1.5 * 24 * 60 * GUEST_LOG_BYTES_PER_MINUTE
    assert "bytes of the guest's log were dropped" in heard.messages[0]
