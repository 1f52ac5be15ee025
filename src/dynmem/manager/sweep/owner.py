"""Which program runs a VM, by the command line that it gave to the VM's process.

    libvirt    -name guest=NAME,... and a file below /var/lib/libvirt/qemu/domain-
    Proxmox    -id NUMBER and a socket or file in /var/run/qemu-server/NUMBER.

A process can write anything into its own command line, so this decides nothing: it only words a command for
an operator to read, and what could hide something in a terminal or in a shell is nobody's name.
"""

from collections.abc import Sequence
from typing import Final

from dynmem.discovery.processes import command_line
from dynmem.discovery.qemu_options import name_of, number_of
from dynmem.manager.step.facts import Owner

_LIBVIRT_FILES: Final = "/var/lib/libvirt/qemu/domain-"
_PROXMOX_FILES: Final = "/run/qemu-server/"


def owner_of(pid: int) -> Owner | None:
    """Return which program runs a process's VM; None if that is not known."""
    return owner_by(command_line(pid))


def owner_by(words: Sequence[str]) -> Owner | None:
    """Return which program started a process with this command line."""
    number, name = number_of(words), name_of(words)
    if number is not None and any(f"{_PROXMOX_FILES}{number}." in word for word in words):
        return Owner("proxmox", str(number))
    if name is not None and _is_plain(name) and any(_LIBVIRT_FILES in word for word in words):
        return Owner("libvirt", name)
    return None


def _is_plain(name: str) -> bool:
    """Return whether a name can stand in a command: it is no option, and it was read as it was written."""
    return not name.startswith("-") and "\ufffd" not in name
