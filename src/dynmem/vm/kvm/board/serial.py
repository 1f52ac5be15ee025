"""The serial port of a PC: a 16550A, which sends and receives at once whatever rate its guest sets.

What the guest sends goes to the console, and what the console has for the guest waits there until the FIFO
is empty: nothing is lost when the guest is slow, as it would be on a real line. Break and parity do not
exist on this line, and whatever is plugged in at its other end is always ready.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from dynmem.vm.console.console import Console
from dynmem.vm.kvm.board.ports import ByteDevice

#: COM1, as the tables of ACPI and every kernel know it.
PORT: Final = 0x3F8
PORTS: Final = 8
GSI: Final = 4
FIFO_BYTES: Final = 16

# The registers, by offset. The first two are the divisor while the latch (in LCR) is open.
_DATA: Final = 0  # received, or to be sent
_IER: Final = 1  # which causes interrupt
_IIR: Final = 2  # the cause; written: FCR, control of the FIFOs
_LCR: Final = 3  # form of a character
_MCR: Final = 4  # lines to the other end
_LSR: Final = 5  # state of receiver and sender
_MSR: Final = 6  # lines from the other end
_SCRATCH: Final = 7

# Causes of an interrupt, as bits of IER.
_RECEIVED: Final = 0x01
_SENT: Final = 0x02
_OVERRUN: Final = 0x04
_MODEM: Final = 0x08
_CAUSES: Final = 0x0F
# The same as IIR names them, the first one that is there.
_PRIORITY: Final = ((_OVERRUN, 0x06), (_RECEIVED, 0x04), (_SENT, 0x02), (_MODEM, 0x00))
_NO_CAUSE: Final = 0x01
_IDENTITY: Final = tuple(
    next((name for cause, name in _PRIORITY if causes & cause), _NO_CAUSE) for causes in range(_CAUSES + 1)
)
_TIMEOUT: Final = 0x08  # with "received": fewer characters than the level
_FIFO_IS_ON: Final = 0xC0

_FCR_ON: Final = 0x01
_FCR_CLEAR_RECEIVER: Final = 0x02
_FCR_LEVELS: Final = (1, 4, 8, 14)

_LCR_LATCH: Final = 0x80

_MCR_LOOPBACK: Final = 0x10
_MCR_BITS: Final = 0x1F
# In loopback each output of MCR is an input of MSR: DTR is DSR, RTS is CTS, OUT1 is RI, OUT2 is DCD.
_LOOP: Final = ((0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80))
_MSR_READY: Final = 0xB0  # DCD, DSR and CTS
_MSR_RING: Final = 0x40
_MSR_CHANGES: Final = 0x0F

_LSR_RECEIVED: Final = 0x01
_LSR_OVERRUN: Final = 0x02
_LSR_IDLE: Final = 0x60  # all is sent

_DIVISOR: Final = 12  # 9600 baud; it changes nothing


class Serial(ByteDevice):
    """One port, with a console at its other end. `line` sets its interrupt, only when that changes."""

    def __init__(self, console: Console, line: Callable[[bool], None]) -> None:
        super().__init__(PORTS)
        self._console: Final = console
        self._line: Final = line
        self._is_raised = False
        self._fifo: Final[deque[int]] = deque()
        self._registers: Final = bytearray(PORTS)  # IER, LCR, MCR and SCRATCH as they were written
        self.reset()

    def reset(self) -> None:
        """Set it to its state after power on."""
        self._registers[:] = bytes(PORTS)
        self._divisor = _DIVISOR
        self._fifo.clear()
        self._fifo_bytes = 1
        self._level = 1
        self._modem = _MSR_READY
        self._pending = 0
        self._refill()
        self._update()

    def arrived(self) -> None:
        """Receive what has come from the console, as far as there is room."""
        self._refill()
        self._update()

    def read_byte(self, offset: int) -> int:
        if offset == _LSR:  # the first, since a kernel asks before each character that it sends
            return self._line_status()
        if offset <= _IER and self._registers[_LCR] & _LCR_LATCH:
            return self._divisor >> 8 * offset & 0xFF
        if offset == _DATA:
            return self._receive()
        if offset == _IIR:
            return self._identify()
        if offset == _MSR:
            return self._modem_status()
        return self._registers[offset]

    def write_byte(self, offset: int, value: int) -> None:
        if offset <= _IER and self._registers[_LCR] & _LCR_LATCH:
            self._divisor = self._divisor & 0xFF << 8 * (1 - offset) | value << 8 * offset
        elif offset == _DATA:
            self._send(value)
        elif offset == _IER:
            self._enable(value & _CAUSES)
        elif offset == _IIR:
            self._control_fifo(value)
        elif offset == _MCR:
            self._control_modem(value & _MCR_BITS)
        elif offset in (_LCR, _SCRATCH):
            self._registers[offset] = value

    # -- characters --

    def _send(self, value: int) -> None:
        if self._is_looped:
            self._loop_back(value)
        else:
            self._console.write(bytes((value,)))
        self._pending |= _SENT
        self._update()

    def _loop_back(self, value: int) -> None:
        """Receive a character of the guest's own, or lose it if there is no room."""
        if len(self._fifo) < self._fifo_bytes:
            self._fifo.append(value)
            self._pending |= _RECEIVED
        else:
            self._pending |= _OVERRUN

    def _receive(self) -> int:
        value = self._fifo.popleft() if self._fifo else 0
        self._refill()
        self._update()
        return value

    def _refill(self) -> None:
        if not self._fifo and not self._is_looped:
            self._fifo.extend(self._console.read(self._fifo_bytes))
        self._pending = self._pending & ~_RECEIVED | (_RECEIVED if self._fifo else 0)

    def _control_fifo(self, value: int) -> None:
        is_on, was_on = bool(value & _FCR_ON), self._fifo_bytes > 1
        if is_on != was_on or (is_on and value & _FCR_CLEAR_RECEIVER):
            self._fifo.clear()
        self._fifo_bytes = FIFO_BYTES if is_on else 1
        self._level = _FCR_LEVELS[value >> 6] if is_on else 1
        self._refill()
        self._update()

    # -- interrupts --

    def _enable(self, causes: int) -> None:
        if causes & _SENT & ~self._registers[_IER]:
            self._pending |= _SENT  # it is empty, which a driver that begins to send waits to hear
        self._registers[_IER] = causes
        self._update()

    def _identify(self) -> int:
        identity = _IDENTITY[self._pending & self._registers[_IER]]
        if identity == _IDENTITY[_SENT]:
            self._pending &= ~_SENT  # to name it is to acknowledge it
            self._update()
        elif identity == _IDENTITY[_RECEIVED] and len(self._fifo) < self._level:
            identity |= _TIMEOUT
        return identity | (_FIFO_IS_ON if self._fifo_bytes > 1 else 0)

    def _update(self) -> None:
        """Raise the line while there is a cause that is enabled."""
        is_raised = self._pending & self._registers[_IER] != 0
        if is_raised != self._is_raised:
            self._is_raised = is_raised
            self._line(is_raised)

    # -- states of the line --

    def _line_status(self) -> int:
        status = _LSR_IDLE | (_LSR_RECEIVED if self._fifo else 0)
        if self._pending & _OVERRUN:
            status |= _LSR_OVERRUN
            self._pending &= ~_OVERRUN
            self._update()
        return status

    @property
    def _is_looped(self) -> bool:
        return self._registers[_MCR] & _MCR_LOOPBACK != 0

    def _control_modem(self, value: int) -> None:
        self._registers[_MCR] = value
        lines = sum(into for out, into in _LOOP if value & out) if self._is_looped else _MSR_READY
        before = self._modem & ~_MSR_CHANGES
        changes = before ^ lines
        changes &= ~(lines & _MSR_RING)  # of the bell, only its end counts
        self._modem = lines | self._modem & _MSR_CHANGES | changes >> 4
        self._pending |= _MODEM if self._modem & _MSR_CHANGES else 0
        self._refill()
        self._update()

    def _modem_status(self) -> int:
        status = self._modem
        self._modem &= ~_MSR_CHANGES
        self._pending &= ~_MODEM
        self._update()
        return status
