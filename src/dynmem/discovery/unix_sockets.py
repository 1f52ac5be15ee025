"""The unix sockets of this host as the kernel lists them: where a descriptor listens, and who is served.

QEMU serves one client for each monitor. Whoever connects beside it waits in a queue of one or two places, and
keeps its place there even after it has left. So a monitor that serves somebody is left alone.

    Num  RefCount  Protocol  Flags  Type  St  Inode  Path

A row that listens has the flag 10000. A row with the same path and state 03 is a connection that was accepted
there, and one with state 02 waits to be (net/unix/af_unix.c, unix_seq_show).
"""

from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.limits import SCAN_SOCKETS_MAX
from dynmem.procfs import PROC

_LISTENS: Final = 0x1_0000
_STREAM: Final = "0001"
_TAKEN: Final = frozenset({"02", "03"})


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
    paths: dict[int, str] = {}
    taken: set[str] = set()
    try:
        with (proc / "net" / "unix").open(encoding="utf-8", errors="surrogateescape") as lines:
            for line in islice(lines, SCAN_SOCKETS_MAX):
                words = line.rstrip("\n").split(maxsplit=7)
                if len(words) != 8 or words[4] != _STREAM:
                    continue
                _, _, _, flags, _, state, inode, path = words
                if state in _TAKEN:
                    taken.add(path)
                elif _number(flags, 16) & _LISTENS:
                    paths[_number(inode, 10)] = path
    except OSError:
        return UnixSockets({}, frozenset(), is_known=False)
    return UnixSockets(paths, frozenset(taken))


def _number(text: str, base: int) -> int:
    try:
        return int(text, base)
    except ValueError:
        return 0
