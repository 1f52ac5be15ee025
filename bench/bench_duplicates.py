"""A scan for duplicates of two VMs, from their RAM files to the figures, beside memcpy.

The memory is 512 MiB in two memory files of this process, all of it written. "Few equal" is a quarter of zero
pages, one page in 32 equal to another one, and the rest unique: nearly everything is read once. "Many equal"
has half of the pages equal, at random places, and each of those is read a second time with a system call of
its own; that costs more than all the rest. memcpy copies the same number of bytes between two arrays that
were touched before. Both sides are processor time of one thread, and the medians of several rounds in turns.

"Beside memcpy" is memcpy's time divided by ours. "Memory per page" is what the scan's own arrays take for
each page of the second file: their peak with both files, less that with one.
"""

import os
import statistics
import time
import tracemalloc
from collections.abc import Iterator
from typing import Final

import numpy as np

from bench.figures import Figure
from dynmem.duplicates.rate import Rate
from dynmem.duplicates.scan import Found, scan_account
from dynmem.duplicates.vms import Vm
from dynmem.memory.backend import MemfdBackend
from dynmem.pages.ranges import U64Array
from dynmem.units import GIB, MIB, PAGE_SIZE

SIZE: Final = 512 * MIB
BIG: Final = 4 * GIB
ROUNDS: Final = 7
OF_MEMCPY: Final = 0.3
PAGE_BYTES: Final = 16  # of our memory for a page
MIXES: Final = {"few equal": (1 / 4, 1 / 32), "many equal": (1 / 4, 1 / 2)}  # parts: zero, equal


class _Silent:
    def expect(self, size: int) -> None:
        del size

    def did(self, size: int) -> None:
        del size


def _fill(memories: list[U64Array], zero: float, equal: float) -> None:
    """Write a part of zeros, a part that two pages have in common, and unique pages, in random order."""
    random = np.random.default_rng(1)
    pages = sum(len(memory) for memory in memories)
    kinds = random.permutation(pages)
    zeros, shared = int(pages * zero), int(pages * equal)
    begin = 0
    for memory in memories:
        for at in range(0, len(memory), 256):
            rows = kinds[begin + at : begin + at + 256]
            # A page's kind makes its content; two pages of the shared kinds have each number.
            numbers = np.where(rows < zeros + shared, zeros + (rows - zeros) // 2, rows) * (rows >= zeros)
            memory[at : at + 256] = numbers.astype(np.uint64)[:, None] * np.arange(1, 513, dtype=np.uint64)
        begin += len(memory)


def _scan(vm: Vm) -> tuple[float, Found]:
    begin = time.process_time()
    found = scan_account("bench", [vm], Rate(None), _Silent())
    return time.process_time() - begin, found


def _copied(source: U64Array, target: U64Array) -> float:
    begin = time.process_time()
    np.copyto(target, source)
    return time.process_time() - begin


def _peak(vm: Vm) -> int:
    tracemalloc.start()
    _scan(vm)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def _run(size: int) -> Iterator[Figure]:
    half = size // 2
    with MemfdBackend(half) as one, MemfdBackend(half) as two:
        memories = [np.frombuffer(each.view, np.uint64).reshape(-1, 512) for each in (one, two)]
        for name, (zero, equal) in MIXES.items():
            _fill(memories, zero, equal)
            yield from _compare(name, size, memories[0])
        del memories


def _compare(name: str, size: int, memory: U64Array) -> Iterator[Figure]:
    copy = np.empty_like(memory)
    copy[:] = 1
    ours, theirs = [], []
    with Vm(os.getpid(), "bench") as vm:
        for _round in range(ROUNDS):
            seconds, found = _scan(vm)
            ours.append(seconds)
            theirs.append(2 * _copied(memory, copy))
        del copy
        both = _peak(vm)
        vm.files = vm.files[:1]
        per_page = (both - _peak(vm)) / (size / 2 / PAGE_SIZE)
    assert found.account.read_bytes == size
    seconds, memcpy = statistics.median(ours), statistics.median(theirs)
    held = OF_MEMCPY if name == "few equal" else None
    yield Figure(f"{name}: scan", size / GIB / seconds, "GiB/s")
    yield Figure(f"{name}: memcpy", size / GIB / memcpy, "GiB/s")
    yield Figure(f"{name}: beside memcpy", memcpy / seconds, "x", at_least=held, promised=OF_MEMCPY)
    yield Figure(f"{name}: equal", found.account.equal_bytes / size * 100, "%")
    yield Figure(f"{name}: memory per page", per_page, "B", at_most=PAGE_BYTES)


def run() -> Iterator[Figure]:
    """512 MiB."""
    return _run(SIZE)


def run_big() -> Iterator[Figure]:
    """4 GiB."""
    return _run(BIG)
