"""What ACPI says of DIMMs: a device for each slot, and code that reads from the board what is in it.

The registers are those of QEMU's memory hotplug. Only a guest's ACPI interpreter uses them: it runs the
methods below.

    a DIMM comes       general event 3 -> SCAN -> Notify(device, 1) -> the guest reads _STA and _CRS
    it is to go        general event 3 -> SCAN -> Notify(device, 3) -> the guest frees it, and calls _EJ0
    what came of it    the guest calls _OST

An event stays until SCAN has served each slot that it was raised for, so none is lost however early it comes:
that is what a level (_L03) means, where QEMU has an edge. And a DIMM is not there (_STA) before SCAN has
announced it, so a Linux that starts meets it once.

Source: ACPI specification 5.6.4 (general purpose events), 6.1.8, 6.3 and 9.11 (memory devices); for the
registers QEMU docs/specs/acpi_mem_hotplug.rst.
"""

from collections.abc import Iterator
from typing import Final

from dynmem.vm.kvm import aml
from dynmem.vm.kvm import aml_methods as code
from dynmem.vm.kvm.aml_methods import Register

#: The bit of the general purpose events that DIMMs have.
EVENT: Final = 3
#: The ports of the registers, from the first on.
PORTS: Final = 24
#: Registers of the slot that is selected, by their place. Read:
ADDRESS, SIZE, NODE, STATE = 0, 8, 16, 20
#: Written: which slot that is, and what _OST is called with. Not all of it is in the same place.
SELECTED, SOURCE, STATUS = 0, 4, 8
#: Bits of STATE. Read: a DIMM is there, has come, is to go; written: the guest has seen that; it ejects it.
IS_THERE, HAS_COME, IS_TO_GO, EJECT = 1 << 0, 1 << 1, 1 << 2, 1 << 3
#: What SOURCE has of an ejection, on request or by the guest itself, and STATUS of one that has begun.
EJECTIONS: Final = (0x3, 0x103)
IN_PROGRESS: Final = 0x84

_MEMORY_DEVICE: Final = "PNP0C80"
_BOARD_RESOURCES: Final = "PNP0C02"
_CONTROLLER: Final = "DIMC"
_PRESENT_AND_WORKS: Final = 0xF
_DEVICE_CHECK, _EJECT_REQUEST = 1, 3

# what methods call: registers and each other
_SLOT, _FIRST, _BYTES, _NODE, _SOURCE, _STATUS = (
    aml.segment(name) for name in ("SLOT", "BASE", "SIZE", "NODE", "SRCE", "STAT")
)
_IS_THERE, _HAS_COME, _IS_TO_GO, _EJECT = (aml.segment(name) for name in ("HERE", "CAME", "GOES", "EJCT"))
_LOCK: Final = "DLCK"
_ARGUMENT: Final = code.argument(0)
_VALUE: Final = code.local(0)


def controller(first_port: int, slots: int) -> bytes:
    """Return the device with the registers, and below it a device for each slot."""
    return aml.device(
        _CONTROLLER,
        aml.name("_HID", aml.eisa_id(_BOARD_RESOURCES)),
        aml.name("_UID", aml.string("DIMM slots")),
        aml.name("_CRS", aml.resources(aml.io_ports(first_port, PORTS))),
        *_registers(first_port),
        code.mutex(_LOCK),
        *_methods(),
        _notification(slots),
        _scan(slots),
        *(_device(slot) for slot in range(slots)),
    )


def event() -> bytes:
    """Return the method that serves the general purpose event."""
    return aml.scope("_GPE", code.method(f"_L{EVENT:02X}", 0, code.path("_SB", _CONTROLLER, "SCAN")))


def _registers(first_port: int) -> Iterator[bytes]:
    yield code.ports("REGS", first_port, PORTS)
    read = [Register("BASE", 64), Register("SIZE", 64), Register("NODE", 32)]
    yield code.registers("REGS", code.BY_DWORDS, read)
    written = [Register("SLOT", 32), Register("SRCE", 32), Register("STAT", 32)]
    yield code.registers("REGS", code.BY_DWORDS, written)
    bits = [Register(name, 1) for name in ("HERE", "CAME", "GOES", "EJCT")]
    yield code.registers("REGS", code.BY_BYTES_OTHERS_ZERO, [Register("", 8 * STATE), *bits])


def _methods() -> Iterator[bytes]:
    """Yield what the devices' methods call, with the slot as the first argument."""
    select = code.store(_ARGUMENT, _SLOT)
    here, absent = (code.store(aml.integer(value), _VALUE) for value in (_PRESENT_AND_WORKS, 0))
    if_there = code.when(_IS_THERE, here, otherwise=[absent])
    yield code.method(
        "GSTA",
        1,
        code.holding(_LOCK, select, code.when(_HAS_COME, absent, otherwise=[if_there])),
        code.give(_VALUE),
    )
    yield code.method("GPXM", 1, code.holding(_LOCK, select, code.store(_NODE, _VALUE)), code.give(_VALUE))
    first, last, number = (aml.segment(name) for name in ("FRST", "LAST", "NMBR"))
    yield code.method(
        "GCRS",
        1,
        aml.name("DESC", aml.resources(aml.addresses())),
        code.qword_of(aml.segment("DESC"), aml.FIRST, "FRST"),
        code.qword_of(aml.segment("DESC"), aml.LAST, "LAST"),
        code.qword_of(aml.segment("DESC"), aml.NUMBER, "NMBR"),
        code.holding(_LOCK, select, code.store(_FIRST, first), code.store(_BYTES, number)),
        code.subtract(code.add(first, number), aml.integer(1), last),
        code.give(aml.segment("DESC")),
    )
    yield code.method(
        "DOST",
        3,
        code.holding(
            _LOCK,
            select,
            code.store(code.argument(1), _SOURCE),
            code.store(code.argument(2), _STATUS),
        ),
    )
    yield code.method("DEJ0", 1, code.holding(_LOCK, select, code.store(aml.integer(1), _EJECT)))


def _notification(slots: int) -> bytes:
    """Return the method that notifies the device in a slot."""
    return code.method(
        "NTFY",
        2,
        *(
            code.when(
                code.equal(_ARGUMENT, aml.integer(slot)),
                code.notify(aml.segment(_name(slot)), code.argument(1)),
            )
            for slot in range(slots)
        ),
    )


def _scan(slots: int) -> bytes:
    """Return the method that serves what has happened to each slot."""

    def served(what: int, bit: bytes) -> tuple[bytes, bytes]:
        return code.call(aml.segment("NTFY"), _VALUE, aml.integer(what)), code.store(aml.integer(1), bit)

    one = (
        code.store(_VALUE, _SLOT),
        code.when(
            _HAS_COME,
            *served(_DEVICE_CHECK, _HAS_COME),
            otherwise=[code.when(_IS_TO_GO, *served(_EJECT_REQUEST, _IS_TO_GO))],
        ),
        code.increment(_VALUE),
    )
    every = code.repeat(code.less(_VALUE, aml.integer(slots)), *one)
    return code.method("SCAN", 0, code.store(aml.integer(0), _VALUE), code.holding(_LOCK, every))


def _device(slot: int) -> bytes:
    """Return the memory device of a slot."""

    def asks(name: str) -> bytes:
        return code.call(aml.segment(name), aml.integer(slot))

    return aml.device(
        _name(slot),
        aml.name("_HID", aml.eisa_id(_MEMORY_DEVICE)),
        aml.name("_UID", aml.integer(slot)),
        code.method("_STA", 0, code.give(asks("GSTA"))),
        code.method("_CRS", 0, code.give(asks("GCRS"))),
        code.method("_PXM", 0, code.give(asks("GPXM"))),
        code.method("_OST", 3, asks("DOST") + code.argument(0) + code.argument(1)),
        code.method("_EJ0", 1, asks("DEJ0")),
    )


def _name(slot: int) -> str:
    """Return the name of a slot's device: M and three hex digits."""
    return f"M{slot:03X}"
