"""The C programs that benchmarks compare with: what they need from Debian, how they are built and run."""

import json
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench import rig
from dynmem.errors import DynmemError
from dynmem.lab import packages

SOURCES: Final = Path(__file__).parent / "peer"
NEEDED: Final = ("gcc", "libc6-dev", "pkg-config", "libglib2.0-dev")
_HAS_GLIB: Final = ("pkg-config", "--exists", "glib-2.0")

#: What one side did in one round: seconds, and counts that both sides must agree on.
Measured = dict[str, float]


def set_up() -> None:
    """Install what the programs need to be built, when it is not there. Raises DynmemError."""
    try:
        subprocess.run(_HAS_GLIB, check=True)
        subprocess.run(["gcc", "--version"], check=True, stdout=subprocess.DEVNULL)
    except (FileNotFoundError, subprocess.CalledProcessError):
        packages.install(NEEDED, at_terminal=False)


@contextmanager
def built(name: str) -> Iterator[Path]:
    """The program of ``peer/NAME.c``, built with optimisation, for as long as it is needed."""
    set_up()
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "glib-2.0"], check=True, capture_output=True, text=True
    ).stdout.split()
    with rig.folder() as folder:
        program = folder / name
        command = [
            "gcc",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
            str(program),
            str(SOURCES / f"{name}.c"),
        ]
        result = subprocess.run([*command, *flags], check=False, capture_output=True, text=True)
        if result.returncode:
            raise DynmemError(f"cannot build {name}: {result.stderr}")
        yield program


def measured(program: Path, *arguments: object) -> Measured:
    """Run a program; return what it says of its work. Raises CalledProcessError if it fails."""
    command = [str(program), *map(str, arguments)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert isinstance(told, dict)
    return told


def medians(rounds: list[Measured]) -> Measured:
    """The median of each figure of one side."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
