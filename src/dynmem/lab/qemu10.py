"""QEMU 10, with which our monitor is compared: Debian 13's packages, unpacked into the cache, not installed.

Debian 12's QEMU is 7.2, which has other error texts and no hv-balloon. The newer one needs newer libraries,
the C library included, so it is run by the dynamic loader from its own packages.
"""

import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError
from dynmem.lab import image, packages, suite

SUITE: Final = "trixie"
_PACKAGE: Final = "qemu-system-x86"
_PROGRAM: Final = "usr/bin/qemu-system-x86_64"
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
_DATA: Final = ("usr/share/qemu", "usr/share/seabios")
_SETUP: Final = "scripts/setup-qemu10"


@dataclass(frozen=True)
class Qemu10:
    """An unpacked QEMU, in a folder named after the package's version."""

    folder: Path

    def command(self) -> list[str]:
        """Return the command that starts it, up to its own options."""
        libraries = self.folder / _LIBRARIES
        loader = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
        data = [word for part in _DATA for word in ("-L", str(self.folder / part))]
        return [*loader, str(self.folder / _PROGRAM), *data]


def find() -> Qemu10 | None:
    """Return the newest one; a folder appears only when it is complete."""
    programs = (image.cache_folder() / "qemu10").glob(f"*/{_PROGRAM}")
    newest = max(programs, key=lambda path: path.stat().st_mtime, default=None)
    return None if newest is None else Qemu10(newest.parents[_PROGRAM.count("/")])


def set_up(*, agree: Callable[[str], bool]) -> Qemu10:
    """Fetch and unpack it; return at once if it is there.

    `agree` is passed what would be fetched, and returns whether to go on. Raises ConfigError or
    DynmemError.
    """
    found = find()
    if found is not None:
        return found
    if platform.machine() != "x86_64":
        raise ConfigError(f"QEMU 10 needs an x86_64 host; this one is {platform.machine()}")
    with image.locked():
        found = find()
        if found is not None:
            return found
        place = image.cache_folder() / "qemu10"
        question = (
            "Tests compare our monitor with QEMU 10, which is not here yet:\n"
            f"  {_PACKAGE} of Debian 13 with its libraries (38 MB), unpacked into {place}, not installed"
        )
        if not agree(question):
            raise ConfigError(f"QEMU 10 is not set up: nothing was fetched ({_SETUP} asks again)")
        with suite.downloaded(SUITE, [_PACKAGE]) as files:
            return _unpack(files, place)


def _unpack(files: Sequence[Path], place: Path) -> Qemu10:
    """Unpack everything, check that it runs, and keep what a machine needs in a folder of that version."""
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=place) as name:
        whole, made = Path(name, "whole"), Path(name, "made")
        for file in files:
            packages.check(packages.run(["dpkg-deb", "-x", str(file), str(whole)]), f"unpacking {file.name}")
        for part in (_PROGRAM, _LIBRARIES, *_DATA):
            target = made / part
            target.parent.mkdir(parents=True, exist_ok=True)
            (whole / part).rename(target)
        packages.check(packages.run([*Qemu10(made).command(), "--version"]), "running QEMU 10")
        package = next(file for file in files if file.name.startswith(f"{_PACKAGE}_"))
        shown = packages.run(["dpkg-deb", "-f", str(package), "Version"])
        packages.check(shown, f"reading {package.name}")
        target = place / shown.stdout.strip().rpartition(":")[2]
        made.rename(target)
        return Qemu10(target)
