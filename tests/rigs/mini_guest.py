"""A guest of some hundred bytes (`mini_guest.S`) on the KVM platform, without a machine around it."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from tests.rigs import assembled
from tests.rigs.pages import packed

from dynmem.memory.backend import MemfdBackend
from dynmem.memory.discard import Discarder
from dynmem.space.address_space import Section
from dynmem.units import MIB
from dynmem.vm.faults import Faults
from dynmem.vm.guest_crash import GuestCrash
from dynmem.vm.guest_memory import MappedMemory
from dynmem.vm.hyperv.extended import EXTENDED_CALLS, ExtendedCalls
from dynmem.vm.kvm.guest import KvmGuest
from dynmem.vm.kvm.host import DEVICE
from dynmem.vm.options.actions import ActionOptions, PanicAction
from dynmem.vm.options.boot import BootOptions
from dynmem.vm.options.console import ConsoleOptions
from dynmem.vm.options.machine import VmOptions
from dynmem.vm.options.memory import MemoryOptions
from dynmem.vmbus import OutgoingMessage
from dynmem.wire.heat_hint import Span
from dynmem.wire.synic import HYPERCALL_POST_MESSAGE, VMBUS_SINT, HvStatus, HypercallInput, hypercall_result

PATIENCE_S = 60
needs_kvm = pytest.mark.skipif(not os.access(DEVICE, os.R_OK | os.W_OK), reason="there is no /dev/kvm to use")

CONNECTION = 17
RELID = 1
MEMORY = 16 * MIB
RESULTS = 0x30_4000
SIMP = 0x30_1000
NAMES = (
    *("vp index", "known", "unknown", "flag", "posted", "other", "rdx", "r8"),
    *("interrupts", "messages", "tsc hz", "faults", "ready", "spins", "last", "stray"),
    *("read", "reads"),
)
# commands
SIGNAL, SPIN, KEYBOARD_RESET, POWER_OFF, TRIPLE_FAULT, CRASH, READ, EXITS, DOORBELLS = range(1, 10)
HYPERV_RESET, REPORT = range(10, 12)


class MiniGuest:
    """The platform with its guest; it is owner and machine as well."""

    def __init__(
        self,
        kernel: Path,
        *,
        vp_count: int = 1,
        panic: PanicAction = PanicAction.NONE,
        console: ConsoleOptions | None = None,
        slots: int = 0,
    ) -> None:
        options = VmOptions(
            "mini",
            MemoryOptions(MEMORY, MEMORY, slots),
            boot=BootOptions(kernel),
            vp_count=vp_count,
            actions=ActionOptions(panic=panic),
            console=console or ConsoleOptions(),
        )
        self.happened: list[str] = []
        self.crashes: list[GuestCrash] = []
        self.calls: list[HypercallInput] = []
        self.retries = 0
        self.woken = asyncio.Event()
        self.is_over = False
        self.faults = Faults(lambda: 0)
        self.memory = MappedMemory()
        self._extended = ExtendedCalls(self.memory, self._report)
        self.guest = KvmGuest(options, self.memory, self, self.faults)
        self.backend = MemfdBackend(MEMORY, "mini")
        section = Section(0, MEMORY, self.backend, 0, readonly=False, name="ram")
        self.memory.section_added(section)
        self.guest.slots.section_added(section)

    # the owner

    def wake(self) -> None:
        self.happened.append("wake")
        self.woken.set()

    def exited(self) -> None:
        self.happened.append("exited")

    def wants_reset(self) -> None:
        self.happened.append("wants reset")

    def asked_to_end(self) -> None:
        raise AssertionError

    def crashed(self, crash: GuestCrash) -> None:
        self.crashes.append(crash)

    # the machine

    async def hypercall(self, call: HypercallInput) -> int:
        self.calls.append(call)
        if call.code in EXTENDED_CALLS:
            return await self._extended.call(call)
        if call.code == HYPERCALL_POST_MESSAGE:
            return hypercall_result(HvStatus.SUCCESS)
        return hypercall_result(HvStatus.INVALID_HYPERCALL_CODE)

    async def _report(self, spans: Sequence[Span]) -> None:
        Discarder(self.backend).discard(packed(*spans))

    def retry_messages(self) -> None:
        self.retries += 1

    async def unplug_answered(self, address: int, *, is_done: bool) -> None:
        raise AssertionError

    async def dimm_ejected(self, slot: int) -> None:
        raise AssertionError

    def dimm_reported(self, slot: int, source: int, status: int) -> None:
        raise AssertionError

    # what the test does

    @property
    def exits(self) -> int:
        """How often its processors have left the guest."""
        return self.guest.exits

    def result(self, name: str) -> int:
        return int.from_bytes(self.memory.read(RESULTS + 8 * NAMES.index(name), 8), "little")

    async def until(self, name: str, value: int) -> None:
        """Serve the guest until it has found this."""
        await self._serve_until(lambda: self.result(name) == value, name)

    async def until_retried(self, seen: int) -> None:
        """Serve the guest until it has room for another message."""
        await self._serve_until(lambda: self.retries > seen, "an EOM")

    async def _serve_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            await self.guest.serve(self)
            if condition():
                return
            assert time.monotonic() < deadline, f"waited for {what}"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), 0.002)
            self.woken.clear()

    def close(self) -> None:
        self.memory.release()
        self.backend.close()

    def command(self, number: int, address: int = 0) -> bool:
        payload = number.to_bytes(4, "little") + address.to_bytes(4, "little")
        return self.guest.deliver(OutgoingMessage(0, VMBUS_SINT, payload))

    async def read(self, address: int) -> int:
        """Return what the guest reads at an address."""
        return await self._answer(READ, address)

    async def report(self, address: int) -> int:
        """Have the guest report a page as free; return the result that it gets."""
        return await self._answer(REPORT, address)

    async def _answer(self, number: int, address: int) -> int:
        reads = self.result("reads")
        assert self.command(number, address)
        await self.until("reads", reads + 1)
        return self.result("read")


@contextlib.asynccontextmanager
async def running(
    kernel: Path, *, vp_count: int = 1, panic: PanicAction = PanicAction.NONE, slots: int = 0
) -> AsyncIterator[MiniGuest]:
    scene = MiniGuest(kernel, vp_count=vp_count, panic=panic, slots=slots)
    try:
        await scene.guest.power_on((CONNECTION,))
        await scene.until("ready", 1)
        yield scene
    finally:
        await scene.guest.power_off()
        scene.close()


def assemble(folder: Path, name: str = "mini_guest.S") -> Path:
    """Make a guest's kernel from its source beside this file."""
    file = folder / "guest"
    assembled.assemble(Path(__file__).with_name(name), file)
    return file
