"""Memory slots of the embedded guest: numbers, acknowledgements, and guests that do not keep to them."""

from collections.abc import Callable, Coroutine
from typing import Any

from tests.rigs.scenes import play

from dynmem.limits import HARDWARE_SLOTS_MAX
from dynmem.memory.backend import MemfdBackend
from dynmem.space.address_space import Section
from dynmem.units import MIB
from dynmem.vm.embedded.hardware import Hardware
from dynmem.vm.embedded.slots import SlotMap
from dynmem.vm.faults import Faults
from dynmem.wire import hardware as wire

SIZE = 128 * MIB
BACKEND = MemfdBackend(HARDWARE_SLOTS_MAX * SIZE)


def section(index: int) -> Section:
    """The piece of memory that lies at `index` times 128 MiB."""
    return Section(index * SIZE, SIZE, BACKEND, index * SIZE, False, "m")


class Rig:
    def __init__(self) -> None:
        self.faults = Faults(lambda: 0)
        self.slots = SlotMap(self.faults)
        self.hardware = Hardware(lambda: None)
        self.hardware.guest_end.setblocking(False)

    def heard(self) -> list[wire.Message]:
        """What has arrived at the guest."""
        found = []
        while True:
            try:
                found.append(wire.decode(self.hardware.guest_end.recv(100)))
            except BlockingIOError:
                return found

    def start(self, *indexes: int) -> None:
        """A guest with these pieces at boot."""
        for index in indexes:
            self.slots.section_added(section(index))
        self.slots.connect(self.hardware)
        self.heard()


def with_rig(scene: Callable[[Rig], None]) -> None:
    async def run() -> None:
        rig = Rig()
        scene(rig)
        rig.hardware.close()

    steps: Coroutine[Any, Any, None] = run()
    play(steps)


def test_what_is_mapped_at_boot_needs_no_acknowledgement_and_boot_memory_is_slot_0() -> None:
    def scene(rig: Rig) -> None:
        rig.slots.section_added(section(5))
        rig.slots.section_added(section(0))
        assert not rig.slots.is_mapped(0, SIZE)
        rig.slots.connect(rig.hardware)
        assert rig.heard() == [wire.MapSlot(0, 0, SIZE, 0), wire.MapSlot(1, 5 * SIZE, SIZE, 5 * SIZE)]
        assert rig.slots.is_mapped(0, SIZE)
        assert (rig.slots.number_at(0), rig.slots.number_at(5 * SIZE)) == (0, 1)

    with_rig(scene)


def test_what_comes_later_counts_when_the_guest_has_acknowledged_all_of_it() -> None:
    def scene(rig: Rig) -> None:
        rig.start(0)
        rig.slots.section_added(section(5))
        rig.slots.section_added(section(6))
        rig.slots.acknowledged(wire.SlotMapped(2))
        assert not rig.slots.is_mapped(5 * SIZE, 2 * SIZE)
        assert rig.slots.is_mapped(6 * SIZE + MIB, MIB)
        rig.slots.acknowledged(wire.SlotMapped(1))
        assert rig.slots.is_mapped(5 * SIZE, 2 * SIZE)
        assert rig.slots.is_mapped(6 * SIZE - MIB, 2 * MIB)
        assert not rig.slots.is_mapped(6 * SIZE, 2 * SIZE)
        assert rig.faults.counts == {}

    with_rig(scene)


def test_a_number_is_used_again_only_when_the_guest_has_let_go_of_it() -> None:
    def scene(rig: Rig) -> None:
        rig.start(0)
        rig.slots.section_added(section(5))
        rig.slots.acknowledged(wire.SlotMapped(1))
        rig.slots.section_removed(section(5))
        assert not rig.slots.is_mapped(5 * SIZE, SIZE)
        rig.slots.section_added(section(5))
        assert rig.slots.number_at(5 * SIZE) == 2
        assert rig.slots.slots_free == HARDWARE_SLOTS_MAX - 3
        rig.slots.acknowledged(wire.SlotUnmapped(1))
        assert rig.slots.slots_free == HARDWARE_SLOTS_MAX - 2
        rig.slots.section_added(section(7))
        assert rig.slots.number_at(7 * SIZE) == 1

    with_rig(scene)


def test_a_guest_that_never_lets_go_runs_out_of_slots_and_its_next_memory_waits() -> None:
    def scene(rig: Rig) -> None:
        rig.start(0)
        for _ in range(HARDWARE_SLOTS_MAX - 1):
            rig.slots.section_added(section(5))
            rig.heard()
            rig.slots.section_removed(section(5))
        assert rig.slots.slots_free == 0
        rig.slots.section_added(section(5))
        assert rig.slots.number_at(5 * SIZE) is None
        rig.heard()
        rig.slots.acknowledged(wire.SlotUnmapped(7))
        assert rig.heard() == [wire.MapSlot(7, 5 * SIZE, SIZE, 5 * SIZE)]
        rig.slots.acknowledged(wire.SlotMapped(7))
        assert rig.slots.is_mapped(5 * SIZE, SIZE)

    with_rig(scene)


def test_answers_that_nobody_asked_for_are_noted_and_change_nothing() -> None:
    def scene(rig: Rig) -> None:
        rig.start(0)
        rig.slots.section_added(section(5))
        wrong = (wire.SlotMapped(0), wire.SlotMapped(9), wire.SlotUnmapped(1), wire.SlotUnmapped(400))
        for message in wrong:
            rig.slots.acknowledged(message)
        assert rig.faults.counts == {"slot": len(wrong)}
        assert not rig.slots.is_mapped(5 * SIZE, SIZE)
        rig.slots.section_removed(section(5))
        rig.slots.acknowledged(wire.SlotMapped(1))  # it crossed the message that takes the slot away
        assert not rig.slots.is_mapped(5 * SIZE, SIZE)
        assert rig.faults.counts == {"slot": len(wrong)}

    with_rig(scene)


def test_another_guest_begins_with_all_that_is_there_and_owes_no_answer() -> None:
    def scene(rig: Rig) -> None:
        rig.start(0)
        rig.slots.section_added(section(5))
        rig.slots.section_added(section(6))
        rig.slots.section_removed(section(6))
        rig.slots.disconnect()
        assert not rig.slots.is_mapped(0, SIZE)
        rig.slots.section_added(section(7))
        other = Hardware(lambda: None)
        rig.slots.connect(other)
        assert [rig.slots.number_at(index * SIZE) for index in (0, 5, 6, 7)] == [0, 1, None, 2]
        assert rig.slots.is_mapped(5 * SIZE, SIZE)
        rig.slots.section_removed(section(7))
        other.close()

    with_rig(scene)
