"""Kernels of both formats as a target: whatever a file says, it is loaded into RAM or refused by name."""

import os
import weakref
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.engine import Target
from tests.rigs.kernels import KERNEL_AT, PAGE, bzimage, elf, load_segment, note_segment, pvh_note

from dynmem.errors import ConfigError
from dynmem.units import MIB
from dynmem.vm.kvm.boot.loader import load
from dynmem.vmbus.memory import FlatMemory

SIZE = 2 * MIB
CODE = PAGE[:600]
SEEDS = (
    bzimage(CODE, sectors=1),
    bzimage(CODE, sectors=1, init_size=3 * MIB),
    elf(),
    elf(load_segment(KERNEL_AT, CODE, memory=70_000), note_segment(pvh_note(KERNEL_AT))),
)


def loaded() -> Callable[[bytes], None]:
    """Load each file with an initrd; what is started lies in RAM, and no write goes beside it."""
    memory = FlatMemory(memoryview(bytearray(SIZE)))
    kernel, initrd = os.memfd_create("kernel"), os.memfd_create("initrd")
    os.truncate(initrd, 10_000)
    paths = [Path(f"/proc/self/fd/{descriptor}") for descriptor in (kernel, initrd)]

    def feed(data: bytes) -> None:
        os.truncate(kernel, 0)
        os.pwrite(kernel, data, 0)
        entry = load(memory, ((0, SIZE),), kernel=paths[0], initrd=paths[1], append="", vp_count=1)
        assert MIB <= entry.rip < SIZE

    for descriptor in (kernel, initrd):
        weakref.finalize(feed, os.close, descriptor)
    return feed


KERNELS = (
    Target("kernels", loaded, SEEDS, (ConfigError,), (b"\x7fELF", b"HdrS", b"\xff" * 8, bytes(8)), cost=20),
)
