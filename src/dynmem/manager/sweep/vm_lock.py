"""A lock on a VM that every manager on the host sees: two managers would undo each other's decisions.

The lock is a listening socket in Linux's abstract namespace (unix(7)), named after the VM. The kernel removes
it with the process, so nothing is left after kill -9, and tells others who holds it. Any user may take any
name there; so a lock counts only if its holder might open the VM's monitor. Managers in different network
namespaces do not see each other's.
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dynmem.errors import RefusedError
from dynmem.sockets import Peer, peer_of, user_name

_PREFIX: Final = "\0dynmem managed vm: "
# Managers that ask at the same time who holds a lock.
_ASKING: Final = 8


class VmLock:
    """The lock on one VM, held until `close`, under all names that a manager may know the VM by."""

    def __init__(self) -> None:
        self._held: dict[str, socket.socket] = {}

    def take(self, keys: Sequence[str], monitor: Path) -> None:
        """Hold the lock under these names. RefusedError says which process holds it."""
        for key in keys:
            if key not in self._held:
                self._take(key, monitor)
        self._answer()

    def close(self) -> None:
        """Release it."""
        for each in self._held.values():
            each.close()
        self._held.clear()

    def _take(self, key: str, monitor: Path) -> None:
        try:
            self._held[key] = _listening(_PREFIX + key)
        except OSError as error:
            holder = _holder(key) if error.errno == errno.EADDRINUSE else None
            if holder is None or not may_open(holder, monitor):
                # Released since; or a stranger's, which says nothing about this VM; or no descriptor is left.
                return
            raise RefusedError(
                f"is managed by another `dynmem run` (process {holder.pid} of user {user_name(holder.uid)}):"
                " stop that one, or remove this VM from one of the two configurations"
            ) from None

    def _answer(self) -> None:
        """Close the connections of those who asked who holds the lock: connecting told them."""
        for each in self._held.values():
            with contextlib.suppress(OSError):
                while True:
                    each.accept()[0].close()


def _listening(name: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(name)
        made.listen(_ASKING)
    except OSError:
        made.close()
        raise
    made.setblocking(False)
    return made


def _holder(key: str) -> Peer | None:
    """Return the process that holds a lock; None if it was released, or cannot be asked."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.setblocking(False)
            asking.connect(_PREFIX + key)
            return peer_of(asking)
    except BlockingIOError:
        return Peer(0, os.geteuid(), os.getegid())  # many ask just now
    except OSError:
        return None


def may_open(holder: Peer, monitor: Path) -> bool:
    """Return whether a process might connect to a monitor, by its user and groups and the socket's mode."""
    if holder.uid in (0, os.geteuid()):
        return True
    try:
        info = monitor.stat()
    except OSError:
        return False
    if holder.uid == info.st_uid:
        return True
    groups = {holder.gid}
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{holder.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("Groups:"):
                groups.update(int(word) for word in line.split()[1:])
    if info.st_gid in groups:
        return bool(info.st_mode & stat.S_IWGRP)
    return bool(info.st_mode & stat.S_IWOTH)
