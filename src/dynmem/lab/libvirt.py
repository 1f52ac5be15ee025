"""What a real libvirt needs for the tests: its daemon and driver from Debian, and its module for this Python.

Nothing is started and nothing configured: the packages here bring no service (that is in
libvirt-daemon-system).
"""

import importlib.util
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError
from dynmem.lab import packages

#: As the extra of this package has it.
MODULE: Final = "libvirt-python>=9.0"
_DRIVER: Final = "libvirt/connection-driver/libvirt_driver_qemu.so"
_LIBRARIES: Final = (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib64"), Path("/usr/lib"))
_HEADER: Final = Path("/usr/include/libvirt/libvirt.h")
_SETUP: Final = "scripts/setup-libvirt"


def daemon() -> str | None:
    """Return the path of libvirtd; None if it, or its driver for QEMU, is not installed."""
    found = shutil.which("libvirtd", path="/usr/sbin:/usr/bin:/sbin:/usr/local/sbin")
    return found if any((each / _DRIVER).exists() for each in _LIBRARIES) else None


def has_module() -> bool:
    """Return whether this Python has libvirt's module."""
    return importlib.util.find_spec("libvirt") is not None


def missing() -> list[str]:
    """Return the packages that this machine lacks."""
    lacking = [] if daemon() else ["libvirt-daemon", "libvirt-daemon-driver-qemu"]
    if not has_module():  # it is compiled, against libvirt and this Python
        include = Path(sysconfig.get_path("include")) / "Python.h"
        lacking += [] if _HEADER.exists() else ["libvirt-dev"]
        lacking += [] if shutil.which("pkg-config") else ["pkg-config"]
        lacking += [] if shutil.which("gcc") else ["gcc"]
        lacking += [] if include.exists() else ["python3-dev"]
    return lacking


def set_up(*, agree: Callable[[str], bool], at_terminal: bool) -> str:
    """Install what is missing, and return the path of libvirtd; at once if all is there.

    `agree` is passed what would be installed, and returns whether to go on. Raises ConfigError or
    DynmemError.
    """
    lacking, has = missing(), has_module()
    if lacking or not has:
        what = [f"the packages {' '.join(lacking)}"] if lacking else []
        what += [] if has else [f"{MODULE} for {sys.executable}, compiled"]
        if not agree(f"Tests run a real libvirt, which is not here yet: {' and '.join(what)}"):
            raise ConfigError(f"libvirt is not set up: nothing was fetched ({_SETUP} asks again)")
    if lacking:
        packages.install(lacking, at_terminal=at_terminal)
    if not has:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", MODULE]
        packages.check(packages.run(command), f"installing {MODULE}")
    found = daemon()
    if found is None:
        raise ConfigError("libvirtd or its driver for QEMU is not where Debian puts it: install them by hand")
    return found
