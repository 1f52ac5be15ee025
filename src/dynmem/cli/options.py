"""Options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def socket_option(command: F) -> F:
    """Add --socket, which a command takes as *path*."""
    return click.option(
        "--socket",
        "path",
        type=click.Path(path_type=Path),
        envvar="DYNMEM_SOCKET",
        metavar="PATH",
        help="The manager's socket [default: $DYNMEM_SOCKET, or that of this user's manager].",
    )(command)
