"""General purpose events of ACPI: what has happened, what of it interrupts, and the line that does.

An event lasts as long as its cause: writing its status changes nothing, and what ends the cause ends it.
"""

from collections.abc import Callable
from typing import Final

from dynmem.vm.kvm.acpi import FIRMWARE
from dynmem.vm.kvm.board.ports import ByteDevice

#: GPE0_BLK: status, and which of it interrupts.
PORT: Final = FIRMWARE.general_event
PORTS: Final = 2
#: The interrupt.
GSI: Final = FIRMWARE.sci


class GeneralEvents(ByteDevice):
    """The registers. `lasting` returns the bits of events that last; `set_line` sets the interrupt's line."""

    def __init__(self, lasting: Callable[[], int], set_line: Callable[[bool], None]) -> None:
        super().__init__(PORTS)
        self._lasting: Final = lasting
        self._set_line: Final = set_line
        self._enabled = 0
        self._level = False

    def reset(self) -> None:
        """Set them to their state after power on: nothing interrupts."""
        self._enabled = 0
        self.changed()

    def changed(self) -> None:
        """Set the line as events and registers are now."""
        level = bool(self._lasting() & self._enabled)
        if level != self._level:
            self._level = level
            self._set_line(level)

    def read_byte(self, offset: int) -> int:
        return self._enabled if offset else self._lasting()

    def write_byte(self, offset: int, value: int) -> None:
        if offset:
            self._enabled = value
            self.changed()
