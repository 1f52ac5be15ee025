"""Lines for systemd's journal with fields of their own, in its native protocol.

`journalctl DYNMEM_VM=web` then shows what happened to one VM. A service whose standard output is the journal
finds that in JOURNAL_STREAM (systemd.exec(5)); anything else is printed.
"""

import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SOCKET: Final = Path("/run/systemd/journal/socket")
# The journal reads at once unless the host is in trouble; then the line is printed.
_PATIENCE_S: Final = 0.1
_LENGTH: Final = struct.Struct("<Q")


def is_journal(descriptor: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether what is written to a descriptor goes to the journal."""
    try:
        there = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


def send(fields: Mapping[str, str], path: Path = SOCKET) -> bool:
    """Send one entry; return whether the journal took it. Names are capital letters and underscores."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.settimeout(_PATIENCE_S)
            sending.sendto(encoded(fields), os.fspath(path))
    except OSError:
        return False
    return True


def encoded(fields: Mapping[str, str]) -> bytes:
    """Return an entry as the journal reads it: a value of several lines goes with its length before it."""
    found = bytearray()
    for name, value in fields.items():
        octets = value.encode(errors="replace")
        if b"\n" in octets:
            found += name.encode() + b"\n" + _LENGTH.pack(len(octets)) + octets + b"\n"
        else:
            found += name.encode() + b"=" + octets + b"\n"
    return bytes(found)
