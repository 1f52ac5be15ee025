"""The errors that dynmem raises on purpose, and the exit code that each one ends a command with.

Each text is a sentence for the person who reads it: what happened, the rule or the number, what to do next.
"""

import enum
from typing import Final

_QUOTED: Final = 40  # characters of a wrong text that a sentence quotes


def quoted(text: str) -> str:
    """Return a text as a sentence quotes it: control characters escaped, not too long."""
    return repr(text) if len(text) <= _QUOTED else f"{text[:_QUOTED]!r}..."


def printable(text: str) -> str:
    """Return a text of unknown origin as it can be shown: control characters and broken ones become "?"."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "?" for each in text)


class ExitCode(enum.IntEnum):
    """Exit codes of every command: MEANINGS says what each means."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_PERMITTED = 4
    REFUSED = 5
    PARTIAL = 6
    TIMED_OUT = 7
    WRONG_BYTES = 10
    OVER_BUDGET = 11
    GUEST_LOST = 12
    INTERRUPTED = 130


#: What ``dynmem --help``, the man pages and docs/service.md say of each.
MEANINGS: Final = {
    ExitCode.OK: "OK",
    ExitCode.FAILURE: "failure",
    ExitCode.USAGE: "wrong usage or configuration",
    ExitCode.UNREACHABLE: "unreachable",
    ExitCode.NOT_PERMITTED: "not permitted",
    ExitCode.REFUSED: "refused by a rule",
    ExitCode.PARTIAL: "partly done",
    ExitCode.TIMED_OUT: "timed out",
    ExitCode.WRONG_BYTES: "wrong bytes in guest memory",
    ExitCode.OVER_BUDGET: "over the budget",
    ExitCode.GUEST_LOST: "a guest was lost or OOM-killed",
    ExitCode.INTERRUPTED: "interrupted",
}


class DynmemError(Exception):
    """Something dynmem refuses or cannot do, in a sentence."""

    exit_code: ExitCode = ExitCode.FAILURE


class ProtocolError(DynmemError):
    """A protocol was violated; the two subclasses say by which side."""


class LocalProtocolError(ProtocolError):
    """Our side requested something the protocol does not allow: a bug on this side of the wire."""


class RemoteProtocolError(ProtocolError):
    """The peer (a guest, a socket, a file) sent something malformed or out of order."""


class ConfigError(DynmemError):
    """A configuration file or an option is wrong."""

    exit_code = ExitCode.USAGE


class UnreachableError(DynmemError):
    """The peer cannot be reached."""

    exit_code = ExitCode.UNREACHABLE


class NotPermittedError(DynmemError):
    """The system denied access."""

    exit_code = ExitCode.NOT_PERMITTED


class RefusedError(DynmemError):
    """A rule (a floor, a budget, a state) forbids it."""

    exit_code = ExitCode.REFUSED


class DeadlineError(DynmemError):
    """A deadline passed."""

    exit_code = ExitCode.TIMED_OUT
