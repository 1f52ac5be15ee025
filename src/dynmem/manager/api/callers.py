"""Who asks: the process at the other end of the socket, and the line in the log for what it changed."""

import socket
from contextvars import ContextVar
from typing import Final

from dynmem.manager.api.messages import Request, by_of, vm_of
from dynmem.sockets import Peer, peer_of, user_name

#: The caller whose request is being carried out; None: not known.
CALLER: Final[ContextVar[Peer | None]] = ContextVar("CALLER", default=None)


def caller_of(connection: socket.socket) -> Peer | None:
    """Return who is at the other end of a unix socket; None if that cannot be found out."""
    try:
        return peer_of(connection)
    except OSError:
        return None


def request_line(request: Request, caller: Peer | None) -> str:
    """Return the line that says what was carried out, and for whom."""
    command = request.__struct_config__.tag
    who = "a client" if caller is None else f"{user_name(caller.uid)} (process {caller.pid})"
    by = "" if by_of(request) is None else f", by the {by_of(request)}"
    return f"{vm_of(request) or 'all VMs'}: {command} requested by {who}{by}"
