"""A client of the running manager, for short-lived commands: a blocking socket, one line each way.

Imports nothing that costs time (no msgspec, asyncio or numpy): `dynmem status` has 150 ms in all.
"""

import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from dynmem.errors import (
    ConfigError,
    DeadlineError,
    DynmemError,
    ExitCode,
    NotPermittedError,
    RefusedError,
    RemoteProtocolError,
    UnreachableError,
)
from dynmem.limits import API_REPLY_BYTES_MAX

if TYPE_CHECKING:
    from dynmem.manager.api.messages import StatusReply

_BY_CODE: dict[int, type[DynmemError]] = {
    ExitCode.USAGE: ConfigError,
    ExitCode.UNREACHABLE: UnreachableError,
    ExitCode.NOT_PERMITTED: NotPermittedError,
    ExitCode.REFUSED: RefusedError,
    ExitCode.TIMED_OUT: DeadlineError,
}


def ask(path: Path, request: dict[str, Any], *, timeout_s: float = 5.0) -> dict[str, Any]:
    """Send one request and return its reply; a refusal is raised as the error of its exit code."""
    try:
        line = _exchange(path, json.dumps(request).encode() + b"\n", timeout_s)
    except TimeoutError as error:
        raise late(path, timeout_s) from error
    except OSError as error:
        raise unreachable(path, error) from error
    return reply_of(path, line)


def reply_of(path: Path, line: bytes) -> dict[str, Any]:
    """Return the reply that a line is; a refusal is raised as the error of its exit code."""
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict) or "schema_version" not in reply:
        raise RemoteProtocolError(
            f"{path}: the listener is not a manager of dynmem: name the manager's socket with --socket"
        )
    if reply["schema_version"] != 1:
        raise RemoteProtocolError(f"the manager at {path} is of another version: restart `dynmem run`")
    if not reply.get("ok"):
        raise _BY_CODE.get(reply.get("exit_code", 1), DynmemError)(str(reply.get("error", "refused")))
    return reply


class _Fields(SimpleNamespace):
    """An object of a reply by its fields. One that an older manager does not send reads as None."""

    def __getattr__(self, name: str) -> None:
        return None


def status_of(reply: dict[str, Any]) -> "StatusReply":
    """Return a status with its fields as attributes: what `StatusReply` says, without importing it."""
    return cast("StatusReply", _by_field(reply))


def _by_field(value: object) -> object:
    if isinstance(value, dict):
        return _Fields(**{name: _by_field(each) for name, each in value.items()})
    if isinstance(value, list):
        return [_by_field(each) for each in value]
    return value


def _exchange(path: Path, line: bytes, timeout_s: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(os.fspath(path))
        connection.sendall(line)
        received = bytearray()
        while not received.endswith(b"\n"):
            piece = connection.recv(1 << 16)
            if not piece:
                raise hung_up(path)
            received += piece
            if len(received) > API_REPLY_BYTES_MAX:
                raise too_long(path)
        return bytes(received)


def late(path: Path, timeout_s: float) -> DeadlineError:
    """Return the error that no reply has come in time."""
    return DeadlineError(f"the manager at {path} has not replied for {timeout_s:g} s: see its log")


def hung_up(path: Path) -> UnreachableError:
    """Return the error that the connection ended before a reply."""
    return UnreachableError(f"the manager at {path} closed the connection without a reply: see its log")


def too_long(path: Path) -> RemoteProtocolError:
    """Return the error that a reply has no end."""
    return RemoteProtocolError(
        f"{path}: a reply above {API_REPLY_BYTES_MAX} bytes: this is not a manager of dynmem"
    )


def unreachable(path: Path, error: OSError) -> DynmemError:
    """Return the error of a socket that cannot be reached: why, and what to do."""
    if isinstance(error, PermissionError):
        return NotPermittedError(
            f"{path}: permission denied: run this command as the user who started `dynmem run`"
        )
    if isinstance(error, FileNotFoundError):
        return UnreachableError(
            f"no manager is running at {path} (no such socket): start `dynmem run`,"
            " or name its socket with --socket"
        )
    if isinstance(error, ConnectionRefusedError):
        if path.exists() and not path.is_socket():  # it may be gone by now
            return UnreachableError(f"{path} is not a socket: name the manager's socket with --socket")
        return UnreachableError(
            f"no manager is running at {path} (the socket of one that was killed): start `dynmem run` again"
        )
    return UnreachableError(f"no manager is running at {path} ({error}): start `dynmem run`")
