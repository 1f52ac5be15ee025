"""The clock of a PC: what a kernel reads of it."""

import calendar

import pytest

from dynmem.vm.kvm.board.rtc import CENTURY, Rtc

SUNDAY = calendar.timegm((2026, 11, 29, 23, 59, 58))
REGISTERS = (0, 2, 4, 6, 7, 8, 9, CENTURY)


class Clock:
    """A clock that is as late as it is told, and goes on at every look."""

    def __init__(self, seconds: float, step: float = 0.0) -> None:
        self.seconds, self.step = seconds, step

    def __call__(self) -> float:
        self.seconds += self.step
        return self.seconds


def read(rtc: Rtc, index: int) -> int:
    rtc.write_byte(0, index)
    return rtc.read_byte(1)


def write(rtc: Rtc, index: int, value: int) -> None:
    rtc.write_byte(0, index)
    rtc.write_byte(1, value)


def test_time_and_date_are_the_host_s_in_bcd_with_24_hours_and_a_century() -> None:
    rtc = Rtc(Clock(SUNDAY))
    assert [read(rtc, index) for index in REGISTERS] == [0x58, 0x59, 0x23, 1, 0x29, 0x11, 0x26, 0x20]
    assert read(rtc, 0x0B) == 0x02
    assert read(rtc, 0x0D) == 0x80


@pytest.mark.parametrize(
    ("control", "hour", "expected"),
    [
        (0x02, 0, 0x00),
        (0x02, 19, 0x19),
        (0x00, 0, 0x12),
        (0x00, 11, 0x11),
        (0x00, 12, 0x92),
        (0x00, 23, 0x91),
        (0x04, 23, 0x8B),
        (0x06, 23, 0x17),
    ],
)
def test_register_b_chooses_binary_numbers_and_12_hours(control: int, hour: int, expected: int) -> None:
    rtc = Rtc(Clock(calendar.timegm((2026, 11, 29, hour, 0, 0))))
    write(rtc, 0x0B, control)
    assert read(rtc, 4) == expected


def test_the_clock_can_be_read_at_any_moment_and_what_is_read_belongs_together() -> None:
    """As Linux does it: seconds, register A, seconds again, and then all of them."""
    rtc = Rtc(Clock(SUNDAY - 1, step=0.06))
    for _ in range(10):
        read(rtc, 0)
        assert not read(rtc, 0x0A) & 0x80
        read(rtc, 0)
        shown = [read(rtc, index) for index in REGISTERS]
        assert shown[0] in (0x57, 0x58, 0x59, 0x00, 0x01, 0x02, 0x03, 0x04)
        before, after = [0x59, 0x23, 1, 0x29, 0x11, 0x26, 0x20], [0, 0, 2, 0x30, 0x11, 0x26, 0x20]
        assert shown[1:] == (before if shown[0] > 0x50 else after)


def test_who_watches_one_register_sees_it_go_on() -> None:
    rtc = Rtc(Clock(SUNDAY - 8, step=1.0))
    assert [read(rtc, 0) for _ in range(3)] == [0x51, 0x52, 0x53]


@pytest.mark.parametrize(
    ("pause", "reads_a", "expected"), [(0.5, True, 0), (0.5, False, 0x59), (60, False, 0)]
)
def test_a_register_that_was_left_out_is_not_shown_with_its_old_value(
    pause: float, reads_a: bool, expected: int
) -> None:
    clock = Clock(SUNDAY + 1.6)
    rtc = Rtc(clock)
    assert read(rtc, 0) == 0x59
    clock.seconds += pause
    if reads_a:
        read(rtc, 0x0A)
    assert read(rtc, 2) == expected


def test_the_cells_beside_the_clock_keep_what_is_written_up_to_a_reset() -> None:
    rtc = Rtc(Clock(SUNDAY))
    write(rtc, 0x0F, 0x0A)
    write(rtc, 0x80 | 0x10, 0x55)  # the highest bit is the mask of the NMI
    assert (read(rtc, 0x0F), read(rtc, 0x10)) == (0x0A, 0x55)
    assert rtc.read_byte(0) == 0xFF
    rtc.reset()
    assert (read(rtc, 0x0F), read(rtc, 0x10)) == (0, 0)


def test_a_guest_cannot_set_the_clock_or_its_state() -> None:
    rtc = Rtc(Clock(SUNDAY))
    for index in (*REGISTERS, 0x0C, 0x0D):
        write(rtc, index, 0xFF)
    write(rtc, 0x0A, 0xFF)
    assert [read(rtc, index) for index in REGISTERS] == [0x58, 0x59, 0x23, 1, 0x29, 0x11, 0x26, 0x20]
    assert (read(rtc, 0x0C), read(rtc, 0x0D), read(rtc, 0x0A)) == (0, 0x80, 0x7F)
