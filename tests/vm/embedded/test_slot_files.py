"""A guest that takes all it can with the descriptors that it was given takes no more than what is plugged."""

import errno
import os
import socket

import pytest
from tests.rigs.added_memory import BASE, Plugged
from tests.rigs.scenes import play

from dynmem.memory import system_calls
from dynmem.memory.backend import Backend
from dynmem.units import GIB, MIB, PAGE_SHIFT
from dynmem.vm.embedded.hardware import Hardware
from dynmem.vm.embedded.slots import SlotMap
from dynmem.vm.faults import Faults

SLOT = 128 * MIB


def received_for(plugged: Plugged, pages: int) -> int:
    """Add so much to a guest; return the descriptor that it gets."""
    slots, hardware = SlotMap(Faults(lambda: 0)), Hardware(lambda: None)
    slots.connect(hardware)
    plugged.space.listen(slots)
    assert plugged.memory.reserve(pages, 1, (BASE + plugged.backend.size) >> PAGE_SHIFT) is not None
    _, (descriptor,), _, _ = socket.recv_fds(hardware.guest_end, 100, 2)
    plugged.space.forget(slots)
    hardware.close()
    return descriptor


def test_it_can_allocate_the_slot_and_not_a_byte_more() -> None:
    async def scene() -> None:
        plugged = Plugged(GIB)
        descriptor = received_for(plugged, 10)
        try:
            assert system_calls.allocate(descriptor, 0, SLOT) == 0
            assert plugged.backend.resident_bytes() == SLOT
            assert system_calls.allocate(descriptor, SLOT, 4096) == errno.EPERM  # sealed
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, GIB)
            assert plugged.backend.resident_bytes() == SLOT
        finally:
            os.close(descriptor)

    play(scene())


def test_with_one_file_for_all_slots_it_could_allocate_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backend, "cut", lambda _self, _size: None)

    async def scene() -> None:
        plugged = Plugged(GIB)
        descriptor = received_for(plugged, 10)
        try:
            assert system_calls.allocate(descriptor, GIB - MIB, MIB) == 0
            assert plugged.backend.resident_bytes() == MIB
        finally:
            os.close(descriptor)

    play(scene())
