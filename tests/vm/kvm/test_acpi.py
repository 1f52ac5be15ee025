"""The ACPI tables as a guest finds them: from the RSDP on, by address."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.vm.kvm import acpi

AT = 0xE0000
RSDP_BYTES = 36


class Found:
    """All tables of an image, found as a guest finds them."""

    def __init__(self, vp_count: int, firmware: acpi.Firmware = acpi.FIRMWARE, at: int = AT) -> None:
        self.at = at
        self.image = acpi.tables(at, vp_count, firmware)
        self.rsdp = self.image[:RSDP_BYTES]
        (self.xsdt_at,) = struct.unpack_from("<Q", self.rsdp, 24)
        self.xsdt = self.table(self.xsdt_at)
        self.listed = {
            self.table(address)[:4]: self.table(address)
            for (address,) in struct.iter_unpack("<Q", self.xsdt[36:])
        }
        self.fadt = self.listed[b"FACP"]
        self.madt = self.listed[b"APIC"]
        self.facs_at, self.dsdt_at = struct.unpack_from("<2I", self.fadt, 36)
        self.dsdt = self.table(self.dsdt_at)
        self.facs = self.table(self.facs_at)

    def table(self, address: int) -> bytes:
        start = address - self.at
        assert 0 < start < len(self.image)
        (length,) = struct.unpack_from("<I", self.image, start + 4)
        return self.image[start : start + length]

    def entries(self) -> list[bytes]:
        """The entries of the MADT."""
        entries, at = [], 44
        while at < len(self.madt):
            entries.append(self.madt[at : at + self.madt[at + 1]])
            at += self.madt[at + 1]
        return entries


@given(vp_count=st.integers(1, 255), page=st.integers(1, 1 << 19))
def test_every_sum_is_zero_and_every_table_lies_in_the_image(vp_count: int, page: int) -> None:
    found = Found(vp_count, at=page << 12)
    assert sum(found.rsdp[:20]) & 0xFF == 0
    assert sum(found.rsdp) & 0xFF == 0
    for table in (found.xsdt, found.fadt, found.madt, found.dsdt):
        assert sum(table) & 0xFF == 0
        assert len(table) == struct.unpack_from("<I", table, 4)[0]
    assert len(found.image) < 0x20000  # up to 1 MiB


def test_the_rsdp_is_of_acpi_2_and_later() -> None:
    rsdp = Found(1).rsdp
    assert (rsdp[:8], rsdp[15], struct.unpack_from("<I", rsdp, 20)[0]) == (b"RSD PTR ", 2, RSDP_BYTES)


@pytest.mark.parametrize("vp_count", [1, 2, 255])
def test_each_processor_has_a_local_apic_of_its_own(vp_count: int) -> None:
    local = [entry for entry in Found(vp_count).entries() if entry[0] == 0]
    expected = [bytes([0, 8, each, each, 1, 0, 0, 0]) for each in range(vp_count)]
    assert local == expected


def test_the_interrupts_are_those_of_a_pc() -> None:
    found = Found(1)
    assert found.madt[36:44] == bytes.fromhex("0000e0fe 01000000")
    assert [entry.hex() for entry in found.entries() if entry[0]] == [
        "010c" + "0000" + "0000c0fe" + "00000000",  # an I/O APIC from GSI 0 on
        "020a" + "0000" + "02000000" + "0000",  # the PIT is on GSI 2
        "020a" + "0009" + "09000000" + "0d00",  # the SCI is active high, a level
        "0406" + "ff" + "0000" + "01",  # NMI at LINT1 of all
    ]


def test_the_fixed_registers_are_where_the_board_has_them() -> None:
    firmware = acpi.Firmware(0xB00, 0xB04, power_off_type=6, reset_port=0x64, reset_value=0xFE, sci=10)
    found = Found(1, firmware)
    fadt = found.fadt
    assert len(fadt) == 276
    assert struct.unpack_from("<H", fadt, 46) == (10,)
    assert struct.unpack_from("<4I", fadt, 56) == (0xB00, 0, 0xB04, 0)
    assert struct.unpack_from("<2B", fadt, 88) == (4, 2)
    assert struct.unpack_from("<4BQB", fadt, 116) == (1, 8, 0, 0, 0x64, 0xFE)
    assert struct.unpack_from("<4BQ", fadt, 148) == (1, 32, 0, 0, 0xB00)
    assert struct.unpack_from("<4BQ", fadt, 172) == (1, 16, 0, 0, 0xB04)
    assert b"_S5_\x12" in found.dsdt
    assert found.dsdt.partition(b"_S5_")[2].hex() == "12" + "07" + "04" + "0a06" + "00" * 3


def test_a_guest_finds_that_it_can_reset_by_a_register_and_has_no_keyboard_and_no_vga() -> None:
    fadt = Found(1).fadt
    boot_architecture, flags = struct.unpack_from("<HxI", fadt, 109)
    assert flags & 1 << 10
    assert boot_architecture & 1 << 1 == 0
    assert boot_architecture & 1 << 2


def test_acpi_is_on_from_the_start_and_has_no_timer_of_its_own() -> None:
    fadt = Found(1).fadt
    assert struct.unpack_from("<I", fadt, 48) == (0,)
    assert struct.unpack_from("<I", fadt, 76) == (0,)
    assert fadt[91] == 0


def test_no_sleep_state_is_offered_but_power_off() -> None:
    dsdt = Found(1).dsdt
    assert [state for state in range(6) if b"_S%d_" % state in dsdt] == [5]


def test_both_addresses_of_the_dsdt_agree_and_the_facs_has_one() -> None:
    found = Found(1)
    assert struct.unpack_from("<2Q", found.fadt, 132) == (0, found.dsdt_at)
    assert (found.facs[:4], found.facs_at % 64, len(found.facs)) == (b"FACS", 0, 64)


@pytest.mark.skipif(shutil.which("iasl") is None, reason="iasl is not installed (Debian: acpica-tools)")
def test_another_program_reads_the_tables_back(tmp_path: Path) -> None:
    found = Found(2)
    for name in ("dsdt", "fadt", "madt", "xsdt"):
        (tmp_path / f"{name}.dat").write_bytes(getattr(found, name))
        subprocess.run(["iasl", "-d", f"{name}.dat"], cwd=tmp_path, check=True, capture_output=True)
    text = (tmp_path / "dsdt.dsl").read_text()
    assert 'Name (_HID, "VMBus")' in text
    assert "Name (_STA, 0x0F)" in text
    assert "Name (_S5, Package (0x04)" in text
