"""The registers by which a guest learns which DIMMs there are and lets them go; `acpi_dimms` has their code.

    empty    insert ->                   shown, or held if the guest is not done with what was there before
    held     the guest is done ->        shown
    shown    the guest ejects it ->      hidden: it is for the machine to remove, and then the slot is empty
    hidden   a reset ->                  shown: the next guest finds what the machine still has

A guest that has said of an ejection that it is in progress says when it is done. Before that it looks whether
the slot is empty: a Linux that finds another DIMM there takes it for the ejected one, and never uses it.

The processors' threads read and write the registers, with the lock of the ports held; the machine holds it,
too, for whatever it calls here.
"""

import enum
from collections.abc import Callable
from typing import Final, NamedTuple

from dynmem.limits import VM_DIMM_REPORTS_MAX
from dynmem.vm.kvm.acpi import FIRMWARE
from dynmem.vm.kvm.acpi_dimms import (
    ADDRESS,
    EJECT,
    EJECTIONS,
    HAS_COME,
    IN_PROGRESS,
    IS_THERE,
    IS_TO_GO,
    NODE,
    PORTS,
    SELECTED,
    SIZE,
    SOURCE,
    STATE,
    STATUS,
)

PORT: Final = FIRMWARE.dimms
_DWORD: Final = 0xFFFF_FFFF


class Module(NamedTuple):
    """What a slot holds: address and bytes of its memory, and its node."""

    address: int
    size: int
    node: int


class Ejected(NamedTuple):
    """The guest has ejected what is in a slot."""

    slot: int


class Reported(NamedTuple):
    """The guest reports what came of an event (_OST): which one, and its status."""

    slot: int
    source: int
    status: int


class _Stage(enum.Enum):
    """What a guest finds of a module."""

    SHOWN = enum.auto()
    HELD = enum.auto()  # nothing, before it is done with another
    HIDDEN = enum.auto()  # nothing, before a reset


class _Slot:
    """One slot."""

    def __init__(self) -> None:
        self.module: Module | None = None
        self.stage = _Stage.SHOWN
        self.news = 0  # HAS_COME, IS_TO_GO
        self.source = 0  # that the guest is about to report on
        self.reports = 0  # since something happened to the slot
        self.is_ejecting = False  # as the guest has said
        self.is_awaited = False  # its word that it is done

    @property
    def shown(self) -> Module | None:
        """What the guest finds in it."""
        return self.module if self.stage is _Stage.SHOWN else None

    @property
    def has_news(self) -> bool:
        """Whether the guest is to look at it."""
        return self.shown is not None and self.news > 0

    def begin(self) -> None:
        """Record that something has happened to it."""
        self.reports = 0
        self.is_ejecting = False


class DimmSlots:
    """The registers of all slots; a `ports.PortDevice`.

    Args:
        count: How many slots there are.
        changed: Called when the event has begun or ended.
        did: Called with what the guest did, up to VM_DIMM_REPORTS_MAX reports of a slot between two things
            that happen to it.

    """

    def __init__(
        self, count: int, *, changed: Callable[[], None], did: Callable[[Ejected | Reported], None]
    ) -> None:
        self._slots: Final = [_Slot() for _ in range(count)]
        self._changed: Final = changed
        self._did: Final = did
        self._selected = 0

    @property
    def has_news(self) -> bool:
        """Whether something has happened that the guest has not looked at."""
        return any(slot.has_news for slot in self._slots)

    def reset(self) -> None:
        """Show the next guest what there is; it has heard of nothing."""
        self._selected = 0
        for slot in self._slots:
            slot.begin()
            slot.stage = _Stage.SHOWN
            slot.is_awaited = False
            slot.source = slot.news = 0
        self._changed()

    # the machine's

    def insert(self, number: int, module: Module, *, is_news: bool, is_shown: bool = True) -> None:
        """Put a module into an empty slot. `is_shown` off: the guest finds it after the next reset."""
        slot = self._slots[number]
        assert slot.module is None
        slot.begin()
        slot.module = module
        slot.news = HAS_COME if is_news else 0
        slot.stage = _Stage.HELD if slot.is_awaited else _Stage.SHOWN
        if not is_shown:
            slot.stage = _Stage.HIDDEN
        self._changed()

    def request(self, number: int) -> bool:
        """Ask the guest to eject what is in a slot; False if it will find nothing there."""
        slot = self._slots[number]
        if slot.module is None or slot.stage is _Stage.HIDDEN:
            return False
        slot.begin()
        slot.news |= IS_TO_GO
        self._changed()
        return True

    def remove(self, number: int) -> None:
        """Empty a slot, after the guest has ejected what was in it."""
        slot = self._slots[number]
        assert slot.stage is _Stage.HIDDEN
        slot.module = None

    # the guest's

    def read(self, offset: int, size: int) -> int:
        image = self._image()
        return int.from_bytes(image[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == SELECTED:
            self._selected = value
        elif self._selected < len(self._slots):
            slot = self._slots[self._selected]
            if offset == SOURCE:
                slot.source = value
            elif offset == STATUS:
                self._report(slot, value)
            elif offset == STATE:
                self._control(slot, value)

    def _image(self) -> bytes:
        """Return the registers of the selected slot, as they are read; zeros where there is no such slot."""
        image = bytearray(PORTS)
        if self._selected >= len(self._slots):
            return bytes(image)
        slot = self._slots[self._selected]
        if slot.shown is not None:
            image[ADDRESS:SIZE] = slot.shown.address.to_bytes(8, "little")
            image[SIZE:NODE] = slot.shown.size.to_bytes(8, "little")
            image[NODE:STATE] = slot.shown.node.to_bytes(4, "little")
            image[STATE] = IS_THERE | slot.news
        return bytes(image)

    def _report(self, slot: _Slot, status: int) -> None:
        if slot.source in EJECTIONS:
            slot.is_ejecting = status == IN_PROGRESS
            slot.is_awaited = False
            if slot.stage is _Stage.HELD:
                slot.stage = _Stage.SHOWN
                self._changed()
        if slot.reports < VM_DIMM_REPORTS_MAX:
            slot.reports += 1
            self._did(Reported(self._selected, slot.source, status))

    def _control(self, slot: _Slot, value: int) -> None:
        if slot.shown is None:
            return
        slot.news &= ~(value & (HAS_COME | IS_TO_GO))
        if value & EJECT:
            slot.is_awaited = slot.is_ejecting
            slot.begin()
            slot.stage = _Stage.HIDDEN
            slot.news = 0
            self._did(Ejected(self._selected))
        self._changed()
