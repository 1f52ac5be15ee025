"""The QEMU Machine Protocol: a client, a server whose commands are declared with their types, and framing.

`QmpClient` and `QmpServer` run on asyncio. A command that fails raises `QmpCommandError` at both ends, with
QEMU's class and text.

Source: QEMU docs/interop/qmp-spec.rst and qapi/.
"""

from dynmem.qmp.client import QmpClient, QmpEvent
from dynmem.qmp.command import Arguments, Command
from dynmem.qmp.errors import (
    COMMAND_NOT_FOUND,
    DEVICE_NOT_ACTIVE,
    DEVICE_NOT_FOUND,
    GENERIC_ERROR,
    BusyError,
    NotListeningError,
    QmpCommandError,
)
from dynmem.qmp.framing import LineReader, decode_line, encode_line
from dynmem.qmp.server import QmpServer
from dynmem.qmp.types import (
    ANY,
    BOOL,
    EMPTY,
    INT,
    INT32,
    SIZE,
    STR,
    UINT32,
    UINT64,
    Array,
    Builtin,
    Enum,
    Member,
    Object,
    Type,
)
from dynmem.sockets import Peer

# in the order of importance: the client, the server, the types that commands are declared with, framing
__all__ = [
    "QmpClient",
    "QmpEvent",
    "Peer",
    "QmpCommandError",
    "NotListeningError",
    "BusyError",
    "QmpServer",
    "Command",
    "Arguments",
    "GENERIC_ERROR",
    "COMMAND_NOT_FOUND",
    "DEVICE_NOT_ACTIVE",
    "DEVICE_NOT_FOUND",
    "Object",
    "Member",
    "Array",
    "Enum",
    "Builtin",
    "Type",
    "STR",
    "BOOL",
    "INT",
    "INT32",
    "UINT32",
    "UINT64",
    "SIZE",
    "ANY",
    "EMPTY",
    "LineReader",
    "encode_line",
    "decode_line",
]
