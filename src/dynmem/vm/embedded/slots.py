"""The embedded guest's memory slots: a number for each section of the address space, and its state.

    section added --> sent --> mapped (the guest acknowledged it) --> leaving --> gone (acknowledged)

A number is used again only when the guest has acknowledged that it unmapped it: until then the two sides
could mean different memory by it. A guest that acknowledges nothing gets no memory that counts, and in the
end no slots; one that acknowledges what was not sent is noted. Only that guest waits for either.
"""

import enum
from typing import Final

from dynmem.limits import HARDWARE_SLOTS_MAX
from dynmem.memory.backend import Backend
from dynmem.space.address_space import Section
from dynmem.vm.embedded.hardware import Hardware
from dynmem.vm.faults import Faults
from dynmem.wire import hardware as wire


class _State(enum.Enum):
    WAITING = "waiting"  # for a number: there is none, or no guest
    SENT = "sent"
    MAPPED = "mapped"
    LEAVING = "leaving"


class _Slot:
    def __init__(self, section: Section) -> None:
        self.section = section
        self.state = _State.WAITING
        self.number = -1

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.section.address + self.section.size


class SlotMap:
    """The `MemorySlots` of the embedded guest."""

    name: Final = "embedded guest"
    slots_max: Final = HARDWARE_SLOTS_MAX

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._hardware: Hardware | None = None
        self._slots: dict[int, _Slot] = {}  # that are to be there, by address
        self._numbers: dict[int, _Slot] = {}  # that the guest knows or will, by number; leaving ones too

    @property
    def slots_free(self) -> int:
        """How many more sections can get a number."""
        waiting = sum(slot.state is _State.WAITING for slot in self._slots.values())
        return max(0, HARDWARE_SLOTS_MAX - len(self._numbers) - waiting)

    def connect(self, hardware: Hardware) -> None:
        """Send all sections to a new guest, before its start; boot memory, at address 0, is slot 0."""
        self.disconnect()
        self._hardware = hardware
        for _, slot in sorted(self._slots.items()):
            self._send(slot)
            slot.state = _State.MAPPED  # a guest maps what comes before its start, or it does not start

    def disconnect(self) -> None:
        """Forget the guest, which is gone with all that it had mapped."""
        self._hardware = None
        self._numbers.clear()
        for slot in self._slots.values():
            slot.state, slot.number = _State.WAITING, -1

    def section_added(self, section: Section) -> None:
        slot = self._slots[section.address] = _Slot(section)
        self._send(slot)

    def section_removed(self, section: Section) -> None:
        slot = self._slots.pop(section.address)
        if slot.state is _State.WAITING or self._hardware is None:
            return
        slot.state = _State.LEAVING
        if not self._hardware.unmap_slot(slot.number):
            self._free(slot)

    def acknowledged(self, message: wire.SlotMapped | wire.SlotUnmapped) -> None:
        """Record that the guest has mapped or unmapped a slot."""
        slot = self._numbers.get(message.slot)
        if slot is not None and isinstance(message, wire.SlotMapped) and slot.state is _State.SENT:
            slot.state = _State.MAPPED
        elif slot is not None and isinstance(message, wire.SlotUnmapped) and slot.state is _State.LEAVING:
            self._free(slot)
        elif slot is None or isinstance(message, wire.SlotUnmapped) or slot.state is not _State.LEAVING:
            # what it says of a slot that is leaving may have crossed our message
            self._faults.note(
                "slot", f"the guest acknowledged slot {message.slot}, which it was not asked to change"
            )

    def is_mapped(self, address: int, size: int) -> bool:
        end = address + size
        return size == sum(
            min(slot.end, end) - max(slot.section.address, address)
            for slot in self._slots.values()
            if slot.state is _State.MAPPED and slot.section.address < end and address < slot.end
        )

    def number_at(self, address: int) -> int | None:
        """Return the number of the slot at `address`; None if the guest does not know it."""
        slot = self._slots.get(address)
        return slot.number if slot is not None and slot.number >= 0 else None

    def address_of(self, number: int) -> int | None:
        """Return the address of the slot with `number`; None if there is none, or if it is leaving."""
        slot = self._numbers.get(number)
        return None if slot is None or slot.state is _State.LEAVING else slot.section.address

    def _send(self, slot: _Slot) -> None:
        if self._hardware is None or len(self._numbers) >= HARDWARE_SLOTS_MAX:
            return
        slot.number = next(number for number in range(HARDWARE_SLOTS_MAX) if number not in self._numbers)
        self._numbers[slot.number] = slot
        slot.state = _State.SENT
        section = slot.section
        assert isinstance(section.backend, Backend)
        # a file of its own where that can be: with its descriptor the guest can use all of the file
        ((fd, offset, size),) = section.backend.files(section.offset, section.size)
        self._hardware.map_slot(wire.MapSlot(slot.number, section.address, size, offset), fd)

    def _free(self, slot: _Slot) -> None:
        """Free its number, and send a section that waits for one."""
        del self._numbers[slot.number]
        waiting = [other for other in self._slots.values() if other.state is _State.WAITING]
        if waiting:
            self._send(waiting[0])
