"""The cast as the program of an embedded guest."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.hostile.guests.guest import CAST
from tests.hostile.stage import TAG

_ROOT: Final = Path(__file__).parents[3]


def options_of_guests(folder: Path) -> Callable[[str], Sequence[str]]:
    """Write the program into a folder; return what returns the options of a machine with a member."""
    program = folder / "guest"
    program.write_text(
        f"#!/bin/sh\nHOSTILE=--name={TAG} PYTHONPATH={_ROOT}/src:{_ROOT}"
        f' exec {sys.executable} -m tests.hostile.guests.guest "$@"\n'
    )
    program.chmod(0o755)
    members = list(CAST)
    return lambda sentence: (f"--guest=embedded,program={program},workload={members.index(sentence)}",)
