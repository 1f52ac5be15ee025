"""``dynmem trace``: read captures and trace logs."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dynmem.cli import HintingGroup
from dynmem.errors import DynmemError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from io import BufferedReader

    from dynmem.trace.reader import Problem

EPILOG = """\b
Examples:
  dynmem vm --name one -m 512M --device hv-balloon,status-report=on --capture one.capture ...
  dynmem trace decode one.capture            one line per message, with names and fields
  dynmem trace decode --json one.capture | jq 'select(.name == "DM_BALLOON_RESPONSE") | .fields'
  dynmem trace decode qemu.log               a log that QEMU wrote with --trace 'vmbus*' --trace 'hv_balloon*'
  dynmem trace decode -                      read standard input

\b
A file may mix these lines:
  SECONDS G>H|H>G msg HEX                                 a VMBus message
  SECONDS G>H|H>G pkt [type N flags N channel N id N] HEX a ring packet's body
  [PID@SECONDS:|DATE ]EVENT TEXT                          a line of QEMU's trace log
  0xADDRESS NAME vmbus_tid N dm_tid N desc HEX body HEX   a packet found in a memory dump

A line that is cut off or malformed is reported on standard error with its number, and reading continues: exit
code 6. A file whose first ten lines are all malformed is rejected: exit code 1. Remarks and empty lines do
not count.
"""

_FOREIGN_LINES: Final = 10  # malformed from the first on: then the file is not a capture


@click.group(cls=HintingGroup)
def trace() -> None:
    """Read captures of VMBus and Dynamic Memory traffic, and QEMU's trace logs."""


@trace.command(epilog=EPILOG, short_help="Print the messages of FILE, one per line")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--json", "as_lines", is_flag=True, help="Print JSON Lines: time, direction, layer, name, fields."
)
def decode(path: Path, *, as_lines: bool) -> int:
    """Print the messages of FILE, one per line."""
    try:
        with contextlib.ExitStack() as stack:
            opened = os.fdopen(0, "rb", closefd=False) if str(path) == "-" else path.open("rb")
            stream = stack.enter_context(opened)
            return _print(stream, str(path), as_lines=as_lines)
    except BrokenPipeError:  # the reader stopped reading
        sys.stdout = None  # or the flush at exit fails as well
        return ExitCode.OK
    except OSError as error:
        raise DynmemError(f"{path} cannot be read: {error.strerror}") from None


def _print(stream: "BufferedReader", name: str, *, as_lines: bool) -> int:
    from dynmem.trace.lines import CAPTURE_HEAD
    from dynmem.trace.reader import Problem, read
    from dynmem.trace.show import as_json, as_text

    result = ExitCode.OK
    head = CAPTURE_HEAD.encode()
    # The malformed lines so far; None once a line has shown that the file is a capture or a log.
    first: list[Problem] | None = None if stream.peek(len(head)).startswith(head) else []
    for item in read(stream):
        if isinstance(item, Problem):
            result = ExitCode.PARTIAL
        if first is not None and isinstance(item, Problem):
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
    """Raise DynmemError when the first lines of a file are all malformed."""
    if len(first) == _FOREIGN_LINES:
        raise DynmemError(
            f"{name} is not a capture or trace log: its first {_FOREIGN_LINES} lines cannot be parsed"
            f" (line {first[0].line}: {first[0].text})"
        )


def _report(name: str, problems: "Iterable[Problem]") -> None:
    """Print what is wrong with lines, in order with the messages on standard output."""
    for problem in problems:
        sys.stdout.flush()
        click.echo(f"dynmem: {name}:{problem.line}: {problem.text}", err=True)
