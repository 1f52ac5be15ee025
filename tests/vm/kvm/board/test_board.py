"""The board of a PC: how a guest asks for an end or a new start, and what a reset leaves."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rigs.serial_line import Line

from dynmem.vm.kvm.acpi import FIRMWARE, tables
from dynmem.vm.kvm.board import power, rtc
from dynmem.vm.kvm.board.board import Board
from dynmem.vm.kvm.board.power import PowerRequest

SOFT_OFF = power.SLEEP_TYPE_OFF << 10 | 1 << 13


class Scene:
    """A board, and what it has asked for."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, bool]] = []
        self.requests: list[PowerRequest] = []
        self.console = Line()
        self.board = Board(
            line=lambda gsi, level: self.lines.append((gsi, level)),
            requested=self.requests.append,
            console=self.console,
            now=lambda: 0.0,
        )
        self.ports = self.board.ports


@pytest.mark.parametrize(
    ("writes", "expected"),
    [
        ([(0x604, 2, SOFT_OFF)], [PowerRequest.POWER_OFF]),
        ([(0x604, 2, power.SLEEP_TYPE_OFF << 10), (0x604, 2, SOFT_OFF)], [PowerRequest.POWER_OFF]),
        ([(0x605, 1, SOFT_OFF >> 8)], [PowerRequest.POWER_OFF]),
        ([(0x604, 4, SOFT_OFF)], [PowerRequest.POWER_OFF]),
        ([(0x604, 2, power.SLEEP_TYPE_OFF << 10)], []),
        ([(0x604, 2, 4 << 10 | 1 << 13)], []),
        ([(0x604, 1, 0xFF)], []),
        ([(0xCF9, 1, FIRMWARE.reset_value)], [PowerRequest.RESET]),
        ([(0xCF9, 1, 0x02), (0xCF9, 1, 0x06)], [PowerRequest.RESET]),
        ([(0xCF9, 1, 0x02), (0xCF9, 1, 0x0A)], []),
        ([(0xCF8, 4, 0x0000_0600)], []),
        ([(0x64, 1, 0xFE)], [PowerRequest.RESET]),
        ([(0x64, 1, 0xF0)], [PowerRequest.RESET]),
        ([(0x64, 1, 0xFF)], []),
        ([(0x64, 1, 0xEE)], []),
        ([(0x60, 1, 0xFE)], []),
    ],
)
def test_a_guest_asks_for_its_end_or_a_new_start_in_the_ways_of_a_pc(
    writes: list[tuple[int, int, int]], expected: list[PowerRequest]
) -> None:
    scene = Scene()
    for port, size, value in writes:
        scene.ports.write(port, size, value)
    assert scene.requests == expected


def test_of_what_a_guest_asks_for_up_to_a_reset_the_first_counts() -> None:
    scene = Scene()
    for _ in range(3):
        scene.ports.write(0x64, 1, 0xFE)
        scene.ports.write(0x604, 2, SOFT_OFF)
    assert scene.requests == [PowerRequest.RESET]
    scene.board.reset()
    scene.ports.write(0x604, 2, SOFT_OFF)
    assert scene.requests == [PowerRequest.RESET, PowerRequest.POWER_OFF]


def test_acpi_is_on_and_nothing_has_happened_whatever_is_written() -> None:
    scene = Scene()
    assert scene.ports.read(0x604, 2) == 1
    scene.ports.write(0x600, 2, 0xFFFF)
    scene.ports.write(0x602, 2, 0x0121)
    scene.ports.write(0x604, 2, 0x1C00)
    assert scene.ports.read(0x600, 4) == 0x0121_0000
    assert scene.ports.read(0x604, 2) == 0x1C01
    assert scene.ports.read(0x604, 4) == 0x1C01
    assert scene.ports.read(0x605, 1) == 0x1C
    scene.ports.write(0x604, 1, 0xFF)
    assert scene.ports.read(0x604, 2) == 0x1C01
    scene.board.reset()
    assert (scene.ports.read(0x600, 4), scene.ports.read(0x604, 2)) == (0, 1)


def test_a_kernel_that_asks_whether_the_keyboard_controller_takes_a_command_need_not_wait() -> None:
    assert not Scene().ports.read(0x64, 1) & 0x03


def test_no_second_serial_port_is_found() -> None:
    assert Scene().ports.read(0x2F9, 1) == 0xFF


def test_a_console_whose_input_comes_interrupts_the_guest_and_a_reset_takes_the_interrupt_back() -> None:
    scene = Scene()
    scene.ports.write(0x3F9, 1, 0x01)
    scene.console.type(b"x")
    assert scene.lines == [(4, True)]
    scene.board.reset()
    assert scene.lines == [(4, True), (4, False)]


def test_a_guest_s_string_of_characters_is_on_the_console_in_order() -> None:
    scene = Scene()
    scene.ports.write_string(0x3F8, 1, b"Linux version")
    assert scene.console.shown == b"Linux version"


def test_the_tables_name_the_century_where_the_clock_has_it() -> None:
    found = tables(0xE0000, 1, FIRMWARE)
    assert found[found.index(b"FACP") + 108] == rtc.CENTURY


PORTS = st.one_of(
    st.sampled_from((0x60, 0x64, 0x70, 0x71, 0xCF8, 0xCF9)),
    st.integers(0x3F6, 0x401),
    st.integers(0x5FE, 0x607),
)
ACCESSES = st.tuples(
    st.sampled_from(("in", "out", "ins", "outs", "reset")),
    PORTS,
    st.sampled_from((1, 2, 4)),
    st.integers(0, 0xFFFF_FFFF),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(ACCESSES, max_size=40))
def test_no_order_of_accesses_breaks_a_device(accesses: list[tuple[str, int, int, int]]) -> None:
    scene = Scene()
    for what, port, size, value in accesses:
        match what:
            case "in":
                assert 0 <= scene.ports.read(port, size) < 1 << 8 * size
            case "out":
                scene.ports.write(port, size, value & (1 << 8 * size) - 1)
            case "ins":
                assert len(scene.ports.read_string(port, size, 5)) == 5 * size
            case "outs":
                scene.ports.write_string(port, size, value.to_bytes(4, "little"))
            case _:
                scene.board.reset()
                scene.requests.clear()
        assert len(scene.requests) <= 1
    fresh = Scene()
    scene.board.reset()
    for port in (0x60, 0x64, 0x70, 0x71, 0xCF9, *range(0x3F8, 0x400), *range(0x600, 0x606)):
        assert scene.ports.read(port, 1) == fresh.ports.read(port, 1), hex(port)
