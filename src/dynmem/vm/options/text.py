"""Texts of options, cut as QEMU cuts them: ``first,key=value,flag``; ``,,`` is a comma.

Every error is a ConfigError that names the option and shows its text.
"""

import re
from collections.abc import Collection
from typing import Final

from dynmem.errors import ConfigError
from dynmem.units import format_size, parse_size

_SWITCH: Final = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,19}|0[xX][0-9a-fA-F]{1,16}", re.ASCII)
_IDENTIFIER: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]*", re.ASCII)


def is_identifier(text: str) -> bool:
    """Whether QEMU takes `text` as an id (util/id.c)."""
    return _IDENTIFIER.fullmatch(text) is not None


def split_options(option: str, text: str, *, implied: str) -> dict[str, str]:
    """Cut ``first,key=value,flag`` into keys and values; a first bare word is the value of `implied`.

    A later bare word means ``on``. Raises ConfigError that names `option`.
    """
    found: dict[str, str] = {}
    words = [word.replace("\0", ",") for word in text.replace(",,", "\0").split(",")]
    for position, word in enumerate(words):
        key, equals, value = word.partition("=")
        if not equals:
            key, value = (implied, word) if position == 0 else (word, "on")
        if not key or (not value and not equals):
            raise ConfigError(f"--{option} {text!r}: there is nothing between two commas")
        if key in found:
            raise ConfigError(f"--{option} {text!r}: {key} is given twice")
        found[key] = value
    return found


class Keys:
    """The keys of one option's text, read one by one with their types."""

    def __init__(self, option: str, text: str, *, implied: str) -> None:
        self._option = option
        self._text = text
        self._found = split_options(option, text, implied=implied)

    def only(self, known: Collection[str]) -> None:
        """Refuse keys that are not `known`."""
        for key in self._found:
            if key not in known:
                raise self.wrong(f"{key!r} is not known; there are {', '.join(known)}")

    def wrong(self, what: str) -> ConfigError:
        """What is wrong with this text, to be raised."""
        return ConfigError(f"--{self._option} {self._text!r}: {what}")

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def rest(self) -> dict[str, str]:
        """The keys that were not taken."""
        return dict(self._found)

    def take(self, key: str, default: str | None = None) -> str | None:
        """The text of a key, which is then no longer there."""
        return self._found.pop(key, default)

    def text(self, key: str, default: str = "") -> str:
        """The text of a key."""
        return self._found.get(key, default)

    def size(self, key: str, default: int | None = None, *, unit: str = "M") -> int:
        """A size in bytes; a bare number is in `unit`. Without a default the key has to be there."""
        if key not in self._found:
            if default is None:
                raise self.wrong(f"{key} is missing; write it like 512M")
            return default
        try:
            return parse_size(self._found[key], default_unit=unit)
        except ValueError as error:
            raise self.wrong(str(error)) from None

    def how_read(self, *keys: str) -> str:
        """How bare numbers of MiB among these keys were read, for the end of a sentence; "" without any."""
        bare = [key for key in keys if self._found.get(key, "").strip()[-1:].isdecimal()]
        told = ", ".join(
            f"{key}={self._found[key]} is {format_size(parse_size(self._found[key], default_unit='M'))}"
            for key in bare
        )
        return f" (a bare number is in MiB: {told})" if told else ""

    def integer(self, key: str, default: int, most: int) -> int:
        """A whole number from 0 to `most`; 0x begins a hexadecimal one."""
        value = self._found.get(key)
        if value is None:
            return default
        number = int(value, 0) if _NUMBER.fullmatch(value) else -1
        if not 0 <= number <= most:
            raise self.wrong(f"{key} is a whole number from 0 to {most}, not {value!r}")
        return number

    def identity(self) -> str | None:
        """The id, if there is one: a letter, then letters, digits, ``-``, ``.`` and ``_``, as with QEMU."""
        value = self._found.get("id")
        if value is not None and not is_identifier(value):
            raise self.wrong(f"id is a letter and then letters, digits and any of -._, not {value!r}")
        return value

    def switch(self, key: str) -> bool | None:
        """A switch, on or off; None where it is not given."""
        value = self._found.get(key)
        if value is None:
            return None
        if value not in _SWITCH:
            raise self.wrong(f"{key} is on or off, not {value!r}")
        return _SWITCH[value]

    def flag(self, key: str, *, default: bool) -> bool:
        """A switch, on or off."""
        value = self.switch(key)
        return default if value is None else value
