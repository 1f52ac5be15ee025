"""A partition over a small memory, with everything that it calls written down."""

from collections.abc import Callable

from dynmem.vm.faults import Faults
from dynmem.vm.guest_crash import GuestCrash
from dynmem.vm.hyperv.cpuid import Features
from dynmem.vm.hyperv.partition import Partition
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import hyperv, synic

PAGE = 4096
PAGES = 32
TSC_HZ = 2_500_000_000
FEATURES = Features(tsc_hz=TSC_HZ, invariant_tsc=False, free_page_reporting=True, vp_max=64, reset=True)
OS_ID = 0x8100_0006_01B0_0000


class PartitionRig:
    """Two processors unless a test says otherwise; `tsc` and `now` are what their clocks show."""

    def __init__(
        self,
        features: Features = FEATURES,
        vp_count: int = 2,
        route: Callable[[int, int, int], None] | None = None,
    ) -> None:
        self.memory = FlatMemory(memoryview(bytearray(PAGES * PAGE)))
        self.interrupts: list[tuple[int, int]] = []
        self.routes: list[tuple[int, int, int]] = []
        self.crashes: list[GuestCrash] = []
        self.resets = 0
        self.tsc = [0] * vp_count
        self.now = 0
        self.faults = Faults(lambda: 0)
        self.partition = Partition(
            self.memory,
            features,
            vp_count=vp_count,
            interrupt=lambda vp, sint: self.interrupts.append((vp, sint)),
            route=route or (lambda vp, sint, vector: self.routes.append((vp, sint, vector))),
            crashed=self.crashes.append,
            now_100ns=lambda: self.now,
            tsc=lambda vp: self.tsc[vp],
            faults=self.faults,
            wants_reset=self._reset,
        )

    def _reset(self) -> None:
        self.resets += 1

    def read(self, msr: int, vp: int = 0) -> int:
        return self.partition.read_msr(vp, msr)

    def write(self, msr: int, value: int, vp: int = 0) -> bool:
        return self.partition.write_msr(vp, msr, value)

    def switch_on(self, vp: int) -> None:
        """Give a processor its pages: messages in page 2 + 4 * vp, flags in the next one."""
        first = (2 + 4 * vp) * PAGE
        self.write(synic.MSR_SIMP, first | 1, vp)
        self.write(synic.MSR_SIEFP, first + PAGE | 1, vp)
        self.write(synic.MSR_SINT0 + 2, 0xF3, vp)
        self.write(synic.MSR_SCONTROL, 1, vp)

    def slot(self, vp: int) -> synic.MessageSlot:
        """What is in the slot of SINT 2."""
        return synic.decode_slot(self.memory.read((2 + 4 * vp) * PAGE + 512, 256))

    def flags(self, vp: int) -> tuple[int, ...]:
        """The event flags of SINT 2."""
        return synic.decode_event_flags(self.memory.read((3 + 4 * vp) * PAGE + 512, 256))

    def enable_page(self, address: int = PAGE) -> None:
        """Do what a kernel does for its hypercall page."""
        self.write(hyperv.MSR_GUEST_OS_ID, OS_ID)
        self.write(hyperv.MSR_HYPERCALL, address | 1)
