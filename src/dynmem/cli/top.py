"""``dynmem top``: the status of the running manager, again and again: a live table, or CSV."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dynmem.cli.options import socket_option
from dynmem.errors import ConfigError, DynmemError, ExitCode, quoted
from dynmem.manager.api.client import ask, status_of
from dynmem.manager.paths import default_socket
from dynmem.top.figures import PERIOD_S_MIN
from dynmem.units import NS_PER_S, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from dynmem.manager.api.messages import StatusReply

MISSING: Final = (
    "the table needs textual, which is not installed: run `pip install dynmem[top]`,"
    " or `dynmem top --batch`, which writes CSV and does without"
)
_PERIOD_S_MAX: Final = 24 * 3600.0


@click.command()
@click.option("-b", "--batch", is_flag=True, help="Write CSV, a row for each VM at each look.")
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1),
    metavar="N",
    help="With --batch: end after N looks [default: at Ctrl-C].",
)
@click.option(
    "-d",
    "--delay",
    metavar="TIME",
    help="From one look to the next, in seconds or such as 500ms [default: the manager's period].",
)
@socket_option
def top(path: Path | None, delay: str | None, count: int | None, *, batch: bool) -> int:
    """Watch what each VM needs and has: a live table, or with --batch CSV.

    The table needs textual: `pip install dynmem[top]`. Keys sort it, filter it by name, pause it, explain the
    VM under the cursor, and show the words of esxtop and Hyper-V below ours; "?" lists them. Nothing is
    changed from there. When the manager is lost, the table says so and asks it again.

    With --batch, which needs nothing else, the first row names the columns with their units, and each look
    writes a row for each VM. While the manager is lost there are no rows, and standard error says why. A
    program that stops reading ends it.

    \b
    Examples:
      dynmem top
      dynmem top -b -n 60 -d 1 > minute.csv
      dynmem top -b | grep ',web,'

    Exit codes: as of status; 1 without textual, 6 if some looks of --batch were without a reply, 130 Ctrl-C.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    socket = path or default_socket()
    period_s = _period_s(delay)

    def look() -> "StatusReply":
        return status_of(ask(socket, {"command": "status"}))

    if batch:
        return _batch(look, count, period_s)
    if count is not None:
        raise ConfigError("--count: the table has no last look: say also --batch")
    return _on_terminal(look, period_s)


def _on_terminal(look: "Callable[[], StatusReply]", period_s: float | None) -> int:
    if not is_terminal():
        raise ConfigError(
            "the table needs a terminal: `dynmem top --batch` writes CSV to a file or a program"
        )
    try:
        from dynmem.top.screen import live_table
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise DynmemError(MISSING) from error
    from dynmem.cli.explain_text import explained

    app = live_table(look, explained, look(), period_s)
    app.run()
    return app.return_code or ExitCode.OK


def is_terminal() -> bool:
    """Return whether a person can see the table and press keys."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _batch(look: "Callable[[], StatusReply]", count: int | None, period_s: float | None) -> int:
    from dynmem.top.batch import write

    def note(why: str) -> None:
        click.echo(f"dynmem: no row: {why}", err=True)

    out = click.open_file("-", "w", encoding="utf-8", errors="replace")
    try:
        lost = write(look, out, count=count, period_s=period_s, note=note)
    except BrokenPipeError:  # the reader stopped reading
        # what is left in the buffer is flushed at the end of the process
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        return ExitCode.OK
    return ExitCode.PARTIAL if lost else ExitCode.OK


def _period_s(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        period_s = parse_duration(text) / NS_PER_S
    except ValueError as error:
        raise ConfigError(f"--delay: {error}") from error
    if not PERIOD_S_MIN <= period_s <= _PERIOD_S_MAX:
        raise ConfigError(f"--delay: {quoted(text)} is not between 100ms and 24h: choose another time")
    return period_s
