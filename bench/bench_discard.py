"""From the bytes of a balloon response to free memory, beside the bare system call and beside C with a tree.

Three sides in turns in one run, on memory that was written completely before. Ours: each message goes into
the page set, the new pages into the pending discards, those that are due into the discarder, and at the end
everything that still waits (ranges of 128 KiB and more do not wait if there are no huge pages). Bare: only
the fastest system call of this kernel, found in this run, in C, message by message, its ranges sorted and
joined beforehand. Tree: C with a balanced tree of ranges (glib's GTree) that returns each range as it
arrives, neighbours joined. "Beside" is the other side's time divided by ours: above 1 ours is faster. "At
once" is ours without holding anything back. Times are processor time, most of it the kernel's.

A part of a huge page of private memory stays allocated when it is dropped, unless the huge page is split
first. Ours splits it, and so does the bare call ("split"); the tree does not, and frees nothing there (marked
"not freed").

Whole huge pages are returned at 1 GiB, a full message, in 3 ms. There the bookkeeping of a message, up to 0.5
ms with cold caches, is visible, so the bound is 0.7 of the bare call instead of 0.9. For huge pages of
private memory the bounds are lower, and there is no rate for parts of them, which the bare call does not
reach either: no VM uses them, since an embedded guest is a separate process and shares its memory.

A huge page of tmpfs that the kernel is using at that moment is not split: its part is zeroed, and freed only
with the whole page. "Freed" is the part of the given memory that was free at the end.

Each side's time is the median of several. A comparison that misses a bound is repeated twice, and the median
of the three is shown.
"""

import json
import mmap
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from bench import page_workloads, peer_programs, rig
from bench.figures import Figure
from dynmem.limits import DM_RANGES_PER_MESSAGE
from dynmem.memory import system_calls
from dynmem.memory.backend import Backend, MemfdBackend, RamBackend
from dynmem.memory.backend_file import FileBackend
from dynmem.memory.discard import Discarder
from dynmem.memory.pending import LONG_PAGES, PendingDiscards
from dynmem.pages import ranges
from dynmem.pages.page_set import PageSet
from dynmem.units import GIB, MIB, PAGE_SIZE

SIZE: Final = 512 * MIB
BIG: Final = 4 * GIB
HUGE_SIZE: Final = 2 * GIB  # whole huge pages go so fast that it takes many to see anything
ROUNDS: Final = 5
FAST: Final = ("contiguous", "random 2 MiB", "random 256 KiB", "mix")  # what the promised rate is of
RATE: Final = 230  # GB a minute; what is held is our share of what the bare call reaches in the same run
NOT_HERE: Final = 3  # the C program's exit status when the kernel lacks a way
FILE_WAYS: Final = ("punch", "remove", "unmap-punch", "unmap-remove")
ANONYMOUS_WAYS: Final = ("madvise", "process-madvise")
PARTS: Final = ("random 256 KiB", "random 4 KiB", "mix", "4 KiB until all is given")  # of huge pages
BESIDE: Final = 1  # which figure of a comparison is held against the bare call
OF_BARE: Final = 0.9
OF_BARE_WHOLE: Final = 0.7  # of whole huge pages
OF_BARE_PRIVATE: Final = (0.8, 0.6)  # the same two of private huge pages, in which no VM lives


@dataclass(frozen=True)
class Backing:
    """Memory of one kind: how we make it, and what the C program calls it."""

    name: str
    make: Callable[[int], Backend]
    kind: str
    path: Path | None = None
    is_huge: bool = False

    def ways(self, workload: str) -> tuple[str, ...]:
        """The ways that the kernel may have to give such memory back, to really do so."""
        if self.kind == "anon-thp" and workload in PARTS:
            return ("split",)
        return ANONYMOUS_WAYS if self.kind.startswith("anon") else FILE_WAYS

    def of_bare(self, workload: str) -> float:
        """The share of the bare call's speed that is held."""
        is_whole = self.is_huge and workload not in PARTS
        if self.kind == "anon-thp":
            return OF_BARE_PRIVATE[is_whole]
        return OF_BARE_WHOLE if is_whole else OF_BARE


WORKLOADS: Final[dict[str, Callable[[int], page_workloads.U64Array]]] = {
    "contiguous": page_workloads.contiguous,
    "random 2 MiB": lambda size: page_workloads.scattered(size, page_workloads.BLOCK),
    "random 256 KiB": lambda size: page_workloads.scattered(size, page_workloads.PIECE),
    "random 4 KiB": lambda size: page_workloads.scattered(size, 1),
    "mix": page_workloads.mix,
    "4 KiB until all is given": page_workloads.pieces,
}


def _messages(name: str, size: int) -> list[bytes]:
    """The full messages of a workload: the rest would cost a whole message for a few ranges."""
    words = WORKLOADS[name](size)
    messages = page_workloads.Workload(name, size, words).messages()
    return messages[: words.size // DM_RANGES_PER_MESSAGE or 1]


def _file_of(messages: list[bytes], path: Path) -> Path:
    """Messages as the C program reads them: each with the number of its ranges before it."""
    path.write_bytes(b"".join((len(one) // 8).to_bytes(8, "little") + one for one in messages))
    return path


class _AtOnce:
    """Discards what each message gives as it comes."""

    def __init__(self, backend: Backend) -> None:
        self._pages, self._discarder = PageSet(backend.size // PAGE_SIZE), Discarder(backend)

    def run(self, messages: list[bytes]) -> None:
        for message in messages:
            self._discarder.discard(self._pages.add(message).coalesced)


class _HeldBack:
    """Holds discards back until blocks are complete or time is up; all are out at the end."""

    def __init__(self, backend: Backend) -> None:
        self._pages, self._discarder = PageSet(backend.size // PAGE_SIZE), Discarder(backend)
        long_pages = 0 if backend.may_have_huge_pages else LONG_PAGES
        self._pending = PendingDiscards(self._pages, long_pages=long_pages)

    def run(self, messages: list[bytes]) -> None:
        for message in messages:
            self._pending.add(self._pages.add(message).coalesced, time.monotonic_ns())
            self._discard(flush=False)
        self._discard(flush=True)

    def _discard(self, *, flush: bool) -> None:
        while batch := self._pending.next_batch(time.monotonic_ns(), flush=flush):
            self._discarder.discard(batch)
            self._pending.done()


def _ours(
    backing: Backing, size: int, messages: list[bytes], way: type[_AtOnce | _HeldBack]
) -> tuple[float, float]:
    """Seconds from the first message to the last page given back; the share of it that is free then."""
    backend = backing.make(size)
    try:
        memory = np.frombuffer(backend.view, np.uint8)
        memory[::PAGE_SIZE] = 1
        before = backend.resident_bytes()
        side = way(backend)
        with backing.make(size) as untouched:  # has nothing to free; now the code has run once
            way(untouched).run(messages[:1])
        begin = time.process_time()
        side.run(messages)
        seconds = time.process_time() - begin
        freed = before - backend.resident_bytes()
        del memory
    finally:
        backend.close()
    return seconds, freed / (_pages_of(messages) * PAGE_SIZE)


def _pages_of(messages: list[bytes]) -> int:
    return sum(ranges.page_count(message) for message in messages)


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
    with rig.folder() as folder:
        raw = _file_of(messages, folder / "raw")
        joined = _file_of([ranges.merge(message) for message in messages], folder / "joined")
        times: dict[str, list[float]] = {}
        freed = 1.0
        for _round in range(ROUNDS):
            for way in _worth_it(backing.ways(name), times):
                seconds = _in_c(program, way, backing, size, raw if way == "tree" else joined)
                if seconds is not None:
                    times.setdefault(way, []).append(seconds)
            for side, ours_way in (("ours", _HeldBack), ("at once", _AtOnce)):
                seconds, share = _ours(backing, size, messages, ours_way)
                times.setdefault(side, []).append(seconds)
                freed = min(freed, share)
    middle = {side: statistics.median(taken) for side, taken in times.items()}
    ours, at_once, tree = (middle.pop(side) for side in ("ours", "at once", "tree"))
    best = min(middle, key=lambda way: middle[way])
    row = f"{backing.name}, {name}"
    rate = _pages_of(messages) * PAGE_SIZE / 1e9 * 60
    frees = "x" if backing.kind != "anon-thp" or name not in PARTS else "x (not freed)"
    is_held = name in FAST and not (backing.kind == "anon-thp" and name in PARTS)
    yield Figure(f"{row}: rate", rate / ours, "GB/min", promised=RATE if is_held else None)
    yield Figure(
        f"{row}: beside the bare call", middle[best] / ours, f"x ({best})", at_least=backing.of_bare(name)
    )
    yield Figure(f"{row}: beside the tree", tree / ours, frees)
    yield Figure(f"{row}: at once, beside the bare call", middle[best] / at_once, "x")
    yield Figure(f"{row}: freed", freed * 100, "%", at_least=90)


@contextmanager
def _huge_tmpfs(folder: Path, size: int) -> Iterator[Path | None]:
    """A tmpfs with huge pages of our own; None where it cannot be mounted.

    It is out of the name space at once, so that nothing stays mounted however this ends.
    """
    command = ["mount", "-t", "tmpfs", "-o", f"huge=always,size={2 * size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        yield None
        return
    descriptor = os.open(folder, os.O_PATH)
    try:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)


class _HugeRam(RamBackend):
    """Private memory that asks for transparent huge pages where the system leaves that to us."""

    def _huge_pages_given(self) -> str:
        return "always"


def _anonymous(size: int, *, huge_pages: bool) -> RamBackend:
    backend = _HugeRam(size) if huge_pages else RamBackend(size)
    advice = mmap.MADV_HUGEPAGE if huge_pages else mmap.MADV_NOHUGEPAGE
    system_calls.madvise(backend.address, size, advice)
    return backend


def _backings(huge: Path | None) -> Iterator[Backing]:
    yield Backing("memfd", MemfdBackend, "memfd")
    if huge is not None:
        yield Backing(
            "tmpfs with huge pages",
            lambda size: FileBackend(size, str(huge), share=True),
            "file",
            huge / "peer",
            is_huge=True,
        )
    yield Backing("anonymous", lambda size: _anonymous(size, huge_pages=False), "anon")
    yield Backing(
        "anonymous huge pages", lambda size: _anonymous(size, huge_pages=True), "anon-thp", is_huge=True
    )


def _run(least: int) -> Iterator[Figure]:
    with ExitStack() as stack:
        program = stack.enter_context(peer_programs.built("discard"))
        huge = stack.enter_context(_huge_tmpfs(stack.enter_context(rig.folder()), max(least, HUGE_SIZE)))
        if huge is None:
            print("  tmpfs with huge pages: skipped, only root can mount one")
        for backing in _backings(huge):
            for name, size in _sizes(backing, least):
                messages = _messages(name, size)
                _wait_for_memory(4 * size)
                yield from _settled(partial(_compare, program, backing, size, name, messages))


def _settled(compare: Callable[[], Iterator[Figure]]) -> list[Figure]:
    """The figures of one comparison; where a bound is missed, of the middle one of three.

    A kernel that is busy with huge pages of its own now and then takes twice as long for one side alone.
    """
    figures = list(compare())
    if all(figure.holds for figure in figures):
        return figures
    return sorted((figures, list(compare()), list(compare())), key=lambda run: run[BESIDE].value)[1]


def _sizes(backing: Backing, size: int) -> Iterator[tuple[str, int]]:
    """Every workload and how much memory it is given."""
    for name in WORKLOADS:
        yield name, max(size, HUGE_SIZE) if backing.is_huge and name not in PARTS else size


def _wait_for_memory(size: int) -> None:
    """Wait until so many bytes are available, a minute at most: others may have them just now."""
    for _second in range(60):
        available = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]
        if int(available) << 10 >= size:
            return
        time.sleep(1)


def run() -> Iterator[Figure]:
    """512 MiB of each kind of memory, 2 GiB where whole huge pages go."""
    return _run(SIZE)


def run_big() -> Iterator[Figure]:
    """The same with 4 GiB."""
    return _run(BIG)
