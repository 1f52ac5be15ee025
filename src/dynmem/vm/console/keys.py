"""What is typed at a terminal that belongs to a guest: Ctrl-A is for the machine, as in QEMU."""

import enum
from typing import Final

_ESCAPE: Final = 0x01  # Ctrl-A


class Command(enum.Enum):
    """What the user asks of the machine."""

    END = enum.auto()
    HELP = enum.auto()


#: What `HELP` asks for.
HELP: Final = "\r\nCtrl-A x: end the machine\r\nCtrl-A Ctrl-A: send a Ctrl-A to the guest\r\n"


class Keys:
    """Divides what is typed; a Ctrl-A may come in one piece and what follows it in the next."""

    def __init__(self) -> None:
        self._is_escaped = False

    def typed(self, data: bytes) -> tuple[bytes, list[Command]]:
        """Return what is for the guest and what is for the machine."""
        for_guest = bytearray()
        commands: list[Command] = []
        for key in data:
            if not self._is_escaped and key == _ESCAPE:
                self._is_escaped = True
                continue
            if not self._is_escaped or key == _ESCAPE:
                for_guest.append(key)
            else:
                commands.append(Command.END if key in b"xX" else Command.HELP)
            self._is_escaped = False
        return bytes(for_guest), commands
