"""Puts a kernel and all that it is passed into guest memory, and says how its first processor starts."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.units import MIB, PAGE_SIZE, format_size
from dynmem.vm.kvm import acpi
from dynmem.vm.kvm.boot import bzimage, elf, layout, linux64, pvh
from dynmem.vm.kvm.boot.command_line import command_line
from dynmem.vm.kvm.boot.file import BootFile
from dynmem.vm.kvm.boot.image import Image, Protocol
from dynmem.vmbus.memory import GuestMemory

_ZEROS: Final = bytes(MIB)


class Entry(NamedTuple):
    """How the first processor starts; the others wait for their SIPI, as after a reset.

    Both protocols want interrupts off (RFLAGS = 2) and flat segments: base 0, limit 0xffffffff in pages; CS
    of type 0xb (execute, read), DS, ES and SS of type 3 (read, write), TR a busy TSS (type 0xb, base 0, limit
    0x67). Registers that are not named here are 0.

        pvh      32-bit protected mode without paging: CR0 = PE | ET, CR4 = 0, EFER = 0; D/B = 1 and L = 0 in
                 all segments; RBX = `argument`. The kernel loads a GDT of its own first.
        linux64  64-bit mode: CR0 = PE | ET | PG, CR4 = PAE, EFER = LME | LMA, CR3 = `cr3`; CS has selector
                 `linux64.CODE_SELECTOR`, L = 1 and D/B = 0, data segments `linux64.DATA_SELECTOR` and
                 D/B = 1; GDTR is `layout.GDT` with limit `linux64.GDT_LIMIT`; RSI = `argument`.

    Attributes:
        protocol: Which of the two.
        rip: The first instruction.
        argument: The address of what the kernel is passed: start info, or boot parameters.
        cr3: The page tables, which map the first 4 GiB to themselves; 0 for pvh.
    """

    protocol: Protocol
    rip: int
    argument: int
    cr3: int


def load(
    memory: GuestMemory,
    ram: Sequence[tuple[int, int]],
    *,
    kernel: Path,
    initrd: Path | None,
    append: str,
    vp_count: int,
    dimm_slots: int = 0,
) -> Entry:
    """Load a bzImage, or an ELF kernel with a PVH note, with everything that it needs to start.

    It reads whole files, so it takes a while; it may run on any thread, while no guest runs. Unless a file
    changes meanwhile, nothing is written before all is known to be right.

    Args:
        memory: Guest memory, of which `ram` can be written.
        ram: The guest's RAM: pieces of (address, size), ascending, the first from 0 on.
        kernel: The kernel's file.
        initrd: The file of its initial RAM disk.
        append: What follows on the command line.
        vp_count: Processors that the ACPI tables list.
        dimm_slots: Slots for DIMMs that they list.

    Raises ConfigError, which names the file or option and the rule.
    """
    with ExitStack() as files:
        kernel_file = files.enter_context(BootFile("--kernel", kernel))
        image = _image(kernel_file)
        if not layout.has_ram(ram, image.start, image.end):
            raise kernel_file.wrong(
                f"the kernel needs memory up to {format_size(image.end)}, and the machine has "
                f"{format_size(layout.ram_below_4_gib(ram))} below 4 GiB: raise -m"
            )
        text = command_line(append, longest=image.command_line_max)
        place = (0, 0)
        if initrd is not None:
            initrd_file = files.enter_context(BootFile("--initrd", initrd))
            place = _initrd_place(initrd_file, ram, image)
            initrd_file.copy(0, initrd_file.size, memory, place[0])
        _copy_kernel(kernel_file, image, memory)
    memory.write(layout.COMMAND_LINE, text)
    tables = acpi.tables(layout.ACPI_TABLES, vp_count, acpi.FIRMWARE, dimm_slots)
    memory.write(layout.ACPI_TABLES, tables)
    return _pass(memory, image, place, layout.memory_map(ram))


def _image(file: BootFile) -> Image:
    """Return what a file of either format says of its kernel."""
    beginning = file.read(0, min(file.size, PAGE_SIZE))
    if elf.is_elf(beginning):
        return elf.parse(file, beginning)
    if bzimage.is_bzimage(beginning):
        return bzimage.parse(file, beginning)
    raise file.wrong(
        "neither a bzImage nor an ELF file: name a Linux kernel for x86-64, such as /boot/vmlinuz-*"
    )


def _initrd_place(file: BootFile, ram: Sequence[tuple[int, int]], image: Image) -> tuple[int, int]:
    """Return address and size of the initrd: as high as kernel and RAM allow."""
    address = layout.highest_room(ram, file.size, end=image.initrd_end, taken=(image.start, image.end))
    if address is None:
        raise file.wrong(
            f"no room for {format_size(file.size)} below {format_size(image.initrd_end)}: the machine has "
            f"{format_size(layout.ram_below_4_gib(ram))} below 4 GiB, and the kernel lies from "
            f"{format_size(image.start)} to {format_size(image.end)}: raise -m, or make the initrd smaller"
        )
    return address, file.size


def _copy_kernel(file: BootFile, image: Image, memory: GuestMemory) -> None:
    for segment in image.segments:
        file.copy(segment.offset, segment.size, memory, segment.address)
        # memory need not be zero: a guest before this one may have used it
        zeros_at = segment.address + segment.size
        for done in range(0, segment.zeros, MIB):
            memory.write(zeros_at + done, _ZEROS[: segment.zeros - done])


def _pass(
    memory: GuestMemory, image: Image, initrd: tuple[int, int], memory_map: list[layout.MapEntry]
) -> Entry:
    """Write what the kernel is passed by its protocol."""
    if image.protocol == "pvh":
        pvh.write(memory, initrd=initrd, memory_map=memory_map)
        return Entry("pvh", image.entry, layout.PARAMETERS, 0)
    linux64.write(
        memory, address=image.start, setup_header=image.setup_header, initrd=initrd, memory_map=memory_map
    )
    return Entry("linux64", image.entry, layout.PARAMETERS, layout.PAGE_TABLES)
