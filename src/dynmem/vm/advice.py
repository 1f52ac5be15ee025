"""Warnings about a machine's memory backends, for the log: nothing here refuses one.

Above all: a file can have a size without having the space, and touching a page that it cannot get ends the
process by SIGBUS, guest or machine.
"""

import fcntl
import os
from collections.abc import Iterable, Mapping
from typing import Final

from dynmem.memory.backend import Backend
from dynmem.memory.backend_file import FileBackend
from dynmem.memory.host_memory import free_bytes, host_memory
from dynmem.units import format_size
from dynmem.vm.options.memory import BackendOptions

_NO_HUGE_PAGES: Final = "hugetlbsize does nothing without hugetlb=on"
_SHARED: Final = (
    "share=off reads back as off, but the memory is shared: the embedded guest is another process"
)


def notes(identity: str, options: BackendOptions, backends: Mapping[str, Backend]) -> list[str]:
    """Return the warnings about a backend that was just made; `backends` are all, this one included."""
    backend = backends[identity]
    found = []
    if options.share is False:
        found.append(_SHARED)
    if options.hugetlb_size and not options.hugetlb:
        found.append(_NO_HUGE_PAGES)
    if isinstance(backend, FileBackend):
        found += _notes_of_file(backend, backends.values())
    return [f"object '{identity}': {text}" for text in found]


def memory_note(size: int) -> str | None:
    """Return the warning about an amount of boot memory, if it needs one."""
    total = host_memory().total
    if size <= total:
        return None
    return f"-m: {format_size(size)} at boot, but this host has only {format_size(total)}"


def shortages(backends: Mapping[str, Backend]) -> list[str]:
    """Return why touching guest memory may have ended in SIGBUS: a phrase for each file at fault."""
    found = []
    for identity, backend in backends.items():
        if not isinstance(backend, FileBackend) or backend.is_closed:
            continue
        has = sum(os.fstat(fd).st_size for fd, _, _ in backend.files(0, backend.size))
        if has < backend.size:
            text = f"{backend.path} was cut short to {format_size(has)} of {format_size(backend.size)}"
        elif (text := _shortage(backend, backends.values())) == "":
            continue
        found.append(f"object '{identity}': {text}")
    return found


def _notes_of_file(backend: FileBackend, all_of_them: Iterable[Backend]) -> list[str]:
    found = []
    if shortage := _shortage(backend, all_of_them):
        found.append(
            f"{shortage}: the machine ends by SIGBUS when the space runs out; prealloc=on checks it now"
        )
    try:
        fcntl.flock(backend.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        found.append(
            f"{backend.path} is also the memory of another backend or machine: each overwrites the other's"
        )
    except OSError:  # a file system without locks
        pass
    return found


def _shortage(backend: FileBackend, all_of_them: Iterable[Backend]) -> str:
    """Return what a file system lacks for all that the backends on it may use; "" if nothing."""
    if backend.hugetlb:  # reserved when it was mapped
        return ""
    device = os.fstat(backend.fd).st_dev
    free = free_bytes(backend.fd)
    wanted = sum(
        _missing(other)
        for other in all_of_them
        if isinstance(other, FileBackend) and not other.is_closed and os.fstat(other.fd).st_dev == device
    )
    if wanted <= free:
        return ""
    return f"{format_size(free)} free at {backend.path}, {format_size(wanted)} needed"


def _missing(backend: FileBackend) -> int:
    return max(0, backend.size - backend.resident_bytes())
