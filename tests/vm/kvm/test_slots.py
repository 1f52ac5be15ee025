"""The guest's memory slots, which each life of it gets again."""

import errno
import threading
from collections.abc import Iterator

import pytest

from dynmem.memory.backend import Backend, MemfdBackend
from dynmem.space.address_space import Section
from dynmem.units import GIB, MIB
from dynmem.vm.faults import Faults
from dynmem.vm.kvm.slots import KvmSlots
from dynmem.vm.kvm.virtual_machine import VirtualMachine


class Machine(VirtualMachine):
    """It keeps what is mapped, up to a number of slots."""

    def __init__(self, most: int = 8) -> None:
        self.most = most
        self.mapped: dict[int, tuple[int, int, bool]] = {}

    def set_slot(self, number: int, address: int, size: int, host_address: int, *, is_readonly: bool) -> None:
        if not size:
            del self.mapped[number]
        elif len(self.mapped) < self.most:
            self.mapped[number] = address, size, is_readonly
        else:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")


@pytest.fixture
def backend() -> Iterator[Backend]:
    backend = MemfdBackend(4 * MIB, "slots")
    yield backend
    backend.close()


def section(backend: Backend, address: int, *, readonly: bool = False) -> Section:
    return Section(address, MIB, backend, 0, readonly=readonly, name="some")


def test_each_life_has_all_sections_in_slots_of_their_own(backend: Backend) -> None:
    slots = KvmSlots(8, Faults(lambda: 0))
    first, second, third = (section(backend, number * GIB, readonly=number == 2) for number in range(3))
    for each in (first, second, third):
        slots.section_added(each)
    slots.section_removed(second)
    slots.section_added(section(backend, 7 * GIB))
    assert slots.slots_free == 5
    for _ in range(2):
        machine = Machine()
        slots.connect(machine)
        assert machine.mapped == {0: (0, MIB, False), 1: (7 * GIB, MIB, False), 2: (2 * GIB, MIB, True)}
        slots.disconnect()


def test_what_kvm_refused_is_not_mapped_and_the_next_life_may_have_it(backend: Backend) -> None:
    faults = Faults(lambda: 0)
    slots = KvmSlots(8, faults)
    slots.connect(Machine(most=1))
    slots.section_added(section(backend, 0))
    slots.section_added(section(backend, GIB))
    assert [slots.is_mapped(address, MIB) for address in (0, GIB)] == [True, False]
    assert faults.counts == {"slot": 1}
    slots.disconnect()
    machine = Machine()
    slots.connect(machine)
    assert slots.is_mapped(GIB, MIB)
    slots.section_removed(section(backend, GIB))
    assert machine.mapped == {0: (0, MIB, False)}


class SlowMachine(Machine):
    """It maps nothing before it may."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()

    def set_slot(self, number: int, address: int, size: int, host_address: int, *, is_readonly: bool) -> None:
        self.has_begun.set()
        assert self.may_go_on.wait(60)
        super().set_slot(number, address, size, host_address, is_readonly=is_readonly)


def test_a_section_that_comes_while_a_life_begins_is_mapped_in_it(backend: Backend) -> None:
    slots, machine = KvmSlots(8, Faults(lambda: 0)), SlowMachine()
    slots.section_added(section(backend, 0))
    beginning = threading.Thread(target=slots.connect, args=(machine,))
    beginning.start()
    assert machine.has_begun.wait(60)
    coming = threading.Thread(target=slots.section_added, args=(section(backend, GIB),))
    coming.start()
    coming.join(0.05)
    machine.may_go_on.set()
    for thread in (beginning, coming):
        thread.join()
    assert machine.mapped == {0: (0, MIB, False), 1: (GIB, MIB, False)}


def test_memory_is_mapped_across_sections_that_meet(backend: Backend) -> None:
    slots = KvmSlots(8, Faults(lambda: 0))
    slots.section_added(section(backend, 0))
    slots.section_added(section(backend, MIB))
    assert slots.is_mapped(MIB // 2, MIB)
    assert not slots.is_mapped(MIB, MIB + 1)
