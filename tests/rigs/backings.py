"""Every kind of memory that a guest can have, real: made for a test, or skipped with the reason."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
from tests.rigs.machine_wide import HUGE, huge_pages_held, reserved

from dynmem.memory.backend import Backend, MemfdBackend, RamBackend
from dynmem.memory.backend_file import FileBackend
from dynmem.units import PAGE_SIZE


@contextlib.contextmanager
def mounted(folder: Path, kind: str, options: str) -> Iterator[Path]:
    """Mount a file system of memory on `folder`; skip where that takes more rights than we have."""
    if os.geteuid() != 0:
        pytest.skip(f"only root can mount {kind}")
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", kind, "-o", options, kind, str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = done.stderr.partition("\n")[0].rpartition(": ")[2]
        pytest.skip(f"{kind} with {options} cannot be mounted here: {reason}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def first_words(backend: Backend) -> npt.NDArray[np.uint64]:
    """The first word of each page of 4 KiB. Holds the memory open while it is there."""
    return np.frombuffer(backend.view, np.uint64).reshape(-1, PAGE_SIZE // 8)[:, 0]


def fill(backend: Backend) -> None:
    """Write into each page its own number plus one."""
    first_words(backend)[:] = np.arange(1, backend.size // PAGE_SIZE + 1, dtype=np.uint64)


@contextlib.contextmanager
def _huge_tmpfs(size: int, folder: Path) -> Iterator[Backend]:
    with (
        huge_pages_held(),
        mounted(folder / "huge", "tmpfs", "huge=always,size=1g") as place,
        FileBackend(size, place, share=True) as backend,
    ):
        yield backend


@contextlib.contextmanager
def _hugetlbfs(size: int, folder: Path) -> Iterator[Backend]:
    with (
        reserved(size // HUGE + 1),
        mounted(folder / "hugetlbfs", "hugetlbfs", "pagesize=2M") as place,
        FileBackend(size, place, share=True) as backend,
    ):
        yield backend


@contextlib.contextmanager
def _hugetlb_memfd(size: int, share: bool) -> Iterator[Backend]:
    with reserved(2 * size // HUGE), MemfdBackend(size, hugetlb=True, share=share) as backend:
        yield backend


Opener = Callable[[int, Path], contextlib.AbstractContextManager[Backend]]

BACKINGS: Final[dict[str, Opener]] = {
    "memfd": lambda size, _: MemfdBackend(size),
    "private memfd": lambda size, _: MemfdBackend(size, share=False),
    "ram": lambda size, _: RamBackend(size),
    "ram for another process": lambda size, _: RamBackend(size, needs_descriptor=True),
    "tmpfs": lambda size, _: FileBackend(size, "/dev/shm", share=True),
    "huge tmpfs": _huge_tmpfs,
    "disk": lambda size, folder: FileBackend(size, folder / "ram", share=True),
    "private file": lambda size, folder: FileBackend(size, folder / "ram", share=False),
    "hugetlb memfd": lambda size, _: _hugetlb_memfd(size, share=True),
    "private hugetlb memfd": lambda size, _: _hugetlb_memfd(size, share=False),
    "hugetlbfs": _hugetlbfs,
}
