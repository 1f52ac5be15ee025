"""The emulated host's Python: the project's dependencies as wheels for its version, all of it compiled here.

Compiled here, because in an emulated processor compiling takes as long as the tests.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.kvm_rig.debian import Tree

from dynmem.errors import DynmemError
from dynmem.lab import packages

_FOR_TESTS: Final = frozenset({"hypothesis", "pytest", "pytest-timeout", "qemu.qmp"})
_PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_COMPILE: Final = """
import compileall, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
for folder in sys.argv[3:]:
    seen_at = {"stripdir": sys.argv[1], "prependdir": sys.argv[2]}
    compileall.compile_dir(folder, quiet=2, invalidation_mode=mode, **seen_at)
"""


def requirements(pyproject: Path) -> list[str]:
    """Return what the project needs there: its dependencies, and of its tests' those that run a test."""
    read = tomllib.loads(pyproject.read_text())
    tools = read["dependency-groups"]["dev"]
    named = [each for each in tools if isinstance(each, str)]  # and not a group that it includes
    found = [text for text in named if (name := _NAME.match(text)) and name[0] in _FOR_TESTS]
    return [*read["project"]["dependencies"], *found]


def install(tree: Tree, wanted: Sequence[str]) -> None:
    """Unpack wheels of `wanted` and their dependencies, from where pip on this machine gets them."""
    version = tree.python_version()
    target = tree.folder / f"usr/local/lib/python{version}/dist-packages"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-compile",
    ]
    command += ["--target", str(target), "--python-version", version, "--implementation", "cp"]
    command += [word for platform in _PLATFORMS for word in ("--platform", platform)]
    packages.check(packages.run([*command, "--only-binary=:all:", *wanted]), "fetching Python packages")


def compile_root(tree: Tree) -> None:
    """Compile the standard library and the wheels."""
    folders = [f"usr/lib/python{tree.python_version()}", "usr/lib/python3", "usr/local/lib"]
    compile_folders(tree, tree.folder, [tree.folder / name for name in folders])


def compile_folders(tree: Tree, root: Path, folders: Sequence[Path], *, seen_at: str = "/") -> None:
    """Compile Python files by the interpreter of `tree`; what is `root` here is at `seen_at` there.

    The result is used without a look at the source.
    """
    python = tree.command(f"usr/bin/python{tree.python_version()}")
    environment = os.environ | {"PYTHONHOME": str(tree.folder / "usr"), "PYTHONPATH": ""}
    result = subprocess.run(
        [*python, "-B", "-c", _COMPILE, str(root), seen_at, *map(str, folders)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise DynmemError(f"compiling for the emulated host failed: {result.stderr[-400:]}")
