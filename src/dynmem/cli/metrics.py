"""``dynmem metrics``: the metrics of the running manager, once: to read, or for node_exporter's files.

Nothing heavy is imported, as in `dynmem status`.
"""

import contextlib
import os
import sys
from pathlib import Path

import click

from dynmem.cli.options import socket_option
from dynmem.errors import ConfigError, ExitCode, NotPermittedError
from dynmem.manager.api.client import ask, status_of
from dynmem.manager.paths import default_socket


@click.command()
@click.option(
    "--textfile",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write to FILE, which ends in .prom, all at once: for node_exporter's textfile collector.",
)
@socket_option
def metrics(path: Path | None, textfile: Path | None) -> int:
    """Print the metrics of the running manager, as Prometheus reads them.

    The manager serves the same text over HTTP where its file has an address for it (metrics, in [manager]).
    With --textfile it goes to a file, for a host where only node_exporter is scraped: run it from a timer. A
    file that is there is replaced, and stays as it is when no manager replies.

    \b
    Examples:
      dynmem metrics | grep dynmem_host
      dynmem metrics --textfile /var/lib/prometheus/node-exporter/dynmem.prom

    Exit codes: 0 OK, 1 not a manager or one of another version, 2 wrong usage, 3 no manager is running,
    4 not permitted, 7 no reply in time.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from dynmem.metrics.render import render

    if textfile is not None and textfile.suffix != ".prom":
        raise ConfigError(f"--textfile: {textfile}: node_exporter reads only files whose names end in .prom")
    text = render(status_of(ask(path or default_socket(), {"command": "status"})))
    if textfile is None:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    else:
        replace(textfile, text)
    return ExitCode.OK


def replace(path: Path, text: bytes) -> None:
    """Write a file so that a reader sees all of the old one or all of the new one."""
    new = path.with_name(f".{path.name}.{os.getpid()}")  # the collector reads no hidden files
    try:
        with os.fdopen(
            os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb"
        ) as file:
            file.write(text)
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise NotPermittedError(
            f"{path}: cannot be written ({error.strerror}): name a file in a folder that you may write to"
        ) from error
