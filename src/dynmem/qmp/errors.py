"""The errors of the QEMU Machine Protocol: those a monitor replies with, and those a client meets."""

from typing import Final

from dynmem.errors import RefusedError, UnreachableError

GENERIC_ERROR: Final = "GenericError"
COMMAND_NOT_FOUND: Final = "CommandNotFound"
DEVICE_NOT_ACTIVE: Final = "DeviceNotActive"
DEVICE_NOT_FOUND: Final = "DeviceNotFound"


class QmpCommandError(RefusedError):
    """A monitor's error reply: `error_class` is for programs (QEMU qapi/error.json), `desc` for people."""

    def __init__(self, error_class: str, desc: str) -> None:
        super().__init__(desc)
        self.error_class = error_class
        self.desc = desc


class BusyError(UnreachableError):
    """The monitor accepted the connection and stayed silent: it serves another client (QEMU serves one)."""
