"""A running VM, ours or QEMU's, and the files that are its RAM.

A VM is named by the id of its process or by the socket of its monitor. A descriptor of the process (pidfd)
is opened first, so what is found by its number belongs to it if it still lives afterwards.
"""

import contextlib
import errno
import os
import select
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from dynmem.discovery.processes import command_line
from dynmem.discovery.qemu_options import name_of
from dynmem.errors import DynmemError, NotPermittedError, UnreachableError, quoted
from dynmem.ram_files import RamFile, find_ram_files
from dynmem.sockets import listener
from dynmem.units import format_size


class VmGoneError(DynmemError):
    """The process of a VM ended."""


class Vm:
    """A running VM.

    Attributes:
        name: What it is called in the output.
        pid: Its process.
        files: Its RAM files that consist of pages of 4 KiB, as far as they can be reached.
        huge: Its RAM files of reserved huge pages.
    """

    def __init__(self, pid: int, name: str | None = None) -> None:
        """Look at process `pid`; its name is by default what it is called on its command line.

        Raises UnreachableError if there is none, NotPermittedError if it may not be looked into.
        """
        self.pid: Final = pid
        self.name: str = name or name_of(command_line(pid)) or str(pid)
        self.files: tuple[RamFile, ...] = ()
        self.huge: tuple[RamFile, ...] = ()
        try:
            self._pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError) as error:
            raise UnreachableError(
                f"{self.described}: there is no such process: name a VM by its pid or its monitor's socket"
            ) from error
        self._end = select.poll()
        self._end.register(self._pidfd, select.POLLIN)
        try:
            found = find_ram_files(pid, None).ram
            self.check_alive()
        except PermissionError as error:
            self.close()
            raise self.not_permitted() from error
        except (OSError, VmGoneError) as error:
            self.close()
            raise UnreachableError(f"{self.described}: its process has ended") from error
        self.huge = tuple(each for each in found if each.is_huge)
        self.files = tuple(each for each in found if not each.is_huge)

    @property
    def described(self) -> str:
        """Its name, and its pid unless that is its name."""
        return f"VM {self.name}" if self.name == str(self.pid) else f"VM {self.name} (pid {self.pid})"

    def not_permitted(self) -> NotPermittedError:
        """Return the error that its memory may not be read."""
        return NotPermittedError(
            f"{self.described}: its memory may not be read: run this as the user of that process, or as root"
        )

    def check_alive(self) -> None:
        """Raise VmGoneError if its process has ended.

        Who holds its RAM files open keeps their memory from the host, so this is looked at all the time.
        """
        if self._end.poll(0):
            raise VmGoneError(f"{self.described}: its process ended while its memory was read")

    def open(self, file: RamFile) -> int:
        """Open one of its files for reading; return the descriptor. Raises NotPermittedError, VmGoneError."""
        try:
            return _opened(file)
        except PermissionError as error:
            raise self.not_permitted() from error
        except OSError as error:
            self.check_alive()
            raise VmGoneError(f"{self.described}: its RAM cannot be opened: {error.strerror}") from error

    def held_bytes(self) -> int:
        """Return what its files take of the host now; 0 for those that are gone."""
        held = 0
        for file in self.files:
            with contextlib.suppress(OSError):
                held += file.held_bytes()
        return held

    def close(self) -> None:
        """Release its process."""
        os.close(self._pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(file: RamFile) -> int:
    """Open a RAM file for reading. Raises OSError.

    Its path leads to whatever the process holds there by now. A pipe or a device must not be opened, so the
    first descriptor only names it. A lease that the process has on its file must not hold us up.
    """
    named = os.open(file.path, os.O_PATH | os.O_CLOEXEC)
    try:
        info = os.fstat(named)
        if (info.st_dev, info.st_ino) != file.key:
            raise OSError(errno.ESTALE, "it is another file now")
        return os.open(f"/proc/self/fd/{named}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(named)


def without_repeats(vms: Sequence[Vm]) -> Iterator[str]:
    """Leave each file to the first VM that has it; yield a sentence for each that is left out of another.

    Memory that VMs map together is one memory: nothing would be saved by sharing it.
    """
    seen: dict[tuple[int, int], Vm] = {}
    for vm in vms:
        for file in vm.files:
            if seen.setdefault(file.key, vm) is not vm:
                yield (
                    f"{vm.described}: {format_size(file.size)} is the same file as one of"
                    f" {seen[file.key].described}, and is counted there"
                )
        vm.files = tuple(file for file in vm.files if seen[file.key] is vm)


def pid_at(socket: Path) -> int:
    """Return the process that listens at a monitor's socket. Raises UnreachableError."""
    try:
        pid = listener(socket)
    except OSError as error:
        raise UnreachableError(f"{socket}: {error.strerror}") from error
    if not pid:
        raise UnreachableError(
            f"{quoted(str(socket))}: no process is found that listens there: name a VM by its pid or its"
            " monitor's socket"
        )
    return pid
