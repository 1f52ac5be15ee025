"""What a person should know of a machine's memory backends though nothing refuses it: for the log.

Above all: a file that has a size need not have the space, and whoever touches a page that cannot be had is
ended by SIGBUS, guest or machine.
"""

import fcntl
import os
from collections.abc import Iterable, Mapping
from typing import Final

from dynmem.memory.backend import Backend
from dynmem.memory.backend_file import FileBackend
from dynmem.memory.host_memory import free_bytes, host_memory
from dynmem.units import STAT_BLOCK_BYTES, format_size
from dynmem.vm.options.memory import BackendOptions

_NO_HUGE_PAGES: Final = "hugetlbsize does nothing without hugetlb=on"
_SHARED: Final = (
    "share=off reads back as off, but the embedded guest is another process: the memory is shared"
)


def notes(identity: str, options: BackendOptions, backends: Mapping[str, Backend]) -> list[str]:
    """What there is to know of a backend that was made just now; `backends` are all, it too."""
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
    """What there is to know of so much boot memory, if anything."""
    total = host_memory().total
    if size <= total:
        return None
    return f"-m: {format_size(size)} at boot, but this host has {format_size(total)} in all"


def shortages(backends: Mapping[str, Backend]) -> list[str]:
    """Why a touch of guest memory may have ended in SIGBUS: what is wrong with each file, in a phrase."""
    found = []
    for identity, backend in backends.items():
        if not isinstance(backend, FileBackend) or backend.is_closed:
            continue
        has = os.fstat(backend.fd).st_size
        if has < backend.size:
            text = f"{backend.path} was cut short to {format_size(has)} of {format_size(backend.size)}"
        elif (text := _shortage(backend, backends.values())) == "":
            continue
        found.append(f"object '{identity}': {text}")
    return found


def _notes_of_file(backend: FileBackend, all_of_them: Iterable[Backend]) -> list[str]:
    found = []
    if shortage := _shortage(backend, all_of_them):
        found.append(f"{shortage}: SIGBUS ends the machine where there is no more; prealloc=on finds out now")
    try:
        fcntl.flock(backend.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        found.append(
            f"{backend.path} is the memory of another backend or machine, too: each destroys the other's"
        )
    except OSError:  # a file system without locks
        pass
    return found


def _shortage(backend: FileBackend, all_of_them: Iterable[Backend]) -> str:
    """What a file system lacks for what the backends on it may still come to need; "" when nothing."""
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
    return f"{format_size(free)} free at {backend.path}, {format_size(wanted)} asked for"


def _missing(backend: FileBackend) -> int:
    return max(0, backend.size - os.fstat(backend.fd).st_blocks * STAT_BLOCK_BYTES)
