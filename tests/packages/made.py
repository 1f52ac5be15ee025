"""What has been built for the tests of packages, and environments to install it into."""

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final, NamedTuple

from scripts import dist

#: What dynmem needs, as folders and files of site-packages. That they are all is tried with pip (-m soak).
NEEDED = ("click", "markdown_it", "mdurl", "msgspec", "numpy", "numpy.libs", "pygments", "rich")

EPOCH: Final = 1_700_000_000  # another time than that of any commit


class Made(NamedTuple):
    sdist: Path
    wheel: Path
    commit: dist.Commit | None


def environment(folder: Path) -> Path:
    """Return the Python of a new virtual environment, without pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def site_packages(python: Path) -> Path:
    (found,) = (python.parent.parent / "lib").glob("python3*/site-packages")
    return found


def pip_install(python: Path, *arguments: str | Path) -> None:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "--python",
        python,
    ]
    done = subprocess.run([*command, "install", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def lend_what_it_needs(folder: Path) -> None:
    """Link dynmem's dependencies from this environment, as if they had been installed."""
    ours = Path(sysconfig.get_path("platlib"))
    for name in NEEDED:
        if (ours / name).exists():
            (folder / name).symlink_to(ours / name)


def output(*command: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout
