"""From the bytes of a balloon response to free memory, beside the bare system call and beside C with a tree.

Three sides by turns in one run, on memory that was all written before. Ours: a message into the page set,
what it gives into the discarder. Bare: nothing but the fastest way this kernel has, found in this run, in
C, on ranges that were sorted and joined beforehand. Tree: C with a balanced tree of ranges (glib's GTree)
that gives back each range as it comes, neighbours joined. "Beside" is the other side's time by ours: above
1 ours is faster.
"""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from bench import page_workloads, peer_programs, rig
from bench.figures import Figure
from dynmem.memory.backend import MemfdBackend
from dynmem.memory.discard import Discarder
from dynmem.pages import ranges
from dynmem.pages.page_set import PageSet
from dynmem.units import GIB, MIB, PAGE_SIZE

SIZE: Final = 256 * MIB
BIG: Final = 4 * GIB
ROUNDS: Final = 5
GB_A_MINUTE: Final = 60 * GIB / 1e9
NOT_HERE: Final = 3  # the C program's exit status when the kernel lacks a way
FILE_WAYS: Final = ("punch", "remove", "unmap-punch", "unmap-remove")
ANONYMOUS_WAYS: Final = ("madvise", "process-madvise")

Backend = MemfdBackend


@dataclass(frozen=True)
class Backing:
    """Memory of one kind: how we make it, and what the C program calls it."""

    name: str
    make: Callable[[int], Backend]
    kind: str
    path: Path | None = None

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways that the kernel may have to give such memory back."""
        return ANONYMOUS_WAYS if self.kind.startswith("anon") else FILE_WAYS


def _workloads(size: int) -> Iterator[tuple[str, list[bytes]]]:
    for name, words in (
        ("contiguous", page_workloads.contiguous(size)),
        ("random 2 MiB", page_workloads.scattered(size, page_workloads.BLOCK)),
        ("random 256 KiB", page_workloads.scattered(size, page_workloads.PIECE)),
        ("random 4 KiB", page_workloads.scattered(size, 1)),
        ("mix", page_workloads.mix(size)),
    ):
        yield name, page_workloads.Workload(name, size, words).messages()


def _file_of(messages: list[bytes], path: Path) -> Path:
    """Messages as the C program reads them: each with the number of its ranges before it."""
    path.write_bytes(b"".join((len(one) // 8).to_bytes(8, "little") + one for one in messages))
    return path


def _ours(backing: Backing, size: int, messages: list[bytes], given: int) -> float:
    """Seconds from the first message to the last page given back."""
    backend = backing.make(size)
    try:
        memory = np.frombuffer(backend.view, np.uint8)
        memory[::PAGE_SIZE] = 1
        before = backend.resident_bytes()
        pages, discarder = PageSet(size // PAGE_SIZE), Discarder(backend)
        begin = time.perf_counter()
        for message in messages:
            discarder.discard(pages.add(message).coalesced)
        seconds = time.perf_counter() - begin
        freed = before - backend.resident_bytes()
        del memory
    finally:
        backend.close()
    if freed < 0.98 * given:
        raise AssertionError(f"{backing.name}: {given} bytes given up, {freed} no longer resident")
    return seconds


def _in_c(program: Path, way: str, backing: Backing, size: int, file: Path) -> float | None:
    """The C program's seconds; None when this kernel does not have the way."""
    path = [] if backing.path is None else [str(backing.path)]
    command = [str(program), way, backing.kind, str(size), str(file), *path]
    result = subprocess.run(command, check=False, capture_output=True)
    if result.returncode == NOT_HERE:
        return None
    if result.returncode:
        raise AssertionError(f"{way} on {backing.name}: {result.stderr.decode()}")
    told = json.loads(result.stdout)
    return float(told["seconds"])


def _worth_it(ways: tuple[str, ...], times: dict[str, list[float]]) -> list[str]:
    """The tree, and of the bare ways all in the first round, then the two that were fastest in it."""
    return [
        *sorted(ways, key=lambda way: times[way][0] if way in times else 1e9)[: 2 if times else None],
        "tree",
    ]


def _compare(
    program: Path, backing: Backing, size: int, name: str, messages: list[bytes]
) -> Iterator[Figure]:
    given = sum(ranges.page_count(message) for message in messages) * PAGE_SIZE
    with rig.folder() as folder:
        raw = _file_of(messages, folder / "raw")
        joined = _file_of([ranges.merge(message) for message in messages], folder / "joined")
        times: dict[str, list[float]] = {}
        for _round in range(ROUNDS):
            times.setdefault("ours", []).append(_ours(backing, size, messages, given))
            for way in _worth_it(backing.ways, times):
                seconds = _in_c(program, way, backing, size, raw if way == "tree" else joined)
                if seconds is not None:
                    times.setdefault(way, []).append(seconds)
    middle = {side: statistics.median(taken) for side, taken in times.items()}
    ours, tree = middle.pop("ours"), middle.pop("tree")
    best = min(middle, key=lambda way: middle[way])
    row = f"{backing.name}, {name}"
    is_fast = name != "random 4 KiB"
    yield Figure(f"{row}: rate", given / ours / 1e9 * 60, "GB a minute", at_least=230 if is_fast else None)
    yield Figure(f"{row}: beside the bare call", middle[best] / ours, f"x ({best})", at_least=0.9)
    yield Figure(f"{row}: beside the tree", tree / ours, "x")


@contextmanager
def _huge_tmpfs(folder: Path, size: int) -> Iterator[Path | None]:
    """A tmpfs with huge pages of our own; None where it cannot be mounted."""
    where = folder / "huge"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"huge=always,size={3 * size}", "tmpfs", str(where)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        yield None
        return
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


def _run(size: int) -> Iterator[Figure]:
    with ExitStack() as stack:
        program = stack.enter_context(peer_programs.built("discard"))
        for backing in [Backing("memfd", MemfdBackend, "memfd")]:
            for name, messages in _workloads(size):
                yield from _compare(program, backing, size, name, messages)


def run() -> Iterator[Figure]:
    """256 MiB of each kind of memory."""
    return _run(SIZE)


def run_big() -> Iterator[Figure]:
    """The same with 4 GiB."""
    return _run(BIG)
