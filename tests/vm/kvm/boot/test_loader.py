"""What holds for kernels of both formats: wrong files, the command line, the tables, and a real kernel."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import click
import pytest
from tests.rigs.boot import Machine
from tests.rigs.kernels import bzimage, elf
from tests.rigs.own_process import open_descriptors

from dynmem.cli.vm import vm
from dynmem.errors import ConfigError
from dynmem.lab import image as lab
from dynmem.units import GIB, MIB
from dynmem.vm.kvm import acpi
from dynmem.vm.kvm.boot import layout
from dynmem.vm.kvm.boot.command_line import DEFAULTS

KERNELS = pytest.mark.parametrize("kernel", [bzimage, elf])


@KERNELS
def test_the_users_words_come_last(machine: Machine, kernel: Callable[[], bytes]) -> None:
    machine.load(kernel(), append="quiet console=hvc0")
    assert machine.text(layout.COMMAND_LINE) == f"{DEFAULTS} quiet console=hvc0".encode()
    machine.load(kernel())
    assert machine.text(layout.COMMAND_LINE) == DEFAULTS.encode()


def test_the_help_shows_what_comes_before_the_users_words() -> None:
    texts = {option.name: option.help or "" for option in vm.params if isinstance(option, click.Option)}
    assert texts["append"].endswith(f"begins with: {DEFAULTS}")


@KERNELS
def test_a_command_line_is_as_long_as_the_kernel_takes_and_no_longer(
    machine: Machine, kernel: Callable[[], bytes]
) -> None:
    room = 2047 - len(DEFAULTS) - 1
    machine.load(kernel(), append="x" * room)
    assert len(machine.text(layout.COMMAND_LINE)) == 2047
    with pytest.raises(ConfigError, match=r"--append: the command line has 2048 bytes.* takes 2047"):
        machine.load(kernel(), append="x" * (room + 1))


def test_a_kernel_that_takes_any_command_line_takes_what_fits(machine: Machine) -> None:
    with pytest.raises(ConfigError, match="takes 65535"):
        machine.load(bzimage(cmdline_size=0xFFFFFFFF), append="x" * 70_000)
    assert machine.is_untouched()


def test_words_that_are_no_text_reach_the_kernel_as_they_were_typed(machine: Machine) -> None:
    machine.load(bzimage(), append=os.fsdecode(b"name=\xff\xfe"))
    assert machine.text(layout.COMMAND_LINE).endswith(b"name=\xff\xfe")
    with pytest.raises(ConfigError, match="--append: contains a zero byte"):
        machine.load(bzimage(), append="a\0b")


@KERNELS
def test_the_tables_lie_where_a_kernel_looks_for_them(machine: Machine, kernel: Callable[[], bytes]) -> None:
    machine.load(kernel(), vp_count=3)
    expected = acpi.tables(layout.ACPI_TABLES, 3, acpi.FIRMWARE)
    assert machine.read(layout.ACPI_TABLES, len(expected)) == expected


@KERNELS
def test_what_is_not_loaded_is_left_as_it_was(machine: Machine, kernel: Callable[[], bytes]) -> None:
    machine.load(kernel(), b"initrd")
    assert machine.read(0, layout.GDT).count(0xA5) == layout.GDT
    assert machine.read(layout.LOW_RAM_END, 0x100).count(0xA5) == 0x100
    assert machine.read(2 * MIB, MIB).count(0xA5) == MIB


@KERNELS
@pytest.mark.parametrize(
    ("option", "make", "why"),
    [
        ("--kernel", lambda path: None, "No such file or directory"),
        ("--kernel", lambda path: path.mkdir(), "not a regular file"),
        ("--kernel", os.mkfifo, "not a regular file"),
        ("--kernel", lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        ("--kernel", lambda path: path.touch(), "the file is empty"),
        ("--kernel", lambda path: path.write_bytes(b"\x1f\x8b" * 4096), "neither a bzImage nor an ELF"),
        ("--initrd", lambda path: None, "No such file or directory"),
        ("--initrd", lambda path: path.mkdir(), "not a regular file"),
        ("--initrd", os.mkfifo, "not a regular file"),
        ("--initrd", lambda path: path.touch(), "the file is empty"),
        ("--initrd", lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 4 << 40), "raise -m"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named_and_nothing_is_written(
    machine: Machine,
    tmp_path: Path,
    kernel: Callable[[], bytes],
    option: str,
    make: Callable[[Path], object],
    why: str,
) -> None:
    path = tmp_path / "strange"
    make(path)
    files = (path, None) if option == "--kernel" else (kernel(), path)
    with pytest.raises(ConfigError, match=re.escape(f"{option} {path}: ") + f".*{why}"):
        machine.load(*files)
    assert machine.is_untouched()


def test_a_path_that_cannot_be_one_is_an_error_that_names_it(machine: Machine) -> None:
    with pytest.raises(ConfigError, match=r"--kernel .*cannot be read"):
        machine.load(Path("a\0b"))


@KERNELS
def test_a_file_that_shrinks_while_it_is_read_is_refused(
    machine: Machine, kernel: Callable[[], bytes]
) -> None:
    pread = os.pread

    def cut_first(descriptor: int, length: int, offset: int) -> bytes:
        if offset or length < 4096:
            os.truncate(f"/proc/self/fd/{descriptor}", 100)
        return pread(descriptor, length, offset)

    with mock.patch("os.pread", cut_first), pytest.raises(ConfigError, match="ends before byte"):
        machine.load(kernel(), b"initrd" * 1000)


@KERNELS
def test_no_descriptor_stays_open(machine: Machine, kernel: Callable[[], bytes]) -> None:
    before = open_descriptors()
    machine.load(kernel(), b"initrd")
    with pytest.raises(ConfigError):
        machine.load(kernel(), b"i" * 8 * MIB)
    for wrong in (Path("/dev/null"), b""):
        with pytest.raises(ConfigError):
            machine.load(kernel(), wrong)
    assert open_descriptors() == before


@pytest.mark.skipif(lab.find() is None, reason="no Debian kernel is set up (python -m dynmem.lab setup)")
def test_debians_kernel_and_its_initrd_are_loaded(tmp_path: Path) -> None:
    debian = lab.find()
    assert debian is not None
    with Machine(tmp_path, 128 * MIB, is_rubbish=False) as machine:
        entry = machine.load(debian.kernel, debian.initrd)
        assert entry == ("linux64", 16 * MIB + 0x200, layout.PARAMETERS, layout.PAGE_TABLES)
        data, initrd = debian.kernel.read_bytes(), debian.initrd.read_bytes()
        offset = (data[0x1F1] + 1) * 512
        assert machine.read(16 * MIB, len(data) - offset) == data[offset:]
        address = machine.field("I", layout.PARAMETERS + 0x218)
        assert address == (128 * MIB - len(initrd)) & ~0xFFF
        assert machine.read(address, len(initrd)) == initrd
    with (
        Machine(tmp_path, 64 * MIB, is_rubbish=False) as machine,
        pytest.raises(ConfigError, match="raise -m"),
    ):
        machine.load(debian.kernel)


def test_ram_above_the_hole_is_in_the_map_and_nothing_is_loaded_there(machine: Machine) -> None:
    machine.ram = (*machine.ram, (4 * GIB, 5 * GIB))
    machine.load(bzimage(), b"initrd")
    assert machine.field("B", layout.PARAMETERS + 0x1E8) == 4
    assert machine.read(layout.PARAMETERS + 0x2D0 + 60, 20) == (
        (4 * GIB).to_bytes(8, "little") + (5 * GIB).to_bytes(8, "little") + b"\x01\0\0\0"
    )
    assert machine.field("I", layout.PARAMETERS + 0x218) < machine.size
