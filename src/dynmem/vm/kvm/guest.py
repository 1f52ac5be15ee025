"""A stock guest on KVM as a platform: each life is a virtual machine of its own, booted from a kernel's file.

    vCPU threads      run the guest; serve ports and MSRs where they exit (`exits`)
    the machine's loop   serves hypercalls (`calls`) and doorbells, delivers messages and signals

A reset makes another virtual machine, with the same memory: nothing of the former guest's processors,
interrupt controllers or Hyper-V state is left.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from dynmem.errors import DynmemError
from dynmem.units import GIB
from dynmem.vm.console.choice import open_console
from dynmem.vm.faults import Faults
from dynmem.vm.guest_crash import GuestCrash
from dynmem.vm.guest_memory import MappedMemory
from dynmem.vm.hyperv import cpuid as hyperv_cpuid
from dynmem.vm.hyperv.partition import Partition
from dynmem.vm.hyperv.synic import SINT_MASKED
from dynmem.vm.kvm import api, cpuid, registers
from dynmem.vm.kvm.board.board import Board
from dynmem.vm.kvm.board.power import PowerRequest
from dynmem.vm.kvm.boot.loader import load
from dynmem.vm.kvm.calls import Calls
from dynmem.vm.kvm.exits import Exits
from dynmem.vm.kvm.gate import Gate, accept_kicks
from dynmem.vm.kvm.host import open_kvm
from dynmem.vm.kvm.slots import KvmSlots
from dynmem.vm.kvm.vcpu import Vcpu
from dynmem.vm.kvm.virtual_machine import VirtualMachine
from dynmem.vm.options.actions import PanicAction
from dynmem.vm.options.machine import VmOptions
from dynmem.vm.platform import GuestCalls, GuestEnding, Owner, round_hole
from dynmem.vm.shortage import cannot_start
from dynmem.vmbus import OutgoingMessage, Signal

# Of the interpreter: an exit that meets a computing thread waits for it this long, and 5 ms by default.
_SWITCH_INTERVAL_S: Final = 1e-4


class _Life:
    """One guest from power on to power off."""

    def __init__(self, guest: "KvmGuest", kvm: int) -> None:
        """Make its machine and processors; OSError."""
        self.loop: Final = asyncio.get_running_loop()
        self._guest = guest
        self.gate: Final = Gate()
        self.calls: Final = Calls(lambda: self.tell(guest.owner.wake))
        self.ending: GuestEnding | None = None
        self.vcpus: Final[list[Vcpu]] = []
        self.doorbells: Final[list[int]] = []
        self._lines: dict[tuple[int, int], int] = {}  # what raises a SINT of a processor
        self.machine: Final = VirtualMachine(kvm)
        try:
            page_size = api.call(kvm, api.GET_VCPU_MMAP_SIZE)
            for vp in range(guest.vp_count):
                self.vcpus.append(Vcpu(self.machine.fd, vp, page_size))
            self.partition: Final = self._make_partition(kvm)
        except OSError:
            self.close()
            raise

    def _make_partition(self, kvm: int) -> Partition:
        """Make Hyper-V's part of it, and give the processors their leaves."""
        guest = self._guest
        leaves = cpuid.supported(kvm)
        first = self.vcpus[0].fd
        features = hyperv_cpuid.Features(
            tsc_hz=api.call(first, api.GET_TSC_KHZ) * 1000,
            invariant_tsc=cpuid.has_invariant_tsc(leaves),
            free_page_reporting=guest.reports_free_pages,
            vp_max=guest.vp_count,
            reset=True,
        )
        hypervisor = hyperv_cpuid.leaves(features)
        for vcpu in self.vcpus:
            mine = cpuid.of_processor(leaves, hypervisor, number=vcpu.vp, count=guest.vp_count)
            cpuid.set_leaves(vcpu.fd, mine)
        began = time.monotonic_ns()
        return Partition(
            guest.memory,
            features,
            vp_count=guest.vp_count,
            interrupt=self._interrupt,
            sint_changed=self._sint_changed,
            crashed=self._crashed,
            now_100ns=lambda: (time.monotonic_ns() - began) // 100,
            tsc=self._tsc,
            faults=guest.faults,
            wants_reset=partial(self.requested, PowerRequest.RESET),
        )

    def run(self, board: Board) -> None:
        """Let the processors run."""
        exits = Exits(
            board.ports,
            self.partition,
            self.calls,
            is_long_mode=self._is_long_mode,
            triple_fault=partial(self.requested, PowerRequest.RESET),
            failed=self._failed,
        )
        for vcpu in self.vcpus:
            vcpu.start(self.gate, exits, self._failed)
        self.gate.open()

    def add_doorbells(self, connection_ids: Iterable[int]) -> None:
        """Add a doorbell for each connection, which wakes the machine; OSError."""
        for connection_id in connection_ids:
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self.doorbells.append(fd)
            self.machine.add_doorbell(connection_id, fd)
            self.loop.add_reader(fd, self._rung, fd)

    def _rung(self, fd: int) -> None:
        os.eventfd_read(fd)
        self._guest.owner.wake()

    # on processors' threads

    def tell(self, call: Callable[[], None]) -> None:
        """Make a call on the machine's loop."""
        self.loop.call_soon_threadsafe(call)

    def requested(self, request: PowerRequest) -> None:
        """Stop the guest where it is, and have the machine do what it asks for."""
        self.gate.shut()
        owner = self._guest.owner
        self.tell(owner.wants_reset if request is PowerRequest.RESET else owner.exited)

    def _crashed(self, crash: GuestCrash) -> None:
        """Report a crash. A guest that does not go on as if nothing had happened stops where it is."""
        if self._guest.options.actions.panic is not PanicAction.NONE:
            self.gate.shut()
        self.tell(partial(self._guest.owner.crashed, crash))

    def _failed(self, how: str) -> None:
        self.ending = GuestEnding(how)
        self.gate.shut()
        self.tell(self._guest.owner.exited)

    def _tsc(self, vp: int) -> int:
        """Return a processor's time stamp counter, on its own thread."""
        entry = api.MsrEntry(nmsrs=1, index=0x10)
        api.call(self.vcpus[vp].fd, api.GET_MSRS, entry)
        return int(entry.data)

    def _is_long_mode(self, vp: int) -> bool:
        special = api.Sregs()
        api.call(self.vcpus[vp].fd, api.GET_SREGS, special)
        return bool(special.efer & registers.EFER_LMA)

    def _sint_changed(self, vp: int, sint: int, value: int) -> None:
        """Let a SINT raise the vector that the guest has named for it."""
        if not value & SINT_MASKED:
            self._lines[vp, sint] = self.machine.route(vp, sint, value & 0xFF)

    # on any thread

    def _interrupt(self, vp: int, sint: int) -> None:
        if (line := self._lines.get((vp, sint))) is not None:
            os.eventfd_write(line, 1)

    def join(self) -> None:
        """Wait for the end of the processors' threads, after the gate's end."""
        for vcpu in self.vcpus:
            vcpu.join()

    def close(self) -> None:
        """Release everything; the processors' threads have ended."""
        for fd in self.doorbells:
            self.loop.remove_reader(fd)
        for vcpu in self.vcpus:
            vcpu.close()
        self.machine.close()
        for fd in self.doorbells:
            os.close(fd)


class KvmGuest:
    """A `Platform` that boots a kernel, one life after another.

    Attributes:
        ram_hole: Addresses below 4 GiB that are not RAM: the APICs are there, and KVM's own pages.
        slots: The guest's memory slots.
        vp_count: How many virtual processors it has.
        reports_free_pages: Whether the guest may return free pages by itself.

    """

    ram_hole: Final = range(7 * GIB // 2, 4 * GIB)
    has_dimm_hotplug: Final = False

    def __init__(self, options: VmOptions, memory: MappedMemory, owner: Owner, faults: Faults) -> None:
        """Make it. Raises ConfigError if this host has no KVM, or a KVM without what is needed."""
        assert options.boot is not None
        self.options: Final = options
        self.boot: Final = options.boot
        self.memory: Final = memory.shared
        self.owner: Final = owner
        self.faults: Final = faults
        self._loop: Final = asyncio.get_running_loop()
        self.vp_count: Final = options.vp_count
        self.reports_free_pages: Final = options.balloon is not None and options.balloon.free_page_reporting
        self._kvm: Final = open_kvm(options.vp_count)
        self.slots: Final = KvmSlots(api.call(self._kvm, api.CHECK_EXTENSION, api.CAP_NR_MEMSLOTS), faults)
        self._life: _Life | None = None
        self._console: Final = open_console(options.console, self._end)
        self._board: Final = Board(line=self._set_line, requested=self._requested, console=self._console)
        accept_kicks()
        sys.setswitchinterval(_SWITCH_INTERVAL_S)

    # on any thread, with the lock of the ports held

    def _set_line(self, gsi: int, level: bool) -> None:
        if self._life is not None:
            self._life.machine.set_line(gsi, level=level)

    def _requested(self, request: PowerRequest) -> None:
        if self._life is not None:
            self._life.requested(request)

    # on a thread of the console

    def _end(self) -> None:
        """End the machine, as the user of its console asks."""
        self._loop.call_soon_threadsafe(self.owner.asked_to_end)

    # the machine's

    async def power_on(self, doorbells: Iterable[int]) -> None:
        try:
            life = self._life = _Life(self, self._kvm)
            self.slots.connect(life.machine)
            self._board.reset()
            entry = await asyncio.to_thread(
                load,
                self.memory,
                round_hole(self.options.memory_bytes, self.ram_hole),
                kernel=self.boot.kernel,
                initrd=self.boot.initrd,
                append=self.boot.append,
                vp_count=self.vp_count,
            )
            registers.start_at(life.vcpus[0].fd, entry)
            life.add_doorbells(doorbells)
            life.run(self._board)
        except OSError as error:
            await self.power_off()
            raise cannot_start(error.errno or 0, "KVM") from None
        except DynmemError:
            await self.power_off()
            raise

    async def power_off(self) -> None:
        if self._life is None:
            return
        life = self._life
        life.gate.end()
        life.calls.end()
        await asyncio.to_thread(life.join)
        self.slots.disconnect()
        with self._board.ports.lock:  # a thread of the console may be raising a line of it
            self._life = None
        life.close()

    def close(self) -> None:
        self._console.close()
        os.close(self._kvm)

    def kill(self) -> None:
        if self._life is not None:
            self._life.gate.end()

    async def freeze(self) -> None:
        if self._life is not None:
            self._life.gate.shut()
            await asyncio.to_thread(self._life.gate.wait_until_empty)

    def thaw(self) -> None:
        if self._life is not None:
            self._life.gate.open()

    @property
    def thread_ids(self) -> Sequence[int]:
        return [] if self._life is None else [vcpu.thread_id for vcpu in self._life.vcpus]

    @property
    def exits(self) -> int:
        """How often the processors of this life have left the guest."""
        return 0 if self._life is None else sum(vcpu.exits for vcpu in self._life.vcpus)

    @property
    def ending(self) -> GuestEnding | None:
        return None if self._life is None else self._life.ending

    async def serve(self, calls: GuestCalls) -> None:
        if self._life is not None:
            await self._life.calls.serve(calls)

    def deliver(self, message: OutgoingMessage) -> bool:
        return self._life is not None and self._life.partition.deliver(message)

    def signal(self, signal: Signal) -> None:
        if self._life is not None:
            self._life.partition.signal(signal)

    def plug(self, address: int) -> None:
        """Do nothing: this machine has no ACPI device that could announce a DIMM."""

    def unplug(self, address: int) -> bool:
        return False
