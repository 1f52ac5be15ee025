"""Commands of a monitor: what they take, what is wrong with a request, in QEMU's words (those of 7.2)."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

from dynmem.qmp.errors import COMMAND_NOT_FOUND, GENERIC_ERROR, QmpCommandError

INT64_MAX: Final = (1 << 63) - 1
Arguments = Mapping[str, object]

_MEMBERS: Final = ("execute", "arguments", "id")


def _is_integer(value: object) -> bool:
    return type(value) is int and -INT64_MAX - 1 <= value <= INT64_MAX


# the word QEMU has for a type -> whether a decoded JSON value is one
_TYPES: Final[Mapping[str, Callable[[object], bool]]] = {
    "integer": _is_integer,
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


class Argument(NamedTuple):
    """One argument of a command: its type in QEMU's word (integer, boolean, string, array, object)."""

    type: str
    optional: bool = False


class Command(NamedTuple):
    """One command: `run` gets the checked arguments and returns what the client gets (awaited if awaitable).

    `run` refuses with QmpCommandError.
    """

    run: Callable[[Arguments], object | Awaitable[object]]
    arguments: Mapping[str, Argument] = {}


class Request(NamedTuple):
    """A well-formed request; `arguments` are not checked yet."""

    command: str
    arguments: dict[str, object]


def parse_request(message: object) -> Request:
    """The request in one JSON value. Raises QmpCommandError with QEMU's text."""
    if not isinstance(message, dict):
        raise _generic("QMP input must be a JSON object")
    for name, value in message.items():
        if name == "execute" and not isinstance(value, str):
            raise _generic("QMP input member 'execute' must be a string")
        if name == "arguments" and not isinstance(value, dict):
            raise _generic("QMP input member 'arguments' must be an object")
        if name not in _MEMBERS:
            raise _generic(f"QMP input member '{name}' is unexpected")
    if "execute" not in message:
        raise _generic("QMP input lacks member 'execute'")
    return Request(message["execute"], message.get("arguments", {}))


def check_arguments(declared: Mapping[str, Argument], given: Arguments) -> None:
    """Raise QmpCommandError for a missing, mistyped or unexpected argument, in that order."""
    for name, argument in declared.items():
        if name not in given:
            if not argument.optional:
                raise _generic(f"Parameter '{name}' is missing")
        elif not _TYPES[argument.type](given[name]):
            raise _generic(f"Invalid parameter type for '{name}', expected: {argument.type}")
    unexpected = [name for name in given if name not in declared]
    if unexpected:
        raise _generic(f"Parameter '{unexpected[0]}' is unexpected")


def find_command(commands: Mapping[str, Command], name: str) -> Command:
    """The command called `name`, or QmpCommandError of class CommandNotFound."""
    if name not in commands:
        raise QmpCommandError(COMMAND_NOT_FOUND, f"The command {name} has not been found")
    return commands[name]


def _generic(desc: str) -> QmpCommandError:
    return QmpCommandError(GENERIC_ERROR, desc)
