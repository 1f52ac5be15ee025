"""The extended hypercalls: what there is of them, and the hint by which a guest reports free pages.

A hint is carried out before its call returns: from then on the guest may use the pages again. It may take
time, and a processor waits meanwhile, with its interrupts off in Linux. So one call does a bounded part of a
long hint and says how far it has come, and the guest calls again for the rest.

Source: Hypervisor Top-Level Functional Specification, extended hypercall interface and rep hypercalls.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from dynmem.errors import RemoteProtocolError
from dynmem.limits import VM_REPORTED_BYTES_PER_CALL
from dynmem.units import PAGE_SHIFT, PAGE_SIZE
from dynmem.vmbus.memory import BadAddressError, GuestMemory
from dynmem.wire.heat_hint import (
    COLD_DISCARD,
    EXT_CALL_MEMORY_HEAT_HINT,
    EXT_CALL_QUERY_CAPABILITIES,
    EXT_CAPABILITY_COLD_DISCARD,
    RANGE_BYTES,
    TYPE_BYTES,
    Span,
    decode_hint_ranges,
)
from dynmem.wire.synic import HvStatus, HypercallInput, hypercall_result

EXTENDED_CALLS: Final = frozenset({EXT_CALL_QUERY_CAPABILITIES, EXT_CALL_MEMORY_HEAT_HINT})
_ALIGNMENT: Final = 8
_PAGES_PER_CALL: Final = VM_REPORTED_BYTES_PER_CALL >> PAGE_SHIFT

# Discards pages that the guest has free, wherever they are; done when it returns.
Report = Callable[[Sequence[Span]], Awaitable[None]]


class ExtendedCalls:
    """Carries out extended hypercalls; `call` raises for nothing that a guest can pass."""

    def __init__(self, memory: GuestMemory, report: Report) -> None:
        self._memory = memory
        self._report = report

    async def call(self, call: HypercallInput) -> int:
        """Carry out one call and return its result."""
        try:
            if call.is_fast:  # neither has its input in registers
                return hypercall_result(HvStatus.INVALID_HYPERCALL_INPUT)
            if call.code == EXT_CALL_QUERY_CAPABILITIES:
                return hypercall_result(self._query(call))
            if call.code == EXT_CALL_MEMORY_HEAT_HINT:
                return await self._hint(call)
        except BadAddressError:
            return hypercall_result(HvStatus.INSUFFICIENT_MEMORY)
        except RemoteProtocolError:
            return hypercall_result(HvStatus.INVALID_PARAMETER)
        return hypercall_result(HvStatus.INVALID_HYPERCALL_CODE)

    def _query(self, call: HypercallInput) -> HvStatus:
        if call.output % _ALIGNMENT:
            return HvStatus.INVALID_ALIGNMENT
        self._memory.write(call.output, EXT_CAPABILITY_COLD_DISCARD.to_bytes(8, "little"))
        return HvStatus.SUCCESS

    async def _hint(self, call: HypercallInput) -> int:
        first, reps = call.first_rep, call.reps
        size = TYPE_BYTES + reps * RANGE_BYTES
        if first >= reps:
            return hypercall_result(HvStatus.INVALID_HYPERCALL_INPUT)
        if call.input % _ALIGNMENT or call.input % PAGE_SIZE + size > PAGE_SIZE:
            return hypercall_result(HvStatus.INVALID_ALIGNMENT, first)
        data = self._memory.read(call.input, size)
        if int.from_bytes(data[:TYPE_BYTES], "little") != COLD_DISCARD:
            return hypercall_result(HvStatus.INVALID_PARAMETER, first)
        spans = _bounded(decode_hint_ranges(data[TYPE_BYTES + first * RANGE_BYTES :]))
        await self._report(spans)
        return hypercall_result(HvStatus.SUCCESS, first + len(spans))


def _bounded(spans: Sequence[Span]) -> Sequence[Span]:
    """Return as many spans, at least one, as one call may take."""
    pages = 0
    for number, span in enumerate(spans):
        pages += span.pages
        if pages > _PAGES_PER_CALL:
            return spans[: max(number, 1)]
    return spans
