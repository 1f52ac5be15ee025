"""The rig in the cache: fetched once, images made again when what makes them changes.

Two folders, each named after a digest of what it is made by: what was fetched, and the images made of it.
"""

import contextlib
import fcntl
import hashlib
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.kvm_rig import debian, images, interpreter
from tests.kvm_rig.debian import Tree

from dynmem.errors import ConfigError
from dynmem.lab import image, packages

_HERE: Final = Path(__file__).parent
_ROOT: Final = _HERE.parents[1]
_FETCHING: Final = ("debian.py", "interpreter.py")
MAKING: Final = (
    "images.py",
    "files/guest_init.sh",
    "files/host_init.sh",
    "files/host_main.sh",
    "files/kexec.c",
)
_LOCK: Final = "lock"  # in each folder: held while it is used
_KEPT: Final = 3  # of each kind: other checkouts of dynmem may share the cache
_QUESTION: Final = """\
Tests with stock kernels need a host in software emulation, which is not here yet:
  QEMU 10, Python and a kernel of Debian 13 (160 MB), guest kernels of Debian 12 and 13 (60 MB), unpacked into
  {place}, not installed;
  Python packages for that host (25 MB), by pip"""
_INSTALL: Final = "  packages, installed as root: {command}"


@dataclass(frozen=True)
class Rig:
    """A complete one.

    Attributes:
        tree: The emulated host's root, unpacked; its programs run here too.
        host: The emulated host's kernel, initramfs and disk.
        guests: A folder for each guest kernel.
    """

    tree: Tree
    host: Path
    guests: Path


def find() -> Rig | None:
    """Return the rig of these very files, if it is there."""
    fetched, made = folders()
    return (
        Rig(Tree(fetched / "root"), made / "host", made / "guests")
        if fetched.exists() and made.exists()
        else None
    )


def set_up(*, agree: Callable[[str], bool], report: Callable[[str], None], at_terminal: bool) -> Rig:
    """Fetch and make what is missing; return at once if everything is there.

    `agree` is passed what would be fetched, and returns whether to go on; `report` is passed a line about
    each thing done. Raises ConfigError or DynmemError.
    """
    if (found := find()) is not None:
        return found
    if platform.machine() != "x86_64":
        raise ConfigError(f"stock guests need an x86_64 host; this one is {platform.machine()}")
    with image.locked():
        fetched, made = folders()
        lacking = [name for name in packages.missing(to_build=True) if not name.startswith("qemu")]
        _ask(agree, lacking, place=None if fetched.exists() else fetched.parent)
        if lacking:
            packages.install(lacking, at_terminal=at_terminal)
        if not fetched.exists():
            complete(fetched, lambda folder: _fetch(folder, report))
        if not made.exists():
            complete(made, lambda folder: images.make(fetched, folder, report))
        fetched.touch()  # not among the oldest: images were made of it
        for kind in ("fetched", "made"):
            drop_old(fetched.parent, kind)
    found = find()
    assert found is not None
    return found


def _ask(agree: Callable[[str], bool], lacking: list[str], *, place: Path | None) -> None:
    lines = [_INSTALL.format(command=" ".join(packages.install_command(lacking)))] if lacking else []
    if place is not None:
        lines.insert(0, _QUESTION.format(place=place))
    if lines and not agree("\n".join(lines)):
        raise ConfigError("the rig for stock guests is not set up: nothing was fetched")


def _fetch(folder: Path, report: Callable[[str], None]) -> None:
    debian.fetch(folder, report)
    tree = Tree(folder / "root")
    wanted = interpreter.requirements(_ROOT / "pyproject.toml")
    interpreter.install(tree, wanted)
    report(f"Python packages for {tree.python_version()}: {', '.join(wanted)}")
    interpreter.compile_root(tree)


def folders() -> tuple[Path, Path]:
    place = image.cache_folder() / "kvm-rig"
    wanted = interpreter.requirements(_ROOT / "pyproject.toml")
    fetched = _digest([name.encode() for name in wanted], _FETCHING)
    return place / f"fetched-{fetched}", place / f"made-{_digest([fetched.encode()], MAKING)}"


def _digest(parts: Iterable[bytes], files: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in [*parts, *((_HERE / name).read_bytes() for name in files)]:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


def complete(target: Path, make: Callable[[Path], None]) -> None:
    """Make a folder that appears only when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as name:
        made = Path(name) / "made"
        made.mkdir()
        make(made)
        made.rename(target)


@contextlib.contextmanager
def used() -> Iterator[Rig]:
    """Yield the rig of these very files; as long as it is used, no other checkout drops it.

    Raises ConfigError if it is not there.
    """
    with contextlib.ExitStack() as stack:
        for folder in folders():
            with contextlib.suppress(FileNotFoundError):
                lock = stack.enter_context((folder / _LOCK).open("w"))
                fcntl.flock(lock, fcntl.LOCK_SH)
                folder.touch()  # not among the oldest
        found = find()
        if found is None:
            raise ConfigError("the rig for stock guests is not set up: run scripts/setup-kvm-rig")
        yield found


def drop_old(place: Path, kind: str) -> None:
    """Remove all but the newest of a kind, and those that a run uses."""
    made = sorted(place.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in made[_KEPT:]:
        with (folder / _LOCK).open("w") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
