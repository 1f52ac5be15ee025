"""Extended hypercalls: what each answers, and that a long hint is done in parts."""

from collections.abc import Sequence

import pytest
from tests.rigs.scenes import at_once

from dynmem.limits import VM_REPORTED_BYTES_PER_CALL
from dynmem.units import GIB, PAGE_SIZE
from dynmem.vm.hyperv.extended import ExtendedCalls
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire.heat_hint import COLD_DISCARD, HINT_RANGES_MAX, Span, encode_hint
from dynmem.wire.synic import HvStatus, HypercallInput, hypercall_reps, hypercall_status

QUERY, HINT = 0x8001, 0x8003
FAST = 1 << 16
SIZE = 4 * PAGE_SIZE
SPANS = [Span(512, 1024), Span(7, 1)]
LARGE = Span(0, VM_REPORTED_BYTES_PER_CALL // PAGE_SIZE)  # all that one call takes


class Rig:
    def __init__(self) -> None:
        self.memory = FlatMemory(memoryview(bytearray(SIZE)))
        self.reports: list[Sequence[Span]] = []
        self.calls = ExtendedCalls(self.memory, self.report)

    async def report(self, spans: Sequence[Span]) -> None:
        self.reports.append(spans)

    def call(self, control: int, input_gpa: int = 0, output: int = 0) -> tuple[HvStatus, int]:
        result = at_once(self.calls.call(HypercallInput(control, input_gpa, output)))
        return hypercall_status(result), hypercall_reps(result)

    def hint(
        self, *spans: Span, kind: int = COLD_DISCARD, first: int = 0, at: int = 0
    ) -> tuple[HvStatus, int]:
        self.memory.write(at, encode_hint(kind, spans))
        return self.call(HINT | len(spans) << 32 | first << 48, at)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_the_guest_learns_that_it_may_discard_what_is_cold(rig: Rig) -> None:
    assert rig.call(QUERY, output=PAGE_SIZE) == (HvStatus.SUCCESS, 0)
    assert rig.memory.read(PAGE_SIZE, 16) == (1 << 8).to_bytes(16, "little")


def test_all_ranges_of_a_hint_are_reported_and_counted_in_the_result(rig: Rig) -> None:
    assert rig.hint(*SPANS) == (HvStatus.SUCCESS, 2)
    assert rig.reports == [SPANS]


@pytest.mark.parametrize(
    ("control", "input_gpa", "output", "status"),
    [
        (QUERY | FAST, 0, 0, HvStatus.INVALID_HYPERCALL_INPUT),
        (QUERY, 0, 4, HvStatus.INVALID_ALIGNMENT),
        (QUERY, 0, SIZE, HvStatus.INSUFFICIENT_MEMORY),
        (QUERY, 0, (1 << 64) - 8, HvStatus.INSUFFICIENT_MEMORY),
        (HINT | FAST | 1 << 32, 0, 0, HvStatus.INVALID_HYPERCALL_INPUT),
        (HINT, 0, 0, HvStatus.INVALID_HYPERCALL_INPUT),
        (HINT | 1 << 32 | 1 << 48, 0, 0, HvStatus.INVALID_HYPERCALL_INPUT),
        (HINT | 1 << 32 | 0xFFF << 48, 0, 0, HvStatus.INVALID_HYPERCALL_INPUT),
        (HINT | 1 << 32, 4, 0, HvStatus.INVALID_ALIGNMENT),
        (HINT | 1 << 32, PAGE_SIZE - 8, 0, HvStatus.INVALID_ALIGNMENT),
        (HINT | HINT_RANGES_MAX + 1 << 32, 0, 0, HvStatus.INVALID_ALIGNMENT),
        (HINT | 0xFFF << 32, 0, 0, HvStatus.INVALID_ALIGNMENT),
        (HINT | 1 << 32, SIZE, 0, HvStatus.INSUFFICIENT_MEMORY),
        (0x8002, 0, 0, HvStatus.INVALID_HYPERCALL_CODE),
    ],
)
def test_a_call_that_cannot_be_carried_out_is_refused_and_reports_nothing(
    rig: Rig, control: int, input_gpa: int, output: int, status: HvStatus
) -> None:
    assert rig.call(control, input_gpa, output)[0] is status
    assert rig.reports == []
    assert rig.memory.read(0, SIZE) == bytes(SIZE)


@pytest.mark.parametrize("kind", [0, 1, 3, 1 << 63 | 2])
def test_a_hint_of_another_kind_is_refused(rig: Rig, kind: int) -> None:
    assert rig.hint(*SPANS, kind=kind) == (HvStatus.INVALID_PARAMETER, 0)
    assert rig.reports == []


def test_one_range_of_a_form_that_does_not_exist_refuses_all(rig: Rig) -> None:
    rig.memory.write(0, encode_hint(COLD_DISCARD, SPANS) + (0x800 | 1 << 12).to_bytes(8, "little"))
    assert rig.call(HINT | 3 << 32) == (HvStatus.INVALID_PARAMETER, 0)
    assert rig.reports == []


def test_the_longest_hint_fills_its_page(rig: Rig) -> None:
    spans = [Span(number * 3 + 1, 1) for number in range(HINT_RANGES_MAX)]
    assert rig.hint(*spans, at=PAGE_SIZE) == (HvStatus.SUCCESS, HINT_RANGES_MAX)
    assert rig.reports == [spans]


def test_a_guest_that_continues_is_done_when_all_ranges_are(rig: Rig) -> None:
    """As Linux does it: again with the number of those that are done, until that is all."""
    spans = [Span(7, 1), LARGE, Span(9, 1), Span(11, 1)]
    done = [0]
    while done[-1] < len(spans):
        status, reps = rig.hint(*spans, first=done[-1])
        assert status is HvStatus.SUCCESS
        done.append(reps)
    assert done == [0, 1, 2, 4]
    assert [span for report in rig.reports for span in report] == spans


def test_a_range_longer_than_a_call_takes_is_done_alone(rig: Rig) -> None:
    longest = Span(0, 4 * GIB // PAGE_SIZE)
    assert rig.hint(longest, longest) == (HvStatus.SUCCESS, 1)
    assert rig.reports == [[longest]]
