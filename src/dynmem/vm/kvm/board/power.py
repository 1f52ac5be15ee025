"""How a guest turns its machine off or resets it.

It does so by the power management registers of ACPI, by the reset register, or by the keyboard controller, to
which the reset line of a PC is wired. Ports and values are those that the ACPI tables name.
"""

import enum
from collections.abc import Callable
from typing import Final

from dynmem.vm.kvm.acpi import FIRMWARE
from dynmem.vm.kvm.board.ports import ByteDevice

#: PM1a_EVT_BLK: status, and which of it interrupts.
PM1_EVENT_PORT: Final = FIRMWARE.pm1_event
PM1_EVENT_PORTS: Final = 4
#: PM1a_CNT_BLK.
PM1_CONTROL_PORT: Final = FIRMWARE.pm1_control
PM1_CONTROL_PORTS: Final = 2
#: The type of soft off in \\_S5.
SLEEP_TYPE_OFF: Final = FIRMWARE.power_off_type
#: RESET_REG.
RESET_PORT: Final = FIRMWARE.reset_port
KEYBOARD_DATA_PORT: Final = 0x60
KEYBOARD_COMMAND_PORT: Final = 0x64

_SCI_ENABLE: Final = 1 << 0
_SLEEP_TYPE_SHIFT: Final = 10
_SLEEP_TYPE_MASK: Final = 7 << _SLEEP_TYPE_SHIFT
_SLEEP_ENABLE: Final = 1 << 13
_RESET_CPU: Final = 1 << 2
# A command of 0xf0 to 0xff pulses the lines whose bits are clear; line 0 is the reset.
_PULSE: Final = 0xF0
_PULSE_KEEPS_RESET: Final = 1 << 0
# The system has passed its test; no key waits, and the controller takes the next byte at once.
_KEYBOARD_STATUS: Final = 0x04


class PowerRequest(enum.Enum):
    """What a guest asks of its machine."""

    RESET = enum.auto()
    POWER_OFF = enum.auto()


class PowerEvents(ByteDevice):
    """PM1 status and enable: nothing ever happens, since the machine has no buttons and no timer here."""

    def __init__(self) -> None:
        super().__init__(PM1_EVENT_PORTS)
        self._enable = bytearray(2)

    def reset(self) -> None:
        """Set it to its state after power on."""
        self._enable = bytearray(2)

    def read_byte(self, offset: int) -> int:
        return self._enable[offset - 2] if offset >= 2 else 0

    def write_byte(self, offset: int, value: int) -> None:
        if offset >= 2:
            self._enable[offset - 2] = value


class PowerControl:
    """PM1 control: the guest sets a type of sleep, and then the bit that starts it."""

    def __init__(self, requested: Callable[[PowerRequest], None]) -> None:
        self._requested: Final = requested
        self._sleep_type = 0

    def reset(self) -> None:
        """Set it to its state after power on."""
        self._sleep_type = 0

    def read(self, offset: int, size: int) -> int:
        # ACPI is always on: there is no port to turn it on with
        return (self._sleep_type | _SCI_ENABLE) >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        value <<= 8 * offset
        if offset + size < PM1_CONTROL_PORTS:
            return  # the low byte has nothing that could be changed
        self._sleep_type = value & _SLEEP_TYPE_MASK
        if value & _SLEEP_ENABLE and self._sleep_type == SLEEP_TYPE_OFF << _SLEEP_TYPE_SHIFT:
            self._requested(PowerRequest.POWER_OFF)


class ResetRegister(ByteDevice):
    """Port 0xcf9: the guest chooses a kind of reset, and then sets the bit that causes it."""

    def __init__(self, requested: Callable[[PowerRequest], None]) -> None:
        super().__init__(1)
        self._requested: Final = requested
        self._value = 0

    def reset(self) -> None:
        """Set it to its state after power on."""
        self._value = 0

    def read_byte(self, offset: int) -> int:
        return self._value

    def write_byte(self, offset: int, value: int) -> None:
        self._value = value & ~_RESET_CPU
        if value & _RESET_CPU:
            self._requested(PowerRequest.RESET)


class KeyboardData(ByteDevice):
    """Port 0x60: no keyboard is there to say anything."""

    def __init__(self) -> None:
        super().__init__(1)

    def read_byte(self, offset: int) -> int:
        return 0

    def write_byte(self, offset: int, value: int) -> None:
        pass


class KeyboardCommand(ByteDevice):
    """Port 0x64: of the controller's commands, those that pulse its output lines."""

    def __init__(self, requested: Callable[[PowerRequest], None]) -> None:
        super().__init__(1)
        self._requested: Final = requested

    def read_byte(self, offset: int) -> int:
        return _KEYBOARD_STATUS

    def write_byte(self, offset: int, value: int) -> None:
        if value >= _PULSE and not value & _PULSE_KEEPS_RESET:
            self._requested(PowerRequest.RESET)
