"""The clock of a PC that runs without power (MC146818), and the memory beside it (CMOS).

It shows the host's clock, in UTC. A guest reads it when it starts and then counts for itself; what it writes
to the registers of time and date is ignored, and so is its alarm: the clock never interrupts. The other cells
keep what the guest writes, up to a reset.

The registers never change while a guest reads one after the other. They are taken from the host's clock
together, and taken again when the guest reads register A, or one of them for the second time, or a second
later; so no guest needs to wait for the end of an update, and "update in progress" is never set.
"""

import time
from collections.abc import Callable
from typing import Final

from dynmem.vm.kvm.board.ports import ByteDevice

#: The first of its two ports: index and data.
PORT: Final = 0x70
PORTS: Final = 2
#: The cell of the century, which the FADT names.
CENTURY: Final = 0x32

_SECONDS: Final = 0x00
_MINUTES: Final = 0x02
_HOURS: Final = 0x04
_WEEKDAY: Final = 0x06
_DAY: Final = 0x07
_MONTH: Final = 0x08
_YEAR: Final = 0x09
_A: Final = 0x0A
_B: Final = 0x0B
_C: Final = 0x0C
_D: Final = 0x0D
_CELLS: Final = 0x80

_A_NORMAL: Final = 0x26  # a crystal of 32768 Hz, 1024 periodic interrupts a second
_A_UPDATE_IN_PROGRESS: Final = 0x80
_B_BINARY: Final = 0x04
_B_24_HOURS: Final = 0x02
_D_VALID: Final = 0x80  # the battery is good
_PM: Final = 0x80  # of the hours, with 12 of them


class Rtc(ByteDevice):
    """The clock and its memory. `now` returns seconds since 1970, as `time.time` does."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        super().__init__(PORTS)
        self._now: Final = now
        self._index: int
        self._cells: bytearray
        self._taken: dict[int, int]
        self._taken_at = 0.0
        self.reset()

    def reset(self) -> None:
        """Set it to its state after power on."""
        self._index = 0
        self._cells = bytearray(_CELLS)
        self._cells[_A] = _A_NORMAL
        self._cells[_B] = _B_24_HOURS
        self._taken = {}

    def read_byte(self, offset: int) -> int:
        if offset == 0:
            return 0xFF  # the index can only be written
        index = self._index
        if index in _TIMES:
            now = self._now()
            if index not in self._taken or not 0 <= now - self._taken_at < 1:
                self._taken, self._taken_at = _registers(time.gmtime(now)), now
            return self._encoded(index, self._taken.pop(index))
        if index == _A:
            self._taken = {}
        return _D_VALID if index == _D else self._cells[index]

    def write_byte(self, offset: int, value: int) -> None:
        if offset == 0:
            self._index = value & _CELLS - 1  # the highest bit holds back the NMI, of which there is none
        elif self._index == _A:
            self._cells[_A] = value & ~_A_UPDATE_IN_PROGRESS
        elif self._index not in (_C, _D):
            self._cells[self._index] = value

    def _encoded(self, index: int, value: int) -> int:
        """Return the number that a register holds, as register B asks for it."""
        afternoon = 0
        if index == _HOURS and not self._cells[_B] & _B_24_HOURS:
            afternoon = _PM if value >= 12 else 0
            value = value % 12 or 12
        # Linux takes the century for BCD, whatever register B says
        if index == CENTURY or not self._cells[_B] & _B_BINARY:
            value = value // 10 << 4 | value % 10
        return value | afternoon


_TIMES: Final = frozenset((_SECONDS, _MINUTES, _HOURS, _WEEKDAY, _DAY, _MONTH, _YEAR, CENTURY))


def _registers(date: time.struct_time) -> dict[int, int]:
    """Return the numbers of the registers of time and date at this moment."""
    return {
        _SECONDS: min(date.tm_sec, 59),
        _MINUTES: date.tm_min,
        _HOURS: date.tm_hour,
        _WEEKDAY: (date.tm_wday + 1) % 7 + 1,  # Monday is 0 there, Sunday is 1 here
        _DAY: date.tm_mday,
        _MONTH: date.tm_mon,
        _YEAR: date.tm_year % 100,
        CENTURY: date.tm_year // 100,
    }
