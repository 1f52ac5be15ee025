"""Build what a release has: ``python -m scripts.dist [FOLDER]`` (dist): sdist, the wheel from it, and .debs.

What is built is the last commit, or what is changed since in files that git knows; files that it does not
know are left out. Two builds of one commit have the same bytes: every time in them is that of the commit, or
SOURCE_DATE_EPOCH.
"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.cli.completion import SHELLS, script
from scripts import man

ROOT: Final = Path(__file__).resolve().parent.parent
#: Where each shell looks for completions, below a prefix.
COMPLETIONS: Final = {
    "bash": "share/bash-completion/completions/dynmem",
    "zsh": "share/zsh/site-functions/_dynmem",
    "fish": "share/fish/vendor_completions.d/dynmem.fish",
}
#: What a copy without git leaves out.
_NO_SOURCE: Final = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", ".*cache", ".hypothesis", ".fuzz", "dist", "build"
)


class Commit(NamedTuple):
    """What is built.

    Attributes:
        number: The commit.
        tree: The files that are built, as git names them.
        time: When it was made, in seconds since the epoch.
        is_changed: Whether files differ from the commit.

    """

    number: str
    tree: str
    time: int
    is_changed: bool = False

    @property
    def date(self) -> str:
        """The day that it was made on, in UTC."""
        return datetime.fromtimestamp(self.time, UTC).date().isoformat()


def git(*arguments: str, index: Path | None = None) -> bytes:
    """Return what git prints in this checkout, with another index than its own."""
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *arguments]
    environment = os.environ | ({"GIT_INDEX_FILE": str(index)} if index else {})
    return subprocess.run(command, check=True, capture_output=True, env=environment).stdout


def commit() -> Commit | None:
    """Return what the checkout is at, with what is changed since, or None where this is no checkout."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return None
    number, before, time = git("log", "-1", "--format=%H %T %ct").decode().split()
    with tempfile.TemporaryDirectory() as name:
        index = Path(name, "index")  # in its own, nothing is changed, and nobody is locked out
        git("read-tree", number, index=index)
        git("add", "--update", index=index)
        tree = git("write-tree", index=index).decode().strip()
    return Commit(number, tree, int(time), is_changed=tree != before)


def export(built: Commit | None, folder: Path) -> None:
    """Write the sources into a folder, and what packages have besides: origin, man pages, completions."""
    if built is None:
        shutil.copytree(ROOT, folder, ignore=_NO_SOURCE, dirs_exist_ok=True)
    else:
        unpacked(git("archive", built.tree), folder)
        origin = {"commit": built.number, "date": built.date, "is_changed": built.is_changed}
        (folder / "src" / "dynmem" / "built_from.json").write_text(json.dumps(origin) + "\n")
    for name, text in man.pages().items():
        written(folder / "share" / "man" / "man1" / name, text)
    for shell in SHELLS:
        written(folder / COMPLETIONS[shell], script(shell) + "\n")


def unpacked(archive: bytes, folder: Path) -> None:
    """Write the files of a tar archive into a folder."""
    subprocess.run(["tar", "--extract", "--no-same-owner", "--directory", folder], input=archive, check=True)


def written(path: Path, text: str) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def hatch(source: Path, target: str, out: Path, epoch: int) -> Path:
    """Build an sdist or a wheel of a source tree, and return it."""
    before = set(out.iterdir())
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", out],
        cwd=source,
        env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (made,) = set(out.iterdir()) - before
    return made


def epoch_of(built: Commit | None) -> int:
    """Return the time that everything in the packages has."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or (built.time if built else 0))


def python_packages(out: Path, built: Commit | None) -> tuple[Path, Path]:
    """Build sdist and wheel into an empty folder, and return both.

    The wheel is built from the sdist, so that the sdist has all that it takes.
    """
    epoch = epoch_of(built)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "source")
        source.mkdir()
        export(built, source)
        sdist = hatch(source, "sdist", out, epoch)
        unpacked(gzip.decompress(sdist.read_bytes()), Path(name))
        wheel = hatch(Path(name, sdist.name.removesuffix(".tar.gz")), "wheel", out, epoch)
    return sdist, wheel


def main(arguments: Sequence[str] | None = None) -> None:
    """Build everything into a folder, which is emptied first."""
    parser = argparse.ArgumentParser(prog="python -m scripts.dist", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist")
    parser.add_argument("--no-debs", action="store_true", help="build only the sdist and the wheel")
    options = parser.parse_args(arguments)
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    built = commit()
    sdist, wheel = python_packages(options.folder.resolve(), built)
    made = [sdist, wheel]
    if not options.no_debs and shutil.which("dpkg-deb") is None:
        print("no .deb: dpkg-deb is not installed", file=sys.stderr)
    elif not options.no_debs:
        from scripts import deb

        made += deb.packages(sdist, wheel, options.folder.resolve(), built)
    for path in made:
        print(path)


if __name__ == "__main__":
    main()
