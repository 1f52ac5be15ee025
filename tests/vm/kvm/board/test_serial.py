"""The serial port: what the drivers of a 16550 find, and what no order of accesses can do to it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rigs.serial_line import Line

from dynmem.vm.kvm.board.serial import FIFO_BYTES, Serial

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCRATCH = range(8)
FCR = IIR
LATCH, LOOPBACK = 0x80, 0x10
RECEIVED, SENT, OVERRUN, MODEM = 1, 2, 4, 8
NONE = 0x01


class Scene:
    """A port, its console and each change of its interrupt."""

    def __init__(self) -> None:
        self.console = Line()
        self.line: list[bool] = []
        self.port = Serial(self.console, self.line.append)
        self.console.connect(self.port.arrived)

    @property
    def is_raised(self) -> bool:
        return bool(self.line) and self.line[-1]

    def read(self, offset: int) -> int:
        return self.port.read(offset, 1)

    def write(self, offset: int, *values: int) -> None:
        for value in values:
            self.port.write(offset, 1, value)

    def cause(self, *causes: int) -> None:
        """Have each of these happen, none of it read, with the FIFOs on."""
        self.write(FCR, 0x01)
        if OVERRUN in causes:
            self.write(MCR, LOOPBACK)
            self.write(DATA, *range(FIFO_BYTES + 1))
            self.write(MCR, 0)
            self.read(MSR)
            if RECEIVED not in causes:
                self.write(FCR, 0x03)
        elif RECEIVED in causes:
            self.console.type(b"x")
        if MODEM in causes:
            self.write(MCR, LOOPBACK, 0)


# What IIR names, of the causes that are there, when some are enabled. SENT is there whenever it is enabled.
@pytest.mark.parametrize(
    ("causes", "enabled", "expected"),
    [
        ((), 0x0, NONE),
        ((), SENT, 0x02),
        ((), RECEIVED | OVERRUN | MODEM, NONE),
        ((RECEIVED,), 0x0, NONE),
        ((RECEIVED,), RECEIVED, 0x04),
        ((RECEIVED,), SENT, 0x02),
        ((RECEIVED,), RECEIVED | SENT, 0x04),
        ((RECEIVED,), OVERRUN | MODEM, NONE),
        ((OVERRUN,), OVERRUN, 0x06),
        ((OVERRUN,), OVERRUN | SENT, 0x06),
        ((OVERRUN,), RECEIVED | MODEM, NONE),
        ((OVERRUN, RECEIVED), OVERRUN | RECEIVED | SENT, 0x06),
        ((OVERRUN, RECEIVED), RECEIVED | SENT, 0x04),
        ((MODEM,), MODEM, 0x00),
        ((MODEM,), MODEM | SENT, 0x02),
        ((MODEM, RECEIVED), MODEM | RECEIVED, 0x04),
        ((MODEM, RECEIVED, OVERRUN), 0xF, 0x06),
    ],
)
def test_the_first_of_the_causes_that_are_enabled_is_named_and_holds_the_line(
    causes: tuple[int, ...], enabled: int, expected: int
) -> None:
    scene = Scene()
    scene.cause(*causes)
    assert not scene.is_raised
    scene.write(IER, enabled)
    assert scene.is_raised == (expected != NONE)
    assert scene.read(IIR) == 0xC0 | expected


@pytest.mark.parametrize(
    ("cause", "acknowledged_by"), [(RECEIVED, DATA), (SENT, IIR), (OVERRUN, LSR), (MODEM, MSR)]
)
def test_each_cause_is_acknowledged_by_a_read_of_one_register_and_of_no_other(
    cause: int, acknowledged_by: int
) -> None:
    scene = Scene()
    scene.cause(cause)
    scene.write(IER, cause)
    for other in {DATA, IIR, LSR, MSR, IER, LCR, MCR, SCRATCH} - {acknowledged_by}:
        scene.read(other)
        assert scene.is_raised
    scene.read(acknowledged_by)
    assert not scene.is_raised
    assert scene.read(IIR) == 0xC0 | NONE


@pytest.mark.parametrize(("level", "full"), [(0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)])
def test_less_than_the_level_is_named_a_timeout(level: int, full: int) -> None:
    scene = Scene()
    scene.write(FCR, 0x01 | level)
    scene.write(IER, RECEIVED)
    scene.console.type(bytes(full))
    assert scene.read(IIR) == 0xC4
    scene.read(DATA)
    assert scene.read(IIR) == (0xCC if full > 1 else 0xC0 | NONE)


def test_a_driver_finds_a_16550a() -> None:
    """Each step of the probe of Linux, with what it must find."""
    scene = Scene()
    # interrupts are off and stay off, and only four can be enabled
    scene.write(IER, 0)
    assert scene.read(IER) & 0x0F == 0
    scene.write(IER, 0x0F)
    assert scene.read(IER) & 0x0F == 0x0F
    scene.write(IER, 0xC0)
    assert scene.read(IER) == 0  # no sleep mode, no UUE
    # RTS and OUT2 in loopback are CTS and DCD
    scene.write(MCR, LOOPBACK | 0x0A)
    assert scene.read(MSR) & 0xF0 == 0x90
    scene.write(MCR, 0)
    # FIFOs that can be used
    scene.write(LCR, 0xBF)
    scene.write(FCR, 0)
    scene.write(LCR, 0)
    scene.write(FCR, 0x01)
    assert scene.read(IIR) >> 6 == 3
    # and none of its successors: no EFR, no 64 bytes, no second bank
    for lcr in (0x80, 0xBF):
        scene.write(LCR, lcr)
        assert scene.read(IIR) != 0
    for lcr in (0, 0x80):
        scene.write(LCR, lcr)
        scene.write(FCR, 0x21)
        assert scene.read(IIR) >> 5 == 6
    scene.write(LCR, 0)
    before = scene.read(MCR)
    scene.write(MCR, before ^ LOOPBACK)
    scene.write(LCR, 0xE0)
    assert not (scene.read(IIR) ^ before) & LOOPBACK


def test_the_fifo_holds_sixteen_characters_and_says_when_one_was_lost() -> None:
    scene = Scene()
    scene.write(FCR, 0x01)
    scene.write(MCR, LOOPBACK)
    scene.write(DATA, *range(20))
    assert scene.read(LSR) == 0x63
    assert scene.read(LSR) == 0x61
    received = []
    while scene.read(LSR) & 1:
        received.append(scene.read(DATA))
    assert received == list(range(FIFO_BYTES))
    assert scene.console.shown == b""


def test_a_driver_that_begins_to_send_hears_that_it_may_each_time() -> None:
    """What Linux tests for before it trusts the interrupt of an empty sender."""
    scene = Scene()
    for _ in range(2):
        scene.write(IER, SENT)
        assert scene.read(LSR) & 0x60 == 0x60
        assert scene.read(IIR) == 0x02
        assert scene.read(IIR) == NONE
        scene.write(IER, 0)
    scene.write(IER, SENT)
    scene.read(IIR)
    scene.line.clear()
    scene.write(DATA, *b"ab")
    assert scene.line == [True]
    assert scene.read(IIR) == 0x02
    assert scene.line == [True, False]


def test_what_is_sent_is_on_the_console_whatever_the_rate_and_the_divisor_can_be_read_back() -> None:
    scene = Scene()
    scene.write(DATA, *b"before ")
    scene.write(LCR, LATCH | 0x03)
    scene.write(DATA, 0x34)
    scene.write(IER, 0x12)
    assert (scene.read(DATA), scene.read(IER)) == (0x34, 0x12)
    scene.write(LCR, 0x03)
    assert scene.read(IER) == 0
    scene.write(DATA, *b"after")
    assert scene.console.shown == b"before after"


def test_input_waits_on_the_line_until_the_guest_has_read_what_came_before() -> None:
    scene = Scene()
    scene.write(FCR, 0x01)
    scene.write(IER, RECEIVED)
    text = bytes(range(100))
    scene.console.type(text)
    assert scene.is_raised
    assert len(scene.console.typed) == 100 - FIFO_BYTES
    assert bytes(scene.read(DATA) for _ in range(100)) == text
    assert not scene.is_raised
    assert scene.line == [True, False]
    assert scene.read(DATA) == 0


def test_without_fifos_each_character_is_received_by_itself() -> None:
    scene = Scene()
    scene.console.type(b"abc")
    assert scene.console.typed == b"bc"
    assert [scene.read(DATA) for _ in range(3)] == list(b"abc")
    assert scene.read(IIR) == NONE


def test_input_that_comes_in_loopback_is_received_after_it() -> None:
    scene = Scene()
    scene.write(MCR, LOOPBACK)
    scene.console.type(b"x")
    assert not scene.read(LSR) & 1
    scene.write(MCR, 0)
    assert scene.read(DATA) == ord("x")


def test_a_cleared_fifo_is_empty_and_other_bits_of_its_control_do_nothing_while_it_is_off() -> None:
    scene = Scene()
    scene.write(MCR, LOOPBACK)
    scene.write(DATA, 1)
    scene.write(FCR, 0xC2)
    assert scene.read(LSR) & 1
    scene.write(FCR, 0x01)
    assert not scene.read(LSR) & 1
    scene.write(DATA, 1)
    scene.write(FCR, 0x03)
    assert not scene.read(LSR) & 1


def test_the_end_of_a_ring_is_a_change_and_its_beginning_is_not() -> None:
    scene = Scene()
    scene.write(MCR, LOOPBACK)
    scene.read(MSR)
    scene.write(MCR, LOOPBACK | 0x04)
    assert scene.read(MSR) == 0x40
    scene.write(MCR, LOOPBACK)
    assert scene.read(MSR) == 0x04
    scene.write(MCR, LOOPBACK | 0x0B)
    assert scene.read(MSR) == 0xBB
    scene.write(MCR, 0)
    assert scene.read(MSR) == 0xB0


def test_a_reset_leaves_nothing_but_what_waits_on_the_line() -> None:
    scene = Scene()
    fresh = [Scene().read(offset) for offset in range(8)]
    scene.write(FCR, 0xC1)
    scene.write(MCR, 0x1F)
    scene.write(DATA, *range(20))
    scene.write(SCRATCH, 0x5A)
    scene.write(IER, 0x0F)
    scene.write(LCR, 0xFF)
    scene.write(DATA, 0x77)
    scene.port.reset()
    assert not scene.is_raised
    assert [scene.read(offset) for offset in range(8)] == fresh


ACCESSES = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 7), st.sampled_from((1, 2, 4))),
    st.tuples(st.just("write"), st.integers(0, 7), st.integers(0, 0xFF)),
    st.tuples(st.just("wide"), st.integers(0, 7), st.integers(0, 0xFFFF_FFFF)),
    st.tuples(st.just("type"), st.just(0), st.integers(0, 40)),
    st.tuples(st.just("reset"), st.just(0), st.just(0)),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(ACCESSES, max_size=60))
def test_no_order_of_accesses_breaks_the_port(accesses: list[tuple[str, int, int]]) -> None:
    """Its line tells the truth at each moment, changes only, and no input is forgotten on the console."""
    scene = Scene()
    for what, offset, value in accesses:
        if what == "read":
            was_raised = scene.is_raised
            found = scene.port.read(offset, value)
            assert 0 <= found < 1 << 8 * value
            if offset == IIR and value == 1:
                assert found & NONE != was_raised
        elif what == "write":
            scene.write(offset, value)
        elif what == "wide":
            scene.port.write(offset, 4, value)
        elif what == "type":
            scene.console.type(bytes(value))
        else:
            scene.port.reset()
        assert all(before != after for before, after in zip([False, *scene.line], scene.line, strict=False))
        if scene.console.typed and not scene.read(MCR) & LOOPBACK:
            assert scene.read(LSR) & 1
    scene.port.reset()
    assert not scene.is_raised
    shown = len(scene.console.shown)
    scene.write(DATA, *b"still there")
    assert scene.console.shown[shown:] == b"still there"
