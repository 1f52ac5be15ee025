"""What the commands that look back have in common: which history, and from when until when."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from dynmem.dates import parse_moment
from dynmem.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

#: The version of what these commands print with --json.
SCHEMA_VERSION: Final = 1


def state_option(command: F) -> F:
    """Add --state, which a command takes as *state*."""
    return click.option(
        "--state",
        type=click.Path(path_type=Path),
        envvar="DYNMEM_STATE",
        metavar="FOLDER",
        help="The manager's state folder [default: $DYNMEM_STATE, or that of this user's manager].",
    )(command)


def folder_of(state: Path | None) -> Path:
    """Return the state folder that is meant."""
    from dynmem.manager.paths import default_state

    return state or default_state()


def moment_ms(option: str, text: str) -> int:
    """Return a time as people write it, in milliseconds since the epoch; ConfigError names the option."""
    now = datetime.now().astimezone().replace(tzinfo=None)
    try:
        return round(parse_moment(text, now).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(f"{option}: {error}") from error


def local(at_ms: int, *, seconds: bool = True) -> str:
    """Return a date by the clock of this host."""
    date = datetime.fromtimestamp(at_ms / 1000).astimezone()
    return date.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")
