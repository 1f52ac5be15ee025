"""The errors of the QEMU Machine Protocol: those a monitor replies with, and those a client meets."""

from typing import Final

from dynmem.errors import RefusedError, RemoteProtocolError, UnreachableError

#: The class of nearly all of QEMU's errors.
GENERIC_ERROR: Final = "GenericError"
#: The class for a command that does not exist, or not yet.
COMMAND_NOT_FOUND: Final = "CommandNotFound"
#: The class for a device that is not ready: a balloon whose driver is not loaded.
DEVICE_NOT_ACTIVE: Final = "DeviceNotActive"
#: The class for an id that no device has.
DEVICE_NOT_FOUND: Final = "DeviceNotFound"


class QmpCommandError(RefusedError):
    """A monitor's error reply: `error_class` is for programs (QEMU qapi/error.json), `desc` for people."""

    def __init__(self, error_class: str, desc: str) -> None:
        super().__init__(desc)
        self.error_class = error_class
        self.desc = desc


class TooMuchError(RemoteProtocolError):
    """A message is larger than this end reads; the peer may be within its rights."""


class BusyError(UnreachableError):
    """The monitor accepted the connection and stayed silent: it serves another client (QEMU serves one)."""


class NotListeningError(UnreachableError):
    """No process listens at the monitor's socket, or there is no socket."""
