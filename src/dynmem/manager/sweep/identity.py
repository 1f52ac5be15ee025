"""Which VM is behind which name of the configuration: one VM under two names would be counted twice.

Two names are one VM if their sockets are one file, whatever the paths are, or if one process listens at both
and their monitors do not report different UUIDs. (A process with several VMs behind it is a broker that opens
monitors for others.) A UUID alone proves nothing, since a monitor can report any: another process with the
same UUID is another VM.
"""

import re
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.errors import RefusedError

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Identity(NamedTuple):
    """What is known of the VM behind a name.

    Attributes:
        socket: Device and inode of its socket, in words; empty if there is none.
        process: The process that listens, with its start time; empty if it cannot be seen.
        uuid: What its monitor reports; empty if it has not, or does not.
    """

    socket: str
    process: str = ""
    uuid: str = ""

    def is_same(self, other: "Identity") -> bool:
        """Return whether this is the same VM as the other, which has been identified before."""
        if self.socket and self.socket == other.socket:
            return True
        is_one_process = bool(self.process) and self.process == other.process
        return is_one_process and bool(other.uuid) and self.uuid in ("", other.uuid)

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of this VM that every manager on this host finds alike."""
        sockets = (f"socket {self.socket}",) if self.socket else ()
        return (*sockets, f"process {self.process} {self.uuid}") if self.process and self.uuid else sockets


def uuid_of(value: object) -> str:
    """Return a UUID that a monitor reported; "" if it is none."""
    return value.lower() if isinstance(value, str) and _UUID.fullmatch(value) else ""


class Identities:
    """The identities of one manager's VMs. A name keeps a VM until the VM's life ends."""

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}
        self._known: dict[str, Identity] = {}

    def enter(self, name: str, path: Path) -> None:
        """Add a configured name and the path of its monitor."""
        self._paths[name] = path

    def leave(self, name: str) -> None:
        """Remove a name."""
        self._paths.pop(name, None)
        self._known.pop(name, None)

    def forget(self, name: str) -> None:
        """Release the VM behind a name: its life has ended."""
        self._known.pop(name, None)

    def look(self, name: str) -> Identity:
        """Return what the file system says of a name's socket. RefusedError if it is another VM's."""
        path = self._paths[name]
        socket = _socket_of(path)
        if _is_link(path):
            # The socket belongs to whoever names it directly: a link to a neighbour takes nothing from it.
            for other, direct in self._paths.items():
                if other != name and not _is_link(direct) and socket and _socket_of(direct) == socket:
                    raise self._same(name, other)
        return Identity(socket)

    def claim(self, name: str, identity: Identity) -> None:
        """Record who is behind a name. RefusedError if that VM is behind another name already."""
        for other, known in self._known.items():
            if other != name and identity.is_same(known):
                raise self._same(name, other)
        self._known[name] = identity

    def _same(self, name: str, other: str) -> RefusedError:
        return RefusedError(
            f"is the same VM as {other}: {self._paths[name]} and {self._paths[other]} lead to one VM, which"
            f" counts once, as {other}: remove one of them from the configuration"
        )


def _socket_of(path: Path) -> str:
    """Return device and inode of the file at a path; "" if there is none."""
    try:
        info = path.stat()
    except OSError:
        return ""
    return f"{info.st_dev:x}:{info.st_ino}"


def _is_link(path: Path) -> bool:
    """Return whether the file at a path is known to be a symbolic link."""
    try:
        return path.is_symlink()
    except OSError:
        return False
