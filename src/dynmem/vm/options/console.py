"""The option about the guest's serial console, ``--serial``."""

import enum
from dataclasses import dataclass
from pathlib import Path

from dynmem.vm.options.text import Keys


class ConsoleKind(enum.Enum):
    """What is at the other end of a guest's serial line."""

    NONE = "none"
    STDIO = "stdio"
    FILE = "file"
    SOCKET = "unix"


@dataclass(frozen=True)
class ConsoleOptions:
    """``--serial``.

    Attributes:
        kind: What is at the other end.
        path: Its file or its socket.
    """

    kind: ConsoleKind = ConsoleKind.NONE
    path: Path | None = None


def parse_serial(text: str) -> ConsoleOptions:
    """Parse ``none``, ``stdio``, ``file:PATH`` or ``unix:PATH,server=on,wait=off``."""
    for kind in (ConsoleKind.NONE, ConsoleKind.STDIO):
        if text == kind.value:
            return ConsoleOptions(kind)
    word, _, path = text.partition(":")
    if word == ConsoleKind.FILE.value and path:
        return ConsoleOptions(ConsoleKind.FILE, Path(path))  # all of it, as before there were keys
    keys = Keys("serial", text, implied="path")
    if word != ConsoleKind.SOCKET.value:
        raise keys.wrong("write none, stdio, file:PATH or unix:PATH,server=on,wait=off")
    return ConsoleOptions(ConsoleKind.SOCKET, keys.listening_socket("the console"))
