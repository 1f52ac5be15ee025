"""What the commands that look back have in common: which history, from when until when, and their JSON."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dynmem.dates import parse_moment
from dynmem.errors import ConfigError

if TYPE_CHECKING:
    import msgspec

#: The version of what these commands print with --json.
SCHEMA_VERSION: Final = 1


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


def span_ms(since: str, until: str) -> tuple[int, int]:
    """Return the times of --since and --until; ConfigError if the first is not before the second."""
    since_ms, until_ms = moment_ms("--since", since), moment_ms("--until", until)
    if since_ms >= until_ms:
        raise ConfigError(f"--since: {since!r} is not before --until {until!r}: swap or correct them")
    return since_ms, until_ms


def local(at_ms: int, *, seconds: bool = True) -> str:
    """Return a date by the clock of this host."""
    date = datetime.fromtimestamp(at_ms / 1000).astimezone()
    return date.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")


def in_json(found: "Mapping[str, object] | msgspec.Struct") -> bytes:
    """Return what --json prints: the version, and the fields of what was found."""
    import msgspec

    fields = found if isinstance(found, Mapping) else msgspec.structs.asdict(found)
    return msgspec.json.format(msgspec.json.encode({"schema_version": SCHEMA_VERSION, **fields}), indent=2)
