"""``dynmem trace``: read what was captured or logged."""

import contextlib
import sys
from pathlib import Path
from typing import BinaryIO

import click

from dynmem.errors import DynmemError, ExitCode

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

A line that is cut or broken is reported on standard error by its number, and the rest is read: exit code 6.
"""


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
    for item in read(stream):
        if isinstance(item, Problem):
            sys.stdout.flush()
            click.echo(f"dynmem: {name}:{item.line}: {item.text}", err=True)
            result = ExitCode.PARTIAL
        elif as_lines:
            sys.stdout.write(as_json(item).decode() + "\n")
        else:
            sys.stdout.write(as_text(item) + "\n")
    sys.stdout.flush()
    return result
