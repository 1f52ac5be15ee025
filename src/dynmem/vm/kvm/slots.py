"""The guest's memory slots in KVM: a number for each section of the address space.

The sections outlive a guest. Each life of it gets them again, in a virtual machine of its own. A DIMM may be
plugged while a thread does that, so whatever changes them waits for it.
"""

import os
import threading
from typing import Final

from dynmem.memory.backend import Backend
from dynmem.space.address_space import Section
from dynmem.vm.faults import Faults
from dynmem.vm.kvm.virtual_machine import VirtualMachine


class KvmSlots:
    """The `MemorySlots` of a guest on KVM; `slots_max` of them."""

    name: Final = "KVM"

    def __init__(self, slots_max: int, faults: Faults) -> None:
        self.slots_max: Final = slots_max
        self._faults = faults
        self._machine: VirtualMachine | None = None
        self._numbers: dict[Section, int] = {}
        self._missing: set[Section] = set()  # which KVM refused
        self._changing: Final = threading.Lock()

    @property
    def slots_free(self) -> int:
        """How many more sections can be mapped."""
        return self.slots_max - len(self._numbers)

    def connect(self, machine: VirtualMachine) -> None:
        """Map everything in a new machine; OSError. On any thread."""
        with self._changing:
            for section, number in self._numbers.items():
                _map(machine, section, number)
            self._missing.clear()
            self._machine = machine

    def disconnect(self) -> None:
        """Forget the machine."""
        self._machine = None

    def section_added(self, section: Section) -> None:
        with self._changing:
            self._add(section)

    def _add(self, section: Section) -> None:
        taken = set(self._numbers.values())
        number = next(each for each in range(len(taken) + 1) if each not in taken)
        self._numbers[section] = number
        if self._machine is not None:
            try:
                _map(self._machine, section, number)
            except OSError as error:
                self._missing.add(section)
                why = os.strerror(error.errno or 0)
                self._faults.note("slot", f"KVM does not map {section.name!r}: {why}")

    def section_removed(self, section: Section) -> None:
        with self._changing:
            number = self._numbers.pop(section)
            if section in self._missing:
                self._missing.remove(section)
            elif self._machine is not None:
                self._machine.set_slot(number, section.address, 0, 0, is_readonly=False)

    def is_mapped(self, address: int, size: int) -> bool:
        end = address + size
        return size == sum(
            min(each.address + each.size, end) - max(each.address, address)
            for each in self._numbers
            if each not in self._missing and each.address < end and address < each.address + each.size
        )


def _map(machine: VirtualMachine, section: Section, number: int) -> None:
    assert isinstance(section.backend, Backend)
    host_address = section.backend.address + section.offset
    machine.set_slot(number, section.address, section.size, host_address, is_readonly=section.readonly)
