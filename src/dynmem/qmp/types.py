"""The types of a monitor's arguments and results, and how a wrong value is rejected, in QEMU's words.

They are those of QAPI (QEMU docs/devel/qapi-code-gen.rst). `read` checks a decoded JSON value against one of
them as QEMU's input visitor does (qapi/qobject-input-visitor.c); `introspection` describes them to clients.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from dynmem.qmp.errors import GENERIC_ERROR, QmpCommandError

INT64_MAX: Final = (1 << 63) - 1
INT64_MIN: Final = -1 << 63
UINT64_MAX: Final = (1 << 64) - 1
UINT32_MAX: Final = (1 << 32) - 1

#: Any type that a value can be declared with.
Type: TypeAlias = "Builtin | Enum | Array | Object"


class Builtin(NamedTuple):
    """A type that is not composed of others.

    Attributes:
        name: Its name in introspection.
        json_type: Its JSON type in introspection.
        read: Takes a value and the argument's name, and returns the value for the command.
    """

    name: str
    json_type: str
    read: Callable[[object, str], object]


@dataclass(frozen=True, eq=False)
class Enum:
    """One of several words."""

    values: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Array:
    """A list of one type."""

    element: Type


class Member(NamedTuple):
    """A member of an object.

    Attributes:
        name: Its key.
        type: The type of its value.
        is_optional: Whether it may be left out.

    """

    name: str
    type: Type
    is_optional: bool = False


@dataclass(frozen=True, eq=False)
class Object:
    """A struct, or a union: its Enum member called `tag` selects which of `variants` adds its members."""

    members: tuple[Member, ...] = ()
    tag: str | None = None
    variants: Mapping[str, "Object"] = field(default_factory=dict)


#: No members: the arguments of most queries.
EMPTY: Final = Object()


def wrong(desc: str) -> QmpCommandError:
    """Return the error with text `desc`, to be raised."""
    return QmpCommandError(GENERIC_ERROR, desc)


def wrong_type(name: str, expected: str) -> QmpCommandError:
    """Return the error for a value of another JSON type, to be raised."""
    return wrong(f"Invalid parameter type for '{name}', expected: {expected}")


def _of_type(kind: type, word: str) -> Callable[[object, str], object]:
    def read_it(value: object, name: str) -> object:
        if not isinstance(value, kind):
            raise wrong_type(name, word)
        return value

    return read_it


def _signed(least: int, most: int, word: str) -> Callable[[object, str], object]:
    def read_it(value: object, name: str) -> object:
        if type(value) is not int or not INT64_MIN <= value <= INT64_MAX:
            raise wrong_type(name, "integer")
        if not least <= value <= most:
            raise wrong(f"Parameter '{name}' expects {word}")
        return value

    return read_it


def _unsigned(most: int, word: str) -> Callable[[object, str], object]:
    def read_it(value: object, name: str) -> object:
        if type(value) is not int or not INT64_MIN <= value <= UINT64_MAX:
            raise wrong(f"Parameter '{name}' expects uint64")
        value &= UINT64_MAX  # QEMU has always read a negative number as its two's complement
        if value > most:
            raise wrong(f"Parameter '{name}' expects {word}")
        return value

    return read_it


#: Any text, QAPI `str`.
STR: Final = Builtin("str", "string", _of_type(str, "string"))
#: True or false, QAPI `bool`.
BOOL: Final = Builtin("bool", "boolean", _of_type(bool, "boolean"))
#: Any JSON value, QAPI `any`.
ANY: Final = Builtin("any", "value", lambda value, _: value)
#: A signed integer of 64 bits, QAPI `int`.
INT: Final = Builtin("int", "int", _signed(INT64_MIN, INT64_MAX, "integer"))
#: A signed integer of 32 bits.
INT32: Final = Builtin("int", "int", _signed(-1 << 31, (1 << 31) - 1, "int32_t"))
#: An unsigned integer of 32 bits.
UINT32: Final = Builtin("int", "int", _unsigned(UINT32_MAX, "uint32_t"))
#: An unsigned integer of 64 bits.
UINT64: Final = Builtin("int", "int", _unsigned(UINT64_MAX, "uint64"))
#: A size in bytes, QAPI `size`.
SIZE: Final = UINT64


def read(declared: Type, value: object, name: str) -> object:
    """Return the checked value of the argument called `name`. Raises QmpCommandError with QEMU's text."""
    if isinstance(declared, Builtin):
        return declared.read(value, name)
    if isinstance(declared, Enum):
        if not isinstance(value, str):
            raise wrong_type(name, "string")
        if value not in declared.values:
            raise wrong(f"Parameter '{name}' does not accept value '{value}'")
        return value
    if isinstance(declared, Array):
        if not isinstance(value, list):
            raise wrong_type(name, "array")
        return [read(declared.element, item, f"{name}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, dict):
        raise wrong_type(name, "object")
    return read_members(declared, value, prefix=f"{name}.")


def read_members(declared: Object, given: Mapping[str, object], *, prefix: str = "") -> dict[str, object]:
    """Return the members of an object, checked in order of declaration; unknown ones are rejected last."""
    found: dict[str, object] = {}
    _read_into(found, declared, given, prefix)
    for name in given:
        if name not in found:
            raise wrong(f"Parameter '{prefix}{name}' is unexpected")
    return found


def _read_into(found: dict[str, object], declared: Object, given: Mapping[str, object], prefix: str) -> None:
    for member in declared.members:
        name = f"{prefix}{member.name}"
        if member.name in given:
            found[member.name] = read(member.type, given[member.name], name)
        elif not member.is_optional:
            raise wrong(f"Parameter '{name}' is missing")
    if declared.tag is not None:
        variant = declared.variants.get(str(found[declared.tag]))
        if variant is not None:
            _read_into(found, variant, given, prefix)
