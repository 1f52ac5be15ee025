"""Kernels of a test's own: assembled from a source of some hundred lines, started by PVH."""

import subprocess
from pathlib import Path
from typing import Final

_OPTIONS: Final = ("-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x100000,--build-id=none,-N,-estart", "-w")


def assemble(source: Path, kernel: Path, **symbols: str) -> None:
    """Make a kernel's file of its source, which may include `pvh.inc`; `symbols` are defined in it."""
    defined = (f"-D{name}={value}" for name, value in symbols.items())
    command = ["gcc", *_OPTIONS, f"-I{Path(__file__).parent}", *defined, "-o", str(kernel), str(source)]
    subprocess.run(command, check=True, stderr=subprocess.PIPE)  # which says that its segment can be written
