"""The tables of states: the picture shows them, every state is in use, and every message has its states."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from dynmem.direction import Direction
from dynmem.dm import guest, host, states
from dynmem.dm.states import (
    GUEST_TABLE,
    HOST_PLACES,
    HOST_REPLY_WAITS,
    HOST_TABLE,
    HOST_WAITS,
    GuestState,
    GuestStep,
    HostPlace,
    HostState,
    HostStep,
)
from dynmem.wire import dm

Rows = dict[tuple[Any, Any], Any]

HOST_NAMES: dict[str, list[HostPlace]] = {
    **{state.name: [HostPlace(state)] for state in HostState},
    "wait": [HostPlace(wait) for wait in sorted(HOST_WAITS, key=str)],
    "stuck": [HostPlace(wait, is_stuck=True) for wait in sorted(HOST_WAITS, key=str)],
    "any": list(HOST_PLACES),
}
GUEST_NAMES = {**{state.name: [state] for state in GuestState}, "any": list(GuestState)}


def chains(end: str) -> Iterator[list[str]]:
    """Yield each chain of the picture of one end: state, step, state, step, ..."""
    assert states.__doc__ is not None
    picture = re.sub(r"\n {8}", " ", states.__doc__)
    block = re.search(rf"^{end}\n((?:    .*\n|\n)*)", picture, re.MULTILINE)
    assert block is not None
    for line in block[1].splitlines():
        if "-->" in line:
            yield re.findall(r"\w+", line)


def drawn(end: str, names: Mapping[str, list[Any]], steps: Any) -> Rows:
    """Return the table that the picture shows; what it says of one state outdoes what it says of any."""
    rows: Rows = {}
    for chain in sorted(chains(end), key=lambda chain: chain[0] != "any"):
        for old, step, new in zip(chain[::2], chain[1::2], chain[2::2], strict=False):
            targets = names[new] if len(names[new]) == len(names[old]) else names[new] * len(names[old])
            rows.update(((a, steps[step]), b) for a, b in zip(names[old], targets, strict=True))
    return rows


def test_the_picture_of_the_host_shows_its_table() -> None:
    assert drawn("host", HOST_NAMES, HostStep) == HOST_TABLE


def test_the_picture_of_the_guest_shows_its_table() -> None:
    assert drawn("guest", GUEST_NAMES, GuestStep) == GUEST_TABLE


def reached(table: Mapping[tuple[Any, Any], Any], start: object) -> set[object]:
    """Return what the table leads to from `start`."""
    found: set[object] = {start}
    while new := {new for (old, _), new in table.items() if old in found} - found:
        found |= new
    return found


def test_every_state_can_be_reached_and_every_step_is_used() -> None:
    assert reached(HOST_TABLE, HostPlace(HostState.WAIT_RESET)) == HOST_PLACES
    assert {step for _, step in HOST_TABLE} == set(HostStep)
    assert reached(GUEST_TABLE, GuestState.CLOSED) == set(GuestState)
    assert {step for _, step in GUEST_TABLE} == set(GuestStep)


def test_idle_can_be_reached_from_every_place_of_the_host() -> None:
    for place in HOST_PLACES:
        assert HostPlace(HostState.IDLE) in reached(HOST_TABLE, place)


def test_a_stuck_wait_shows_as_s_stuck_and_leads_to_idle_only_through_the_wait() -> None:
    for wait in HOST_WAITS:
        stuck = HostPlace(wait, is_stuck=True)
        assert stuck.shown is HostState.STUCK
        leaving = {step: new for (old, step), new in HOST_TABLE.items() if old == stuck}
        assert leaving.pop(HostStep.PROGRESS) == HostPlace(wait)
        assert set(leaving) == {HostStep.RESET, HostStep.CLOSE}


def test_a_crashed_guest_stays_crashed() -> None:
    assert reached(GUEST_TABLE, GuestState.CRASHED) == {GuestState.CRASHED}


@pytest.mark.parametrize(
    ("rules", "direction"),
    [(host.RULES, Direction.GUEST_TO_HOST), (guest.RULES, Direction.HOST_TO_GUEST)],
    ids=["host", "guest"],
)
def test_each_end_has_a_rule_for_every_message_of_the_other(
    rules: Mapping[type, object], direction: Direction
) -> None:
    theirs = {layout.message for layout in dm.TABLE.layouts if layout.direction is direction}
    assert set(rules) == theirs | {dm.DmError}


def test_each_wait_for_a_reply_takes_one_answer_and_no_other_state_takes_it() -> None:
    answers = [dm.BalloonResponse, dm.UnballoonResponse, dm.HotAddResponse, dm.HotRemoveResponse]
    states_of = [host.RULES[answer][1] for answer in answers]
    assert all(len(states) == 1 for states in states_of)
    assert frozenset().union(*states_of) == HOST_REPLY_WAITS
