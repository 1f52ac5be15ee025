"""Finds and fetches, with apt, what real Linux guests need from Debian's archive.

Nothing here names a host: apt knows its sources.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError, DynmemError, NotPermittedError

KERNEL_PACKAGE: Final = "linux-image-cloud-amd64"  # depends on the newest kernel built for virtual machines
_TIMEOUT_S: Final = 900
_RUN_PACKAGES: Final = {"qemu-system-x86": "qemu-system-x86_64"}
_BUILD_PACKAGES: Final = {"gcc": "gcc", "dpkg": "dpkg-deb"}
_STATIC_LIBRARY_FOLDERS: Final = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib")
_ENVIRONMENT: Final = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}


def missing(*, to_build: bool) -> tuple[str, ...]:
    """Return the packages this machine lacks to run guests and, with `to_build`, to make their image."""
    programs = _RUN_PACKAGES | (_BUILD_PACKAGES if to_build else {})
    lacking = [package for package, program in programs.items() if shutil.which(program) is None]
    if to_build and not any(Path(folder, "libc.a").exists() for folder in _STATIC_LIBRARY_FOLDERS):
        lacking.append("libc6-dev")
    return tuple(lacking)


def install_command(packages: Sequence[str]) -> list[str]:
    """Return the command that installs `packages`, for printing and for running."""
    return ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]


def install(packages: Sequence[str], *, at_terminal: bool) -> None:
    """Install `packages`, after fetching apt's lists if they are missing or old.

    Raises NotPermittedError without root and sudo, DynmemError with apt's message when apt fails.
    """
    prefix = _privilege(at_terminal=at_terminal)
    command = [*prefix, *install_command(packages)]
    if run(command).returncode == 0:
        return
    update_lists(at_terminal=at_terminal)
    check(run(command), f"installing {' '.join(packages)}")


def update_lists(*, at_terminal: bool) -> None:
    """Fetch apt's package lists."""
    check(run([*_privilege(at_terminal=at_terminal), "apt-get", "update", "-qq"]), "apt-get update")


def download_kernel(folder: Path, *, at_terminal: bool) -> Path:
    """Download Debian's current cloud kernel package into `folder` without installing it; return the file."""
    if shutil.which("apt-get") is None:
        raise ConfigError(
            f"apt-get is not installed: download the package that Debian's {KERNEL_PACKAGE} depends on"
            " and give it as --deb FILE"
        )
    package = _kernel_package()
    if package is None or run(["apt-get", "download", "-qq", package], folder=folder).returncode != 0:
        update_lists(at_terminal=at_terminal)
        package = _kernel_package()
        if package is None:
            raise ConfigError(f"apt does not know {KERNEL_PACKAGE}: set up Debian's package sources")
        check(run(["apt-get", "download", "-qq", package], folder=folder), f"downloading {package}")
    return next(folder.glob("*.deb"))


def _kernel_package() -> str | None:
    """Return the package of the kernel itself, on which the package with the fixed name depends."""
    result = run(["apt-cache", "depends", KERNEL_PACKAGE])
    names = [line.split()[-1] for line in result.stdout.splitlines() if line.strip().startswith("Depends:")]
    return next((name for name in names if name.startswith("linux-image-")), None)


def _privilege(*, at_terminal: bool) -> list[str]:
    """Return the prefix of a command that needs root."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is not None:
        return ["sudo"] if at_terminal else ["sudo", "-n"]
    raise NotPermittedError("installing packages needs root, and sudo is not installed: run this as root")


def run(command: Sequence[str], *, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program in `folder`, in English and without questions; pass the result to `check`."""
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=os.environ | _ENVIRONMENT,
            stdin=None if command[0] == "sudo" else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
    except FileNotFoundError:
        raise ConfigError(f"{command[0]} is not installed: guests need Debian's packages") from None
    except subprocess.TimeoutExpired:
        raise DynmemError(f"{' '.join(command)} did not finish within {_TIMEOUT_S} s") from None


def check(result: subprocess.CompletedProcess[str], what: str) -> None:
    """Raise DynmemError with the program's message unless it succeeded."""
    if result.returncode != 0:
        said = " ".join((result.stderr or result.stdout).split())[-400:]
        raise DynmemError(f"{what} failed with exit code {result.returncode}: {said}")
