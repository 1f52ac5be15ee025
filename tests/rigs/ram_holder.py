"""Processes that hold memory files as a VM holds its RAM; the test writes into the files itself."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dynmem.pages.ranges import U64Array
from dynmem.units import MIB, PAGE_SIZE

#: The least that counts as RAM. Nearly all of it stays a hole.
SIZE = 16 * MIB
PAGES = SIZE // PAGE_SIZE
HOLDER = """
import mmap, sys
maps = [mmap.mmap(int(fd), 0) for fd in sys.argv[1:]]
print(flush=True)
sys.stdin.read()
"""


def page(number: int) -> bytes:
    """Return a page whose bytes say its number; all zeros for 0."""
    return number.to_bytes(8, "little") * (PAGE_SIZE // 8)


def words(numbers: Sequence[int]) -> U64Array:
    """Return these pages as an array."""
    return np.frombuffer(b"".join(map(page, numbers)), np.uint64).reshape(len(numbers), -1)


@contextlib.contextmanager
def file_of(pages: Mapping[int, int]) -> Iterator[int]:
    """Make a memory file with these pages, by their index."""
    fd = os.memfd_create("ram")
    try:
        os.ftruncate(fd, SIZE)
        for index, number in pages.items():
            os.pwrite(fd, page(number), index * PAGE_SIZE)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def holder(*fds: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that has these files mapped."""
    command = [sys.executable, "-I", "-S", "-c", HOLDER, *map(str, fds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=fds) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"\n"
            yield child
        finally:
            child.kill()


def held_pages(fd: int) -> int:
    """Return how many pages a file takes of the host."""
    return os.fstat(fd).st_blocks * 512 // PAGE_SIZE
