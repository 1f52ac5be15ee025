"""The unix sockets of this host as the kernel lists them: where a descriptor listens, and who is served.

QEMU serves one client for each monitor. Whoever connects beside it waits in a queue of one or two places, and
keeps its place there even after it has left. So a monitor that serves somebody is left alone.

    Num  RefCount  Protocol  Flags  Type  St  Inode  Path

A row that listens has the flag 10000. A row with the same path and state 03 is a connection that was accepted
there, and one with state 02 waits to be (net/unix/af_unix.c, unix_seq_show).
"""

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.limits import SCAN_SOCKETS_BYTES_MAX
from dynmem.procfs import PROC, bytes_of

_LISTENS: Final = 0x1_0000
_TAKEN: Final = frozenset((b"02", b"03"))
# Flags, state, inode and path of a stream socket that has a path. Half of the sockets of a host have none.
_SOCKET: Final = re.compile(rb"^\S+: \S+ \S+ ([0-9A-Fa-f]+) 0001 (\w\w) +(\d+) (.+)\n", re.MULTILINE)


class UnixSockets(NamedTuple):
    """What the kernel lists.

    Attributes:
        paths: Where each socket listens, by its inode.
        taken: The paths at which a client is served, or waits to be.
        is_known: Whether the list could be read.
    """

    paths: dict[int, str]
    taken: frozenset[str]
    is_known: bool = True


def unix_sockets(proc: Path = PROC) -> UnixSockets:
    """Return the sockets that have a path; lines that the kernel does not write are left out."""
    try:
        text = bytes_of(f"{proc}/net/unix", SCAN_SOCKETS_BYTES_MAX)
    except OSError:
        return UnixSockets({}, frozenset(), is_known=False)
    paths: dict[int, str] = {}
    taken: set[str] = set()
    for flags, state, inode, path in _SOCKET.findall(text):
        if state in _TAKEN:
            taken.add(os.fsdecode(path))
        elif int(flags, 16) & _LISTENS:
            paths[int(inode)] = os.fsdecode(path)
    return UnixSockets(paths, frozenset(taken))
