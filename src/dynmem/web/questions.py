"""What a request asks for, by its address: a VM or the host, a time, and how much of it."""

import math
import re
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from dynmem.errors import ConfigError, quoted
from dynmem.history.past import LATEST_MS
from dynmem.limits import MANAGER_NAME_MAX

#: What is shown where no time is named.
SPAN_S: Final = 3600.0
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_VM: Final = "vm:"


class QuestionError(ConfigError):
    """A question that has no answer, whatever is kept."""


class UnknownError(ConfigError):
    """Nothing is known of what is asked for."""


class Span(msgspec.Struct, frozen=True):
    """A time, in milliseconds since the epoch."""

    since_ms: int
    until_ms: int


def about(of: str) -> str | None:
    """Return the VM that "vm:NAME" means; None: the host."""
    if of == "host":
        return None
    if not of.startswith(_VM):
        raise QuestionError(f"of: {quoted(of)} is neither host nor vm:NAME")
    return vm_name(of.removeprefix(_VM))


def vm_name(text: str) -> str:
    """Return a text that is the name of a VM."""
    if len(text) > MANAGER_NAME_MAX or _NAME.fullmatch(text) is None:
        raise QuestionError(f"{quoted(text)} is not the name of a VM")
    return text


def span_of(asked: Mapping[str, str]) -> Span:
    """Return the time of `since` and `until`: without them, the last hour."""
    until_ms = moment_of(asked, "until")
    until_ms = round(time.time() * 1000) if until_ms is None else until_ms
    since_ms = moment_of(asked, "since")
    since_ms = until_ms - round(SPAN_S * 1000) if since_ms is None else since_ms
    if since_ms >= until_ms:
        raise QuestionError("since: it is not before until: swap or correct them")
    return Span(since_ms, until_ms)


def moment_of(asked: Mapping[str, str], key: str) -> int | None:
    """Return a date in milliseconds since the epoch; None: it is not asked for."""
    if key not in asked:
        return None
    try:
        seconds = float(asked[key])
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds * 1000 <= LATEST_MS:
        raise QuestionError(f"{key}: {quoted(asked[key])} is not a date in seconds since 1970")
    return round(seconds * 1000)


def count_of(asked: Mapping[str, str], key: str, default: int, most: int) -> int:
    """Return how many are asked for."""
    text = asked.get(key, str(default))
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= most or len(text) > 9:
        raise QuestionError(f"{key}: {quoted(text)} is not a number from 1 to {most}")
    return int(text)
