"""What the kernel says of the host and of this process: memory figures, limits, and what it is short of."""

import errno
import os
import resource
from pathlib import Path
from typing import Final

from dynmem.errors import RemoteProtocolError
from dynmem.units import KIB

PROC: Final = Path("/proc")
MEMINFO: Final = PROC / "meminfo"
#: Errors of a process, or of the whole host, that is short of something.
SHORTAGES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

#: Of a file of the kernel's; those that list something of a large host have some 100 KiB.
TEXT_BYTES_MAX: Final = 1 << 20
_PIECE_BYTES: Final = 1 << 16


def bytes_of(path: str, most: int = TEXT_BYTES_MAX) -> bytes:
    """Return the first *most* bytes of a file of the kernel's; OSError.

    A file object takes longer than the kernel does, and a manager reads a few of each VM.
    """
    pieces, length = [], 0
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while length < most and (piece := os.read(descriptor, _PIECE_BYTES)):
            pieces.append(piece)
            length += len(piece)
    finally:
        os.close(descriptor)
    return b"".join(pieces)[:most]


def text_of(path: Path) -> str:
    """Return the text of a file of the kernel's; OSError. Names in it may have bytes that are no text."""
    return bytes_of(str(path)).decode(errors="surrogateescape")


def meminfo(*names: str, path: Path = MEMINFO) -> tuple[int, ...]:
    """Return these figures of proc_meminfo(5) in bytes, all of one moment.

    Raises RemoteProtocolError if one is missing or is not in kB, and OSError.
    """
    found: dict[str, int] = {}
    with path.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            if name in names:
                words = rest.split()
                if len(words) != 2 or words[1] != "kB" or not words[0].isdigit():
                    raise RemoteProtocolError(f"{path}: {name} is not a number of kB")
                found[name] = int(words[0]) * KIB
    missing = [name for name in names if name not in found]
    if missing:
        raise RemoteProtocolError(f"{path} has no {missing[0]}: Linux 3.14 or later is needed")
    return tuple(found[name] for name in names)


def is_shortage(error: BaseException) -> bool:
    """Return whether an error says what this process or the host lacks, and nothing of what was looked at."""
    return isinstance(error, OSError) and error.errno in SHORTAGES


def allow_descriptors(count: int) -> bool:
    """Raise this process's limit of open descriptors to *count*, or as far as the hard limit allows.

    Return whether *count* are allowed now. Shells and systemd start with 1024, which a few hundred VMs use
    up.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted == count
