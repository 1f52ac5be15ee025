"""What this copy of dynmem was built from: `dynmem --version`.

`scripts/dist.py` writes the file beside this one into what it builds; a checkout has none.
"""

from pathlib import Path
from typing import Final

import msgspec

from dynmem import __version__

FILE: Final = Path(__file__).with_name("built_from.json")


class BuiltFrom(msgspec.Struct, frozen=True):
    """The commit that a package was built from.

    Attributes:
        commit: Its whole number.
        date: The day of that commit, in UTC.
        is_changed: Whether files differed from it.

    """

    commit: str
    date: str
    is_changed: bool = False


def version(file: Path = FILE) -> str:
    """Return the version, and the commit where it is known."""
    try:
        built = msgspec.json.decode(file.read_bytes(), type=BuiltFrom)
    except FileNotFoundError:
        return f"dynmem {__version__}, not from a release build: its commit is unknown"
    except (OSError, msgspec.DecodeError):
        return f"dynmem {__version__}, from an unknown commit: {file} cannot be read"
    changed = ", with changes" if built.is_changed else ""
    return f"dynmem {__version__}, built from commit {built.commit[:12]} of {built.date}{changed}"
