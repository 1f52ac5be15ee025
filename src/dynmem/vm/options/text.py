"""Texts of options, cut as QEMU cuts them: ``first,key=value,flag``; ``,,`` is a comma.

Every error is a ConfigError that names the option and shows its text.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError
from dynmem.limits import UNIX_PATH_BYTES_MAX
from dynmem.units import format_size, parse_size

_SWITCH: Final = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,19}|0[xX][0-9a-fA-F]{1,16}", re.ASCII)
_IDENTIFIER: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]*", re.ASCII)


def is_identifier(text: str) -> bool:
    """Return whether QEMU accepts `text` as an id (util/id.c)."""
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
            raise ConfigError(f"--{option} {text!r}: nothing stands between two commas")
        if key in found:
            raise ConfigError(f"--{option} {text!r}: {key} is given twice: remove one")
        found[key] = value
    return found


class Keys:
    """The keys of one option's text, read one by one with their types."""

    def __init__(self, option: str, text: str, *, implied: str) -> None:
        self._option = option
        self._text = text
        self._found = split_options(option, text, implied=implied)

    def only(self, known: Collection[str]) -> None:
        """Raise ConfigError for a key that is not `known`."""
        for key in self._found:
            if key not in known:
                raise self.wrong(f"unknown key {key!r}; the keys are {', '.join(known)}")

    def wrong(self, what: str) -> ConfigError:
        """Return the error about this text, to be raised."""
        return ConfigError(f"--{self._option} {self._text!r}: {what}")

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def rest(self) -> dict[str, str]:
        """Return the keys that were not taken."""
        return dict(self._found)

    def take(self, key: str, default: str | None = None) -> str | None:
        """Remove a key and return its text."""
        return self._found.pop(key, default)

    def text(self, key: str, default: str = "") -> str:
        """Return the text of a key."""
        return self._found.get(key, default)

    def size(self, key: str, default: int | None = None, *, unit: str = "M") -> int:
        """Return a size in bytes; a bare number is in `unit`. Without a default the key is required."""
        if key not in self._found:
            if default is None:
                raise self.wrong(f"{key} is missing: add {key}=512M, for example")
            return default
        self._need_value(key, "512M")
        try:
            return parse_size(self._found[key], default_unit=unit)
        except ValueError as error:
            raise self.wrong(str(error)) from None

    def _need_value(self, key: str, example: str) -> None:
        """Raise ConfigError for a bare word: that it means on is no answer to somebody who forgot a value."""
        if self._found[key] == "on" and key in self._text.split(","):
            raise self.wrong(f"{key} has no value: write {key}={example}, for example")

    def how_read(self, *keys: str) -> str:
        """Return how bare numbers of MiB among these keys were read, for the end of a message; "" if none."""
        bare = [key for key in keys if self._found.get(key, "").strip()[-1:].isdecimal()]
        sizes = ", ".join(
            f"{key}={self._found[key]} is {format_size(parse_size(self._found[key], default_unit='M'))}"
            for key in bare
        )
        return f" (a bare number is in MiB: {sizes})" if sizes else ""

    def integer(self, key: str, default: int, most: int) -> int:
        """Return a whole number from 0 to `most`; 0x begins a hexadecimal one."""
        value = self._found.get(key)
        if value is None:
            return default
        self._need_value(key, "1")
        number = int(value, 0) if _NUMBER.fullmatch(value) else -1
        if not 0 <= number <= most:
            raise self.wrong(f"{key} must be a whole number from 0 to {most}, not {value!r}")
        return number

    def identity(self) -> str | None:
        """Return the id, if any: a letter, then letters, digits, ``-``, ``.`` and ``_``, as in QEMU."""
        value = self._found.get("id")
        if value is not None and not is_identifier(value):
            raise self.wrong(f"id must be a letter and then letters, digits and any of -._, not {value!r}")
        return value

    def switch(self, key: str) -> bool | None:
        """Return a switch, on or off; None if it is not given."""
        value = self._found.get(key)
        if value is None:
            return None
        if value not in _SWITCH:
            raise self.wrong(f"{key} must be on or off, not {value!r}")
        return _SWITCH[value]

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a switch, on or off."""
        value = self.switch(key)
        return default if value is None else value

    def one_of(self, key: str, words: Collection[str], default: str) -> str:
        """Return one of several words."""
        value = self._found.get(key, default)
        if value not in words:
            raise self.wrong(f"{key} is one of {', '.join(words)}, not {value!r}")
        return value

    def listening_socket(self, what: str) -> Path:
        """Return the path in ``unix:PATH,server=on,wait=off``, where `what` is to listen."""
        self.only(("path", "server", "wait"))
        kind, colon, path = self.text("path").partition(":")
        if kind != "unix" or not colon or not path:
            raise self.wrong("write it like unix:/run/vm/web.sock,server=on,wait=off")
        if not self.flag("server", default=False):
            raise self.wrong(f"{what} only listens: add server=on")
        if self.flag("wait", default=True):
            raise self.wrong("the machine does not wait for a client: add wait=off")
        if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
            raise self.wrong(f"a socket's path has at most {UNIX_PATH_BYTES_MAX} bytes")
        return Path(path)
