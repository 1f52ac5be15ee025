"""Where a test finds guest kernels and QEMU, whether it runs in the emulated host or on this machine."""

import json
import os
from pathlib import Path
from typing import Final, NamedTuple

GUESTS: Final = "DYNMEM_KVM_RIG"  # the folder of the guest kernels
KERNEL: Final = "DYNMEM_KVM_RIG_KERNEL"  # the only kernel of this run, if there is one run for each
QEMU: Final = "DYNMEM_KVM_RIG_QEMU"  # the command that starts QEMU, as JSON


class GuestKernel(NamedTuple):
    """A stock kernel with what belongs to it.

    Attributes:
        name: Its version, as "6.1".
        vmlinuz: As Debian ships it.
        vmlinux: The same, unpacked: boots faster in an emulated processor.
        initrd: Loads the Hyper-V drivers, then runs what comes on the serial port.
        initrd_kexec: The same, and it holds kernel and initrd again, for `kexec`, below /second.
    """

    name: str
    vmlinuz: Path
    vmlinux: Path
    initrd: Path
    initrd_kexec: Path


def guest_kernels() -> list[GuestKernel]:
    """Return those of this run; none outside the rig."""
    only = os.environ.get(KERNEL)
    return [kernel for kernel in all_kernels() if only in (None, kernel.name)]


def runs_what_needs_no_kernel() -> bool:
    """Whether a test that asks for no kernel belongs to this run: to the first of several."""
    return guest_kernels()[:1] == all_kernels()[:1]


def all_kernels() -> list[GuestKernel]:
    """Return those of the rig."""
    folder = os.environ.get(GUESTS)
    names = (
        sorted(Path(folder).iterdir(), key=lambda path: [*map(int, path.name.split("."))]) if folder else []
    )
    return [
        GuestKernel(path.name, *(path / file for file in ("vmlinuz", "vmlinux", "initrd", "initrd-kexec")))
        for path in names
    ]


def qemu() -> list[str]:
    """Return the command that starts QEMU 10, up to its own options."""
    return list(json.loads(os.environ.get(QEMU, '["qemu-system-x86_64"]')))
