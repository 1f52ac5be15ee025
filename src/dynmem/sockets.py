"""Unix sockets: which process listens, and how to listen where a dead socket may be in the way."""

import errno
import os
import pwd
import socket
import struct
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.errors import ConfigError
from dynmem.limits import UNIX_PATH_BYTES_MAX

#: struct ucred of unix(7): process, user, group.
UCRED: Final = struct.Struct("=iII")


class Peer(NamedTuple):
    """The process at the other end of a connection, as the kernel recorded it at connect(2) or listen(2).

    Attributes:
        pid: Its process id; 0 if it is in another pid namespace.
        uid: Its effective user.
        gid: Its effective group.
    """

    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    """Return the process at the other end. Raises OSError."""
    return Peer(*UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)))


def user_name(uid: int) -> str:
    """Return a user's name; its number if it has none here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def listener(path: Path) -> int:
    """Return the process id of the listener at *path*; 0 if that cannot be found out.

    The kernel keeps it since listen(2), so it is known even if the listener accepts no connection (unix(7)).
    Whose queue of clients is full is not known. OSError if this process may open no more descriptors.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        try:
            connection.connect(os.fspath(path))
            return peer_of(connection).pid
        except OSError:
            return 0


def bind_private(path: Path, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """Return a socket that is bound at *path* for this user only and does not listen yet.

    `kind` is SOCK_STREAM or SOCK_SEQPACKET. A dead socket that is there is replaced. ConfigError if anything
    else is, or if the system refuses.
    """
    if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
        raise ConfigError(
            f"{path}: longer than {UNIX_PATH_BYTES_MAX} bytes, the limit of a unix socket: use a shorter path"
        )
    made = socket.socket(socket.AF_UNIX, kind)
    try:
        _remove_dead(path)
        made.bind(os.fspath(path))
        path.chmod(0o600)  # in time: a socket that does not listen refuses every client
    except OSError as error:
        made.close()
        folder = path.absolute().parent
        step = "choose another path" if folder.exists() else f"make the folder {folder}"
        raise ConfigError(f"{path}: cannot listen: {error.strerror}: {step}") from None
    except ConfigError:
        made.close()
        raise
    return made


def _remove_dead(path: Path) -> None:
    """Remove a dead socket; ConfigError if a process listens on it, or if it is not a socket."""
    if not path.exists():
        return
    if not path.is_socket():
        raise ConfigError(f"{path}: exists and is not a socket: move it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(os.fspath(path)) != errno.ECONNREFUSED:
            pid = listener(path)
            which = f" (pid {pid})" if pid else ""
            raise ConfigError(f"{path}: another process is listening{which}: choose another path")
    path.unlink()
