"""``dynmem trace``: read what was captured or logged."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from dynmem.errors import DynmemError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dynmem.trace.reader import Problem

EPILOG = """\b
Examples:
  dynmem vm --name one -m 512M --device hv-balloon,status-report=on --capture one.capture ...
  dynmem trace decode one.capture            a line for each message, with names and fields
  dynmem trace decode --json one.capture | jq 'select(.name == "DM_BALLOON_RESPONSE") | .fields'
  dynmem trace decode qemu.log               what QEMU wrote with --trace 'vmbus*' --trace 'hv_balloon*'
  dynmem trace decode -                      from standard input

\b
A file is read line by line, and may mix:
  SECONDS G>H|H>G msg HEX                                 a VMBus message
  SECONDS G>H|H>G pkt [type N flags N channel N id N] HEX a ring packet's body
  [PID@SECONDS:]EVENT TEXT                                a line of QEMU's trace log
  0xADDRESS NAME vmbus_tid N dm_tid N desc HEX body HEX   a packet found in a memory dump

A line that is cut or broken is reported on standard error by its number, and the rest is read: exit code 6. A
file none of whose first ten lines can be read is something else: exit code 1.
"""

_FOREIGN_LINES: Final = 10  # in a row, from the first: then it is no capture


@click.group()
def trace() -> None:
    """Read captures of VMBus and Dynamic Memory traffic, and QEMU's trace logs."""


@trace.command(epilog=EPILOG)
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--json", "as_lines", is_flag=True, help="JSON Lines: time, direction, layer, name, fields.")
def decode(path: Path, *, as_lines: bool) -> int:
    """Print what FILE holds, one line a message."""
    try:
        with contextlib.ExitStack() as stack:
            stream = sys.stdin.buffer if str(path) == "-" else stack.enter_context(path.open("rb"))
            return _print(stream, str(path), as_lines=as_lines)
    except BrokenPipeError:  # the reader has seen enough
        sys.stdout = None  # or its flush at the end fails, too
        return ExitCode.OK
    except OSError as error:
        raise DynmemError(f"{path} cannot be read: {error.strerror}") from None


def _print(stream: BinaryIO, name: str, *, as_lines: bool) -> int:
    from dynmem.trace.reader import Problem, read
    from dynmem.trace.show import as_json, as_text

    result = ExitCode.OK
    first: list[Problem] | None = []  # with nothing but broken lines before and between them
    for item in read(stream):
        if isinstance(item, Problem):
            result = ExitCode.PARTIAL
        if first is not None and isinstance(item, Problem) and item.line == len(first) + 1:
            first.append(item)
            _check_foreign(name, first)
            continue
        _report(name, first or ())
        first = None
        if isinstance(item, Problem):
            _report(name, (item,))
        else:
            sys.stdout.write(as_json(item).decode() + "\n" if as_lines else as_text(item) + "\n")
    _report(name, first or ())
    sys.stdout.flush()
    return result


def _check_foreign(name: str, first: "Sequence[Problem]") -> None:
    """Raise DynmemError when the first lines of a file are all broken."""
    if len(first) == _FOREIGN_LINES:
        raise DynmemError(
            f"{name} is no capture and no trace log: none of its first {_FOREIGN_LINES} lines can be read"
            f" (the first: {first[0].text})"
        )


def _report(name: str, problems: "Iterable[Problem]") -> None:
    """Say what is wrong with lines, between those that are right."""
    for problem in problems:
        sys.stdout.flush()
        click.echo(f"dynmem: {name}:{problem.line}: {problem.text}", err=True)
