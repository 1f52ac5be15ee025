"""What one virtual machine asks of KVM, request by request, on this machine's own /dev/kvm."""

import ctypes
import mmap
import os
from collections.abc import Iterator

import pytest
from tests.rigs.mini_guest import needs_kvm

from dynmem.vm.kvm import api
from dynmem.vm.kvm.host import DEVICE
from dynmem.vm.kvm.virtual_machine import VirtualMachine

pytestmark = needs_kvm

SINT = 2


class Scene:
    """A machine, and what it has asked for since it was made."""

    def __init__(self, kvm: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[int] = []
        self.regions: list[api.MemoryRegion] = []
        self.routes: list[api.RoutingEntry] = []  # of messages
        self.machine = VirtualMachine(kvm)
        call = api.call

        def seen(fd: int, request: int, argument: api.Argument = 0) -> int:
            self.requests.append(request)
            if isinstance(argument, api.MemoryRegion):
                self.regions.append(argument)
            if request == api.SET_GSI_ROUTING:
                assert not isinstance(argument, int)
                self._routed(bytes(argument))
            return call(fd, request, argument)

        monkeypatch.setattr(api, "call", seen)

    def _routed(self, table: bytes) -> None:
        size = ctypes.sizeof(api.RoutingEntry)
        entries = [api.RoutingEntry.from_buffer_copy(table, at) for at in range(8, len(table), size)]
        self.routes = [entry for entry in entries if entry.type == api.IRQ_ROUTING_MSI]

    def vectors(self) -> list[tuple[int, int]]:
        """The processor and the vector of each route."""
        return [(entry.u.msi.address_lo >> 12 & 0xFF, entry.u.msi.data) for entry in self.routes]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    kvm = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    scene = Scene(kvm, monkeypatch)
    yield scene
    scene.machine.close()
    os.close(kvm)


def test_an_interrupt_has_a_descriptor_of_its_own_whose_vector_can_be_changed(scene: Scene) -> None:
    first = scene.machine.route(0, SINT, 0x40)
    second = scene.machine.route(1, SINT, 0x41)
    assert first != second
    assert scene.machine.route(0, SINT, 0x42) == first
    assert scene.vectors() == [(0, 0x42), (1, 0x41)]
    assert scene.requests.count(api.IRQFD) == 2


def test_a_vector_that_stays_is_not_routed_again(scene: Scene) -> None:
    scene.machine.route(0, SINT, 0x40)
    scene.requests.clear()
    scene.machine.route(0, SINT, 0x40)
    assert scene.requests == []


@pytest.mark.parametrize("is_readonly", [False, True])
def test_a_slot_is_mapped_as_its_memory_may_be_used(scene: Scene, is_readonly: bool) -> None:
    with mmap.mmap(-1, mmap.PAGESIZE) as memory:
        place = ctypes.c_char.from_buffer(memory)
        scene.machine.set_slot(3, 1 << 20, mmap.PAGESIZE, ctypes.addressof(place), is_readonly=is_readonly)
        scene.machine.set_slot(3, 1 << 20, 0, 0, is_readonly=False)
        del place
    mapped, unmapped = scene.regions
    assert (mapped.slot, mapped.guest_phys_addr, mapped.memory_size) == (3, 1 << 20, mmap.PAGESIZE)
    assert bool(mapped.flags & api.MEM_READONLY) is is_readonly
    assert (unmapped.slot, unmapped.memory_size) == (3, 0)
