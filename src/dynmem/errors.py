"""The errors that dynmem raises on purpose, and the exit code each one ends a command with.

The text of every one of them is a sentence for the person who reads it: the rule, the number, the next step.
"""

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of every command; also in ``dynmem --help``."""

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


class DynmemError(Exception):
    """Anything dynmem refuses or cannot do, in a sentence."""

    exit_code: ExitCode = ExitCode.FAILURE


class ProtocolError(DynmemError):
    """A protocol was broken; one of the two classes below says by whom."""


class LocalProtocolError(ProtocolError):
    """Our own side asked for something the protocol does not allow: a bug on this side of the wire."""


class RemoteProtocolError(ProtocolError):
    """The peer (a guest, a socket, a file) sent something malformed or out of order."""


class ConfigError(DynmemError):
    """A configuration file or an option is wrong."""

    exit_code = ExitCode.USAGE


class UnreachableError(DynmemError):
    """Nobody answers where somebody should."""

    exit_code = ExitCode.UNREACHABLE


class NotPermittedError(DynmemError):
    """The system does not let us."""

    exit_code = ExitCode.NOT_PERMITTED


class RefusedError(DynmemError):
    """A rule (a floor, a budget, a state) says no."""

    exit_code = ExitCode.REFUSED


class DeadlineError(DynmemError):
    """It was waited for long enough."""

    exit_code = ExitCode.TIMED_OUT
