"""Stock Linux as a guest under test of the conformance suite: it boots on our KVM, and the suite is its host.

Nothing of our bus, our protocol or our device takes part: messages, rings and packets are the suite's.
"""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.kvm_rig.place import GuestKernel
from tests.kvm_rig.shell import READY_S

from dynmem.conformance import adapter
from dynmem.conformance.adapter import Hypercalls as SuiteCalls
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE
from dynmem.vm.faults import Faults
from dynmem.vm.guest_crash import GuestCrash
from dynmem.vm.guest_memory import MappedMemory
from dynmem.vm.hyperv.hypercalls import Hypercalls
from dynmem.vm.kvm.guest import KvmGuest
from dynmem.vm.memory_map import MachineMemory
from dynmem.vm.options.boot import parse_boot
from dynmem.vm.options.console import parse_serial
from dynmem.vm.options.machine import VmOptions
from dynmem.vm.options.memory import parse_memory
from dynmem.vmbus import OutgoingMessage, Signal
from dynmem.vmbus.memory import GuestMemory
from dynmem.wire.synic import (
    CHANNEL_CONNECTION_ID_BASE,
    VMBUS_SINT,
    HvStatus,
    HypercallInput,
    hypercall_result,
)

_MEMORY: Final = 512 * MIB
_RELID: Final = 1  # of the suite's offer
_CONNECTION: Final = CHANNEL_CONNECTION_ID_BASE + _RELID
_APPEND: Final = "quiet nokaslr mitigations=off no_timer_check random.trust_cpu=on"
# The suite waits for an answer in steps of 10 ms, 8 s in all: a guest in an emulated processor has more.
_STEP_NS: Final = NS_PER_S // 10
_SLOWER: Final = 8

T = TypeVar("T")


class LinuxUnderTest:
    """A `GuestUnderTest`. It lives in an event loop of its own, which runs while the suite calls."""

    groups = frozenset({adapter.SESSION})
    total_pages = _MEMORY // PAGE_SIZE

    def __init__(self, kernel: GuestKernel, console: Path) -> None:
        self._options = VmOptions(
            name="linux",
            memory=parse_memory(f"{_MEMORY >> 20}M"),
            boot=parse_boot(kernel.vmlinux, kernel.initrd, _APPEND),
            console=parse_serial(f"file:{console}"),
        )
        self._loop = asyncio.new_event_loop()
        self._woken = asyncio.Event()
        self._ended: str | None = None
        self._posts = 0
        self._waiting: deque[OutgoingMessage] = deque()
        self._suite: SuiteCalls | None = None
        self._calls: Hypercalls | None = None
        self._platform, self._memory, self.memory = self._run(self._made())

    def _run(self, scene: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(scene)

    async def _made(self) -> tuple[KvmGuest, MachineMemory, GuestMemory]:
        guest_memory = MappedMemory()
        platform = KvmGuest(self._options, guest_memory, self, Faults(time.monotonic_ns))
        memory = MachineMemory(self._options, guest_memory, platform.slots, ram_hole=platform.ram_hole)
        return platform, memory, guest_memory.shared

    def close(self) -> None:
        """End it."""
        self._run(self._platform.power_off())
        self._platform.close()
        self._memory.close()
        self._loop.close()

    # what the suite calls

    def start(self, hypercalls: SuiteCalls) -> None:
        self._suite = hypercalls
        self._calls = Hypercalls(self.memory, self)  # type: ignore[arg-type]  # takes the same two calls
        self._run(self._booted())

    async def _booted(self) -> None:
        """Boot until the driver posts its first message."""
        await self._platform.power_on([_CONNECTION])
        deadline = time.monotonic() + READY_S
        while not self._posts:
            assert time.monotonic() < deadline, "the guest makes no contact"
            await self._pass(_STEP_NS)

    def deliver_message(self, payload: bytes) -> None:
        self._waiting.append(OutgoingMessage(0, VMBUS_SINT, payload))
        self.retry_messages()
        while self._waiting:  # the suite's slot is empty only when the guest has emptied its own
            self._run(self._pass(_STEP_NS))

    def deliver_event(self, flag: int) -> None:
        self._platform.signal(Signal(0, VMBUS_SINT, flag))

    def advance(self, ns: int) -> None:
        self._run(self._pass(ns * _SLOWER if ns < _STEP_NS else ns))

    def ballooned_pages(self) -> int | None:
        return None

    async def _pass(self, ns: int) -> None:
        """Let time pass for the guest, and serve it."""
        deadline = time.monotonic() + ns / NS_PER_S
        while True:
            self._woken.clear()
            await self._platform.serve(self)
            assert self._ended is None, self._ended
            try:
                await asyncio.wait_for(self._woken.wait(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                return

    # what its hypercalls come to: it stands in for a bus

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> HvStatus:
        assert self._suite is not None
        self._posts += 1
        return HvStatus(self._suite.post_message(connection_id, message_type, payload))

    def signal_event(self, connection_id: int, flag: int) -> HvStatus:
        assert self._suite is not None
        return HvStatus(self._suite.signal_event(connection_id, flag))

    # what its platform hands up

    @property
    def is_over(self) -> bool:
        return False

    async def hypercall(self, call: HypercallInput) -> int:
        assert self._calls is not None
        return hypercall_result(self._calls.call(call))

    def retry_messages(self) -> None:
        while self._waiting and self._platform.deliver(self._waiting[0]):
            self._waiting.popleft()

    async def unplug_answered(self, address: int, *, is_done: bool) -> None:
        raise AssertionError("it has no DIMM")

    async def dimm_ejected(self, slot: int) -> None:
        raise AssertionError("it has no DIMM")

    def dimm_reported(self, slot: int, source: int, status: int) -> None:
        raise AssertionError("it has no DIMM")

    # what its platform reports

    def wake(self) -> None:
        self._woken.set()

    def exited(self) -> None:
        self._ended = f"the guest has ended: {self._platform.ending}"
        self.wake()

    def wants_reset(self) -> None:
        self._ended = "the guest has reset itself"
        self.wake()

    def asked_to_end(self) -> None:
        raise AssertionError("nobody is at its console")

    def crashed(self, crash: GuestCrash) -> None:
        self._ended = f"the guest has crashed: {crash.described()}"
        self.wake()
