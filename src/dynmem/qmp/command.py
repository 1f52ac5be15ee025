"""Commands of a monitor: their arguments and results, and the rejection of wrong requests."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

from dynmem.qmp.errors import COMMAND_NOT_FOUND, QmpCommandError
from dynmem.qmp.types import EMPTY, Object, Type, read_members, wrong

#: Checked arguments of a command, by name.
Arguments = Mapping[str, object]

_MEMBERS: Final = ("execute", "arguments", "id")


class Command(NamedTuple):
    """One command.

    Attributes:
        run: Takes the checked arguments and returns the reply, or an awaitable of it. Rejects with
            QmpCommandError.
        arguments: The declared arguments.
        returns: The type of the reply.
        takes_more: Whether `run` checks all arguments itself, undeclared ones too (QEMU's device_add: they
            depend on the driver).
    """

    run: Callable[[Arguments], object | Awaitable[object]]
    arguments: Object = EMPTY
    returns: Type = EMPTY
    takes_more: bool = False


class Request(NamedTuple):
    """A well-formed request whose `arguments` are not checked yet."""

    command: str
    arguments: dict[str, object]


def parse_request(message: object) -> Request:
    """Return the request in a JSON value. Raises QmpCommandError with QEMU's text."""
    if not isinstance(message, dict):
        raise wrong("QMP input must be a JSON object")
    for name, value in message.items():
        if name == "execute" and not isinstance(value, str):
            raise wrong("QMP input member 'execute' must be a string")
        if name == "arguments" and not isinstance(value, dict):
            raise wrong("QMP input member 'arguments' must be an object")
        if name not in _MEMBERS:
            raise wrong(f"QMP input member '{name}' is unexpected")
    if "execute" not in message:
        raise wrong("QMP input lacks member 'execute'")
    return Request(message["execute"], message.get("arguments", {}))


def checked_arguments(command: Command, given: Arguments) -> Arguments:
    """Return the arguments for `command`. Raises QmpCommandError if one is missing, mistyped or unknown."""
    return given if command.takes_more else read_members(command.arguments, given)


def find_command(commands: Mapping[str, Command], name: str) -> Command:
    """Return the command called `name`. Raises QmpCommandError of class CommandNotFound."""
    if name not in commands:
        raise QmpCommandError(COMMAND_NOT_FOUND, f"The command {name} has not been found")
    return commands[name]
