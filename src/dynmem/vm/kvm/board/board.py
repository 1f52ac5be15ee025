"""The board of a PC: its devices on I/O ports, each behind the ports where every kernel looks for it.

There is no PCI, no disk and no keyboard: interrupt controllers and timer are those of KVM, and the devices of
the guest are on VMBus.
"""

import time
from collections.abc import Callable
from typing import Final

from dynmem.vm.console.console import Console
from dynmem.vm.kvm import acpi_dimms
from dynmem.vm.kvm.board import dimm_slots, general_events, power, rtc, serial
from dynmem.vm.kvm.board.dimm_slots import DimmSlots, Ejected, Reported
from dynmem.vm.kvm.board.general_events import GeneralEvents
from dynmem.vm.kvm.board.ports import Ports
from dynmem.vm.kvm.board.power import PowerRequest


class Board:
    """The devices of one machine. `reset` may be called on any thread.

    Attributes:
        ports: What the vCPU threads read and write.
        dimms: What is in the slots for DIMMs. Whoever calls it holds the lock of the ports.

    """

    def __init__(
        self,
        *,
        line: Callable[[int, bool], None],
        requested: Callable[[PowerRequest], None],
        console: Console,
        now: Callable[[], float] = time.time,
        slots: int = 0,
        dimm_did: Callable[[Ejected | Reported], None] = lambda _: None,
    ) -> None:
        """Make the devices, in their state after power on, and connect the console.

        Args:
            line: Sets a line of the interrupt controllers, by its number.
            requested: Called when the guest asks for a reset or to be switched off, once up to the next
                `reset`.
            console: What the serial port is connected to.
            now: The time of day, in seconds since 1970.
            slots: How many slots for DIMMs there are.
            dimm_did: Called with what the guest did to a DIMM.

        `line`, `requested` and `dimm_did` are called on whatever thread has touched a port, with the lock of
        the ports held: they must return at once, and touch no port.

        """
        self.ports: Final = Ports()
        self._requested: Final = requested
        self._has_asked = False
        self._serial: Final = serial.Serial(console, lambda level: line(serial.GSI, level))
        self._rtc: Final = rtc.Rtc(now)
        self._events: Final = power.PowerEvents()
        self._control: Final = power.PowerControl(self._ask)
        self._reset_register: Final = power.ResetRegister(self._ask)
        add = self.ports.add
        add(serial.PORT, serial.PORTS, self._serial)
        add(rtc.PORT, rtc.PORTS, self._rtc)
        add(power.PM1_EVENT_PORT, power.PM1_EVENT_PORTS, self._events)
        add(power.PM1_CONTROL_PORT, power.PM1_CONTROL_PORTS, self._control)
        add(power.RESET_PORT, 1, self._reset_register)
        add(power.KEYBOARD_DATA_PORT, 1, power.KeyboardData())
        add(power.KEYBOARD_COMMAND_PORT, 1, power.KeyboardCommand(self._ask))
        self._general: Final = GeneralEvents(
            self._lasting_events, lambda level: line(general_events.GSI, level)
        )
        self.dimms: Final = DimmSlots(slots, changed=self._general.changed, did=dimm_did)
        if slots:
            add(general_events.PORT, general_events.PORTS, self._general)
            add(dimm_slots.PORT, acpi_dimms.PORTS, self.dimms)
        console.connect(self._arrived)

    def reset(self) -> None:
        """Set all devices to their state after power on. The console stays connected."""
        with self.ports.lock:
            self._has_asked = False
            for device in (self._serial, self._rtc, self._events, self._control, self._reset_register):
                device.reset()
            self.dimms.reset()
            self._general.reset()

    def _lasting_events(self) -> int:
        return self.dimms.has_news << acpi_dimms.EVENT

    def _arrived(self) -> None:
        with self.ports.lock:
            self._serial.arrived()

    def _ask(self, request: PowerRequest) -> None:
        if not self._has_asked:
            self._has_asked = True
            self._requested(request)
