"""A partition and its extended hypercalls as targets, against any guest."""

import contextlib
import itertools
import struct
from collections.abc import Callable

from tests.fuzz.engine import Target
from tests.rigs.pages import bounds_of, packed
from tests.rigs.partition import OS_ID, PAGE, PAGES, PartitionRig
from tests.rigs.scenes import at_once

from dynmem.limits import VM_CRASHES_REPORTED_MAX
from dynmem.units import PAGE_SIZE
from dynmem.vm.balloon.accounts import GuestPages, Memory
from dynmem.vm.balloon.reporting import FreePageReporting
from dynmem.vm.faults import Faults
from dynmem.vm.hyperv.extended import ExtendedCalls
from dynmem.vm.hyperv.general_protection import GeneralProtectionError
from dynmem.vmbus import OutgoingMessage, Signal
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import hyperv, synic
from dynmem.wire.heat_hint import COLD_DISCARD, Span, encode_hint
from dynmem.wire.synic import HypercallInput, hypercall_reps

BURST = 64
_ACCESS = struct.Struct("<BHQ")  # processor and direction, the MSR's low bits, its value
_CALL = struct.Struct("<QQQ")


def access(msr: int, value: int, *, vp: int = 0) -> bytes:
    return _ACCESS.pack(vp << 1, msr & 0x1FF, value)


def partitions() -> Callable[[bytes], None]:
    """MSRs of two processors, one access after another; the host delivers to both all the time."""
    rig = PartitionRig()
    count = 0

    def feed(data: bytes) -> None:
        nonlocal count
        if count % BURST == 0:
            rig.partition.reset()
            rig.crashes.clear()
        count += 1
        way, low, value = _ACCESS.unpack(data[: _ACCESS.size].ljust(_ACCESS.size, b"\0"))
        vp, msr = way >> 1 & 1, 0x4000_0000 | low & 0x1FF
        with contextlib.suppress(GeneralProtectionError):
            if way & 1:
                assert 0 <= rig.read(msr, vp) < 1 << 64
            else:
                rig.write(msr, value, vp)
        for each in (0, 1):
            rig.partition.deliver(OutgoingMessage(each, value % 16, data[:240]))
            rig.partition.signal(Signal(each, value % 16, value % 2048))
        assert len(rig.crashes) <= VM_CRASHES_REPORTED_MAX
        rig.interrupts.clear()
        rig.routes.clear()

    return feed


class Reports:
    """Extended hypercalls over the accounts of a balloon: nothing that was given up is discarded."""

    def __init__(self) -> None:
        self.memory = FlatMemory(memoryview(bytearray(2 * PAGE_SIZE)))
        self.pages = GuestPages(lambda: 0)
        self.pages.plug(Memory([(0, 4096), (8192, 4096)]))
        self.pages.add_given(packed((100, 50), (8192, 512)))
        self.reporting = FreePageReporting(self.pages, self.discard, Faults(lambda: 0))
        self.calls = ExtendedCalls(self.memory, self.reporting.report)

    async def discard(self, memory: Memory, ranges: bytes) -> int:
        assert not memory.given.overlaps(ranges)
        bounds = bounds_of(ranges)
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(bounds))
        assert bounds[-1][1] <= memory.pages
        return sum(end - start for start, end in bounds) * PAGE_SIZE

    def feed(self, data: bytes) -> None:
        control, place, output = _CALL.unpack(data[: _CALL.size].ljust(_CALL.size, b"\0"))
        content = data[_CALL.size :][:PAGE_SIZE]
        self.memory.write(0, content)
        call = HypercallInput(control, place, output)
        assert hypercall_reps(at_once(self.calls.call(call))) <= max(call.reps, call.first_rep)


def free_pages() -> Callable[[bytes], None]:
    """The hypercalls of free page reporting."""
    return Reports().feed


HINTS = tuple(
    _CALL.pack(0x8003 | len(spans) << 32 | first << 48, 0, 0) + encode_hint(COLD_DISCARD, spans)
    for spans, first in (
        ((Span(0, 512),), 0),
        ((Span(90, 20), Span(8192, 1024), Span(4000, 5000 % 2048)), 1),
        ((Span(1 << 30, 512 * 2048), Span(12_000, 1000), Span(12_287, 2)), 0),
    )
)

PARTITIONS = (
    Target(
        "partition",
        partitions,
        (
            access(hyperv.MSR_GUEST_OS_ID, OS_ID),
            access(hyperv.MSR_HYPERCALL, PAGE | 1),
            access(hyperv.MSR_REFERENCE_TSC, PAGE | 1),
            access(hyperv.MSR_CRASH_P0 + 3, PAGE),
            access(hyperv.MSR_CRASH_CTL, 3 << 62),
            *(
                access(msr, value, vp=vp)
                for vp in (0, 1)
                for msr, value in (
                    (synic.MSR_SIMP, 2 * PAGE | 1),
                    (synic.MSR_SIEFP, (PAGES - 1) * PAGE | 1),
                    (synic.MSR_SINT0 + 2, 0xF3),
                    (synic.MSR_SCONTROL, 1),
                    (synic.MSR_EOM, 0),
                )
            ),
        ),
    ),
    Target("free-pages", free_pages, (*HINTS, _CALL.pack(0x8001, 0, 8)), cost=8),
)
