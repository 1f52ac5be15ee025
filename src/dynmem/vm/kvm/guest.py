"""A stock guest on KVM as a platform: each life is a virtual machine of its own, booted from a kernel's file.

A reset makes another virtual machine, with the same memory: nothing of the former guest's processors,
interrupt controllers or Hyper-V state is left. The board and its console stay.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from dynmem.errors import DynmemError
from dynmem.space.dimm import PcDimm
from dynmem.units import GIB
from dynmem.vm.console.choice import open_console
from dynmem.vm.faults import Faults
from dynmem.vm.guest_memory import MappedMemory
from dynmem.vm.kvm import api, cpuid, registers
from dynmem.vm.kvm.board.board import Board
from dynmem.vm.kvm.board.dimm_slots import Module
from dynmem.vm.kvm.board.power import PowerRequest
from dynmem.vm.kvm.boot.loader import load
from dynmem.vm.kvm.dimm_acts import DimmActs
from dynmem.vm.kvm.gate import accept_kicks
from dynmem.vm.kvm.host import open_kvm
from dynmem.vm.kvm.life import Life, Traits
from dynmem.vm.kvm.slots import KvmSlots
from dynmem.vm.options.actions import PanicAction
from dynmem.vm.options.machine import VmOptions
from dynmem.vm.platform import GuestCalls, GuestEnding, Owner, round_hole
from dynmem.vm.shortage import cannot_start
from dynmem.vmbus import OutgoingMessage, Signal

_LOG: Final = logging.getLogger("dynmem.vm")
# Of the interpreter: an exit that meets a computing thread waits for it this long, and 5 ms by default.
_SWITCH_INTERVAL_S: Final = 1e-4


class KvmGuest:
    """A `Platform` that boots a kernel, one life after another.

    Attributes:
        ram_hole: Addresses below 4 GiB that are not RAM: the APICs are there, and KVM's own pages.
        addresses: How many bytes of addresses its processors have, on this host.
        slots: The guest's memory slots.
        vp_count: How many virtual processors it has.

    """

    ram_hole: Final = range(7 * GIB // 2, 4 * GIB)

    def __init__(self, options: VmOptions, memory: MappedMemory, owner: Owner, faults: Faults) -> None:
        """Make it, with its console.

        Raises ConfigError if this host has no KVM, or a KVM without what is needed, and what `open_console`
        raises.
        """
        assert options.boot is not None
        self._options: Final = options
        self._boot: Final = options.boot
        self._owner: Final = owner
        self._loop: Final = asyncio.get_running_loop()
        self.vp_count: Final = options.vp_count
        self._traits: Final = Traits(
            memory.shared,
            options.vp_count,
            reports_free_pages=options.balloon is not None and options.balloon.free_page_reporting,
            stops_when_it_crashes=options.actions.panic is not PanicAction.NONE,
            owner=owner,
            faults=faults,
        )
        self._life: Life | None = None
        self._kvm: Final = open_kvm(options.vp_count)
        with contextlib.ExitStack() as undone:
            undone.callback(os.close, self._kvm)
            try:
                slots_max = api.call(self._kvm, api.CHECK_EXTENSION, api.CAP_NR_MEMSLOTS)
                self.addresses: Final = cpuid.addresses(cpuid.supported(self._kvm))
            except OSError as error:
                raise cannot_start(error.errno or 0, "KVM") from None
            self.slots: Final = KvmSlots(slots_max, faults)
            self._console: Final = open_console(options.console, self._end)
            undone.callback(self._console.close)
            self._dimm_acts: Final = DimmActs(notify=self._wake, remove=self._remove_dimm)
            self._board: Final = Board(
                line=self._set_line,
                requested=self._requested,
                console=self._console,
                slots=options.memory.slots,
                dimm_did=self._dimm_acts.add,
            )
            undone.pop_all()
        accept_kicks()
        sys.setswitchinterval(_SWITCH_INTERVAL_S)

    # on any thread, with the lock of the ports held

    def _set_line(self, gsi: int, level: bool) -> None:
        if self._life is not None:
            self._life.machine.set_line(gsi, level=level)

    def _requested(self, request: PowerRequest) -> None:
        if self._life is not None:
            self._life.requested(request)

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._owner.wake)

    # on a thread of the console

    def _end(self) -> None:
        """End the machine, as the user of its console asks."""
        self._loop.call_soon_threadsafe(self._owner.asked_to_end)

    # the machine's

    async def power_on(self, doorbells: Iterable[int]) -> None:
        try:
            life = self._life = await asyncio.to_thread(Life, self._kvm, self._traits, self._loop)
            await asyncio.to_thread(self.slots.connect, life.machine)
            self._board.reset()
            entry = await asyncio.to_thread(
                load,
                self._traits.memory,
                round_hole(self._options.memory_bytes, self.ram_hole),
                kernel=self._boot.kernel,
                initrd=self._boot.initrd,
                append=self._boot.append,
                vp_count=self.vp_count,
                dimm_slots=self._options.memory.slots,
            )
            registers.start_at(life.vcpus[0].fd, entry)
            life.add_doorbells(doorbells)
            await asyncio.to_thread(life.run, self._board)
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
        life.end()
        await asyncio.to_thread(life.join)
        self.slots.disconnect()
        self._dimm_acts.forget()
        with self._board.ports.lock:  # a thread of the console may be raising a line of it
            self._life = None
        await asyncio.to_thread(life.close)

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
            await self._dimm_acts.serve(calls)
            await self._life.calls.serve(calls)

    def deliver(self, message: OutgoingMessage) -> bool:
        return self._life is not None and self._life.partition.deliver(message)

    def signal(self, signal: Signal) -> None:
        if self._life is not None:
            self._life.partition.signal(signal)

    # DIMMs

    def plug(self, dimm: PcDimm) -> None:
        assert dimm.slot is not None
        module = Module(dimm.get_addr(), dimm.get_memory_region().size, dimm.node)
        is_mapped = self.slots.is_mapped(module.address, module.size)  # else KVM has refused it
        if self._life is not None and self._options.balloon is not None:
            _LOG.warning(
                "a DIMM in slot %d: a Linux whose hv_balloon driver is loaded does not use what comes by"
                " another way: let hv-balloon add memory (maxmem without slots), or unbind the driver first",
                dimm.slot,
            )
        with self._board.ports.lock:
            self._board.dimms.insert(dimm.slot, module, is_news=self._life is not None, is_shown=is_mapped)

    def unplug(self, dimm: PcDimm) -> bool:
        assert dimm.slot is not None
        with self._board.ports.lock:
            return self._life is not None and self._board.dimms.request(dimm.slot)

    def _remove_dimm(self, slot: int) -> None:
        with self._board.ports.lock:
            self._board.dimms.remove(slot)
