"""The registers of DIMM slots, port by port, and under a guest that accesses them in any order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rigs.dimm_guest import DimmGuest
from tests.rigs.serial_line import Line

from dynmem.limits import VM_DIMM_REPORTS_MAX
from dynmem.units import MIB
from dynmem.vm.kvm.board.board import Board
from dynmem.vm.kvm.board.dimm_slots import Ejected, Module, Reported

SLOTS = 3
MODULE = Module(0x12_3456_7800_0000, 0x9_ABC0_0000, 0x5)
STATUS, ENABLE = 0x608, 0x609
SELECTED, SOURCE, REPORT, STATE = 0xA00, 0xA04, 0xA08, 0xA14
THERE, COME, TO_GO, EJECT = 1, 2, 4, 8


@pytest.mark.parametrize(
    ("port", "size", "expected"),
    [
        (0xA00, 4, 0x7800_0000),
        (0xA04, 4, 0x0012_3456),
        (0xA08, 4, 0xABC0_0000),
        (0xA0C, 4, 0x9),
        (0xA10, 4, 0x5),
        (0xA14, 1, THERE | COME),
        (0xA14, 4, THERE | COME),
        (0xA03, 1, 0x78),
        (0xA03, 4, 0x1234_5678),
        (0xA13, 2, (THERE | COME) << 8),
        (0xA15, 1, 0),
        (0xA17, 4, 0),
        (0xA18, 1, 0xFF),
        (0x9FF, 4, 0xFFFF_FFFF),
    ],
)
def test_each_register_is_where_qemu_s_documents_have_it(port: int, size: int, expected: int) -> None:
    guest = DimmGuest(SLOTS)
    guest.dimms.insert(1, MODULE, is_news=True)
    guest.ports.write(SELECTED, 4, 1)
    assert guest.ports.read(port, size) == expected


@pytest.mark.parametrize("selected", [0, 2, SLOTS, 0xFFFF_FFFF])
def test_of_an_empty_slot_and_of_one_that_is_not_there_everything_is_zero(selected: int) -> None:
    guest = DimmGuest(SLOTS)
    guest.dimms.insert(1, MODULE, is_news=True)
    guest.ports.write(SELECTED, 4, selected)
    assert [guest.ports.read(port, 4) for port in range(0xA00, 0xA18, 4)] == [0] * 6


@pytest.mark.parametrize(
    ("written", "state", "acts"),
    [
        (0, THERE | COME | TO_GO, []),
        (COME, THERE | TO_GO, []),
        (TO_GO, THERE | COME, []),
        (COME | TO_GO, THERE, []),
        (THERE, THERE | COME | TO_GO, []),
        (0xF0, THERE | COME | TO_GO, []),
        (EJECT, 0, [Ejected(1)]),
        (0xFF, 0, [Ejected(1)]),
    ],
)
def test_what_the_guest_has_seen_it_clears_and_what_it_ejects_is_gone(
    written: int, state: int, acts: list[Ejected]
) -> None:
    guest = DimmGuest(SLOTS)
    guest.dimms.insert(1, MODULE, is_news=True)
    assert guest.dimms.request(1)
    guest.ports.write(SELECTED, 4, 1)
    guest.ports.write(STATE, 1, written)
    assert guest.ports.read(STATE, 1) == state
    assert guest.acts == acts
    assert guest.dimms.has_news == bool(state & ~THERE)


def test_the_line_is_high_while_a_slot_has_news_that_the_guest_wants_to_hear_of() -> None:
    guest = DimmGuest(SLOTS)
    guest.dimms.insert(1, MODULE, is_news=True)
    assert (guest.ports.read(STATUS, 1), guest.level) == (8, False)
    guest.ports.write(ENABLE, 1, 0xF7)
    assert not guest.level
    guest.ports.write(STATUS, 2, 0x08FF)
    assert (guest.ports.read(STATUS, 2), guest.level) == (0x0808, True)
    guest.ports.write(ENABLE, 1, 0)
    assert not guest.level
    guest.ports.write(ENABLE, 1, 0xFF)
    guest.ports.write(SELECTED, 4, 1)
    guest.ports.write(STATE, 1, COME)
    assert (guest.ports.read(STATUS, 1), guest.level) == (0, False)


def test_reports_are_passed_on_up_to_a_number_until_something_happens_to_the_slot() -> None:
    guest = DimmGuest(SLOTS)
    guest.dimms.insert(1, MODULE, is_news=False)
    guest.ports.write(SELECTED, 4, 1)
    guest.ports.write(SOURCE, 4, 0x103)
    for status in range(2 * VM_DIMM_REPORTS_MAX):
        guest.ports.write(REPORT, 4, status)
    assert guest.acts == [Reported(1, 0x103, status) for status in range(VM_DIMM_REPORTS_MAX)]
    assert guest.dimms.request(1)
    guest.ports.write(REPORT, 4, 0x80)
    assert guest.acts[-1] == Reported(1, 0x103, 0x80)
    guest.ports.write(SELECTED, 4, SLOTS)
    guest.ports.write(REPORT, 4, 0x80)
    assert len(guest.acts) == VM_DIMM_REPORTS_MAX + 1


def test_the_next_guest_is_shown_a_dimm_that_takes_the_place_of_one_that_the_last_guest_was_ejecting() -> (
    None
):
    guest = DimmGuest(SLOTS)
    guest.dimms.insert(1, MODULE, is_news=False)
    guest.ports.write(SELECTED, 4, 1)
    guest.ports.write(SOURCE, 4, 3)
    guest.ports.write(REPORT, 4, 0x84)
    guest.ports.write(STATE, 1, EJECT)
    guest.dimms.remove(1)
    guest.board.reset()
    guest.dimms.insert(1, MODULE, is_news=True)
    guest.ports.write(SELECTED, 4, 1)
    assert guest.ports.read(STATE, 1) == THERE | COME


def test_a_machine_without_slots_has_none_of_these_ports() -> None:
    board = Board(line=lambda *_: None, requested=lambda _: None, console=Line())
    assert [board.ports.read(port, 1) for port in (STATUS, ENABLE, SELECTED, STATE)] == [0xFF] * 4


ACCESSES = st.tuples(
    st.sampled_from(("in", "out", "out", "outs", "ins", "insert", "request", "remove", "reset")),
    st.one_of(st.sampled_from((STATUS, ENABLE, SELECTED, SOURCE, REPORT, STATE)), st.integers(0x9FD, 0xA1A)),
    st.sampled_from((1, 2, 4)),
    st.one_of(st.integers(0, SLOTS), st.integers(0, 0xFFFF_FFFF)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ACCESSES, max_size=60))
def test_whatever_a_guest_does_a_dimm_is_ejected_once_and_reports_are_bounded(
    accesses: list[tuple[str, int, int, int]],
) -> None:
    guest = DimmGuest(SLOTS)
    holds = dict.fromkeys(range(SLOTS), False)  # the machine's view
    ejected: set[int] = set()
    happened = SLOTS
    for what, port, size, value in accesses:
        slot = value % SLOTS
        seen = len(guest.acts)
        match what:
            case "in":
                assert 0 <= guest.ports.read(port, size) < 1 << 8 * size
            case "out":
                guest.ports.write(port, size, value & (1 << 8 * size) - 1)
            case "outs":
                guest.ports.write_string(port, size, value.to_bytes(4, "little"))
            case "ins":
                assert len(guest.ports.read_string(port, size, 3)) == 3 * size
            case "insert" if not holds[slot]:
                guest.dimms.insert(slot, Module(MIB, MIB, 0), is_news=bool(value & 4))
                holds[slot], happened = True, happened + 1
            case "request" if holds[slot]:
                assert guest.dimms.request(slot) == (slot not in ejected)
                happened += 1
            case "remove" if slot in ejected:
                guest.dimms.remove(slot)
                ejected.remove(slot)
                holds[slot] = False
            case "reset":
                guest.board.reset()
                ejected.clear()
                happened += SLOTS
                assert not guest.level
        for act in guest.acts[seen:]:
            assert 0 <= act.slot < SLOTS
            if isinstance(act, Ejected):
                assert holds[act.slot]
                assert act.slot not in ejected
                ejected.add(act.slot)
                happened += 1
        assert len(guest.acts) <= (VM_DIMM_REPORTS_MAX + 1) * happened
        assert guest.level == bool(guest.dimms.has_news and guest.ports.read(ENABLE, 1) & 8)
    guest.enable()
    for slot in range(SLOTS):
        guest.report(slot, 3, 0)
    guest.interrupted()
    assert [guest.is_there(slot) for slot in range(SLOTS)] == [
        holds[slot] and slot not in ejected for slot in range(SLOTS)
    ]
