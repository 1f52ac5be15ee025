"""Which processes of this host are VMs, ours and QEMU's, by their command lines.

A command line is what a process says of itself: it proves nothing.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from dynmem.procfs import PROC, bytes_of

# Proxmox starts QEMU by the name of kvm.
_QEMU: Final = ("qemu-kvm", "qemu", "kvm")
_QEMU_SYSTEM: Final = "qemu-system-"
_CMDLINE_BYTES_MAX: Final = 1 << 20


def running_vms(proc: Path = PROC) -> Iterator[int]:
    """Yield the processes that are QEMU or `dynmem vm` by their command line, in the order of their ids.

    No others: what else keeps memory in files is not looked into, unless it is named.
    """
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdecimal()):  # noqa: PTH208 - names only
        if is_vm(command_line(pid, proc)):
            yield pid


def command_line(pid: int, proc: Path = PROC) -> list[str]:
    """Return the arguments of a process; none if it is gone or a thread of the kernel."""
    with contextlib.suppress(OSError):
        text = bytes_of(f"{proc}/{pid}/cmdline", _CMDLINE_BYTES_MAX).decode(errors="replace")
        return text.rstrip("\0").split("\0") if text else []
    return []


def sockets_of_vms(proc: Path = PROC) -> dict[int, int]:
    """Return which VM's process has each socket open, by the socket's inode, as far as that is seen."""
    found: dict[int, int] = {}
    for pid in running_vms(proc):
        folder = proc / str(pid) / "fd"
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):  # noqa: PTH208 - names only
                with contextlib.suppress(OSError):
                    link = os.readlink(folder / name)  # noqa: PTH115 - no file behind it
                    inode = link.removeprefix("socket:[").removesuffix("]")
                    if inode.isdecimal():
                        found.setdefault(int(inode), pid)
    return found


def is_ours(arguments: Sequence[str]) -> bool:
    """Return whether a command line is that of `dynmem vm`."""
    names = [each.rpartition("/")[2] for each in arguments[:8]]
    return ("dynmem", "vm") in itertools.pairwise(names)


def is_vm(arguments: Sequence[str]) -> bool:
    """Return whether a command line is that of QEMU's system emulator or of `dynmem vm`."""
    if not arguments:
        return False
    program = arguments[0].rpartition("/")[2]
    return program in _QEMU or program.startswith(_QEMU_SYSTEM) or is_ours(arguments)
