"""Which program runs a VM, by the command line that it gave to the VM's process.

    libvirt    -name guest=NAME,... and a file below /var/lib/libvirt/qemu/domain-
    Proxmox    -id NUMBER and a socket or file in /var/run/qemu-server/NUMBER.

A process can write anything into its own command line, so this decides nothing: it only words a command for
an operator to read, and what could hide something in a terminal or in a shell is nobody's name.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from dynmem.discovery.processes import command_line
from dynmem.manager.step.facts import Owner

_LIBVIRT_FILES: Final = "/var/lib/libvirt/qemu/domain-"
_PROXMOX_FILES: Final = "/run/qemu-server/"
# libvirt takes more; a longer one would fill the line.
_NAME_MAX: Final = 128


def owner_of(pid: int) -> Owner | None:
    """Return which program runs a process's VM; None if that is not known."""
    return owner_by(command_line(pid))


def owner_by(words: Sequence[str]) -> Owner | None:
    """Return which program started a process with this command line."""
    number = _after("-id", words)
    if number.isdecimal() and number.isascii():
        folder = f"{_PROXMOX_FILES}{number}."
        if any(folder in word for word in words):
            return Owner("proxmox", number)
    name = _guest_name(_after("-name", words))
    if _is_plain(name) and any(_LIBVIRT_FILES in word for word in words):
        return Owner("libvirt", name)
    return None


def _after(option: str, words: Sequence[str]) -> str:
    """Return the value of an option; "" without one."""
    return next((value for word, value in pairwise(words) if word == option), "")


def _guest_name(value: str) -> str:
    """Return the name in the value of -name: in QEMU's options a comma of its own is written twice."""
    parts = value.replace(",,", "\0").split(",")
    found = [part.removeprefix("guest=") for part in parts if part.startswith("guest=")]
    return found[0].replace("\0", ",") if found else ""


def _is_plain(name: str) -> bool:
    """Return whether a name can stand in a command: no control characters, no option."""
    return (
        0 < len(name) <= _NAME_MAX
        and name.isprintable()
        and not name.startswith("-")
        and "\ufffd" not in name
    )
