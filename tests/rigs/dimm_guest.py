"""A guest's ACPI driver on a board without a hypervisor: interrupt, events, methods, as kernels have them."""

import struct
from typing import Any

from tests.rigs.acpi_interpreter import Interpreter, Path
from tests.rigs.serial_line import Line

from dynmem.vm.kvm.acpi import FIRMWARE, tables
from dynmem.vm.kvm.board.board import Board
from dynmem.vm.kvm.board.dimm_slots import Ejected, Module, Reported

AT = 0xE0000
MEMORY_DEVICE = 0x800CD041  # PNP0C80
DEVICE_CHECK, EJECT_REQUEST = 1, 3
SCI = 9


def table(image: bytes, signature: bytes) -> bytes:
    """The table with this signature."""
    at = image.index(signature)
    return image[at : at + struct.unpack_from("<I", image, at + 4)[0]]


class DimmGuest:
    """A board with slots for DIMMs and the tables that describe it; what the guest did is in `acts`."""

    def __init__(self, slots: int) -> None:
        self.level = False
        self.acts: list[Ejected | Reported] = []
        self.board = Board(
            line=self._line, requested=lambda _: None, console=Line(), slots=slots, dimm_did=self.acts.append
        )
        self.ports, self.dimms = self.board.ports, self.board.dimms
        image = tables(AT, 1, FIRMWARE, slots)
        fadt = table(image, b"FACP")
        (self.events,) = struct.unpack_from("<I", fadt, 80)
        assert fadt[92] == 2
        self.acpi = Interpreter(table(image, b"DSDT")[36:], self.ports.read, self.ports.write)
        self.devices = self.acpi.devices(MEMORY_DEVICE)

    def _line(self, gsi: int, level: bool) -> None:
        if gsi == SCI:
            assert level != self.level
            self.level = level

    def enable(self) -> None:
        """Turn on every event that has a method, as a kernel that has scanned its devices does."""
        bits = [1 << each for each in range(8) if ("_GPE", f"_L{each:02X}") in self.acpi.objects]
        self.ports.write(self.events + 1, 1, sum(bits))

    def interrupted(self) -> list[tuple[int, int]]:
        """Serve the interrupt until its line is low; the slots that were notified, and of what.

        What is a level is off while it is served; its status is cleared when that is done.
        """
        self.acpi.notified.clear()
        while self.level:
            enabled = self.ports.read(self.events + 1, 1)
            happened = self.ports.read(self.events, 1) & enabled
            assert happened
            self.ports.write(self.events + 1, 1, enabled & ~happened)
            assert not self.level
            for number in (each for each in range(8) if happened & 1 << each):
                self.acpi.call(("_GPE", f"_L{number:02X}"))
            self.ports.write(self.events, 1, happened)
            self.ports.write(self.events + 1, 1, enabled)
        return [(self.devices.index(path), what) for path, what in self.acpi.notified]

    def is_there(self, slot: int) -> bool:
        """What _STA says: all of it, or nothing."""
        status = self.ask(slot, "_STA")
        assert status in (0, 0xF)
        return bool(status)

    def memory(self, slot: int) -> Module:
        """Where _CRS says that the memory is; all ends are fixed, and it is ordinary memory."""
        found = self.ask(slot, "_CRS")
        kind, length, what, flags, properties = struct.unpack_from("<BH3B", found)
        assert (kind, length, what, flags & 0xE, properties) == (0x8A, 43, 0, 0xC, 3)
        granularity, first, last, moved, size = struct.unpack_from("<5Q", found, 6)
        assert (granularity, moved, last + 1) == (0, 0, first + size)
        assert found[46:] == b"\x79\x00"
        return Module(first, size, self.ask(slot, "_PXM"))

    def ask(self, slot: int, name: str, *arguments: object) -> Any:
        """Run a method of a slot's device."""
        return self.acpi.call((*self.devices[slot], name), *arguments)

    def eject(self, slot: int) -> None:
        """Run _EJ0."""
        self.ask(slot, "_EJ0", 1)

    def report(self, slot: int, source: int, status: int) -> None:
        """Run _OST."""
        self.ask(slot, "_OST", source, status, bytearray())


def paths(names: list[Path]) -> list[str]:
    """Names as they are written."""
    return ["\\" + ".".join(name) for name in names]
