"""Options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

DEFAULT_CONFIG: Final = Path("/etc/dynmem/config.toml")

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


def state_option(command: F) -> F:
    """Add --state, which a command takes as *state*."""
    return click.option(
        "--state",
        type=click.Path(path_type=Path),
        envvar="DYNMEM_STATE",
        metavar="FOLDER",
        help="The manager's state folder [default: $DYNMEM_STATE, or that of this user's manager].",
    )(command)


def config_option(command: F) -> F:
    """Add --config, which a command takes as *path*."""
    return click.option(
        "-c",
        "--config",
        "path",
        type=click.Path(path_type=Path),
        default=DEFAULT_CONFIG,
        show_default=True,
        metavar="FILE",
        help="The host's budget and its VMs, in TOML.",
    )(command)
