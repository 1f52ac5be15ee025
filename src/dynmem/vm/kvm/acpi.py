"""The ACPI tables of a machine without a BIOS: its processors, interrupts, power registers, the VMBus, DIMMs.

Everything is in one piece of memory, which begins with the RSDP. S4 is not offered: a Linux that could
hibernate neither balloons nor takes hot-added memory. There is no SRAT: the machine has one node, and
where an SRAT has memory above 4 GiB, also such as may come, Linux sets 64 MiB aside for devices that cannot
reach it.

Source: ACPI specification 6.4, chapters 5.2 and 4.8; Linux drivers/hv/vmbus_drv.c for the VMBus device.
"""

import struct
from typing import Final, NamedTuple

from dynmem.vm.kvm import acpi_dimms, aml

LOCAL_APIC: Final = 0xFEE00000
IO_APIC: Final = 0xFEC00000
#: Of the processors, one each. APIC id 255 addresses all of them.
PROCESSORS_MAX: Final = 255

_OEM: Final = b"DYNMEM"
_TABLE_ID: Final = b"DYNMEMVM"
_CREATOR: Final = b"DYNM"
_HEADER: Final = struct.Struct("<4sIBB6s8sI4sI")
_CHECKSUM: Final = 9  # the place of a table's checksum
_RSDP: Final = struct.Struct("<8sB6sBIIQB3x")
_RSDP_CHECKSUM, _RSDP_EXTENDED_CHECKSUM = 8, 32
_RSDP_FIRST_BYTES: Final = 20  # that the first checksum is over
_ALIGNMENT: Final = 64  # the FACS needs it

_FACS: Final = struct.Struct("<4sIIIIIQB3xI24x")
_FACS_VERSION: Final = 2

_FADT_BYTES: Final = 276
_PM1_EVENT_BYTES: Final = 4
_PM1_CONTROL_BYTES: Final = 2
_GENERAL_EVENT_BYTES: Final = 2
_LATENCY_NONE: Final = 0xFFF  # above 1000 us: there is no C2 and no C3
_CMOS_CENTURY: Final = 0x32
_BOOT_LEGACY_DEVICES: Final = 1 << 0
_BOOT_NO_VGA: Final = 1 << 2
_WBINVD: Final = 1 << 0
_ALL_PROCESSORS_C1: Final = 1 << 2
_NO_FIXED_POWER_BUTTON: Final = 1 << 4
_NO_FIXED_SLEEP_BUTTON: Final = 1 << 5
_NO_FIXED_RTC_WAKE: Final = 1 << 6
_RESET_REGISTER: Final = 1 << 10

_MADT_HAS_8259: Final = 1
_MADT_LOCAL_APIC, _MADT_IO_APIC, _MADT_OVERRIDE, _MADT_LOCAL_NMI = 0, 1, 2, 4
_ENABLED: Final = 1
_ALL: Final = 0xFF
_CONFORMS_TO_BUS: Final = 0
_ACTIVE_HIGH_LEVEL: Final = 0xD
_PIT_IRQ: Final = 0
_PIT_GSI: Final = 2
_NMI_PIN: Final = 1  # LINT1

_VMBUS_IRQ: Final = 5  # x86 guests don't use it: SINT 2 has a vector of its own
_PRESENT: Final = 0xF


class Firmware(NamedTuple):
    """The fixed hardware that the tables describe; the board implements it.

    Attributes:
        pm1_event: The first of four ports: status and enable, 16 bits each.
        pm1_control: The first of two ports: SLP_TYP and SLP_EN.
        power_off_type: SLP_TYP for S5.
        reset_port: The reset register, a byte.
        reset_value: What resets the machine when written there.
        sci: The interrupt of ACPI events.
        general_event: The first of two ports: status and enable of general purpose events, 8 bits each.
        dimms: The first of the ports by which DIMMs come and go (`acpi_dimms.PORTS`).
    """

    pm1_event: int = 0x600
    pm1_control: int = 0x604
    power_off_type: int = 5
    reset_port: int = 0xCF9
    reset_value: int = 0x06
    sci: int = 9
    general_event: int = 0x608
    dimms: int = 0xA00


#: The ports that a board of ours has.
FIRMWARE: Final = Firmware()


def tables(address: int, vp_count: int, firmware: Firmware, dimm_slots: int = 0) -> bytes:
    """Return all tables, for `address`, a multiple of 64: the RSDP comes first.

    `vp_count` processors have the APIC ids from 0 on. Without slots for DIMMs nothing is said of them.
    """
    assert address % _ALIGNMENT == 0
    assert 0 < vp_count <= PROCESSORS_MAX
    image = bytearray(_ALIGNMENT)

    def put(table: bytes) -> int:
        at = address + len(image)
        image.extend(table)
        image.extend(bytes(-len(table) % _ALIGNMENT))
        return at

    facs = put(_FACS.pack(b"FACS", _FACS.size, 0, 0, 0, 0, 0, _FACS_VERSION, 0))
    dsdt = put(_dsdt(firmware, dimm_slots))
    fadt = put(_fadt(firmware, facs=facs, dsdt=dsdt, has_events=dimm_slots > 0))
    madt = put(_madt(firmware, vp_count))
    xsdt = put(_table(b"XSDT", 1, struct.pack("<2Q", fadt, madt)))
    image[: _RSDP.size] = _rsdp(xsdt)
    return bytes(image)


def _negated_sum(data: bytes | bytearray) -> int:
    """Return the byte that makes the sum of all bytes 0."""
    return -sum(data) & 0xFF


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    """Return a table: the header that all have, and its own fields."""
    length = _HEADER.size + len(body)
    header = _HEADER.pack(signature, length, revision, 0, _OEM, _TABLE_ID, 1, _CREATOR, 1)
    table = bytearray(header + body)
    table[_CHECKSUM] = _negated_sum(table)
    return bytes(table)


def _rsdp(xsdt: int) -> bytes:
    rsdp = bytearray(_RSDP.pack(b"RSD PTR ", 0, _OEM, 2, 0, _RSDP.size, xsdt, 0))
    rsdp[_RSDP_CHECKSUM] = _negated_sum(rsdp[:_RSDP_FIRST_BYTES])
    rsdp[_RSDP_EXTENDED_CHECKSUM] = _negated_sum(rsdp)
    return bytes(rsdp)


def _io_register(port: int, size: int) -> bytes:
    """Return a Generic Address Structure for a register of `size` bytes in I/O space."""
    return struct.pack("<4BQ", 1, 8 * size, 0, 0, port)


def _fadt(firmware: Firmware, *, facs: int, dsdt: int, has_events: bool) -> bytes:
    """Return the FADT. There is no SMI command port, so ACPI is on from the start, and no PM timer."""
    flags = (
        _WBINVD
        | _ALL_PROCESSORS_C1
        | _NO_FIXED_POWER_BUTTON
        | _NO_FIXED_SLEEP_BUTTON
        | _NO_FIXED_RTC_WAKE
        | _RESET_REGISTER
    )
    # The 64-bit field of the FACS stays 0: only one of the two may be set.
    fields = {
        36: struct.pack("<2I", facs, dsdt),
        46: struct.pack("<H", firmware.sci),
        56: struct.pack("<I", firmware.pm1_event),
        64: struct.pack("<I", firmware.pm1_control),
        88: bytes([_PM1_EVENT_BYTES, _PM1_CONTROL_BYTES]),
        96: struct.pack("<2H", _LATENCY_NONE, _LATENCY_NONE),
        108: bytes([_CMOS_CENTURY]),
        109: struct.pack("<H", _BOOT_LEGACY_DEVICES | _BOOT_NO_VGA),
        112: struct.pack("<I", flags),
        116: _io_register(firmware.reset_port, 1) + bytes([firmware.reset_value]),
        140: struct.pack("<Q", dsdt),
        148: _io_register(firmware.pm1_event, _PM1_EVENT_BYTES),
        172: _io_register(firmware.pm1_control, _PM1_CONTROL_BYTES),
    }
    if has_events:
        fields |= {
            80: struct.pack("<I", firmware.general_event),
            92: bytes([_GENERAL_EVENT_BYTES]),
            220: _io_register(firmware.general_event, _GENERAL_EVENT_BYTES),
        }
    fadt = bytearray(_FADT_BYTES)
    for offset, field in fields.items():
        fadt[offset : offset + len(field)] = field
    return _table(b"FACP", 6, bytes(fadt[_HEADER.size :]))


def _madt(firmware: Firmware, vp_count: int) -> bytes:
    """Return the MADT: local APICs, one I/O APIC, and what differs from the ISA bus.

    The PIT is on pin 2 and the SCI is a level; every processor takes NMIs at LINT1.
    """
    entries = [struct.pack("<2I", LOCAL_APIC, _MADT_HAS_8259)]
    entries += [struct.pack("<4BI", _MADT_LOCAL_APIC, 8, each, each, _ENABLED) for each in range(vp_count)]
    entries.append(struct.pack("<4B2I", _MADT_IO_APIC, 12, 0, 0, IO_APIC, 0))
    overrides = ((_PIT_IRQ, _PIT_GSI, _CONFORMS_TO_BUS), (firmware.sci, firmware.sci, _ACTIVE_HIGH_LEVEL))
    entries += [struct.pack("<4BIH", _MADT_OVERRIDE, 10, 0, *override) for override in overrides]
    entries.append(struct.pack("<3BHB", _MADT_LOCAL_NMI, 6, _ALL, _CONFORMS_TO_BUS, _NMI_PIN))
    return _table(b"APIC", 5, b"".join(entries))


def _dsdt(firmware: Firmware, dimm_slots: int) -> bytes:
    """Return the DSDT: S5, the device without which Linux loads no VMBus driver, and DIMMs."""
    vmbus = aml.device(
        "VMBS",
        aml.name("_HID", aml.string("VMBus")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_DDN", aml.string("VMBUS")),
        aml.name("_STA", aml.integer(_PRESENT)),
        aml.name("_CRS", aml.resources(aml.irq(_VMBUS_IRQ))),
    )
    sleep_types = [aml.integer(firmware.power_off_type), aml.integer(0), aml.integer(0), aml.integer(0)]
    terms = [aml.scope("_SB", vmbus), aml.name("_S5", aml.package(*sleep_types))]
    if dimm_slots:
        terms += [aml.scope("_SB", acpi_dimms.controller(firmware.dimms, dimm_slots)), acpi_dimms.event()]
    return _table(b"DSDT", 2, b"".join(terms))
