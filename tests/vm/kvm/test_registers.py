"""How the first processor starts: kernels of a few bytes look at its registers and end the machine."""

from pathlib import Path

import pytest
from tests.rigs.kernels import KERNEL_AT, bzimage, elf, load_segment, note_segment, pvh_note
from tests.rigs.mini_guest import MiniGuest, needs_kvm
from tests.rigs.scenes import plays, until

from dynmem.vm.kvm.acpi import FIRMWARE

pytestmark = needs_kvm

ENTRY_64 = 0x200  # into the kernel, by the boot protocol
POWER_OFF = (
    b"\x66\xba" + FIRMWARE.pm1_control.to_bytes(2, "little")  # mov dx
    + b"\xb8" + (FIRMWARE.power_off_type << 10 | 1 << 13).to_bytes(4, "little")  # mov eax
    + b"\x66\xef"  # out dx, ax
)  # fmt: skip
HALT = b"\xf4\xeb\xfd"  # hlt; jmp to it
UNLESS_EQUAL = b"\x75" + bytes((len(POWER_OFF),))  # jne to the end

BY_64_BITS = bzimage(
    bytes(ENTRY_64)
    + b"\x81\xbe\x02\x02\x00\x00HdrS"  # cmp dword [rsi + 0x202], the magic of the boot parameters
    + UNLESS_EQUAL + POWER_OFF + HALT
)  # fmt: skip
BY_PVH = elf(
    load_segment(
        KERNEL_AT,
        b"\x81\x3b" + (0x336E_C578).to_bytes(4, "little")  # cmp dword [ebx], its magic
        + UNLESS_EQUAL + POWER_OFF + HALT,
    ),
    note_segment(pvh_note(KERNEL_AT)),
)  # fmt: skip


@pytest.mark.parametrize("kernel", [BY_64_BITS, BY_PVH], ids=["linux64", "pvh"])
@plays
async def test_a_kernel_finds_the_parameters_of_its_protocol(tmp_path: Path, kernel: bytes) -> None:
    file = tmp_path / "kernel"
    file.write_bytes(kernel)
    scene = MiniGuest(file)
    try:
        await scene.guest.power_on(())
        await until(lambda: "exited" in scene.happened)
        assert scene.guest.ending is None  # it has switched itself off
    finally:
        await scene.guest.power_off()
        scene.close()
