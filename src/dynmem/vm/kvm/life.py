"""One guest on KVM from power on to power off: its machine, its processors and what serves them.

a processor's thread   ports and MSRs, where they exit (`exits`)
the machine's loop     hypercalls (`calls`) and doorbells, messages and signals for the guest
"""

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NamedTuple

from dynmem.errors import ConfigError
from dynmem.vm.faults import Faults
from dynmem.vm.guest_crash import GuestCrash
from dynmem.vm.hyperv import cpuid as hyperv_cpuid
from dynmem.vm.hyperv.partition import Partition
from dynmem.vm.kvm import api, cpuid, registers
from dynmem.vm.kvm.board.board import Board
from dynmem.vm.kvm.board.power import PowerRequest
from dynmem.vm.kvm.calls import Calls
from dynmem.vm.kvm.exits import Exits
from dynmem.vm.kvm.gate import Gate
from dynmem.vm.kvm.pace import Pace
from dynmem.vm.kvm.vcpu import Vcpu
from dynmem.vm.kvm.virtual_machine import VirtualMachine
from dynmem.vm.platform import GuestEnding, Owner
from dynmem.vm.shortage import is_shortage
from dynmem.vmbus.memory import GuestMemory
from dynmem.wire.hyperv import MSR_TSC_INVARIANT_CONTROL, TSC_INVARIANT_EXPOSED

_AGAIN_S: Final = 0.1  # when the host is short of something


class Traits(NamedTuple):
    """What all lives of a guest have in common.

    Attributes:
        memory: Guest memory, for any thread.
        vp_count: How many virtual processors it has.
        reports_free_pages: Whether it may return free pages by itself.
        stops_when_it_crashes: Whether a crash stops its processors.
        owner: The machine.
        faults: Where wrong behaviour of the guest is counted.

    """

    memory: GuestMemory
    vp_count: int
    reports_free_pages: bool
    stops_when_it_crashes: bool
    owner: Owner
    faults: Faults


class Life:
    """One guest. Make it, load its memory and registers, `run` it, then `end`, `join` and `close`.

    KVM takes tens of milliseconds to make a machine and to end one, and a guest may reset itself all the
    time: so making, running and closing one are for a thread that may wait, and not for the machine's loop.

    Attributes:
        machine: KVM's part.
        vcpus: Its processors, by number.
        partition: Hyper-V's part.
        gate: What stops its processors.
        calls: The hypercalls that wait for the machine.
        ending: How it ended by itself, if it failed.

    """

    def __init__(self, kvm: int, guest: Traits, loop: asyncio.AbstractEventLoop) -> None:
        """Make its machine and processors for a `loop`; OSError, or ConfigError. `kvm` is /dev/kvm."""
        self._loop: Final = loop
        self._guest: Final = guest
        self.gate: Final = Gate()
        self.calls: Final = Calls(lambda: self._call_soon(guest.owner.wake))
        self.ending: GuestEnding | None = None
        self.vcpus: Final[list[Vcpu]] = []
        self._doorbells: Final[list[int]] = []
        self._lines: dict[tuple[int, int], int] = {}  # what raises a SINT of a processor
        self.machine: Final = VirtualMachine(kvm)
        try:
            page_size = api.call(kvm, api.GET_VCPU_MMAP_SIZE)
            for vp in range(guest.vp_count):
                self.vcpus.append(Vcpu(self.machine.fd, vp, page_size))
            self.partition: Final = self._make_partition(kvm)
        except BaseException:
            self.close()
            raise

    def _make_partition(self, kvm: int) -> Partition:
        """Make Hyper-V's part of it, and give the processors their leaves."""
        guest = self._guest
        leaves = cpuid.supported(kvm)
        first = self.vcpus[0].fd
        features = hyperv_cpuid.Features(
            tsc_hz=_tsc_hz(first),
            invariant_tsc=cpuid.has_invariant_tsc(leaves),
            free_page_reporting=guest.reports_free_pages,
            vp_max=guest.vp_count,
            reset=True,
        )
        hypervisor = hyperv_cpuid.leaves(features)
        for vcpu in self.vcpus:
            mine = cpuid.of_processor(leaves, hypervisor, number=vcpu.vp, count=guest.vp_count)
            cpuid.set_leaves(vcpu.fd, mine)
            if features.invariant_tsc:
                _show_invariant_tsc(vcpu.fd)
        began = time.monotonic_ns()
        return Partition(
            guest.memory,
            features,
            vp_count=guest.vp_count,
            interrupt=self._interrupt,
            route=self._route,
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
            failed=lambda how: self._failed(GuestEnding(how)),
        )
        pace = Pace(len(self.vcpus))
        for vcpu in self.vcpus:
            vcpu.start(self.gate, pace, exits, self._failed)
        self.gate.open()

    def add_doorbells(self, connection_ids: Iterable[int]) -> None:
        """Add a doorbell for each connection, which wakes the machine; OSError."""
        for connection_id in connection_ids:
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._doorbells.append(fd)
            self.machine.add_doorbell(connection_id, fd)
            self._loop.add_reader(fd, self._rung, fd)

    def _rung(self, fd: int) -> None:
        os.eventfd_read(fd)
        self._guest.owner.wake()

    # on processors' threads

    def _call_soon(self, call: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(call)

    def requested(self, request: PowerRequest) -> None:
        """Stop the guest where it is, and have the machine do what it asks for."""
        self.gate.shut()
        owner = self._guest.owner
        self._call_soon(owner.wants_reset if request is PowerRequest.RESET else owner.exited)

    def _crashed(self, crash: GuestCrash) -> None:
        """Report a crash. A guest that does not go on as if nothing had happened stops where it is."""
        if self._guest.stops_when_it_crashes:
            self.gate.shut()
        self._call_soon(partial(self._guest.owner.crashed, crash))

    def _failed(self, ending: GuestEnding) -> None:
        self.ending = ending
        self.gate.shut()
        self._call_soon(self._guest.owner.exited)

    def _tsc(self, vp: int) -> int:
        """Return a processor's time stamp counter, on its own thread."""
        entry = api.MsrEntry(nmsrs=1, index=0x10)
        api.call(self.vcpus[vp].fd, api.GET_MSRS, entry)
        return int(entry.data)

    def _is_long_mode(self, vp: int) -> bool:
        special = api.Sregs()
        api.call(self.vcpus[vp].fd, api.GET_SREGS, special)
        return bool(special.efer & registers.EFER_LMA)

    def _route(self, vp: int, sint: int, vector: int) -> None:
        """Let a SINT raise the vector that the guest has named for it, as soon as the host can spare that."""
        while True:
            try:
                self._lines[vp, sint] = self.machine.route(vp, sint, vector)
            except OSError as error:
                if not is_shortage(error.errno or 0):
                    raise
                self._guest.faults.note("shortage", f"an interrupt of vCPU {vp}: {error.strerror}")
                if not self.gate.is_over_within(_AGAIN_S):
                    continue
            return

    # on any thread

    def _interrupt(self, vp: int, sint: int) -> None:
        if (line := self._lines.get((vp, sint))) is not None:
            os.eventfd_write(line, 1)

    # on the machine's loop

    def end(self) -> None:
        """Have its processors end their threads, without waiting for them; nothing of theirs is served."""
        self.gate.end()
        self.calls.end()
        for fd in self._doorbells:
            self._loop.remove_reader(fd)

    # on a thread that may wait

    def join(self) -> None:
        """Wait for the end of the processors' threads, after `end`."""
        for vcpu in self.vcpus:
            vcpu.join()

    def close(self) -> None:
        """Release everything; the processors' threads have ended."""
        for vcpu in self.vcpus:
            vcpu.close()
        self.machine.close()
        for fd in self._doorbells:
            os.close(fd)


def _tsc_hz(vcpu: int) -> int:
    """Return how fast a processor's time stamp counter runs. Raises ConfigError if nobody can know."""
    try:
        return api.call(vcpu, api.GET_TSC_KHZ) * 1000
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise ConfigError(
            "the guest cannot be started: this host's time stamp counter is unstable, and Hyper-V promises"
            " its guest one: see the host's log (dmesg) for the reason, or use another host"
        ) from None


def _show_invariant_tsc(vcpu: int) -> None:
    """Have KVM leave the bit of CPUID that says so alone.

    A KVM with Hyper-V code of its own hides it from a guest that sees Hyper-V, until its own copy of this
    MSR is set (Linux arch/x86/kvm/hyperv.h, kvm_hv_invtsc_suppressed); the guest's write goes to `Partition`.
    One without that code refuses the MSR, and hides nothing.
    """
    entry = api.MsrEntry(nmsrs=1, index=MSR_TSC_INVARIANT_CONTROL, data=TSC_INVARIANT_EXPOSED)
    with contextlib.suppress(OSError):
        api.call(vcpu, api.SET_MSRS, entry)
